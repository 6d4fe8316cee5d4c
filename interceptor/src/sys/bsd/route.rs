//! Routing messages (route(4)): what is asked of the kernel, and what it lists. Total; performs no I/O.

use super::address::{self, DESTINATION, GATEWAY, NETMASK, OWN};
use super::{u16_at, u32_at};
use std::fmt;
use std::net::IpAddr;

/// struct rt_msghdr
const HEADER: usize = 152;
const VERSION: u8 = 5;
pub(crate) const ADD: u8 = 1;
pub(crate) const DELETE: u8 = 2;

const UP: u32 = 0x1;
pub(crate) const BY_GATEWAY: u32 = 0x2;
const HOST: u32 = 0x4;
pub(crate) const REJECT: u32 = 0x8;
const NEIGHBOUR: u32 = 0x400;
const STATIC: u32 = 0x800;
const BLACKHOLE: u32 = 0x1000;
/// Of the kernel itself; others cannot change such a route, and it takes the place of one that is not.
pub(crate) const PINNED: u32 = 0x10_0000;

/// Where a route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leads {
    /// By an interface, to whoever is on it.
    Link(u16),
    /// To a router; the scope is an interface's index or 0.
    Router(IpAddr, u32),
    /// Nowhere, at once.
    Nowhere,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) to: IpAddr,
    pub(crate) length: u8,
    pub(crate) leads: Leads,
    /// The interface.
    pub(crate) index: u16,
    /// The address of ours that its packets get.
    pub(crate) source: Option<IpAddr>,
    pub(crate) pinned: bool,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "route {}/{} ", self.to, self.length)?;
        match self.leads {
            Leads::Link(index) => write!(f, "by interface {index}"),
            Leads::Router(router, _) => write!(f, "by {router}"),
            Leads::Nowhere => f.write_str("to nowhere"),
        }
    }
}

/// How many bits an address has.
pub(crate) fn full(ip: IpAddr) -> u8 {
    if ip.is_ipv6() { 128 } else { 32 }
}

impl Route {
    /// Whether packets to `ip` may take it.
    pub(crate) fn covers(&self, ip: IpAddr) -> bool {
        self.to.is_ipv6() == ip.is_ipv6() && address::network(ip, self.length) == self.to
    }

    /// The message that adds or deletes it. A pinned one is deleted only by who says so.
    pub(crate) fn message(&self, kind: u8, sequence: u32) -> Vec<u8> {
        let host = self.length == full(self.to);
        let mut flags = UP | STATIC;
        if host {
            flags |= HOST;
        }
        if self.pinned {
            flags |= PINNED;
        }
        let mut which = 1 << DESTINATION | 1 << GATEWAY;
        let mut addresses = Vec::new();
        address::push_ip(&mut addresses, self.to, 0);
        match self.leads {
            Leads::Link(index) => address::push_link(&mut addresses, index),
            Leads::Router(router, scope) => {
                flags |= BY_GATEWAY;
                address::push_ip(&mut addresses, router, scope);
            }
            Leads::Nowhere => {
                flags |= REJECT;
                let loopback = if self.to.is_ipv6() {
                    std::net::Ipv6Addr::LOCALHOST.into()
                } else {
                    std::net::Ipv4Addr::LOCALHOST.into()
                };
                address::push_ip(&mut addresses, loopback, 0);
            }
        }
        if !host {
            which |= 1 << NETMASK;
            address::push_ip(&mut addresses, address::mask(self.to.is_ipv6(), self.length), 0);
        }
        header(kind, flags, which, sequence, &addresses)
    }

    /// Of a message that lists a route.
    fn read(message: &[u8]) -> Option<Self> {
        let flags = u32_at(message, 8)?;
        let which = u32_at(message, 12)?;
        let slots = address::slots(message.get(HEADER..)?, which);
        let slot = |number: usize| slots.get(number).copied().flatten();
        let (to, _) = address::ip(slot(DESTINATION)?)?;
        let length = match slot(NETMASK) {
            _ if flags & HOST != 0 => full(to),
            Some(mask) => address::mask_length(mask, to.is_ipv6()),
            // the default route of older kernels
            None => 0,
        };
        let leads = if flags & (REJECT | BLACKHOLE) != 0 {
            Leads::Nowhere
        } else if let Some((router, scope)) = slot(GATEWAY).and_then(address::ip) {
            Leads::Router(router, scope)
        } else {
            Leads::Link(slot(GATEWAY).and_then(address::link)?.index)
        };
        Some(Self {
            to: address::network(to, length),
            length,
            leads,
            index: u16_at(message, 4)?,
            source: slot(OWN).and_then(address::ip).map(|(ip, _)| ip),
            pinned: flags & PINNED != 0,
        })
    }
}

fn header(kind: u8, flags: u32, which: u32, sequence: u32, addresses: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + addresses.len());
    // a few hundred bytes at most
    let length = u16::try_from(HEADER + addresses.len()).unwrap_or(u16::MAX);
    bytes.extend(length.to_ne_bytes());
    bytes.extend([VERSION, kind, 0, 0, 0, 0]);
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(which.to_ne_bytes());
    bytes.extend([0; 4]); // the kernel writes our pid
    bytes.extend(sequence.to_ne_bytes());
    bytes.resize(HEADER, 0);
    bytes.extend(addresses);
    bytes
}

