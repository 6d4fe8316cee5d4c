//! What stands in the kernel now, read in one go. Changes nothing.

use super::event::CaptureError;
use crate::sys::linux::rtnl::{Link, Route, Routing, Rule, TABLE_MAIN};
use crate::sys::linux::sysctl::{self, Family};
use crate::sys::linux::xfrm::{Policies, Policy};
use std::io;
use std::net::IpAddr;

/// The kernel's two registers that we read and write.
pub(super) struct Kernel {
    pub(super) routing: Routing,
    pub(super) policies: Policies,
}

impl Kernel {
    pub(super) fn open() -> Result<Self, CaptureError> {
        let routing = Routing::open().map_err(CaptureError::step("opening a routing socket"))?;
        let policies = Policies::open().map_err(|error| match error.raw_os_error() {
            Some(libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT) => CaptureError::NoGuard(error),
            _ => CaptureError::Step { tried: "opening an xfrm socket".into(), error },
        })?;
        Ok(Self { routing, policies })
    }
}

pub(super) struct World {
    pub(super) links: Vec<Link>,
    /// The tun's index; none if it is not (or no longer) there.
    pub(super) tun: Option<u32>,
    pub(super) tun_addresses: Vec<IpAddr>,
    pub(super) rules: Vec<Rule>,
    /// Our table's routes, and the source-specific prohibits of the main table.
    pub(super) routes: Vec<Route>,
    pub(super) policies: Vec<Policy>,
    /// The kernel has IPv6, switched on or not.
    pub(super) ipv6: bool,
    /// IPv6 is switched on on the tun.
    pub(super) tun_ipv6: bool,
}

impl World {
    /// `tun`: the tun's index and its name now.
    pub(super) fn read(kernel: &mut Kernel, table: u32, tun: Option<(u32, String)>) -> io::Result<Self> {
        let Kernel { routing, policies } = kernel;
        let links = routing.links()?;
        let tun = tun
            .filter(|(index, name)| links.iter().any(|link| link.index == *index && link.name == *name))
            .map(|(index, _)| index);
        let tun_addresses = match tun {
            Some(index) => routing.addresses(index)?,
            None => Vec::new(),
        };
        let mut routes = routing.routes(table, false)?;
        routes.extend(routing.routes(table, true)?);
        routes.extend(routing.prohibits(TABLE_MAIN, true)?.into_iter().filter(|route| route.from.is_some()));
        let rules = routing.rules()?;
        let policies = policies.all()?;
        let ipv6 = sysctl::read(Family::V6, "all", "disable_ipv6").is_ok();
        let mut world = Self { links, tun, tun_addresses, rules, routes, policies, ipv6, tun_ipv6: false };
        world.tun_ipv6 = world
            .tun_link()
            .is_some_and(|link| matches!(sysctl::read(Family::V6, &link.name, "disable_ipv6"), Ok(0)));
        Ok(world)
    }

    pub(super) fn tun_link(&self) -> Option<&Link> {
        self.links.iter().find(|link| Some(link.index) == self.tun)
    }

    /// The links a packet could leave by: all but the tun.
    pub(super) fn other_links(&self) -> Vec<u32> {
        self.links.iter().map(|link| link.index).filter(|index| Some(*index) != self.tun).collect()
    }
}
