//! The user-space TCP: packets of captured connections in and out, and the table of the connections held.
//! Must not know what connections are for; the only module that names smoltcp; performs no I/O but the wire's.

mod admission;
#[cfg(test)]
pub(crate) mod client;
mod endpoint;
#[cfg(test)]
mod hostile;
mod link;
mod packet;
mod reset;
#[cfg(test)]
mod tests;
mod timers;

pub use admission::Crowded;
pub use endpoint::{Endpoint, Phase};
pub use link::Wire;
pub use packet::{Flags, FourTuple, NotOurs, Segment, parse};

use crate::attribution::{Attributed, Unattributable};
use admission::{Admission, MAX_CONNECTIONS};
use imds_ipc::Who;
use imds_settings::Settings;
use link::{Link, Shape};
use rustc_hash::FxHashMap;
use slab::Slab;
use std::fmt;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};
use timers::Timers;

/// smoltcp may ask to be called "now" when it has nothing to send; once a millisecond is often enough for that.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// A captured connection; `T` is what its owner keeps with it.
pub struct Connection<T> {
    /// Never used twice.
    pub id: u64,
    pub four_tuple: FourTuple,
    pub subject: Who,
    /// The kernel's number of the client's socket.
    pub cookie: u64,
    pub tcp: Endpoint,
    pub course: T,
    /// As how manieth of its uid's connections it was let in, those counted that were still there.
    pub place: u32,
    /// The sequence number of its SYN tells a repeated SYN from that of a new socket.
    initial_sequence: u32,
    counted_half_open: bool,
    armed: Option<Instant>,
    touched: bool,
}

impl<T> Connection<T> {
    /// `None`: nobody can tell.
    #[must_use]
    pub fn uid(&self) -> Option<u32> {
        uid_of(&self.subject)
    }
}

/// Why a SYN is refused with a RST.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    Crowded(Crowded),
    Unattributable(Unattributable),
    /// The OS has no random numbers, or smoltcp did not take the SYN.
    NoEndpoint,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crowded(crowded) => crowded.fmt(f),
            Self::Unattributable(why) => write!(f, "not attributable: {why}"),
            Self::NoEndpoint => f.write_str("no TCP endpoint could be made"),
        }
    }
}

/// What became of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// It belongs to a connection we hold, perhaps a new one.
    Taken,
    NotOurs(NotOurs),
    /// For an address that is not a service's, or a SYN-ACK that somebody's forged packet provoked.
    Stray,
    /// Of no connection we hold; answered with a RST unless it was one.
    Unknown,
    Refused(FourTuple, Refused),
    /// smoltcp panicked; that connection is gone.
    Panicked,
}

pub struct Netstack<T> {
    shape: Shape,
    services: Vec<SocketAddr>,
    keys: FxHashMap<FourTuple, usize>,
    connections: Slab<Connection<T>>,
    admission: Admission,
    timers: Timers,
    touched: Vec<usize>,
    gone: Vec<Connection<T>>,
    serial: u64,
    scratch: Vec<u8>,
    epoch: Instant,
}

impl<T: Default> Netstack<T> {
    #[must_use]
    pub fn new(settings: &Settings, now: Instant) -> Self {
        Self {
            shape: Shape { mtu: settings.capture.mtu.into(), hop_limit: settings.capture.hop_limit },
            services: settings.upstreams().collect(),
            keys: FxHashMap::default(),
            connections: Slab::new(),
            admission: Admission::new(&settings.limits),
            timers: Timers::default(),
            touched: Vec::new(),
            gone: Vec::new(),
            serial: 0,
            scratch: Vec::with_capacity(settings.capture.mtu.into()),
            epoch: now,
        }
    }

    /// One packet from the tun.
    pub fn packet(
        &mut self,
        bytes: &[u8],
        now: Instant,
        wire: &mut impl Wire,
        attribute: &mut dyn FnMut(&FourTuple) -> Result<Attributed, Unattributable>,
    ) -> Entry {
        let segment = match parse(bytes) {
            Ok(segment) => segment,
            Err(not_ours) => return Entry::NotOurs(not_ours),
        };
        // sockets bound to the tun can send anywhere through it
        if !self.services.iter().any(|service| service.ip() == segment.four_tuple.service.ip()) {
            return Entry::Stray;
        }
        match self.keys.get(&segment.four_tuple).copied() {
            Some(key) if segment.flags.opens() && self.is_new_socket(key, &segment) => {
                self.replace(key, &segment, now, wire, attribute)
            }
            Some(key) => self.ingress(key, &segment, now, wire),
            None if segment.flags.opens() && self.services.contains(&segment.four_tuple.service) => {
                self.open(&segment, now, wire, attribute)
            }
            None if segment.flags.syn() && segment.flags.ack() => Entry::Stray,
            None => {
                self.refuse(&segment, wire);
                Entry::Unknown
            }
        }
    }

