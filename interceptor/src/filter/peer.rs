//! Those who came in by the door: whom they are to be greeted by, what they say, what they have not yet taken from us.
//! Must not trust a message for being well-formed: what one asks for is judged where it is done.

use imds_ipc::channel::{self, ChannelError};
use imds_ipc::control::Mode;
use imds_ipc::{Blob, DecodeError, FromFilterd, FromInterceptor, Hello, MAX_MESSAGE};
use slab::Slab;
use std::collections::VecDeque;
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};
use zeroize::{Zeroize, Zeroizing};

/// filterd says Hello before anything else; one that does not in this time is no filterd.
const GREETING: Duration = Duration::from_secs(1);
/// Who was told to leave, or says that it does, gives its exchanges a few seconds and must be gone after this.
const LEAVING: Duration = Duration::from_secs(10);
/// One serves; a few may still drain after restarts in quick succession.
const MAX_PEERS: usize = 8;
/// Answers that a filterd has not read. Dials in flight are bounded, so only one that asks and never reads gets here.
const MAX_UNREAD: usize = 2 * crate::upstream::MAX_DIALS_OF_PEER;

/// Why a peer was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerError {
    Channel(ChannelError),
    Decode(DecodeError),
    /// Something else came first, or nothing in time.
    NoHello,
    SecondHello,
    /// It spoke of a connection that another filterd has.
    NotIts,
    /// It said that it answered what it cannot have.
    NotAnswered,
    /// It was to leave and did not.
    StillThere,
    /// It asks and does not read the answers.
    NotReading,
    /// Newer ones took its place.
    TooMany,
}

impl fmt::Display for PeerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Channel(error) => error.fmt(f),
            Self::Decode(error) => write!(f, "it sent {error}"),
            Self::NoHello => f.write_str("it did not say hello"),
            Self::SecondHello => f.write_str("it said hello twice"),
            Self::NotIts => f.write_str("it spoke of a connection that is not its own"),
            Self::NotAnswered => f.write_str("it said that it answered what it was not asked"),
            Self::StillThere => f.write_str("it did not leave in time"),
            Self::NotReading => f.write_str("it does not read our answers"),
            Self::TooMany => write!(f, "more than {MAX_PEERS} are attached"),
        }
    }
}

/// How far a filterd has come. Never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// It has not said Hello.
    Came,
    /// It has not said yet what its rules need, so it may still find that it cannot serve.
    Greeted,
    /// It takes connections.
    Serving,
    /// It takes no more.
    Leaving,
}

pub struct Peer {
    socket: OwnedFd,
    /// What it is to do by when, or be dropped: say Hello, and much later leave.
    until: Option<Instant>,
    stage: Stage,
    /// The minor version that both of us speak.
    minor: u8,
    /// What is kept.
    given: bool,
    /// The higher the newer.
    age: u64,
    unread: VecDeque<(Zeroizing<Vec<u8>>, Option<OwnedFd>)>,
    /// A connection could not be given to it: its channel was full.
    refused_one: bool,
    pub dials: usize,
    pub waits_for_room: bool,
    /// As it said; enforce if it said nothing.
    pub mode: Mode,
}

impl Peer {
    #[must_use]
    pub fn attached(&self) -> bool {
        self.stage > Stage::Came
    }

