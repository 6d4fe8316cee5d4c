//! A route of others that capture took the place of: a line of the notes. Changes nothing.

use crate::capture::Note;
use crate::capture::notes::FILE;
use crate::sys::bsd::links::Link;
use crate::sys::bsd::route::{Leads, Route};
use std::path::Path;

/// FIB, destination, prefix length, router (or "-" for none), and the interface's name: its number does not outlive it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RouteNote {
    pub(super) fib: u32,
    pub(super) to: std::net::IpAddr,
    pub(super) length: u8,
    pub(super) router: Option<std::net::IpAddr>,
    pub(super) interface: String,
}

impl RouteNote {
    /// `None` for a route to nowhere, or by an interface that is gone: there is nothing to give back.
    pub(super) fn of(fib: u32, route: &Route, links: &[Link]) -> Option<Self> {
        let router = match route.leads {
            Leads::Nowhere => return None,
            Leads::Router(router, _) => Some(router),
            Leads::Link(_) => None,
        };
        let link = links.iter().find(|link| link.address.index == route.index)?;
        let interface = String::from_utf8(link.address.name.clone()).ok()?;
        Some(Self { fib, to: route.to, length: route.length, router, interface })
    }

    /// The route as it was; `None` if its interface is gone.
    pub(super) fn route(&self, links: &[Link]) -> Option<Route> {
        let link = links.iter().find(|link| link.address.name == self.interface.as_bytes())?;
        let index = link.address.index;
        let leads = match self.router {
            Some(std::net::IpAddr::V6(router)) if router.is_unicast_link_local() => {
                Leads::Router(router.into(), index.into())
            }
            Some(router) => Leads::Router(router, 0),
            None => Leads::Link(index),
        };
        Some(Route { to: self.to, length: self.length, leads, index, source: None, pinned: false })
    }
}

impl Note for RouteNote {
    const EXPECTED: &str = "a FIB, a destination, a prefix length, a router or \"-\", and an interface";

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let note = Self {
            fib: words.next()?.parse().ok()?,
            to: words.next()?.parse().ok()?,
            length: words.next()?.parse().ok()?,
            router: match words.next()? {
                "-" => None,
                router => Some(router.parse().ok()?),
            },
            interface: words.next()?.to_owned(),
        };
        words.next().is_none().then_some(note)
    }

    fn line(&self) -> String {
        let router = self.router.map_or_else(|| "-".to_owned(), |router| router.to_string());
        format!("{} {} {} {router} {}", self.fib, self.to, self.length, self.interface)
    }

    fn same(&self, new: &Self) -> bool {
        (self.fib, self.to, self.length) == (new.fib, new.to, new.length)
    }
}

/// The routes that capture took the place of in any FIB, as far as their interfaces are there.
pub(crate) fn former(directory: &Path, links: &[Link]) -> Vec<Route> {
    // whoever has the lock writes it; what is not there, or cannot be read, he says
    let Ok(text) = std::fs::read_to_string(directory.join(FILE)) else { return Vec::new() };
    text.lines().filter_map(RouteNote::parse).filter_map(|note| note.route(links)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_as_written_and_a_spoilt_one_is_none() {
        for line in ["0 169.254.169.254 32 10.0.0.1 vtnet0", "3 fd00:ec2::254 128 - em0"] {
            assert_eq!(RouteNote::parse(line).unwrap().line(), line);
        }
        for line in ["", "0 169.254.169.254 32 10.0.0.1", "0 x 32 - em0", "0 ::1 128 - em0 more"] {
            assert_eq!(RouteNote::parse(line), None, "{line:?}");
        }
    }
}
