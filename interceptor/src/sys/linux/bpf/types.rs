//! Where the running kernel keeps the members of its structures, from its own description of its types (BTF).
//! Total: no indexing, no cast; a description that cannot be read has no member.

use std::fs::File;
use std::io::{self, Read};

const PATH: &str = "/sys/kernel/btf/vmlinux";
/// Ten times what a distribution's kernel has.
const MAX_FILE: u64 = 64 << 20;
const MAGIC: u16 = 0xeb9f;
const HEADER: usize = 24;
/// Anonymous structures and unions inside of each other.
const MAX_DEPTH: u8 = 8;
/// Members looked at for one: a hundred times what the largest structure has. Types may name each other at will.
const MAX_MEMBERS: u32 = 100_000;

const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;

/// The kernel does not say what it would have to.
#[derive(Debug)]
pub(super) enum TypesError {
    /// No description: a kernel without CONFIG_DEBUG_INFO_BTF.
    Unreadable(io::Error),
    Malformed,
    /// A structure or a member that this program needs.
    Missing(&'static str, &'static str),
}

/// The description, as the kernel gives it.
pub(super) struct Types {
    bytes: Vec<u8>,
    /// Where the types begin in `bytes`, by their number from 1.
    places: Vec<usize>,
    strings: usize,
}

