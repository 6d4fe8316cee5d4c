//! By which interface and router the service would be reached if capture did not stand. Pure.
//! Must not take a route of capture's own for that way.

use super::frame::Ethernet;
use super::links::{self, Link};
use super::route::{Leads, Route};
use std::net::IpAddr;

/// The next stop on the way to a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hop {
    /// The interface and what its name is.
    pub(crate) index: u16,
    pub(crate) name: String,
    pub(crate) hardware: Ethernet,
    /// The address that our packets have.
    pub(crate) source: IpAddr,
    /// Whose hardware address the frames get; the scope is an interface's index or 0.
    pub(crate) router: IpAddr,
    pub(crate) scope: u32,
}

/// `former` are routes that capture took the place of; they count as if they still stood.
pub(crate) fn hop(
    service: IpAddr,
    table: &[Route],
    former: &[Route],
    links: &[Link],
    tun: u16,
) -> Option<Hop> {
    let foreign = |route: &&Route| match route.leads {
        Leads::Nowhere => false,
        Leads::Link(index) => index != tun,
        Leads::Router(..) => route.index != tun,
    };
    let route = former
        .iter()
        .chain(table)
        .filter(|route| route.covers(service))
        .filter(foreign)
        .max_by_key(|route| route.length)?;
    let (index, router, scope) = match route.leads {
        Leads::Router(router, scope) => (index_of(route, links)?, router, scope),
        Leads::Link(index) => (index, service, 0),
        Leads::Nowhere => return None,
    };
    let link = links.iter().find(|link| link.address.index == index && link.up)?;
    Some(Hop {
        index,
        name: String::from_utf8(link.address.name.clone()).ok()?,
        hardware: link.address.ethernet?,
        source: links::source(link, service)?,
        router,
        scope,
    })
}

/// A former route does not say by which interface its router is; then it is the one whose address it would get.
fn index_of(route: &Route, links: &[Link]) -> Option<u16> {
    match route.index {
        0 => links
            .iter()
            .find(|link| route.source.is_some_and(|own| link.own.contains(&own)))
            .map(|l| l.address.index),
        index => Some(index),
    }
}

#[cfg(test)]
mod tests {
    use super::super::address::LinkAddress;
    use super::*;

    const TUN: u16 = 9;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn link(index: u16, name: &str, own: &[&str]) -> Link {
        let address = LinkAddress { index, name: name.into(), ethernet: Some([2, 0, 0, 0, 0, 1]) };
        Link { address, up: true, own: own.iter().map(|own| ip(own)).collect() }
    }

    fn route(to: &str, length: u8, leads: Leads, index: u16) -> Route {
        Route { to: ip(to), length, leads, index, source: None, pinned: false }
    }

    fn links() -> Vec<Link> {
        vec![
            link(1, "vtnet0", &["10.0.0.5", "fe80::5", "fd00:1::5"]),
            link(2, "vtnet1", &["10.1.0.5"]),
            link(TUN, "imds0", &["169.254.169.1"]),
        ]
    }

    #[test]
    fn capture_itself_is_never_the_way_and_the_longest_of_the_others_is() {
        let table = [
            route("169.254.169.254", 32, Leads::Link(TUN), TUN),
            route("169.254.169.254", 31, Leads::Nowhere, 3),
            route("0.0.0.0", 0, Leads::Router(ip("10.0.0.1"), 0), 1),
            route("169.254.0.0", 16, Leads::Router(ip("10.1.0.1"), 0), 2),
        ];
        let found = hop(ip("169.254.169.254"), &table, &[], &links(), TUN).unwrap();
        assert_eq!(
            (found.name.as_str(), found.router, found.source),
            ("vtnet1", ip("10.1.0.1"), ip("10.1.0.5"))
        );
        let found = hop(ip("169.254.169.254"), &table[..3], &[], &links(), TUN).unwrap();
        assert_eq!((found.name.as_str(), found.router), ("vtnet0", ip("10.0.0.1")));
        assert_eq!(hop(ip("169.254.169.254"), &table[..2], &[], &links(), TUN), None);
        assert_eq!(hop(ip("fd00:ec2::254"), &table, &[], &links(), TUN), None);
    }

    #[test]
    fn a_route_that_capture_replaced_still_shows_the_way() {
        let table = [route("0.0.0.0", 0, Leads::Router(ip("10.0.0.1"), 0), 1)];
        let former = [route("169.254.169.254", 32, Leads::Router(ip("10.1.0.9"), 0), 2)];
        let found = hop(ip("169.254.169.254"), &table, &former, &links(), TUN).unwrap();
        assert_eq!((found.name.as_str(), found.router), ("vtnet1", ip("10.1.0.9")));
    }

    #[test]
    fn a_router_of_the_link_has_its_scope_and_packets_a_source_beyond_the_link() {
        let table = [route("::", 0, Leads::Router(ip("fe80::1"), 1), 1)];
        let found = hop(ip("fd00:ec2::254"), &table, &[], &links(), TUN).unwrap();
        assert_eq!((found.router, found.scope, found.source), (ip("fe80::1"), 1, ip("fd00:1::5")));
        let mut down = links();
        down[0].up = false;
        assert_eq!(hop(ip("fd00:ec2::254"), &table, &[], &down, TUN), None);
    }
}