    /// Whether it said that it ends: what it leaves behind, it leaves on purpose.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.stage == Stage::Leaving
    }

    /// Whether it says what it has answered.
    #[must_use]
    pub fn tells_answers(&self) -> bool {
        self.minor >= 1
    }

    /// Whether it takes requests, and gives small answers, in messages.
    #[must_use]
    pub fn speaks_in_messages(&self) -> bool {
        self.minor >= 2
    }

    #[must_use]
    pub fn age(&self) -> u64 {
        self.age
    }

    /// It said that it leaves.
    pub fn leave(&mut self, now: Instant) {
        self.stage = Stage::Leaving;
        self.until.get_or_insert(now + LEAVING);
    }

    /// Tells it to leave, once, if it knows that word.
    ///
    /// # Errors
    /// Whatever ends it.
    pub fn dismiss(&mut self, now: Instant) -> Result<(), PeerError> {
        let drain = FromInterceptor::Drain;
        if self.stage != Stage::Serving || self.minor < drain.since() || self.until.is_some() {
            return Ok(());
        }
        self.until = Some(now + LEAVING);
        self.answer(&drain, None)
    }

    #[must_use]
    pub fn descriptor(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Whether an event is needed when it reads on.
    #[must_use]
    pub fn needs_room(&self) -> bool {
        self.refused_one || !self.unread.is_empty()
    }

    /// Its next message; `None` when there is none now. Hello is dealt with here: `Some(Hello)` says it is attached.
    ///
    /// # Errors
    /// Whatever ends it.
    pub fn receive(&mut self) -> Result<Option<FromFilterd>, PeerError> {
        let mut buffer = [0; MAX_MESSAGE];
        let bytes = match channel::receive(&self.socket, &mut buffer) {
            Ok(bytes) => bytes,
            Err(ChannelError::WouldBlock) => return Ok(None),
            Err(error) => return Err(PeerError::Channel(error)),
        };
        let length = bytes.len();
        let message = FromFilterd::decode(bytes).map_err(PeerError::Decode)?;
        if matches!(message, FromFilterd::Keep(_) | FromFilterd::Answer { .. }) {
            buffer.get_mut(..length).into_iter().for_each(Zeroize::zeroize);
        }
        match (&message, self.stage) {
            (FromFilterd::Hello(hello), Stage::Came) => {
                self.minor = Hello::OURS.agree(*hello).map_err(PeerError::Decode)?;
                self.stage = Stage::Greeted;
                self.until = None;
            }
            (FromFilterd::Hello(_), _) => return Err(PeerError::SecondHello),
            (_, Stage::Came) => return Err(PeerError::NoHello),
            (message, _) if message.since() > self.minor => return Err(PeerError::Decode(DecodeError::Kind)),
            (FromFilterd::Needs(_), Stage::Greeted) => self.stage = Stage::Serving,
            (
                FromFilterd::Needs(_)
                | FromFilterd::Mode(_)
                | FromFilterd::Dial { .. }
                | FromFilterd::Close { .. }
                | FromFilterd::Answered { .. }
                | FromFilterd::Reset { .. }
                | FromFilterd::Answer { .. }
                | FromFilterd::Open { .. }
                | FromFilterd::Sync
                | FromFilterd::Keep(_)
                | FromFilterd::Leaving,
                Stage::Greeted | Stage::Serving | Stage::Leaving,
            ) => {}
        }
        Ok(Some(message))
    }

    /// Gives it once, before its first connection, what is kept. One of the previous minor does not know of that.
    ///
    /// # Errors
    /// Whatever ends it.
    pub fn give(&mut self, kept: Option<&Blob>) -> Result<(), PeerError> {
        if std::mem::replace(&mut self.given, true) {
            return Ok(());
        }
        match kept.cloned().map(FromInterceptor::Kept) {
            Some(message) if message.since() <= self.minor => self.answer(&message, None),
            Some(_) | None => Ok(()),
        }
    }

    /// Gives it a connection, or asks it, now or not at all.
    ///
    /// # Errors
    /// [`ChannelError::WouldBlock`] when it has not read what went before.
    pub fn offer(
        &mut self,
        message: &FromInterceptor,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<(), ChannelError> {
        // who was refused first has the next room; and nobody's connection is for a filterd that knows of none such
        if self.needs_room() || message.since() > self.minor {
            return Err(ChannelError::WouldBlock);
        }
        // room for all of it: what a vector grew out of would not be wiped
        let mut bytes = Zeroizing::new(Vec::with_capacity(message.longest()));
        message.encode(&mut bytes);
        let sent = channel::send(&self.socket, &bytes, descriptor);
        self.refused_one |= sent == Err(ChannelError::WouldBlock);
        sent
    }

    /// Answers it, now or when it reads on.
    ///
    /// # Errors
    /// Whatever ends it.
    pub fn answer(
        &mut self,
        message: &FromInterceptor,
        descriptor: Option<OwnedFd>,
    ) -> Result<(), PeerError> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(message.longest()));
        message.encode(&mut bytes);
        self.unread.push_back((bytes, descriptor));
        self.flush()
    }

    /// Sends what waits, as much as there is room for.
    ///
    /// # Errors
    /// Whatever ends it.
    pub fn flush(&mut self) -> Result<(), PeerError> {
        self.refused_one = false;
        while let Some((bytes, descriptor)) = self.unread.front() {
            match channel::send(&self.socket, bytes, descriptor.as_ref().map(AsFd::as_fd)) {
                Ok(()) => drop(self.unread.pop_front()),
                Err(ChannelError::WouldBlock) if self.unread.len() > MAX_UNREAD => {
                    return Err(PeerError::NotReading);
                }
                Err(ChannelError::WouldBlock) => return Ok(()),
                Err(error) => return Err(PeerError::Channel(error)),
            }
        }
        Ok(())
    }
}