/// The messages of a listing or a datagram; ends at the first that is cut short.
pub(crate) fn messages(mut rest: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let kind = *rest.get(3)?;
        let (message, after) = rest.split_at_checked(length)?;
        rest = after;
        (length >= 4).then_some((kind, message))
    })
}

/// The routes of a table (NET_RT_DUMP).
pub(crate) fn table(listing: &[u8]) -> Vec<Route> {
    messages(listing).filter_map(|(_, message)| Route::read(message)).collect()
}

/// Who has which Ethernet address (NET_RT_FLAGS, RTF_LLINFO): address, interface, hardware.
pub(crate) fn neighbours(listing: &[u8]) -> Vec<(IpAddr, u16, [u8; 6])> {
    let entry = |message: &[u8]| {
        if u32_at(message, 8)? & NEIGHBOUR == 0 {
            return None;
        }
        let slots = address::slots(message.get(HEADER..)?, u32_at(message, 12)?);
        let (ip, _) = address::ip((*slots.get(DESTINATION)?)?)?;
        let link = address::link((*slots.get(GATEWAY)?)?)?;
        Some((ip, link.index, link.ethernet?))
    };
    messages(listing).filter_map(|(_, message)| entry(message)).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn route(to: &str, length: u8, leads: Leads) -> Route {
        let index = if let Leads::Link(index) = leads { index } else { 0 };
        Route { to: ip(to), length, leads, index, source: None, pinned: true }
    }

    fn all() -> [Route; 5] {
        [
            route("169.254.169.254", 32, Leads::Link(5)),
            route("169.254.169.254", 31, Leads::Nowhere),
            route("fd00:ec2::254", 127, Leads::Nowhere),
            route("0.0.0.0", 0, Leads::Router(ip("10.0.0.1"), 0)),
            route("::", 0, Leads::Router(ip("fe80::1"), 2)),
        ]
    }

    /// As the kernel lists it.
    pub(crate) fn listed(route: &Route) -> Vec<u8> {
        let mut bytes = route.message(4, 0);
        bytes[4..6].copy_from_slice(&route.index.to_ne_bytes());
        bytes
    }

    #[test]
    fn what_is_asked_for_is_what_is_listed() {
        let listing: Vec<u8> = all().iter().flat_map(listed).collect();
        assert_eq!(table(&listing), all());
    }

    #[test]
    fn the_header_is_the_kernels() {
        let bytes = all()[0].message(ADD, 9);
        assert_eq!(usize::from(u16_at(&bytes, 0).unwrap()), bytes.len());
        assert_eq!((bytes[2], bytes[3]), (5, 1));
        assert_eq!(u32_at(&bytes, 8), Some(UP | HOST | STATIC | PINNED));
        assert_eq!(u32_at(&bytes, 12), Some(3));
        assert_eq!(u32_at(&bytes, 20), Some(9));
        assert_eq!(bytes.len(), 152 + 16 + 56);
    }

    #[test]
    fn a_cut_listing_gives_what_was_whole_and_nothing_else() {
        let listing: Vec<u8> = all().iter().flat_map(listed).collect();
        for length in 0..listing.len() {
            let found = table(&listing[..length]);
            assert!(found.len() < 5 && found == all()[..found.len()], "{length}");
        }
        // a length of nothing must not be read for ever
        assert_eq!(table(&[0; 4096]), []);
    }

    #[test]
    fn a_route_covers_its_network_of_its_own_family() {
        let [_, reject, reject6, default, _] = all();
        assert!(reject.covers(ip("169.254.169.255")) && !reject.covers(ip("169.254.169.253")));
        assert!(reject6.covers(ip("fd00:ec2::254")) && !reject6.covers(ip("fd00:ec2::253")));
        assert!(default.covers(ip("1.2.3.4")) && !default.covers(ip("::1")));
    }

    #[test]
    fn a_neighbour_is_one_whose_hardware_is_known() {
        let mut addresses = Vec::new();
        address::push_ip(&mut addresses, ip("10.0.0.1"), 0);
        addresses.extend([54, address::AF_LINK, 2, 0, 6, 0, 6, 0, 2, 0, 0, 0, 0, 9]);
        addresses.resize(16 + 56, 0);
        let known = header(4, UP | HOST | NEIGHBOUR, 3, 0, &addresses);
        let index = u16::from_ne_bytes([2, 0]);
        assert_eq!(neighbours(&known), [(ip("10.0.0.1"), index, [2, 0, 0, 0, 0, 9])]);
        addresses[16 + 6] = 0;
        assert_eq!(neighbours(&header(4, UP | HOST | NEIGHBOUR, 3, 0, &addresses)), []);
        assert_eq!(neighbours(&header(4, UP | HOST, 3, 0, &addresses)), []);
    }
}