    /// A repeated SYN has the first one's number.
    fn is_new_socket(&self, key: usize, segment: &Segment<'_>) -> bool {
        self.connections.get(key).is_some_and(|connection| connection.initial_sequence != segment.sequence)
    }

    /// A SYN with another number on a four-tuple we hold. If the kernel has a socket that sends it, the one we knew no
    /// longer exists, whatever we missed; else it is forged and nothing changes.
    fn replace(
        &mut self,
        key: usize,
        segment: &Segment<'_>,
        now: Instant,
        wire: &mut impl Wire,
        attribute: &mut dyn FnMut(&FourTuple) -> Result<Attributed, Unattributable>,
    ) -> Entry {
        match attribute(&segment.four_tuple) {
            Ok(attributed) if attributed.subject.is_ok() => {
                self.remove(key);
                self.open(segment, now, wire, &mut |_| Ok(attributed.clone()))
            }
            // let in or not, it is no reason to end a connection
            Ok(_) => Entry::Refused(segment.four_tuple, Refused::Unattributable(Unattributable::NoSocket)),
            Err(why) => Entry::Refused(segment.four_tuple, Refused::Unattributable(why)),
        }
    }

    fn open(
        &mut self,
        segment: &Segment<'_>,
        now: Instant,
        wire: &mut impl Wire,
        attribute: &mut dyn FnMut(&FourTuple) -> Result<Attributed, Unattributable>,
    ) -> Entry {
        match self.admit(segment, now, wire, attribute) {
            Ok(key) => self.ingress(key, segment, now, wire),
            Err(refused) => {
                // see there why that one gets no answer
                if !matches!(refused, Refused::Crowded(Crowded::HalfOpen(_))) {
                    self.refuse(segment, wire);
                }
                Entry::Refused(segment.four_tuple, refused)
            }
        }
    }

    /// Attribution and limits come before the buffers are allocated.
    fn admit(
        &mut self,
        segment: &Segment<'_>,
        now: Instant,
        wire: &mut impl Wire,
        attribute: &mut dyn FnMut(&FourTuple) -> Result<Attributed, Unattributable>,
    ) -> Result<usize, Refused> {
        self.admission.any_room().map_err(Refused::Crowded)?;
        let Attributed { subject, cookie } =
            attribute(&segment.four_tuple).map_err(Refused::Unattributable)?;
        let uid = uid_of(&subject);
        self.admission.admit(uid).map_err(Refused::Crowded)?;
        let time = self.time(now);
        let mut link = Link { shape: self.shape, arrived: None, wire, scratch: &mut self.scratch };
        let endpoint = contain(|| Endpoint::listening(segment.four_tuple.service, time, &mut link));
        let Some(Ok(tcp)) = endpoint else {
            self.admission.gone(uid, true);
            return Err(Refused::NoEndpoint);
        };
        self.serial += 1;
        let entry = self.connections.vacant_entry();
        let key = entry.key();
        entry.insert(Connection {
            id: id(self.serial, key),
            four_tuple: segment.four_tuple,
            subject,
            cookie,
            tcp,
            course: T::default(),
            place: self.admission.of(uid),
            initial_sequence: segment.sequence,
            counted_half_open: true,
            armed: None,
            touched: false,
        });
        self.keys.insert(segment.four_tuple, key);
        Ok(key)
    }

    fn ingress(&mut self, key: usize, segment: &Segment<'_>, now: Instant, wire: &mut impl Wire) -> Entry {
        let time = self.time(now);
        let Some(connection) = self.connections.get_mut(key) else { return Entry::Unknown };
        let mut link =
            Link { shape: self.shape, arrived: Some(segment.packet), wire, scratch: &mut self.scratch };
        let tcp = &mut connection.tcp;
        let was_answered = tcp.answered();
        let taken = contain(|| {
            let client_first = tcp.client_ended_first();
            tcp.ingress(time, &mut link);
            let lingers = client_first && tcp.phase() == Phase::Over;
            if lingers {
                tcp.egress(time, &mut link); // an acknowledgement that waits
            }
            lingers
        });
        let Some(lingers) = taken else {
            self.remove(key);
            return Entry::Panicked;
        };
        if !connection.tcp.answered() {
            self.remove(key);
            // reset in the handshake; or a SYN that our parser took and smoltcp did not: a wrong checksum, for one
            return match was_answered {
                true => Entry::Taken,
                false => Entry::Refused(segment.four_tuple, Refused::NoEndpoint),
            };
        }
        if connection.counted_half_open && connection.tcp.phase() == Phase::Open {
            connection.counted_half_open = false;
            self.admission.established(connection.uid());
        }
        if lingers {
            // its kernel has all that we sent, and would keep the port in TIME-WAIT for a minute; of those it has 28,000
            // to the service, and whoever comes and goes fast enough would leave none to the other users
            self.refuse(segment, wire);
        }
        self.touch(key);
        Entry::Taken
    }

