//! Connections to the real service: only to configured addresses, marked past our own tun, bounded in number and time.
//! Must not send or read a byte on them; filterd does.

use crate::sys::{Outward, Way};
use imds_ipc::DialFailure;
use imds_settings::Settings;
use rustix::io::Errno;
use rustix::net::{connect, getpeername, getsockname, sockopt};
use slab::Slab;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

/// A dial that the service answers takes less than a millisecond; so many at once mean that it does not answer.
const MAX_DIALS: usize = 1024;
/// An older filterd that drains must not take them all.
pub(crate) const MAX_DIALS_OF_PEER: usize = 512;

/// What became of an ask.
#[derive(Debug)]
pub enum Dialled {
    Connected(OwnedFd),
    /// It is being connected, and who asked sees how that ends.
    Connecting(OwnedFd),
    Failed(DialFailure),
    /// Under way; the key is good for [`Dials::ready`].
    Waiting(usize),
}

#[derive(Debug)]
pub struct Dialling {
    socket: OwnedFd,
    way: Way,
    pub peer: usize,
    /// filterd's number for it.
    pub dial: u64,
    serial: u64,
}

pub struct Dials {
    upstreams: Vec<SocketAddr>,
    outward: Outward,
    /// The tun's own address: whatever left with it as source would be answered to the tun.
    not_from: Ipv6Addr,
    limit: Duration,
    waiting: Slab<Dialling>,
    serial: u64,
    /// In the order they come due, since all have the same limit: until when, which key, and of which serial number.
    deadlines: VecDeque<(Instant, usize, u64)>,
}

impl Dials {
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        Self {
            upstreams: settings.upstreams().collect(),
            outward: Outward::new(settings),
            not_from: settings.capture.address6,
            limit: settings.limits.dial(),
            waiting: Slab::new(),
            serial: 0,
            deadlines: VecDeque::new(),
        }
    }

    /// The index that filterd names `service` by.
    #[must_use]
    pub fn index_of(&self, service: SocketAddr) -> Option<u16> {
        self.upstreams.iter().position(|upstream| *upstream == service)?.try_into().ok()
    }

    /// Asks for a connection, for a peer that has `of_peer` asks under way. `waits`: it can wait for the connection itself;
    /// then it does, unless the system needs the socket with us as long.
    pub fn dial(
        &mut self,
        (peer, of_peer, waits): (usize, usize, bool),
        dial: u64,
        upstream: u16,
        now: Instant,
    ) -> Dialled {
        let Some(address) = self.upstreams.get(usize::from(upstream)).copied() else {
            return Dialled::Failed(DialFailure::UnknownUpstream);
        };
        if self.waiting.len() >= MAX_DIALS || of_peer >= MAX_DIALS_OF_PEER {
            return Dialled::Failed(DialFailure::TooMany);
        }
        match self.connect(address) {
            Err(errno) => Dialled::Failed(failure(errno)),
            Ok((socket, way, true)) => {
                self.outward.connected(way);
                Dialled::Connected(socket)
            }
            Ok((socket, _, false)) if waits && Outward::LETS_GO => Dialled::Connecting(socket),
            Ok((socket, way, false)) => {
                self.serial += 1;
                let key = self.waiting.insert(Dialling { socket, way, peer, dial, serial: self.serial });
                self.deadlines.push_back((now + self.limit, key, self.serial));
                Dialled::Waiting(key)
            }
        }
    }

    /// The socket, its way out, and whether it is connected already.
    fn connect(&mut self, address: SocketAddr) -> Result<(OwnedFd, Way, bool), Errno> {
        let socket = self.outward.socket(address)?;
        let connected = match connect(&socket, &address) {
            Ok(()) => true,
            // an interrupted connect goes on by itself
            Err(Errno::INPROGRESS | Errno::INTR) => false,
            Err(errno) => return Err(errno),
        };
        if address.is_ipv6() {
            let source = SocketAddr::try_from(getsockname(&socket)?).map_err(|_| Errno::AFNOSUPPORT)?;
            if source.ip() == IpAddr::V6(self.not_from) {
                return Err(Errno::ADDRNOTAVAIL);
            }
        }
        let way = self.outward.dialled(&socket, address)?;
        Ok((socket, way, connected))
    }

    /// Whether a packet from the tun belongs to one of these connections; then it is on its way.
    pub fn carries(&mut self, packet: &[u8]) -> bool {
        self.outward.carries(packet)
    }

    #[must_use]
    pub fn descriptor(&self, key: usize) -> Option<RawFd> {
        self.waiting.get(key).map(|dialling| dialling.socket.as_raw_fd())
    }

    /// After an event: the dial and its result, if it has one.
    pub fn ready(&mut self, key: usize) -> Option<(Dialling, Result<(), DialFailure>)> {
        let socket = &self.waiting.get(key)?.socket;
        let result = match sockopt::socket_error(socket) {
            Ok(Ok(())) => match getpeername(socket) {
                Ok(_) => Ok(()),
                Err(_) => return None, // not yet
            },
            Ok(Err(errno)) | Err(errno) => Err(failure(errno)),
        };
        let dialling = self.waiting.try_remove(key)?;
        match result {
            Ok(()) => self.outward.connected(dialling.way),
            Err(_) => self.outward.forget(dialling.way),
        }
        Some((dialling, result))
    }

    /// A dial that took too long.
    pub fn overdue(&mut self, now: Instant) -> Option<Dialling> {
        while let Some((until, key, serial)) = self.deadlines.front().copied() {
            let waits = self.waiting.get(key).is_some_and(|dialling| dialling.serial == serial);
            if waits && until > now {
                return None;
            }
            self.deadlines.pop_front();
            if waits {
                return self.waiting.try_remove(key).inspect(|dialling| self.outward.forget(dialling.way));
            }
        }
        None
    }

    /// When [`Self::overdue`] has something to do; perhaps too early, when a dial succeeded.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.waiting.is_empty() {
            return None;
        }
        self.deadlines.front().map(|deadline| deadline.0)
    }

    /// Gives up the dials of a peer that is gone.
    pub fn forget(&mut self, peer: usize) {
        let outward = &mut self.outward;
        self.waiting.retain(|_, dialling| {
            let stays = dialling.peer != peer;
            if !stays {
                outward.forget(dialling.way);
            }
            stays
        });
    }
}

impl Dialling {
    #[must_use]
    pub fn into_socket(self) -> OwnedFd {
        self.socket
    }

    #[must_use]
    pub fn descriptor(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

fn failure(errno: Errno) -> DialFailure {
    match errno {
        Errno::CONNREFUSED | Errno::CONNRESET => DialFailure::Refused,
        Errno::TIMEDOUT => DialFailure::TimedOut,
        Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM => DialFailure::TooMany,
        // no route, no permission, no source address
        _ => DialFailure::Unreachable,
    }
}
