//! The table of resolved names as bytes, for its way from who may read the account database to who decides.
//! Total: no indexing, no cast; whatever is not exactly one table is none.

use crate::language::GroupName;
use crate::names::{Members, Names};
use std::collections::BTreeSet;

impl Names {
    /// Numbers are little-endian; a text has its length before it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        count(&mut out, self.users().count());
        for (name, uid) in self.users() {
            text(&mut out, name);
            known(&mut out, uid);
        }
        count(&mut out, self.groups().count());
        for (name, members) in self.groups() {
            match name {
                GroupName::Gid(gid) => {
                    out.push(0);
                    number(&mut out, *gid);
                }
                GroupName::Name(name) => {
                    out.push(1);
                    text(&mut out, name);
                }
            }
            known(&mut out, members.map(|members| members.gid));
            if let Some(members) = members {
                count(&mut out, members.uids.len());
                members.uids.iter().for_each(|uid| number(&mut out, *uid));
            }
        }
        out
    }

    /// The table that `bytes` are, if they are one.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let mut names = Self::default();
        for _ in 0..take_number(&mut rest)? {
            let name = take_text(&mut rest)?;
            let uid = take_known(&mut rest)?;
            names.insert_user(name, uid);
        }
        for _ in 0..take_number(&mut rest)? {
            let name = match take_byte(&mut rest)? {
                0 => GroupName::Gid(take_number(&mut rest)?),
                1 => GroupName::Name(take_text(&mut rest)?.into()),
                _ => return None,
            };
            let members = match take_known(&mut rest)? {
                None => None,
                Some(gid) => Some(Members { gid, uids: take_uids(&mut rest)? }),
            };
            names.insert_group(name, members);
        }
        // a name twice, or out of order, has more than one reading
        (rest.is_empty() && names.encode() == bytes).then_some(names)
    }
}

fn number(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// A file of rules has fewer names than that, and a host fewer users.
fn count(out: &mut Vec<u8>, length: usize) {
    number(out, u32::try_from(length).unwrap_or(u32::MAX));
}

fn text(out: &mut Vec<u8>, text: &str) {
    count(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

fn known(out: &mut Vec<u8>, value: Option<u32>) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        number(out, value);
    }
}

fn take_byte(rest: &mut &[u8]) -> Option<u8> {
    let (byte, after) = rest.split_first()?;
    *rest = after;
    Some(*byte)
}

fn take_number(rest: &mut &[u8]) -> Option<u32> {
    let (bytes, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(u32::from_le_bytes(*bytes))
}

fn take_text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let length = usize::try_from(take_number(rest)?).ok()?;
    let (text, after) = rest.split_at_checked(length)?;
    *rest = after;
    std::str::from_utf8(text).ok()
}

fn take_known(rest: &mut &[u8]) -> Option<Option<u32>> {
    match take_byte(rest)? {
        0 => Some(None),
        1 => take_number(rest).map(Some),
        _ => None,
    }
}

fn take_uids(rest: &mut &[u8]) -> Option<BTreeSet<u32>> {
    (0..take_number(rest)?).map(|_| take_number(rest)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Names {
        let mut names = Names::default();
        names.insert_user("root", Some(0));
        names.insert_user("deploy", None);
        names.insert_group(GroupName::Gid(7), Some(Members { gid: 7, uids: [1, 2].into() }));
        names.insert_group(GroupName::Name("wheel".into()), None);
        names
    }

    #[test]
    fn a_table_comes_back_and_no_part_of_it_is_one() {
        let bytes = sample().encode();
        assert_eq!(Names::decode(&bytes), Some(sample()));
        assert_eq!(Names::decode(&Names::default().encode()), Some(Names::default()));
        for length in 0..bytes.len() {
            assert_eq!(Names::decode(&bytes[..length]), None, "{length}");
        }
        let longer: Vec<u8> = bytes.iter().copied().chain([0]).collect();
        assert_eq!(Names::decode(&longer), None);
    }

    #[test]
    fn a_name_twice_is_no_table() {
        let mut bytes = Vec::new();
        number(&mut bytes, 2);
        for uid in [1, 2] {
            text(&mut bytes, "a");
            known(&mut bytes, Some(uid));
        }
        number(&mut bytes, 0);
        assert_eq!(Names::decode(&bytes), None);
    }

    proptest! {
        #[test]
        fn whatever_decodes_encodes_to_the_same_bytes(bytes in prop::collection::vec(prop_oneof![Just(0u8), Just(1u8), any::<u8>()], 0..64)) {
            if let Some(names) = Names::decode(&bytes) {
                prop_assert_eq!(names.encode(), bytes);
            }
        }
    }
}
