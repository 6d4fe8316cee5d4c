//! Socket addresses as routing messages carry them, one behind the other. Total; knows nothing of routes.

use super::{at, u16_at, u32_at};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) const AF_INET: u8 = 2;
pub(crate) const AF_LINK: u8 = 18;
pub(crate) const AF_INET6: u8 = 28;
/// RTAX_MAX
const SLOTS: u32 = 8;
pub(crate) const DESTINATION: usize = 0;
pub(crate) const GATEWAY: usize = 1;
pub(crate) const NETMASK: usize = 2;
pub(crate) const LINK: usize = 4;
/// The address of ours that goes with it.
pub(crate) const OWN: usize = 5;

/// An interface's link-layer address (sockaddr_dl).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LinkAddress {
    pub(crate) index: u16,
    pub(crate) name: Vec<u8>,
    /// Six bytes, if it is an Ethernet one and known.
    pub(crate) ethernet: Option<[u8; 6]>,
}

/// The addresses behind a message's header, by the bits that say which are there. Ends at the first that is cut short.
pub(crate) fn slots(mut bytes: &[u8], which: u32) -> [Option<&[u8]>; SLOTS as usize] {
    let mut found = [None; SLOTS as usize];
    for (place, number) in found.iter_mut().zip(0..SLOTS) {
        if which & (1 << number) == 0 {
            continue;
        }
        let Some(length) = bytes.first().copied().map(usize::from) else { break };
        let Some(address) = bytes.get(..length) else { break };
        *place = Some(address);
        // the last one may lack its padding
        bytes = bytes.get(room(length)..).unwrap_or(&[]);
    }
    found
}

/// SA_SIZE: multiples of a long; nothing takes one.
fn room(length: usize) -> usize {
    if length == 0 { 8 } else { length.next_multiple_of(8) }
}

/// An IP address and its scope, an interface's index or 0. The kernel's own form has the scope inside a link-local address.
pub(crate) fn ip(bytes: &[u8]) -> Option<(IpAddr, u32)> {
    match *bytes.get(1)? {
        AF_INET => Some((Ipv4Addr::from(at::<4>(bytes, 4)?).into(), 0)),
        AF_INET6 => {
            let mut octets = at::<16>(bytes, 8)?;
            let mut scope = u32_at(bytes, 24).unwrap_or(0);
            if let [0xfe, 0x80..=0xbf, high, low, ..] = &mut octets
                && (*high, *low) != (0, 0)
            {
                scope = u16::from_be_bytes([*high, *low]).into();
                (*high, *low) = (0, 0);
            }
            Some((Ipv6Addr::from(octets).into(), scope))
        }
        _ => None,
    }
}

/// How many leading bits a mask has, for addresses of that family; bytes that are not there are zero.
pub(crate) fn mask_length(bytes: &[u8], ipv6: bool) -> u8 {
    let mask = if ipv6 { bytes.get(8..24.min(bytes.len())) } else { bytes.get(4..8.min(bytes.len())) };
    let mut length = 0;
    for byte in mask.unwrap_or(&[]) {
        length += u8::try_from(byte.leading_ones()).unwrap_or(0);
        if *byte != 0xff {
            break;
        }
    }
    length
}

pub(crate) fn link(bytes: &[u8]) -> Option<LinkAddress> {
    if *bytes.get(1)? != AF_LINK {
        return None;
    }
    let index = u16_at(bytes, 2)?;
    let (name, address) = (usize::from(*bytes.get(5)?), usize::from(*bytes.get(6)?));
    let name_bytes = bytes.get(8..8 + name)?.to_vec();
    let ethernet = if address == 6 { at(bytes, 8 + name) } else { None };
    Some(LinkAddress { index, name: name_bytes, ethernet })
}

pub(crate) fn push_ip(bytes: &mut Vec<u8>, ip: IpAddr, scope: u32) {
    match ip {
        IpAddr::V4(ip) => {
            bytes.extend([16, AF_INET, 0, 0]);
            bytes.extend(ip.octets());
            bytes.extend([0; 8]);
        }
        IpAddr::V6(ip) => {
            bytes.extend([28, AF_INET6, 0, 0, 0, 0, 0, 0]);
            bytes.extend(ip.octets());
            bytes.extend(scope.to_ne_bytes());
            bytes.extend([0; 4]);
        }
    }
}

pub(crate) fn push_link(bytes: &mut Vec<u8>, index: u16) {
    let start = bytes.len();
    bytes.extend([54, AF_LINK]);
    bytes.extend(index.to_ne_bytes());
    bytes.resize(start + room(54), 0);
}