    fn refuse(&mut self, segment: &Segment<'_>, wire: &mut impl Wire) {
        if reset::reset(segment, self.shape, &mut self.scratch).is_some() {
            wire.send(&self.scratch);
        }
    }

    /// Notes that the connection wants [`Self::settle`].
    pub fn touch(&mut self, key: usize) {
        if let Some(connection) = self.connections.get_mut(key)
            && !connection.touched
        {
            connection.touched = true;
            self.touched.push(key);
        }
    }

    /// The connections touched since the last call, each once; swaps them into `keys`.
    pub fn take_touched(&mut self, keys: &mut Vec<usize>) {
        keys.clear();
        std::mem::swap(keys, &mut self.touched);
        for key in keys.iter() {
            if let Some(connection) = self.connections.get_mut(*key) {
                connection.touched = false;
            }
        }
    }

    /// Lets `f` work on a connection. If smoltcp panics in it the connection is gone.
    pub fn with<R>(&mut self, key: usize, f: impl FnOnce(&mut Connection<T>) -> R) -> Option<R> {
        let connection = self.connections.get_mut(key)?;
        let result = contain(|| f(connection));
        if result.is_none() {
            self.remove(key);
        }
        result
    }

    /// Sends what may be sent, and drops the connection if it is over; else sees to it that the key comes due again
    /// when TCP has something to do, and at `at_latest`.
    pub fn settle(&mut self, key: usize, now: Instant, at_latest: Option<Instant>, wire: &mut impl Wire) {
        let time = self.time(now);
        let Some(connection) = self.connections.get_mut(key) else { return };
        let mut link = Link { shape: self.shape, arrived: None, wire, scratch: &mut self.scratch };
        let tcp = &mut connection.tcp;
        let poll_at = contain(|| {
            tcp.egress(time, &mut link);
            (tcp.phase() != Phase::Over).then(|| tcp.poll_at(time))
        });
        let Some(Some(poll_at)) = poll_at else {
            self.remove(key);
            return;
        };
        let poll_at = poll_at.map(|at| {
            let micros = u64::try_from(at.total_micros()).unwrap_or(0);
            (self.epoch + Duration::from_micros(micros)).max(now + SHORTEST_WAIT)
        });
        if let Some(at) = poll_at.into_iter().chain(at_latest).min() {
            self.timers.arm(key, &mut connection.armed, at);
        }
    }

    /// Touches every connection whose time has come.
    pub fn touch_due(&mut self, now: Instant) {
        while let Some(key) = self.timers.due(now) {
            if let Some(connection) = self.connections.get_mut(key) {
                connection.armed = None;
            }
            self.touch(key);
        }
    }

    /// When [`Self::touch_due`] next finds one; never, when nothing is open.
    #[must_use]
    pub fn next_timer(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Drops a connection without a word to its client.
    pub fn remove(&mut self, key: usize) {
        let Some(connection) = self.connections.try_remove(key) else { return };
        self.keys.remove(&connection.four_tuple);
        self.timers.disarm(key, connection.armed);
        self.admission.gone(connection.uid(), connection.counted_half_open);
        self.gone.push(connection);
    }

    /// A connection that is gone since the last call.
    pub fn take_gone(&mut self) -> Option<Connection<T>> {
        self.gone.pop()
    }

    #[must_use]
    pub fn key_of(&self, id: u64) -> Option<usize> {
        let key = key_in(id);
        self.connections.get(key).filter(|connection| connection.id == id).map(|_| key)
    }

    #[must_use]
    pub fn of(&self, id: u64) -> Option<&Connection<T>> {
        self.connections.get(key_in(id)).filter(|connection| connection.id == id)
    }

    pub fn iter(&self) -> impl Iterator<Item = (usize, &Connection<T>)> {
        self.connections.iter()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.connections.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// smoltcp counts microseconds, from our start.
    fn time(&self, now: Instant) -> smoltcp::time::Instant {
        let micros = now.saturating_duration_since(self.epoch).as_micros();
        smoltcp::time::Instant::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
    }
}

fn uid_of(who: &Who) -> Option<u32> {
    who.as_ref().ok().map(|subject| subject.uid)
}

/// A panic in smoltcp costs one connection. Nothing of it is looked at again but its place.
fn contain<R>(f: impl FnOnce() -> R) -> Option<R> {
    catch_unwind(AssertUnwindSafe(f)).ok()
}

const KEY_BITS: u32 = MAX_CONNECTIONS.trailing_zeros();

fn id(serial: u64, key: usize) -> u64 {
    serial << KEY_BITS | u64::try_from(key % MAX_CONNECTIONS).unwrap_or(0)
}

fn key_in(id: u64) -> usize {
    usize::try_from(id & ((1 << KEY_BITS) - 1)).unwrap_or(usize::MAX)
}
