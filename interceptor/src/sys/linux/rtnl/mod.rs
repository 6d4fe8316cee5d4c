//! Links, addresses, routes and routing rules of our network namespace, by rtnetlink(7): only what capture needs.
//! Decides nothing.

mod address;
#[cfg(feature = "fuzzing")]
pub(super) mod fuzzing;
mod link;
mod route;
mod rule;

pub(crate) use address::{covers, family, full_prefix, octets};
pub(crate) use link::Link;
pub(crate) use route::{Leads, Route};
pub(crate) use rule::{Action, Rule};

use super::netlink::{
    CREATE, Message, Notifications, Received, Requests, Subsystem, attributes, u8_at, u16_at, u32_at,
};
use address::{AF_INET, AF_INET6, address};
use link::link;
use route::{
    RTA_DST, RTA_MARK, RTA_MULTIPATH, RTA_OIF, RTA_TABLE, RTM_F_FIB_MATCH, RTN_PROHIBIT, SCOPE_LINK,
    SCOPE_UNIVERSE,
};
use std::io;
use std::net::IpAddr;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const RTM_GETRULE: u16 = 34;
/// linux/rtnetlink.h: link, v4 address, v4 route, v4 rule, v6 address, v6 route, v6 link state, v6 rule, v4 netconf.
const GROUPS: [u32; 9] = [1, 5, 7, 8, 9, 11, 12, 19, 24];

/// What we install says it is the kernel's own: systemd-networkd removes rules and routes of protocols it does not
/// know, but never the kernel's.
const PROTOCOL_KERNEL: u8 = 2;
pub(crate) const TABLE_MAIN: u32 = 254;
pub(crate) const TABLE_LOCAL: u32 = 255;

/// The links' state, rules, routes and addresses of our network namespace.
pub(crate) struct Routing(Requests);

impl Routing {
    pub(crate) fn open() -> io::Result<Self> {
        Requests::open(Subsystem::Route).map(Self)
    }

    pub(crate) fn links(&mut self) -> io::Result<Vec<Link>> {
        self.0.list(|| Message::new(RTM_GETLINK, 0).body(&[0; 16]), link)
    }

    /// Brings a link up with this MTU.
    pub(crate) fn raise(&mut self, index: u32, mtu: u32) -> io::Result<()> {
        const IFLA_MTU: u16 = 4;
        let mut body = [0; 16];
        for (place, value) in [(4..8, index), (8..12, 1), (12..16, 1)] {
            if let Some(place) = body.get_mut(place) {
                place.copy_from_slice(&value.to_ne_bytes());
            }
        }
        self.0.change(Message::new(RTM_NEWLINK, 0).body(&body).attribute_u32(IFLA_MTU, mtu))
    }

    /// The addresses of one link.
    pub(crate) fn addresses(&mut self, index: u32) -> io::Result<Vec<IpAddr>> {
        const IFA_ADDRESS: u16 = 1;
        const IFA_LOCAL: u16 = 2;
        let mut body = vec![0; 4];
        body.extend(index.to_ne_bytes());
        self.0.list(
            || Message::new(RTM_GETADDR, 0).body(&body),
            |received| {
                let attributes = || attributes(received.payload.get(8..).unwrap_or(&[]));
                let local = attributes().find(|(kind, _)| *kind == IFA_LOCAL);
                let (_, value) = local.or_else(|| attributes().find(|(kind, _)| *kind == IFA_ADDRESS))?;
                address(value)
            },
        )
    }

