//! What stands in the kernel now, read in one go. Changes nothing.

use super::guard;
use crate::capture::CaptureError;
use crate::sys::linux::nftables::{Found, Tables};
use crate::sys::linux::rtnl::{Link, Route, Routing, Rule, TABLE_MAIN};
use crate::sys::linux::sysctl::{self, Family};
use crate::sys::linux::xfrm::{Policies, Policy};
use imds_settings::Guard;
use std::io;
use std::net::IpAddr;

/// The kernel's registers that we read and write. Of the guards' two one may be absent.
pub(super) struct Kernel {
    pub(super) routing: Routing,
    pub(super) policies: Option<Policies>,
    pub(super) tables: Option<Tables>,
}

impl Kernel {
    pub(super) fn open() -> Result<Self, CaptureError> {
        let routing = Routing::open().map_err(CaptureError::step("opening a routing socket"))?;
        let policies = known(Policies::open()).map_err(CaptureError::step("opening an xfrm socket"))?;
        let tables = known(Tables::open()).map_err(CaptureError::step("looking for nftables"))?;
        Ok(Self { routing, policies, tables })
    }

    /// # Errors
    /// The kernel lacks what the chosen guard is made of.
    pub(super) fn has(&self, guard: Guard) -> Result<(), CaptureError> {
        let there = match guard {
            Guard::Xfrm => self.policies.is_some(),
            Guard::Nftables => self.tables.is_some(),
        };
        if there { Ok(()) } else { Err(CaptureError::NoGuard(guard)) }
    }

    pub(super) fn policies(&mut self) -> io::Result<&mut Policies> {
        self.policies.as_mut().ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    pub(super) fn tables(&mut self) -> io::Result<&mut Tables> {
        self.tables.as_mut().ok_or_else(|| io::ErrorKind::Unsupported.into())
    }
}

/// None where the kernel lacks it.
fn known<T>(opened: io::Result<T>) -> io::Result<Option<T>> {
    match opened {
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT | libc::EOPNOTSUPP | libc::EINVAL)
            ) =>
        {
            Ok(None)
        }
        other => other.map(Some),
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
    /// Our nftables table.
    pub(super) table: Option<Found>,
    /// The kernel has IPv6, switched on or not.
    pub(super) ipv6: bool,
    /// IPv6 is switched on on the tun.
    pub(super) tun_ipv6: bool,
}

impl World {
    /// `tun`: the tun's index and its name now.
    pub(super) fn read(kernel: &mut Kernel, table: u32, tun: Option<(u32, String)>) -> io::Result<Self> {
        let Kernel { routing, policies, tables } = kernel;
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
        let policies = policies.as_mut().map_or(Ok(Vec::new()), Policies::all)?;
        let table = tables.as_mut().map_or(Ok(None), |tables| tables.find(guard::TABLE))?;
        let ipv6 = sysctl::read(Family::V6, "all", "disable_ipv6").is_ok();
        let mut world =
            Self { links, tun, tun_addresses, rules, routes, policies, table, ipv6, tun_ipv6: false };
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