impl Types {
    pub(super) fn of_running_kernel() -> Result<Self, TypesError> {
        let mut bytes = Vec::new();
        File::open(PATH)
            .and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes))
            .map_err(TypesError::Unreadable)?;
        Self::parse(bytes).ok_or(TypesError::Malformed)
    }

    /// For fuzzing alone: an offset in a description.
    #[cfg(feature = "fuzzing")]
    pub(super) fn fuzzed(description: &[u8], of: &'static str, name: &'static str) -> Option<i32> {
        Self::parse(description.to_vec())?.offset(of, name).ok()
    }

    /// Header: magic u16, version u8, flags u8, header length, types' offset and length, strings' offset and length.
    fn parse(bytes: Vec<u8>) -> Option<Self> {
        let magic = u16::from_ne_bytes(*bytes.first_chunk()?);
        let header = number(&bytes, 4)?;
        if magic != MAGIC || header < HEADER {
            return None;
        }
        let first = header.checked_add(number(&bytes, 8)?)?;
        let end = first.checked_add(number(&bytes, 12)?)?;
        let strings = header.checked_add(number(&bytes, 16)?)?;
        if end > bytes.len() {
            return None;
        }
        let mut types = Self { bytes, places: vec![0], strings };
        let mut place = first;
        while place < end {
            types.places.push(place);
            place = place.checked_add(types.length(place)?)?;
        }
        Some(types)
    }

    /// Of the type at `place`: its kind, and how many members or the like it has.
    fn kind(&self, place: usize) -> Option<(u32, usize, bool)> {
        let info = word(&self.bytes, place.checked_add(4)?)?;
        Some((info >> 24 & 0x1f, usize::try_from(info & 0xffff).ok()?, info >> 31 == 1))
    }

    /// linux/btf.h: what follows the twelve bytes that each type has.
    fn length(&self, place: usize) -> Option<usize> {
        let (kind, count, _) = self.kind(place)?;
        let more = match kind {
            1 | 14 | 17 => 4, // INT, VAR, DECL_TAG
            ARRAY => 12,
            STRUCT | UNION | 15 | 19 => 12 * count, // DATASEC, ENUM64
            6 | 13 => 8 * count,                    // ENUM, FUNC_PROTO
            _ => 0,
        };
        12_usize.checked_add(more)
    }

    fn text(&self, offset: u32) -> Option<&[u8]> {
        let start = self.strings.checked_add(usize::try_from(offset).ok()?)?;
        let rest = self.bytes.get(start..)?;
        rest.get(..rest.iter().position(|byte| *byte == 0)?)
    }

    /// How many bytes into the structure `of` its member `name` lies, members of anonymous ones inside it included.
    pub(super) fn offset(&self, of: &'static str, name: &'static str) -> Result<i32, TypesError> {
        let mut budget = MAX_MEMBERS;
        let is_it = |place: &usize| {
            matches!(self.kind(*place), Some((STRUCT, count, _)) if count > 0)
                && word(&self.bytes, *place).and_then(|name| self.text(name)) == Some(of.as_bytes())
        };
        let found = self.places.iter().skip(1).copied().find(is_it);
        let offset = found.and_then(|place| self.member(place, name.as_bytes(), MAX_DEPTH, &mut budget));
        offset.and_then(|offset| i32::try_from(offset).ok()).ok_or(TypesError::Missing(of, name))
    }

    fn member(&self, place: usize, wanted: &[u8], depth: u8, budget: &mut u32) -> Option<usize> {
        let (kind, count, has_bit_fields) = self.kind(place)?;
        if !matches!(kind, STRUCT | UNION) || depth == 0 {
            return None;
        }
        (0..count).find_map(|at| {
            *budget = budget.checked_sub(1)?;
            let member = place.checked_add(12)?.checked_add(at.checked_mul(12)?)?;
            let bits = word(&self.bytes, member.checked_add(8)?)?;
            // with bit fields the upper byte is a width
            let bits = if has_bit_fields { bits & 0x00ff_ffff } else { bits };
            let offset = usize::try_from(bits / 8).ok()?;
            let name = self.text(word(&self.bytes, member)?)?;
            if name == wanted {
                return Some(offset);
            }
            if !name.is_empty() {
                return None;
            }
            let inner = *self.places.get(number(&self.bytes, member.checked_add(4)?)?)?;
            offset.checked_add(self.member(inner, wanted, depth - 1, budget)?)
        })
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(word(bytes, at)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct outer { u32 first; union { struct { u32 pad; u32 deep; }; u64 whole; }; }`
    fn description() -> Vec<u8> {
        let strings = b"\0outer\0first\0pad\0deep\0whole\0u32\0";
        let (outer, first, pad, deep, whole, int) = (1_u32, 7, 13, 17, 22, 28);
        let types: Vec<u32> = [
            vec![int, 1 << 24, 4, 32],                                // 1: u32
            vec![0, STRUCT << 24 | 2, 8, pad, 1, 0, deep, 1, 32],     // 2
            vec![0, UNION << 24 | 2, 8, 0, 2, 0, whole, 1, 0],        // 3
            vec![outer, STRUCT << 24 | 2, 12, first, 1, 0, 0, 3, 32], // 4
        ]
        .concat();
        bytes(&types, strings)
    }

    fn bytes(types: &[u32], strings: &[u8]) -> Vec<u8> {
        let length = u32::try_from(4 * types.len()).unwrap();
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        for field in [24, 0, length, length, u32::try_from(strings.len()).unwrap()] {
            bytes.extend(field.to_ne_bytes());
        }
        bytes.extend(types.iter().flat_map(|word| word.to_ne_bytes()));
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn members_are_found_also_in_anonymous_structures_and_unions() {
        let types = Types::parse(description()).unwrap();
        for (name, offset) in [("first", 0), ("pad", 4), ("deep", 8), ("whole", 4)] {
            assert_eq!(types.offset("outer", name).unwrap(), offset, "{name}");
        }
        assert!(matches!(types.offset("outer", "none"), Err(TypesError::Missing("outer", "none"))));
        assert!(matches!(types.offset("nothing", "first"), Err(TypesError::Missing(..))));
    }

    #[test]
    fn no_truncation_is_more_than_missing() {
        let whole = description();
        for length in 0..whole.len() {
            if let Some(types) = Types::parse(whole[..length].to_vec()) {
                // strings alone were cut
                let _ = types.offset("outer", "deep");
            }
        }
    }

    #[test]
    fn a_name_that_does_not_end_is_none() {
        let whole = description();
        let cut = whole[..whole.len() - 1].to_vec();
        assert_eq!(Types::parse(whole).unwrap().text(28), Some(&b"u32"[..]));
        assert_eq!(Types::parse(cut).unwrap().text(28), None);
    }

    #[test]
    fn types_that_name_each_other_end() {
        // a hundred nameless members, each the structure itself again, eight deep: 100^8 steps
        let types = [vec![1, STRUCT << 24 | 100, 0], [0, 1, 0].repeat(100)].concat();
        let types = Types::parse(bytes(&types, b"\0outer\0")).unwrap();
        assert!(matches!(types.offset("outer", "first"), Err(TypesError::Missing("outer", "first"))));
    }

    #[test]
    fn the_running_kernel_has_what_every_kernel_has() {
        let types = Types::of_running_kernel().unwrap();
        assert!(types.offset("cred", "fsuid").unwrap() > 0);
        assert!(types.offset("group_info", "gid").unwrap() > 0);
    }
}