    /// Gives a link an address of its own that no other link and no other destination uses as a source.
    pub(crate) fn add_address(&mut self, index: u32, own: IpAddr) -> io::Result<()> {
        const IFA_ADDRESS: u16 = 1;
        const IFA_LOCAL: u16 = 2;
        const IFA_CACHEINFO: u16 = 6;
        const NODAD: u8 = 2;
        // scope link: not a source for links without an address of their own
        let (flags, scope) = if own.is_ipv4() { (0, SCOPE_LINK) } else { (NODAD, SCOPE_UNIVERSE) };
        let mut body = vec![family(own), full_prefix(own), flags, scope];
        body.extend(index.to_ne_bytes());
        let mut message = Message::new(RTM_NEWADDR, CREATE)
            .body(&body)
            .attribute(IFA_LOCAL, &octets(own))
            .attribute(IFA_ADDRESS, &octets(own));
        if own.is_ipv6() {
            // deprecated (preferred for 0 s, valid for ever): only the route that names it chooses it as a source
            let mut lifetimes = vec![0; 4];
            lifetimes.extend(u32::MAX.to_ne_bytes());
            lifetimes.extend([0; 8]);
            message = message.attribute(IFA_CACHEINFO, &lifetimes);
        }
        self.0.change(message)
    }

    pub(crate) fn rules(&mut self) -> io::Result<Vec<Rule>> {
        let mut all = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let list = || Message::new(RTM_GETRULE, 0).body(&[family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            match self.0.list(list, Rule::read) {
                Ok(rules) => all.extend(rules),
                // no IPv6 in this kernel, or switched off at boot
                Err(error) if family == AF_INET6 && error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    /// False if it stood already.
    pub(crate) fn add_rule(&mut self, rule: &Rule) -> io::Result<bool> {
        present(self.0.change(rule.message(RTM_NEWRULE, CREATE)))
    }

    pub(crate) fn remove_rule(&mut self, rule: &Rule) -> io::Result<()> {
        absent(self.0.change(rule.message(RTM_DELRULE, 0)))
    }

    /// All routes of one table and family.
    pub(crate) fn routes(&mut self, table: u32, ipv6: bool) -> io::Result<Vec<Route>> {
        self.routes_of(table, ipv6, 0)
    }

    /// The prohibit routes of one table and family; the kernel leaves out the others, which may be a million.
    pub(crate) fn prohibits(&mut self, table: u32, ipv6: bool) -> io::Result<Vec<Route>> {
        self.routes_of(table, ipv6, RTN_PROHIBIT)
    }

    fn routes_of(&mut self, table: u32, ipv6: bool, kind: u8) -> io::Result<Vec<Route>> {
        let family = if ipv6 { AF_INET6 } else { AF_INET };
        let message = || {
            Message::new(RTM_GETROUTE, 0)
                .body(&[family, 0, 0, 0, 0, 0, 0, kind, 0, 0, 0, 0])
                .attribute_u32(RTA_TABLE, table)
        };
        match self.0.list(message, Route::read) {
            // ENOENT: a table that never had a route does not exist
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EAFNOSUPPORT)) => {
                Ok(Vec::new())
            }
            other => Ok(other?.into_iter().filter(|route| route.table == table).collect()),
        }
    }

    /// False if it stood already.
    pub(crate) fn add_route(&mut self, route: &Route) -> io::Result<bool> {
        present(self.0.change(route.message(RTM_NEWROUTE, CREATE)))
    }

    pub(crate) fn remove_route(&mut self, route: &Route) -> io::Result<()> {
        absent(self.0.change(route.message(RTM_DELROUTE, 0)))
    }

    /// The links by which packets of our own marked sockets would leave; none without a route.
    pub(crate) fn links_towards(&mut self, to: IpAddr, mark: u32) -> io::Result<Vec<u32>> {
        let mut body = vec![family(to), full_prefix(to), 0, 0, 0, 0, 0, 0];
        body.extend(RTM_F_FIB_MATCH.to_ne_bytes());
        let message = Message::new(RTM_GETROUTE, 0)
            .body(&body)
            .attribute(RTA_DST, &octets(to))
            .attribute_u32(RTA_MARK, mark);
        let mut links = Vec::new();
        let answer = self.0.ask(message, 0, |received| {
            for (kind, value) in attributes(received.payload.get(12..).unwrap_or(&[])) {
                if kind == RTA_OIF {
                    links.extend(u32_at(value, 0));
                } else if kind == RTA_MULTIPATH {
                    links.extend(next_hops(value));
                }
            }
        });
        match answer {
            Ok(()) => Ok(links),
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(
                        libc::ENETUNREACH
                            | libc::EACCES
                            | libc::EHOSTUNREACH
                            | libc::EINVAL
                            | libc::EAFNOSUPPORT
                    )
                ) =>
            {
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }
}

/// The links of a route with several next hops: `struct rtnexthop`s, each with its own length.
fn next_hops(mut rest: &[u8]) -> Vec<u32> {
    let mut links = Vec::new();
    while let (Some(length), Some(link)) = (u16_at(rest, 0), u32_at(rest, 4)) {
        links.push(link);
        match rest.get(usize::from(length).next_multiple_of(4)..) {
            Some(after) if length >= 8 => rest = after,
            Some(_) | None => break,
        }
    }
    links
}

fn present(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        other => other.map(|()| true),
    }
}

fn absent(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::ENOENT | libc::ESRCH | libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT)
            ) =>
        {
            Ok(())
        }
        other => other,
    }
}