/// The mask of that many bits.
pub(crate) fn mask(ipv6: bool, length: u8) -> IpAddr {
    if ipv6 {
        let bits = u128::MAX.checked_shl(128_u32.saturating_sub(length.into())).unwrap_or(0);
        Ipv6Addr::from(bits).into()
    } else {
        let bits = u32::MAX.checked_shl(32_u32.saturating_sub(length.into())).unwrap_or(0);
        Ipv4Addr::from(bits).into()
    }
}

/// The network of that length that `ip` is in.
pub(crate) fn network(ip: IpAddr, length: u8) -> IpAddr {
    match (ip, mask(ip.is_ipv6(), length)) {
        (IpAddr::V4(ip), IpAddr::V4(mask)) => (ip & mask).into(),
        (IpAddr::V6(ip), IpAddr::V6(mask)) => (ip & mask).into(),
        (ip, _) => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_every_truncation_is_none() {
        for (text, scope) in [("169.254.169.254", 0), ("fd00:ec2::254", 0), ("fe80::1", 3)] {
            let ip_written: IpAddr = text.parse().unwrap();
            let mut bytes = Vec::new();
            push_ip(&mut bytes, ip_written, scope);
            assert_eq!(bytes.len() % 8, 0);
            assert_eq!(ip(&bytes), Some((ip_written, scope)));
            let needed = if ip_written.is_ipv4() { 8 } else { 24 };
            for length in 0..needed {
                assert_eq!(ip(&bytes[..length]), None, "{text} {length}");
            }
        }
        let mut bytes = Vec::new();
        push_link(&mut bytes, 7);
        assert_eq!(link(&bytes), Some(LinkAddress { index: 7, name: Vec::new(), ethernet: None }));
        for length in 0..7 {
            assert_eq!(link(&bytes[..length]), None);
        }
    }

    #[test]
    fn the_scope_inside_a_link_local_address_comes_out() {
        let mut bytes = Vec::new();
        push_ip(&mut bytes, "fe80::1".parse().unwrap(), 0);
        bytes[11] = 5;
        assert_eq!(ip(&bytes), Some(("fe80::1".parse().unwrap(), 5)));
    }

    #[test]
    fn a_link_has_its_name_and_ethernet_address() {
        let mut bytes = vec![54, AF_LINK, 0, 0, 6, 3, 6, 0];
        bytes[2..4].copy_from_slice(&9_u16.to_ne_bytes());
        bytes.extend(b"em0\x02\x00\x00\x00\x00\x01");
        bytes.resize(54, 0);
        let found = link(&bytes).unwrap();
        assert_eq!(
            (found.index, found.name.as_slice(), found.ethernet),
            (9, &b"em0"[..], Some([2, 0, 0, 0, 0, 1]))
        );
        bytes[5] = 200;
        assert_eq!(link(&bytes), None);
    }

    #[test]
    fn masks_and_networks() {
        let networks = [
            ("169.254.169.254", 31, "169.254.169.254"),
            ("169.254.169.255", 31, "169.254.169.254"),
            ("10.1.2.3", 0, "0.0.0.0"),
            ("fd00:ec2::255", 127, "fd00:ec2::254"),
            ("fd00:ec2::254", 0, "::"),
            ("fd00:ec2::254", 128, "fd00:ec2::254"),
        ];
        for (ip, length, wanted) in networks {
            let ip: IpAddr = ip.parse().unwrap();
            assert_eq!(network(ip, length), wanted.parse::<IpAddr>().unwrap());
            let mut bytes = Vec::new();
            push_ip(&mut bytes, mask(ip.is_ipv6(), length), 0);
            assert_eq!(mask_length(&bytes, ip.is_ipv6()), length);
        }
        // as older kernels cut them
        assert_eq!(mask_length(&[7, 0, 0, 0, 255, 255, 254], false), 23);
        assert_eq!(mask_length(&[], true), 0);
    }

    #[test]
    fn addresses_lie_behind_one_another_and_a_cut_one_ends_them() {
        let mut bytes = Vec::new();
        push_ip(&mut bytes, "10.0.0.1".parse().unwrap(), 0);
        bytes.extend([0; 8]); // a default route's empty mask
        push_link(&mut bytes, 3);
        let which = 1 << DESTINATION | 1 << NETMASK | 1 << LINK;
        let found = slots(&bytes, which);
        assert_eq!(ip(found[DESTINATION].unwrap()).unwrap().0, "10.0.0.1".parse::<IpAddr>().unwrap());
        assert_eq!(found[NETMASK], Some(&[][..]));
        assert_eq!(link(found[LINK].unwrap()).unwrap().index, 3);
        let found = slots(&bytes[..30], which);
        assert!(found[DESTINATION].is_some() && found[LINK].is_none());
    }
}