/// All who came in and are still there.
#[derive(Default)]
pub struct Peers {
    all: Slab<Peer>,
    came: u64,
}

impl Peers {
    /// Takes one in and greets it. Say who must go first with [`Self::surplus`].
    ///
    /// # Errors
    /// When it is already gone.
    pub fn add(&mut self, socket: OwnedFd, now: Instant) -> Result<usize, PeerError> {
        self.came += 1;
        let mut peer = Peer {
            socket,
            until: Some(now + GREETING),
            stage: Stage::Came,
            minor: 0,
            given: false,
            age: self.came,
            unread: VecDeque::new(),
            refused_one: false,
            dials: 0,
            waits_for_room: false,
            mode: Mode::Enforce,
        };
        peer.answer(&FromInterceptor::Hello(Hello::OURS), None)?;
        Ok(self.all.insert(peer))
    }

    /// Whom to drop before another comes in: first who has not said Hello, then the oldest. A fresh filterd must
    /// always get in, or one that hangs would hold its place for ever.
    #[must_use]
    pub fn surplus(&self) -> Option<usize> {
        if self.all.len() < MAX_PEERS {
            return None;
        }
        self.all.iter().min_by_key(|(_, peer)| (peer.attached(), peer.age)).map(|(key, _)| key)
    }

    /// The one that gets new connections.
    #[must_use]
    pub fn newest(&self) -> Option<usize> {
        self.all
            .iter()
            .filter(|(_, peer)| peer.stage == Stage::Serving)
            .max_by_key(|(_, peer)| peer.age)
            .map(|(key, _)| key)
    }

    /// How many serve or drain.
    #[must_use]
    pub fn attached(&self) -> usize {
        self.all.iter().filter(|(_, peer)| peer.attached()).count()
    }

    #[must_use]
    pub fn get_mut(&mut self, key: usize) -> Option<&mut Peer> {
        self.all.get_mut(key)
    }

    pub fn remove(&mut self, key: usize) -> Option<Peer> {
        self.all.try_remove(key)
    }

    /// Those that [`Self::newest`] has taken over from.
    pub fn older(&self) -> Vec<usize> {
        let newest = self.newest();
        self.all
            .iter()
            .filter(|(key, peer)| peer.stage == Stage::Serving && Some(*key) != newest)
            .map(|(key, _)| key)
            .collect()
    }

    /// One that has not done in time what it was to do, and what that was.
    #[must_use]
    pub fn overdue(&self, now: Instant) -> Option<(usize, PeerError)> {
        let (key, peer) = self.all.iter().find(|(_, peer)| peer.until.is_some_and(|until| until <= now))?;
        Some((key, if peer.attached() { PeerError::StillThere } else { PeerError::NoHello }))
    }

    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.all.iter().filter_map(|(_, peer)| peer.until).min()
    }
}

#[cfg(test)]
mod tests;
