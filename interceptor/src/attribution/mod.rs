//! Who made a connection: four-tuple to Subject, from the kernel alone.
//! Must not guess: what the kernel does not say exactly is unattributable, and there is no default identity.

mod subuid;

pub use subuid::{SubordinateUids, SubuidWarning};

use crate::netstack::FourTuple;
use crate::sys::SocketOwners;
use imds_ipc::Subject;
use std::fmt;

/// Why the client of a SYN is not known. The connection is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unattributable {
    /// No socket of this network namespace has that four-tuple: a container's packet, or a forged one.
    NoSocket,
    /// The kernel named another socket: somebody who listens on the client's port, most likely.
    OtherSocket,
    /// The socket is not the one that sends a SYN now: an older one whose port a forwarded packet has.
    NotConnecting,
    /// The socket has no file any more: its process closed it, and its uid may be shown as root's.
    Closed,
    /// An answer that is not one.
    Answer,
    /// The uid lies in a range of /etc/subuid that nobody, or more than one user, owns.
    SubordinateUid(u32),
    Os(rustix::io::Errno),
}

impl fmt::Display for Unattributable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSocket => f.write_str("no local socket sends this"),
            Self::OtherSocket => f.write_str("the kernel named another socket"),
            Self::NotConnecting => f.write_str("its socket is not connecting"),
            Self::Closed => f.write_str("its socket was closed"),
            Self::Answer => f.write_str("the kernel's answer could not be read"),
            Self::SubordinateUid(uid) => {
                write!(f, "uid {uid} is in a range of /etc/subuid without one owner")
            }
            Self::Os(errno) => write!(f, "asking the kernel: {errno}"),
        }
    }
}

/// The only maker of a [`Subject`] in this process.
pub struct Attribution {
    owners: SocketOwners,
    subordinate: SubordinateUids,
}

impl Attribution {
    #[must_use]
    pub fn new(owners: SocketOwners, subordinate: SubordinateUids) -> Self {
        Self { owners, subordinate }
    }

    /// Ask when the SYN arrives: then, and only then, its socket is in the state that tells it from others.
    ///
    /// # Errors
    /// Whenever it is not certain who it is.
    pub fn attribute(&mut self, four_tuple: &FourTuple) -> Result<Subject, Unattributable> {
        let uid = self.owners.uid_of_connecting(four_tuple)?;
        Ok(Subject { uid: self.subordinate.owner_of(uid)? })
    }
}
