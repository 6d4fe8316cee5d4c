//! The listing of interfaces and their addresses (NET_RT_IFLIST). Total; performs no I/O.

use super::address::{self, LINK, LinkAddress, OWN};
use super::route::messages;
use super::{u16_at, u32_at};
use std::net::IpAddr;

/// RTM_IFINFO and RTM_NEWADDR
const INTERFACE: u8 = 0xe;
const ADDRESS: u8 = 0xc;
/// struct if_msghdr up to its if_data, which says its own length.
const INTERFACE_HEADER: usize = 16;
const DATA_LENGTH: usize = 6;
/// struct ifa_msghdr
const ADDRESS_HEADER: usize = 20;
const UP: u32 = 0x1;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) address: LinkAddress,
    pub(crate) up: bool,
    pub(crate) own: Vec<IpAddr>,
}

/// The interfaces, each with its addresses.
pub(crate) fn links(listing: &[u8]) -> Vec<Link> {
    let mut found: Vec<Link> = Vec::new();
    for (kind, message) in messages(listing) {
        match kind {
            INTERFACE => found.extend(interface(message)),
            ADDRESS => {
                let Some((index, ip)) = own(message) else { continue };
                if let Some(link) = found.iter_mut().find(|link| link.address.index == index) {
                    link.own.push(ip);
                }
            }
            _ => {}
        }
    }
    found
}

fn interface(message: &[u8]) -> Option<Link> {
    let length = INTERFACE_HEADER + usize::from(u16_at(message, INTERFACE_HEADER + DATA_LENGTH)?);
    let slots = address::slots(message.get(length..)?, u32_at(message, 4)?);
    let address = address::link((*slots.get(LINK)?)?)?;
    Some(Link { address, up: u32_at(message, 8)? & UP != 0, own: Vec::new() })
}

fn own(message: &[u8]) -> Option<(u16, IpAddr)> {
    let slots = address::slots(message.get(ADDRESS_HEADER..)?, u32_at(message, 4)?);
    Some((u16_at(message, 12)?, address::ip((*slots.get(OWN)?)?)?.0))
}

/// The address that packets to `service` shall have by this link: of its family, not link-local, and of those the one
/// with the longest prefix in common (RFC 6724, rule 8).
pub(crate) fn source(link: &Link, service: IpAddr) -> Option<IpAddr> {
    let usable = |own: &&IpAddr| match own {
        IpAddr::V4(own) => service.is_ipv4() && !own.is_link_local() && !own.is_loopback(),
        IpAddr::V6(own) => service.is_ipv6() && !own.is_unicast_link_local() && !own.is_loopback(),
    };
    let link_local = |own: &&IpAddr| service.is_ipv4() && own.is_ipv4();
    let best = link.own.iter().filter(usable).max_by_key(|own| common_bits(**own, service));
    // an IPv4 link may have nothing else
    best.or_else(|| link.own.iter().find(link_local)).copied()
}

fn common_bits(a: IpAddr, b: IpAddr) -> u32 {
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finish(mut bytes: Vec<u8>) -> Vec<u8> {
        let length = u16::try_from(bytes.len()).unwrap();
        bytes[0..2].copy_from_slice(&length.to_ne_bytes());
        bytes
    }

    fn interface_message(index: u16, name: &str, up: bool) -> Vec<u8> {
        let mut bytes = vec![0, 0, 5, INTERFACE];
        bytes.extend(0x10_u32.to_ne_bytes());
        bytes.extend(u32::from(up).to_ne_bytes());
        bytes.extend(index.to_ne_bytes());
        bytes.extend([0; 2]);
        let mut data = vec![0; 152];
        data[6..8].copy_from_slice(&152_u16.to_ne_bytes());
        bytes.extend(data);
        let mut address = vec![54, 18];
        address.extend(index.to_ne_bytes());
        address.extend([6, u8::try_from(name.len()).unwrap(), 6, 0]);
        address.extend(name.as_bytes());
        address.extend([2, 0, 0, 0, 0, 1]);
        address.resize(56, 0);
        bytes.extend(address);
        finish(bytes)
    }

    fn address_message(index: u16, ip: &str) -> Vec<u8> {
        let mut bytes = vec![0, 0, 5, ADDRESS];
        bytes.extend((1_u32 << OWN).to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(index.to_ne_bytes());
        bytes.extend([0; 6]);
        address::push_ip(&mut bytes, ip.parse().unwrap(), 0);
        finish(bytes)
    }

    fn listing() -> Vec<u8> {
        [
            interface_message(1, "vtnet0", true),
            address_message(1, "10.0.0.5"),
            address_message(1, "fe80::5"),
            address_message(1, "fd00:1::5"),
            interface_message(3, "lo0", false),
            address_message(9, "192.0.2.1"),
        ]
        .concat()
    }

    #[test]
    fn interfaces_are_listed_with_their_own_addresses() {
        let found = links(&listing());
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].address.name, b"vtnet0");
        assert!(found[0].up && !found[1].up);
        assert_eq!(found[0].own.len(), 3);
        assert_eq!(found[1].own, Vec::<IpAddr>::new());
        let listing = listing();
        for length in 0..listing.len() {
            assert!(links(&listing[..length]).len() <= 2);
        }
    }

    #[test]
    fn the_source_is_the_nearest_address_that_is_not_link_local() {
        let link = &links(&listing())[0];
        let source = |service: &str| source(link, service.parse().unwrap()).map(|ip| ip.to_string());
        assert_eq!(source("169.254.169.254").as_deref(), Some("10.0.0.5"));
        assert_eq!(source("fd00:ec2::254").as_deref(), Some("fd00:1::5"));
        assert_eq!(super::source(&links(&listing())[1], "fd00:ec2::254".parse().unwrap()), None);
    }
}
