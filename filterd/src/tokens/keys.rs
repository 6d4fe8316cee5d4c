//! The keys of our own tokens: the one in use, and the one before it as long as tokens by it may live. Kept by
//! interceptor from one filterd to the next, never in a file.
//! Asks no clock and no random source; shows nothing.

use super::MAX_TTL;
use super::bound::Key;
use imds_ipc::Blob;
use zeroize::Zeroizing;

/// Of the bytes that interceptor keeps. What another version wrote is not read, and its tokens end.
const VERSION: u8 = 1;
/// A key is used for a day; the one before is then older than any token by it.
const AGE: u32 = 24 * 3600;
const _: () = assert!(AGE as u64 > MAX_TTL);

#[derive(Debug)]
pub(crate) struct Keys {
    current: Key,
    before: Option<Key>,
}

impl Keys {
    pub(crate) fn new(secret: Zeroizing<[u8; 32]>, now: u32) -> Self {
        Self { current: Key { number: 0, born: now, secret }, before: None }
    }

    /// The key for a new token.
    pub(crate) fn current(&self) -> &Key {
        &self.current
    }

    pub(crate) fn find(&self, number: u8) -> Option<&Key> {
        [Some(&self.current), self.before.as_ref()].into_iter().flatten().find(|key| key.number == number)
    }

    pub(crate) fn are_old(&self, now: u32) -> bool {
        now.saturating_sub(self.current.born) >= AGE
    }

    pub(crate) fn next(self, secret: Zeroizing<[u8; 32]>, now: u32) -> Self {
        let number = self.current.number.wrapping_add(1);
        Self { current: Key { number, born: now, secret }, before: Some(self.current) }
    }

    /// `None` never comes: two keys have room.
    pub(crate) fn to_blob(&self) -> Option<Blob> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(imds_ipc::MAX_BLOB));
        bytes.push(VERSION);
        for key in [Some(&self.current), self.before.as_ref()].into_iter().flatten() {
            bytes.push(key.number);
            bytes.extend_from_slice(&key.born.to_be_bytes());
            bytes.extend_from_slice(&*key.secret);
        }
        Blob::new(bytes)
    }

    /// `None` for what no filterd of this version wrote.
    pub(crate) fn from_blob(blob: &Blob) -> Option<Self> {
        let [VERSION, rest @ ..] = blob.bytes() else { return None };
        let (current, rest) = take_key(rest)?;
        if rest.is_empty() {
            return Some(Self { current, before: None });
        }
        let (before, rest) = take_key(rest)?;
        (rest.is_empty() && before.number != current.number).then_some(Self { current, before: Some(before) })
    }
}

fn take_key(bytes: &[u8]) -> Option<(Key, &[u8])> {
    let (number, rest) = bytes.split_first()?;
    let (born, rest) = rest.split_first_chunk()?;
    let (secret, rest) = rest.split_first_chunk::<32>()?;
    let mut copy = Zeroizing::new([0; 32]);
    copy.copy_from_slice(secret);
    Some((Key { number: *number, born: u32::from_be_bytes(*born), secret: copy }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(byte: u8) -> Zeroizing<[u8; 32]> {
        Zeroizing::new([byte; 32])
    }

    fn secrets(keys: &Keys) -> Vec<u8> {
        [0, 1, 2].iter().filter_map(|number| keys.find(*number)).map(|key| key.secret[0]).collect()
    }

    #[test]
    fn the_key_before_stays_until_the_next_comes() {
        let keys = Keys::new(secret(1), 100);
        assert!(!keys.are_old(100 + AGE - 1) && keys.are_old(100 + AGE));
        let keys = keys.next(secret(2), 200);
        assert_eq!((secrets(&keys), keys.current().number), (vec![1, 2], 1));
        let keys = keys.next(secret(3), 300);
        assert_eq!(secrets(&keys), [2, 3]);
        assert!(!keys.are_old(0), "a clock that says less is no reason");
    }

    #[test]
    fn keys_come_back_from_the_bytes_that_are_kept_and_from_no_other() {
        for keys in [Keys::new(secret(1), 7), Keys::new(secret(1), 7).next(secret(2), 9)] {
            let blob = keys.to_blob().unwrap();
            let again = Keys::from_blob(&blob).unwrap();
            assert_eq!(secrets(&again), secrets(&keys));
            assert_eq!(
                (again.current().number, again.current().born),
                (keys.current().number, keys.current().born)
            );
            let whole = blob.bytes().to_vec();
            for end in (0..whole.len()).filter(|end| *end != 38) {
                assert!(
                    Keys::from_blob(&Blob::new(whole[..end].to_vec().into()).unwrap()).is_none(),
                    "{end}"
                );
            }
            let other = [&[2], &whole[1..]].concat();
            assert!(Keys::from_blob(&Blob::new(other.into()).unwrap()).is_none());
            assert!(Keys::from_blob(&Blob::new([&whole[..], &[0]].concat().into()).unwrap()).is_none());
        }
    }

    #[test]
    fn a_key_is_not_shown() {
        assert_eq!(format!("{:?}", Keys::new(secret(1), 7)), "Keys { current: Key(0), before: None }");
    }
}
