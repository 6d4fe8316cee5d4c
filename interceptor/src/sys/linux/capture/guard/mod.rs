//! The guard: what keeps packets to the service from leaving by any way but ours when routes and rules are gone. Chooses
//! between its two kinds and exchanges one for the other without an open moment. Knows no routes.

mod policies;
mod table;

use super::world::{Kernel, World};
use crate::sys::linux::netlink::{Notifications, Received};
use crate::sys::linux::nftables::{self, Wanted};
use crate::sys::linux::xfrm::{self, Policy};
use imds_settings::{self as settings, Settings};
use std::fmt;
use std::io;

pub(super) use policies::endangers;
pub(super) use table::NAME as TABLE;

/// A guard as it shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Guard {
    Policies(Vec<Policy>),
    Table(Wanted),
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policies(policies) => write!(f, "guard of {} xfrm policies", policies.len()),
            Self::Table(table) => {
                write!(f, "guard: nftables table inet {TABLE} with {} rules", table.rules.len())
            }
        }
    }
}

pub(super) fn wanted(settings: &Settings, world: &World) -> Guard {
    match settings.capture.guard {
        settings::Guard::Xfrm => {
            Guard::Policies(policies::wanted(settings, &world.other_links(), world.ipv6))
        }
        settings::Guard::Nftables => {
            let tun = world.tun_link().map(|link| (link.index, link.name.as_str()));
            Guard::Table(table::wanted(settings, tun, world.ipv6))
        }
    }
}

impl Guard {
    pub(super) fn stands(&self, world: &World) -> bool {
        match self {
            Self::Policies(wanted) => policies::stands(wanted, &world.policies),
            Self::Table(wanted) => world.table.as_ref().is_some_and(|found| wanted.stands(found)),
        }
    }

    /// Puts it in the place of what stands of its kind; at every moment one whole guard stands, if one stood before.
    pub(super) fn put(&self, kernel: &mut Kernel, world: &World) -> io::Result<()> {
        match self {
            Self::Policies(wanted) => policies::exchange(kernel.policies()?, wanted, &world.policies),
            Self::Table(wanted) => kernel.tables()?.put(TABLE, wanted, world.table.as_ref()),
        }
    }

    /// Whether the other kind stands too, left by a run with other settings.
    pub(super) fn has_predecessor(&self, world: &World) -> bool {
        match self {
            Self::Policies(_) => world.table.is_some(),
            Self::Table(_) => world.policies.iter().any(policies::ours),
        }
    }

    /// Removes the other kind. Only when this one stands.
    pub(super) fn remove_predecessor(&self, kernel: &mut Kernel) -> io::Result<()> {
        match self {
            Self::Policies(_) => kernel.tables()?.remove(TABLE),
            Self::Table(_) => policies::remove(kernel.policies()?),
        }
    }
}

/// Forwarded packets that were let alone and counted, if the table could be read.
pub(super) fn forwarded(kernel: &mut Kernel) -> Option<u64> {
    kernel.tables().ok()?.counted(TABLE, table::FORWARD).ok()
}

/// Removes both kinds. Opens, unless rules and routes hold.
pub(super) fn remove(kernel: &mut Kernel) -> io::Result<()> {
    if let Some(tables) = &mut kernel.tables {
        tables.remove(TABLE)?;
    }
    kernel.policies.as_mut().map_or(Ok(()), policies::remove)
}

/// Tells of changes of the chosen kind.
pub(super) fn notifications(settings: &Settings) -> io::Result<Notifications> {
    match settings.capture.guard {
        settings::Guard::Xfrm => xfrm::notifications(),
        settings::Guard::Nftables => nftables::notifications(),
    }
}

pub(super) fn concerns(settings: &Settings, received: Received<'_>) -> bool {
    match settings.capture.guard {
        settings::Guard::Xfrm => true,
        settings::Guard::Nftables => nftables::concerns(received, TABLE),
    }
}
