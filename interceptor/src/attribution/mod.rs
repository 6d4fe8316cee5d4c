//! Who made a connection: four-tuple to Subject, from the kernel alone.
//! Must not guess: what the kernel does not say exactly is unattributable, and there is no default identity.

mod judge;
mod pace;
mod prepare;
mod subuid;
mod unit;
mod witness;

pub use crate::sys::{Connecting, GroupList, KeptPrograms, ProgramError, Programs, Record, TunHook};
pub use pace::Pace;
pub use prepare::{Loaded, adopt, load};
pub use subuid::{SubordinateUids, SubuidWarning};
pub use witness::Witness;

use crate::netstack::FourTuple;
use crate::sys::SocketOwners;
use imds_ipc::control::Mode;
use imds_ipc::{Identity, Lack, Needs, Subject, Unattributed, Who};
use std::fmt;
use std::os::fd::BorrowedFd;

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
    /// The program on the tun did not see the SYN.
    NoRecord,
    /// Somebody gave the socket another owner than its maker.
    GivenAway {
        maker: u32,
        owner: u32,
    },
    /// The program on connects did not see it.
    NoConnect,
    /// One user's process made the socket and another's connects it.
    ConnectedByAnother {
        maker: u32,
        by: u32,
    },
    /// It was nobody's when it began, and such are no longer wanted.
    NotWanted,
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
            Self::NoRecord => f.write_str("the program on the tun did not see it"),
            Self::GivenAway { maker, owner } => {
                write!(f, "uid {maker} made its socket, and it was given to uid {owner}")
            }
            Self::NoConnect => f.write_str("the program on connects did not see who connects it"),
            Self::ConnectedByAnother { maker, by } => {
                write!(f, "uid {maker} made its socket and uid {by} connects it")
            }
            Self::NotWanted => f.write_str("it could not be told when it began"),
            Self::Os(errno) => write!(f, "asking the kernel: {errno}"),
        }
    }
}

/// Who it is, and the socket that he connects with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributed {
    /// Nobody only in audit mode.
    pub subject: Who,
    /// Of no meaning if it is nobody.
    pub cookie: u64,
}

/// The only maker of a [`Subject`] in this process.
pub struct Attribution {
    owners: SocketOwners,
    subordinate: SubordinateUids,
    witness: Result<Witness, Lack>,
    /// What becomes of those whom nobody can tell. Enforce unless the filterd that has the connections says otherwise.
    mode: Mode,
}

impl Attribution {
    #[must_use]
    pub fn new(owners: SocketOwners, subordinate: SubordinateUids, witness: Result<Witness, Lack>) -> Self {
        Self { owners, subordinate, witness, mode: Mode::Enforce }
    }

    /// What can be told of clients.
    #[must_use]
    pub fn identity(&self) -> Identity {
        match &self.witness {
            Ok(witness) => witness.identity(),
            Err(lack) if SocketOwners::TELLS_GROUPS => {
                Identity { groups: Ok(()), ..Identity::partial(*lack) }
            }
            Err(lack) => Identity::partial(*lack),
        }
    }

    /// What the kernel's programs live by.
    #[must_use]
    pub fn parts(&self) -> Vec<(&'static str, BorrowedFd<'_>)> {
        self.witness.as_ref().map_or(Vec::new(), Witness::parts)
    }

    /// From here on only what is needed is looked up.
    pub fn need(&self, needs: Needs) {
        if let Ok(witness) = &self.witness {
            witness.need(needs);
        }
    }

    /// In audit mode nobody is refused for not being told.
    pub fn set_mode(&mut self, mode: Mode) {
        self.mode = mode;
    }

    /// Ask when the SYN arrives: then, and only then, its socket is in the state that tells it from others.
    ///
    /// # Errors
    /// Whenever it is not certain who it is, but in audit mode.
    pub fn attribute(&mut self, four_tuple: &FourTuple) -> Result<Attributed, Unattributable> {
        match (self.certainly(four_tuple), self.mode) {
            (Err(why), Mode::Audit) => Ok(Attributed { subject: Err(nobody(&why)), cookie: 0 }),
            (found, Mode::Enforce | Mode::Audit) => found,
        }
    }

    fn certainly(&mut self, four_tuple: &FourTuple) -> Result<Attributed, Unattributable> {
        let socket = self.owners.connecting(four_tuple)?;
        let subject = match &mut self.witness {
            Ok(witness) => {
                let record = witness.told_of(socket.cookie).ok_or(Unattributable::NoRecord)?;
                let must_connect = witness.identity().connecting.is_ok();
                judge::subject(socket.uid, &record, must_connect, &self.subordinate)?
            }
            Err(_) => {
                let uid = self.subordinate.owner_of(socket.uid)?;
                Subject { groups: judge::groups_of(socket.groups, None), ..Subject::of_uid(uid) }
            }
        };
        Ok(Attributed { subject: Ok(subject), cookie: socket.cookie })
    }

    /// To be called whenever the tun was read, whatever came: the kernel tells of each SYN, also of those that nobody asks
    /// about.
    pub fn make_room(&mut self) {
        if let Ok(witness) = &mut self.witness {
            witness.make_room();
        }
    }

    /// Whether the four-tuple is still that socket's. Ask when the handshake is complete. In audit mode it becomes
    /// nobody's if not.
    ///
    /// # Errors
    /// When it is another's, or nobody's.
    pub fn confirm(
        &mut self,
        four_tuple: &FourTuple,
        subject: &mut Who,
        cookie: u64,
    ) -> Result<(), Unattributable> {
        let confirmed = match subject {
            Ok(_) => self.owners.is_still(four_tuple, cookie),
            Err(_) => Err(Unattributable::NotWanted),
        };
        match (confirmed, self.mode) {
            (Err(why), Mode::Audit) => {
                if subject.is_ok() {
                    *subject = Err(nobody(&why));
                }
                Ok(())
            }
            (confirmed, Mode::Enforce | Mode::Audit) => confirmed,
        }
    }
}

fn nobody(why: &Unattributable) -> Unattributed {
    Unattributed::new(&why.to_string())
}