pub(crate) fn notifications() -> io::Result<Notifications> {
    Notifications::open(Subsystem::Route, &GROUPS)
}

/// Whether a notification may concern capture: a host with a full routing table tells of thousands of routes.
pub(crate) fn concerns(received: Received<'_>, table: u32, tun: u32, services: &[IpAddr]) -> bool {
    let body = received.payload;
    match received.kind {
        RTM_NEWROUTE | RTM_DELROUTE => {
            let Some(length) = u8_at(body, 1) else { return true };
            let attributes = || attributes(body.get(12..).unwrap_or(&[]));
            let of = |wanted| attributes().find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
            let to = of(RTA_DST).and_then(address);
            of(RTA_TABLE).and_then(|value| u32_at(value, 0)) == Some(table)
                || to.is_none_or(|to| services.iter().any(|service| covers(to, length, *service)))
        }
        RTM_NEWADDR | RTM_DELADDR => u32_at(body, 4) == Some(tun),
        RTM_NEWLINK | RTM_DELLINK | RTM_NEWRULE | RTM_DELRULE => true,
        // netconf and whatever a newer kernel sends to these groups
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::linux::netlink::messages;
    use std::net::Ipv6Addr;

    fn rule() -> Rule {
        Rule {
            ipv6: true,
            priority: 12,
            to: Some(("fd00:ec2::254".parse().unwrap(), 128)),
            mark: Some(0x1068),
            local: true,
            port: Some(80),
            action: Action::Lookup(169_254),
            kernel: true,
            plain: true,
        }
    }

    #[test]
    fn rules_and_routes_are_read_as_they_are_written() {
        let written = rule().message(RTM_NEWRULE, 0).into_bytes();
        assert_eq!(messages(&written).find_map(Rule::read), Some(rule()));
        for leads in [Leads::Prohibit, Leads::Link { index: 7, source: Some(Ipv6Addr::LOCALHOST) }] {
            let to = Some("fd00:ec2::254".parse().unwrap());
            let route =
                Route { table: 254, ipv6: true, to, from: Some(Ipv6Addr::LOCALHOST), metric: 3, leads };
            let written = route.message(RTM_NEWROUTE, 0).into_bytes();
            assert_eq!(messages(&written).find_map(Route::read), Some(route));
        }
    }

    #[test]
    fn every_truncation_of_a_rule_is_survived() {
        let written = rule().message(RTM_NEWRULE, 0).into_bytes();
        let payload = messages(&written).next().unwrap().payload.to_vec();
        for end in 0..payload.len() {
            let mut header = u32::try_from(16 + end).unwrap().to_ne_bytes().to_vec();
            header.extend([0; 12]);
            header.extend(&payload[..end]);
            assert_ne!(messages(&header).find_map(Rule::read), Some(rule()), "{end}");
            let _ = messages(&header).find_map(Route::read);
            let _ = messages(&header).find_map(link);
        }
    }
}
