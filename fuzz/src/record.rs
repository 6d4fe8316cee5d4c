//! What the program on the tun says of a socket, as it lies in the ring that the kernel writes.
//! Holds: half a record is none, no number is invented, and no list is longer than its bytes.

use imds_interceptor::fuzzing;

/// Twelve numbers after the cookie, then the program's name, then the lists.
const HEADER: usize = 120;
const EXE: usize = 56;

pub fn run(data: &[u8]) {
    let Some(record) = fuzzing::record(data) else { return };
    let (header, rest) = data.split_at_checked(HEADER).unwrap_or_else(|| panic!("of {} bytes", data.len()));
    assert_eq!(header.get(..8), Some(&record.cookie.to_ne_bytes()[..]));
    assert_eq!(header.get(8..12), Some(&record.uid.to_ne_bytes()[..]));
    if let Some(exe) = record.connecting.as_ref().and_then(|connecting| connecting.exe.as_ref()) {
        let told = header.get(EXE..).unwrap_or(&[]);
        assert!(told.starts_with(exe) && !exe.contains(&0) && !exe.is_empty(), "{exe:?}");
        assert!(matches!(told.get(exe.len()), None | Some(0)), "cut short: {exe:?}");
    }
    let groups = record.groups.as_ref().map_or(0, |groups| groups.gids.len().saturating_sub(1) * 4);
    let names: usize = record.cgroups.iter().flatten().map(Vec::len).sum();
    assert!(groups + names <= rest.len(), "{groups} bytes of groups, {names} of names, in {}", rest.len());
    // what was cut off before its last byte is not the same record
    let needed = fuzzing::record(data.get(..data.len() - 1).unwrap_or(&[]));
    assert!(needed.is_none_or(|shorter| shorter == record));
}
