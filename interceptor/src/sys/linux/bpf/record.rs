//! What the program on the tun says of a socket: its layout, and its bytes as a typed record.
//! Total: no indexing, no cast; half a record is none.

/// Offsets in bytes. Every number has 32 bits but the cookie, which has 64.
pub(super) const COOKIE: i16 = 0;
pub(super) const UID: i16 = 8;
pub(super) const GID: i16 = 12;
pub(super) const CONNECTED: i16 = 16;
pub(super) const CONNECTING_UID: i16 = 20;
pub(super) const PID: i16 = 24;
pub(super) const IN_NAMESPACE: i16 = 28;
pub(super) const NAMESPACE_OWNER: i16 = 32;
pub(super) const WANTED: i16 = 36;
pub(super) const UNIT_KNOWN: i16 = 40;
pub(super) const NAMES: i16 = 44;
pub(super) const GROUPS_HAD: i16 = 48;
pub(super) const GROUPS_HERE: i16 = 52;
/// The name of the connecting program's file, up to a NUL.
pub(super) const EXE: i16 = 56;
pub(super) const EXE_LENGTH: i16 = 64;
/// A multiple of eight; then the names, then the groups.
pub(super) const HEADER: i16 = 120;

/// Bits of WANTED.
pub(super) const WANTS_GROUPS: i32 = 1;
pub(super) const WANTS_UNIT: i32 = 2;

/// Supplementary groups told at most; setgroups(2) takes 65,536, directories give a user a few hundred.
pub(super) const GROUPS: i32 = 1024;
/// cgroups below the root whose names are told: slices in slices are seldom more than three.
pub(super) const LEVELS: i32 = 8;
/// A file's name with its NUL.
pub(super) const NAME: i32 = 256;
/// One name more than told: the verifier does not know that the last fits.
pub(super) const LARGEST: u32 = 120 + (8 + 1) * 256 + 4 * 1024;

/// Who made a socket, and who connects it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub cookie: u64,
    /// Of the credentials that the socket was made with, as all that follows but the next.
    pub uid: u32,
    pub connecting: Option<Connecting>,
    /// The owner of the outermost user namespace but the initial one, if the socket was made in such.
    pub namespace_owner: Option<u32>,
    /// `None`: was not asked for.
    pub groups: Option<GroupList>,
    /// Names of the cgroups below the root, the uppermost first, [`Self::LEVELS`] at most. `None`: not asked for, or
    /// not known.
    pub cgroups: Option<Vec<Vec<u8>>>,
}

/// The task that connects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connecting {
    pub uid: u32,
    /// Its process, as the initial pid namespace numbers it.
    pub pid: u32,
    /// The name of the file it runs, without directories, its first 63 bytes.
    pub exe: Option<Vec<u8>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupList {
    /// The primary one first.
    pub gids: Vec<u32>,
    /// There were more.
    pub cut: bool,
}

impl Record {
    /// How many cgroups are named at most.
    pub const LEVELS: usize = 8;

    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (header, rest) = bytes.split_first_chunk::<120>()?;
        let (words, exe) = header.split_last_chunk::<64>()?;
        let (cookie, words) = words.split_first_chunk::<8>()?;
        let mut words = words.as_chunks::<4>().0.iter().map(|word| u32::from_ne_bytes(*word));
        let mut word = || words.next();
        let (uid, gid) = (word()?, word()?);
        let (connected, connecting_uid, pid) = (word()?, word()?, word()?);
        let (in_namespace, owner) = (word()?, word()?);
        let wanted = word()?;
        let (unit_known, names) = (word()?, word()?);
        let (had, here) = (word()?, word()?);
        let (names, gids) = rest.split_at_checked(usize::try_from(names).ok()?)?;
        let gids = gids.get(..usize::try_from(here).ok()?.checked_mul(4)?)?.as_chunks::<4>().0;
        let gids = std::iter::once(gid).chain(gids.iter().map(|gid| u32::from_ne_bytes(*gid)));
        let wants = |bit: i32| wanted & bit.cast_unsigned() != 0;
        Some(Self {
            cookie: u64::from_ne_bytes(*cookie),
            uid,
            connecting: (connected == 1).then(|| Connecting { uid: connecting_uid, pid, exe: text(exe) }),
            namespace_owner: (in_namespace == 1).then_some(owner),
            groups: wants(WANTS_GROUPS).then(|| GroupList { gids: gids.collect(), cut: had != here }),
            cgroups: (unit_known == 1).then(|| uppermost_first(names)),
        })
    }
}

/// Up to the first NUL; none if that is the first byte.
fn text(bytes: &[u8]) -> Option<Vec<u8>> {
    let text = bytes.split(|byte| *byte == 0).next()?;
    (!text.is_empty()).then(|| text.to_vec())
}

fn uppermost_first(names: &[u8]) -> Vec<Vec<u8>> {
    let names = names.strip_suffix(b"\0").unwrap_or(names);
    if names.is_empty() {
        return Vec::new();
    }
    names.rsplit(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(words: [u32; 12], exe: &[u8], rest: &[&[u8]]) -> Vec<u8> {
        let mut bytes = 77_u64.to_ne_bytes().to_vec();
        bytes.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        bytes.extend(exe);
        bytes.resize(120, 0);
        bytes.extend(rest.concat());
        bytes
    }

    #[test]
    fn a_record_is_read_back_and_no_truncation_is_one() {
        let names = b"nginx.service\0system.slice\0";
        let gids = [5_u32, 6].map(u32::to_ne_bytes);
        let words = [2001, 3001, 1, 2002, 99, 1, 2003, 3, 1, 27, 3, 2];
        let whole = bytes(words, b"curl", &[names, &gids[0], &gids[1]]);
        let expected = Record {
            cookie: 77,
            uid: 2001,
            connecting: Some(Connecting { uid: 2002, pid: 99, exe: Some(b"curl".to_vec()) }),
            namespace_owner: Some(2003),
            groups: Some(GroupList { gids: vec![3001, 5, 6], cut: true }),
            cgroups: Some(vec![b"system.slice".to_vec(), b"nginx.service".to_vec()]),
        };
        assert_eq!(Record::parse(&whole), Some(expected));
        for length in 0..whole.len() {
            assert_eq!(Record::parse(&whole[..length]), None, "{length}");
        }
    }

    #[test]
    fn what_was_not_asked_for_or_not_said_is_none_and_not_zero() {
        let record = Record::parse(&bytes([2001, 3001, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], b"", &[])).unwrap();
        assert_eq!(record.connecting, None);
        assert_eq!(record.namespace_owner, None);
        assert_eq!(record.groups, None);
        assert_eq!(record.cgroups, None);
        let nameless = Record::parse(&bytes([1, 1, 1, 1, 5, 0, 0, 0, 0, 0, 0, 0], b"", &[])).unwrap();
        assert_eq!(nameless.connecting, Some(Connecting { uid: 1, pid: 5, exe: None }));
        // the root cgroup has no name
        let record = Record::parse(&bytes([1, 1, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0], b"", &[])).unwrap();
        assert_eq!(record.cgroups, Some(vec![]));
    }

    #[test]
    fn the_constants_of_the_layout_agree() {
        assert_eq!(i32::from(HEADER) % 8, 0);
        let largest = i32::from(HEADER) + (LEVELS + 1) * NAME + 4 * GROUPS;
        assert_eq!(u32::try_from(largest), Ok(LARGEST));
        assert_eq!(usize::try_from(LEVELS), Ok(Record::LEVELS));
        assert_eq!((GROUPS_HERE + 4, EXE + EXE_LENGTH), (EXE, HEADER));
    }
}
