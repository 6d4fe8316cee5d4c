//! Tokens of our own, each bound to the user who asked for it: made and read. Asks no clock and no random source.
//! Shows neither token nor key.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt;
use zeroize::Zeroizing;

/// The first byte. Another layout is another version.
const VERSION: u8 = 1;
/// Version, key, expiry, uid, nonce.
const BODY: usize = 1 + 1 + 4 + 4 + NONCE;
pub(crate) const NONCE: usize = 16;
/// HMAC-SHA256 cut to half: guessing takes 2^127 requests (RFC 2104 section 5).
const TAG: usize = 16;
/// As many as the real service's.
const CHARACTERS: usize = (BODY + TAG) / 3 * 4;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// A key and the number by which tokens name it.
#[derive(Clone)]
pub(crate) struct Key {
    pub(crate) number: u8,
    /// Seconds since boot.
    pub(crate) born: u32,
    pub(crate) secret: Zeroizing<[u8; 32]>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.number)
    }
}

/// Whose a token is, and until when. Worth nothing before its tag was compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) uid: u32,
    /// Seconds since boot.
    pub(crate) expiry: u32,
}

/// The text of a new token.
pub(crate) fn make(key: &Key, claim: Claim, nonce: [u8; NONCE]) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(BODY + TAG));
    bytes.extend_from_slice(&[VERSION, key.number]);
    bytes.extend_from_slice(&claim.expiry.to_be_bytes());
    bytes.extend_from_slice(&claim.uid.to_be_bytes());
    bytes.extend_from_slice(&nonce);
    let tag = mac(key, &bytes).finalize().into_bytes();
    bytes.extend(tag.iter().take(TAG));
    encode(&bytes)
}

/// What a token of ours says. `None` for any other: of another key, of another's making, changed.
pub(crate) fn read<'a>(token: &[u8], key_of: impl Fn(u8) -> Option<&'a Key>) -> Option<Claim> {
    let bytes = decode(token)?;
    let (body, tag) = bytes.split_at_checked(BODY)?;
    let [VERSION, number, rest @ ..] = body else { return None };
    // compares without telling by its time where they differ
    mac(key_of(*number)?, body).verify_truncated_left(tag).ok()?;
    let (expiry, rest) = rest.split_first_chunk()?;
    let (uid, _nonce) = rest.split_first_chunk()?;
    Some(Claim { uid: u32::from_be_bytes(*uid), expiry: u32::from_be_bytes(*expiry) })
}

fn mac(key: &Key, body: &[u8]) -> Hmac<Sha256> {
    let mut block = Zeroizing::new([0; 64]);
    block.iter_mut().zip(key.secret.iter()).for_each(|(place, byte)| *place = *byte);
    // a key of one block is taken as it is, and one that is shorter is filled with zeros: the same
    let mut mac = Hmac::new((&*block).into());
    mac.update(body);
    mac
}

/// base64url (RFC 4648 section 5); 42 bytes need no padding.
fn encode(bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut text = Zeroizing::new(Vec::with_capacity(CHARACTERS));
    let (groups, _) = bytes.as_chunks::<3>();
    for [a, b, c] in groups {
        let bits = u32::from_be_bytes([0, *a, *b, *c]);
        let letters = [bits >> 18, bits >> 12, bits >> 6, bits].map(|six| letter(six & 63));
        text.extend(letters);
    }
    text
}

fn letter(six: u32) -> u8 {
    usize::try_from(six).ok().and_then(|six| ALPHABET.get(six)).copied().unwrap_or(b'A')
}

fn decode(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    if text.len() != CHARACTERS {
        return None;
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(BODY + TAG));
    let (groups, _) = text.as_chunks::<4>();
    for group in groups {
        let mut bits = 0;
        for character in group {
            bits = bits << 6 | value(*character)?;
        }
        let [_, a, b, c] = bits.to_be_bytes();
        bytes.extend_from_slice(&[a, b, c]);
    }
    Some(bytes)
}

fn value(character: u8) -> Option<u32> {
    let value = match character {
        b'A'..=b'Z' => character - b'A',
        b'a'..=b'z' => character - b'a' + 26,
        b'0'..=b'9' => character - b'0' + 52,
        b'-' => 62,
        b'_' => 63,
        _ => return None,
    };
    Some(value.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(number: u8, byte: u8) -> Key {
        Key { number, born: 0, secret: Zeroizing::new([byte; 32]) }
    }

    #[test]
    fn a_token_has_56_characters_and_says_what_it_was_made_with() {
        let (key, claim) = (key(3, 9), Claim { uid: 1000, expiry: 4_000_000_000 });
        let token = make(&key, claim, [5; NONCE]);
        assert_eq!(token.len(), 56);
        assert!(token.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte)));
        assert_eq!(read(&token, |number| (number == 3).then_some(&key)), Some(claim));
        assert_ne!(token, make(&key, claim, [6; NONCE]));
    }

    /// Written down: a change here is another version.
    #[test]
    fn the_bytes_of_a_token_stay_as_they_are() {
        let token = make(&key(2, 7), Claim { uid: 0x0102_0304, expiry: 0x0506_0708 }, [9; NONCE]);
        let bytes = decode(&token).unwrap();
        assert_eq!(bytes[..10], [1, 2, 5, 6, 7, 8, 1, 2, 3, 4]);
        assert_eq!(bytes[10..26], [9; 16]);
        // python3: hmac.new(b"\7"*32, bytes([1,2,5,6,7,8,1,2,3,4])+b"\t"*16, "sha256").digest()[:16]
        assert_eq!(bytes[26..], TAG_BY_PYTHON);
    }

    const TAG_BY_PYTHON: [u8; 16] = [40, 154, 77, 136, 188, 239, 249, 4, 214, 92, 192, 195, 10, 50, 32, 170];

    #[test]
    fn a_token_with_any_bit_changed_cut_longer_or_of_another_key_is_none() {
        let key = key(1, 1);
        let token = make(&key, Claim { uid: 1000, expiry: 99 }, [0; NONCE]);
        let known = |number| (number == 1).then_some(&key);
        let bytes = decode(&token).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&encode(&changed), |_| Some(&key)), None, "bit {bit}");
        }
        for end in 0..token.len() {
            assert_eq!(read(&token[..end], known), None);
        }
        assert_eq!(read(&[&token[..], b"A"].concat(), known), None);
        assert_eq!(read(&token, |_| None), None);
        let other = Key { secret: Zeroizing::new([2; 32]), ..key.clone() };
        assert_eq!(read(&token, |_| Some(&other)), None);
    }

    #[test]
    fn neither_a_key_nor_a_token_is_shown() {
        assert_eq!(format!("{:?}", key(1, 1)), "Key(1)");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic_and_are_no_token(text in prop::collection::vec(any::<u8>(), 0..80)) {
            prop_assert_eq!(read(&text, |_| None), None);
        }

        #[test]
        fn what_is_encoded_is_decoded(bytes in prop::collection::vec(any::<u8>(), 42)) {
            prop_assert_eq!(decode(&encode(&bytes)).unwrap().to_vec(), bytes);
        }
    }
}
