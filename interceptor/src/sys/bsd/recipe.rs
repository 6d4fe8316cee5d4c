//! The routes that capture is made of, in each FIB, and how a table compares with them. Pure.
//!
//! Two for each service: one that leads nowhere, a little wider than the service's address, and one for the very address
//! into the tun. When the tun goes, its route goes with it, and the other one refuses at once. Both are pinned: what
//! others add beside them, or delete, the kernel refuses.

use super::address;
use super::route::{Leads, Route, full};
use std::net::IpAddr;

/// What keeps clients from the services whatever becomes of us.
pub(crate) fn closing(services: &[IpAddr]) -> Vec<Route> {
    let mut routes: Vec<Route> = Vec::new();
    for service in services {
        let length = full(*service) - 1;
        let to = address::network(*service, length);
        // two services may be neighbours
        if !routes.iter().any(|route| route.to == to) {
            routes.push(Route { to, length, leads: Leads::Nowhere, index: 0, source: None, pinned: true });
        }
    }
    routes
}

/// What leads clients into the tun.
pub(crate) fn inward(services: &[IpAddr], tun: u16) -> Vec<Route> {
    let leads = Leads::Link(tun);
    services
        .iter()
        .map(|service| Route {
            to: *service,
            length: full(*service),
            leads,
            index: tun,
            source: None,
            pinned: true,
        })
        .collect()
}

fn same_key(a: &Route, b: &Route) -> bool {
    (a.to, a.length) == (b.to, b.length)
}

fn same(found: &Route, wanted: &Route) -> bool {
    same_key(found, wanted) && found.leads == wanted.leads && found.pinned == wanted.pinned
}

/// Whether it is there, alone: beside others it would get a share of the packets.
pub(crate) fn stands(wanted: &Route, table: &[Route]) -> bool {
    let mut found = table.iter().filter(|route| same_key(route, wanted));
    found.next().is_some_and(|route| same(route, wanted)) && found.next().is_none()
}

/// What others have in its place.
pub(crate) fn in_the_way(wanted: &Route, table: &[Route]) -> Vec<Route> {
    table.iter().filter(|found| same_key(found, wanted) && !same(found, wanted)).cloned().collect()
}

/// Whether packets to `service` would go anywhere but into the tun or nowhere. `tun`: none, if it is gone.
pub(crate) fn is_open(service: IpAddr, table: &[Route], tun: Option<u16>) -> bool {
    let covering = || table.iter().filter(|route| route.covers(service));
    let Some(longest) = covering().map(|route| route.length).max() else { return false };
    covering().filter(|route| route.length == longest).any(|route| match route.leads {
        Leads::Nowhere => false,
        Leads::Link(index) => Some(index) != tun,
        Leads::Router(..) => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn services() -> [IpAddr; 2] {
        [ip("169.254.169.254"), ip("fd00:ec2::254")]
    }

    fn by_router(to: &str, length: u8) -> Route {
        let leads = Leads::Router(ip("10.0.0.1"), 0);
        Route { to: ip(to), length, leads, index: 1, source: None, pinned: false }
    }

    #[test]
    fn each_service_has_a_route_to_nowhere_and_one_into_the_tun() {
        let texts = |routes: Vec<Route>| routes.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            texts(closing(&services())),
            ["route 169.254.169.254/31 to nowhere", "route fd00:ec2::254/127 to nowhere"]
        );
        assert_eq!(
            texts(inward(&services(), 7)),
            ["route 169.254.169.254/32 by interface 7", "route fd00:ec2::254/128 by interface 7"]
        );
        assert_eq!(closing(&[ip("10.0.0.2"), ip("10.0.0.3")]).len(), 1);
    }

    #[test]
    fn a_route_stands_only_as_it_shall_be_and_alone() {
        let wanted = &inward(&services(), 7)[0];
        assert!(!stands(wanted, &[]));
        assert!(stands(wanted, std::slice::from_ref(wanted)));
        assert!(!stands(wanted, &inward(&services(), 8)), "of a tun that is gone");
        let unpinned = Route { pinned: false, ..wanted.clone() };
        assert!(!stands(wanted, &[unpinned]));
        let beside = [wanted.clone(), by_router("169.254.169.254", 32)];
        assert!(!stands(wanted, &beside));
        assert_eq!(in_the_way(wanted, &beside), beside[1..]);
    }

    #[test]
    fn it_is_open_where_the_longest_route_leads_elsewhere() {
        let service = services()[0];
        let default = by_router("0.0.0.0", 0);
        let close = closing(&services())[0].clone();
        let lead_in = inward(&services(), 7)[0].clone();
        let host = by_router("169.254.169.254", 32);
        assert!(!is_open(service, &[], Some(7)), "a FIB without any route");
        assert!(is_open(service, std::slice::from_ref(&default), Some(7)));
        assert!(!is_open(service, &[default.clone(), close.clone()], None));
        assert!(!is_open(service, &[default.clone(), close.clone(), lead_in.clone()], Some(7)));
        assert!(is_open(service, &[default.clone(), close.clone(), lead_in.clone()], Some(8)));
        assert!(is_open(service, &[default, close.clone(), host.clone()], Some(7)));
        assert!(is_open(service, &[close, lead_in, host], Some(7)), "beside ours");
    }
}
