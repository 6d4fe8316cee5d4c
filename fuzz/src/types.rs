//! The kernel's description of its types (BTF), of which the programs get their offsets.
//! Holds: reading any bytes ends; of a description written here, an offset is the one that was written.

use crate::source::Source;
use imds_interceptor::fuzzing::offset;

const STRUCT: u32 = 4;
const UNION: u32 = 5;
/// Where each name lies: at 1, 3, 5 and so on; 0 is no name.
const STRINGS: &[u8] = b"\0s\0t\0a\0b\0c\0";
const STRUCTS: [(&str, u32); 2] = [("s", 1), ("t", 3)];
const MEMBERS: [(&str, u32); 3] = [("a", 5), ("b", 7), ("c", 9)];
/// Deeper than the reader goes.
const TYPES: u32 = 12;
/// How deep the reader goes.
const DEPTH: u8 = 8;

pub fn run(data: &[u8]) {
    let mut source = Source::new(data);
    if source.u8().is_multiple_of(2) {
        let bytes = source.rest();
        for (of, name) in [("cred", "fsuid"), ("s", "a")] {
            assert!(offset(bytes, of, name).is_none_or(|offset| offset >= 0));
        }
        return;
    }
    let types: Vec<Type> = (0..TYPES).map_while(|number| Type::read(&mut source, number)).collect();
    let bytes = written(&types);
    for (of, name_of) in STRUCTS {
        for (member, name) in MEMBERS {
            let it =
                types.iter().find(|one| one.kind == STRUCT && one.name == name_of && !one.members.is_empty());
            let expected = it.and_then(|it| it.member(&types, name, DEPTH));
            assert_eq!(offset(&bytes, of, member), expected, "{member} of {of} in {types:?}");
        }
    }
}

#[derive(Debug)]
struct Type {
    kind: u32,
    name: u32,
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    name: u32,
    /// Index of one that stands before it.
    of: u32,
    bytes: u16,
    /// A bit field's width, if the structure has such.
    width: Option<u8>,
}

impl Type {
    fn read(source: &mut Source<'_>, number: u32) -> Option<Self> {
        if source.is_empty() {
            return None;
        }
        let what = source.u8();
        let kind = if what & 1 == 0 { STRUCT } else { UNION };
        let [(_, s), (_, t)] = STRUCTS;
        let name = [0, 0, s, t][usize::from(what >> 1 & 3)];
        let bit_fields = what & 8 != 0;
        let members = (0..what >> 4 & 3).map(|_| Member::read(source, number, bit_fields)).collect();
        Some(Self { kind, name, members })
    }

    /// The first by that name, those of nameless members included.
    fn member(&self, types: &[Self], wanted: u32, depth: u8) -> Option<i32> {
        let deeper = depth.checked_sub(1)?;
        self.members.iter().find_map(|member| match member.name {
            0 => {
                let inner = types.get(usize::try_from(member.of).ok()?)?;
                Some(i32::from(member.bytes) + inner.member(types, wanted, deeper)?)
            }
            name => (name == wanted).then_some(i32::from(member.bytes)),
        })
    }
}

impl Member {
    fn read(source: &mut Source<'_>, number: u32, bit_fields: bool) -> Self {
        let (name, of, bytes) = (source.u8(), source.u8(), source.u16());
        Self {
            name: [0, 5, 7, 9][usize::from(name & 3)],
            of: u32::from(of) % number.max(1),
            bytes,
            width: bit_fields.then(|| source.u8()),
        }
    }
}

/// Documentation/bpf/btf.rst: a header, the types, the strings.
fn written(types: &[Type]) -> Vec<u8> {
    let mut words = Vec::new();
    for one in types {
        let flag = u32::from(one.members.iter().any(|member| member.width.is_some())) << 31;
        let count = u32::try_from(one.members.len()).unwrap_or(0);
        words.extend([one.name, flag | one.kind << 24 | count, 0]);
        for member in &one.members {
            let width = u32::from(member.width.unwrap_or(0)) << 24;
            words.extend([member.name, member.of + 1, width | (u32::from(member.bytes) * 8)]);
        }
    }
    let [types, strings] = [4 * words.len(), STRINGS.len()].map(|length| u32::try_from(length).unwrap_or(0));
    let mut bytes = 0xeb9f_u16.to_ne_bytes().to_vec();
    bytes.extend([1, 0]);
    bytes.extend([24, 0, types, types, strings].iter().flat_map(|field: &u32| field.to_ne_bytes()));
    bytes.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
    bytes.extend(STRINGS);
    bytes
}
