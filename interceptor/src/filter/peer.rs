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

/// Bytes for the longest answer, so that what is kept is not left behind where a vector grew.
const ROOM: usize = imds_ipc::MAX_BLOB + 16;

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
        let message = FromFilterd::decode(bytes).map_err(PeerError::Decode)?;
        if matches!(message, FromFilterd::Keep(_)) {
            buffer.zeroize();
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

    /// Gives it a connection, now or not at all.
    ///
    /// # Errors
    /// [`ChannelError::WouldBlock`] when it has not read what went before.
    pub fn offer(
        &mut self,
        message: &FromInterceptor,
        descriptor: BorrowedFd<'_>,
    ) -> Result<(), ChannelError> {
        // nobody's connection is for a filterd that knows of such
        if !self.unread.is_empty() || message.since() > self.minor {
            return Err(ChannelError::WouldBlock);
        }
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        let sent = channel::send(&self.socket, &bytes, Some(descriptor));
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
        let mut bytes = Zeroizing::new(Vec::with_capacity(ROOM));
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
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn join(peers: &mut Peers) -> (usize, OwnedFd) {
        let (a, b) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        (peers.add(a, Instant::now()).unwrap(), b)
    }

    fn say(socket: &OwnedFd, message: &FromFilterd) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        channel::send(socket, &bytes, None).unwrap();
    }

    const NEEDS: FromFilterd = FromFilterd::Needs(imds_ipc::Needs { groups: false, unit: false });

    /// Says all that a filterd says before it gets connections.
    fn serve(peers: &mut Peers, key: usize, socket: &OwnedFd, hello: Hello) {
        say(socket, &FromFilterd::Hello(hello));
        say(socket, &NEEDS);
        receive(peers, key).unwrap();
        receive(peers, key).unwrap();
    }

    fn hear(socket: &OwnedFd) -> Option<FromInterceptor> {
        let mut buffer = [0; MAX_MESSAGE];
        channel::receive(socket, &mut buffer).ok().map(|bytes| FromInterceptor::decode(bytes).unwrap())
    }

    fn receive(peers: &mut Peers, key: usize) -> Result<Option<FromFilterd>, PeerError> {
        peers.get_mut(key).unwrap().receive()
    }

    #[test]
    fn hello_comes_first_once_and_in_time() {
        let mut peers = Peers::default();
        let (key, socket) = join(&mut peers);
        let mut buffer = [0; MAX_MESSAGE];
        let greeting = channel::receive(&socket, &mut buffer).unwrap();
        assert_eq!(FromInterceptor::decode(greeting), Ok(FromInterceptor::Hello(Hello::OURS)));
        assert_eq!(peers.newest(), None, "not before it says hello");
        assert_eq!(receive(&mut peers, key), Ok(None));
        assert_eq!(peers.overdue(Instant::now()), None);
        assert_eq!(peers.overdue(Instant::now() + GREETING), Some((key, PeerError::NoHello)));
        say(&socket, &FromFilterd::Hello(Hello::OURS));
        assert_eq!(receive(&mut peers, key), Ok(Some(FromFilterd::Hello(Hello::OURS))));
        assert_eq!(peers.newest(), None, "its rules may still turn out to be impossible here");
        say(&socket, &NEEDS);
        assert_eq!(receive(&mut peers, key), Ok(Some(NEEDS)));
        assert_eq!(peers.newest(), Some(key));
        assert_eq!(peers.next_deadline(), None);
        say(&socket, &FromFilterd::Hello(Hello::OURS));
        assert_eq!(receive(&mut peers, key), Err(PeerError::SecondHello));

        let (key, socket) = join(&mut peers);
        say(&socket, &FromFilterd::Dial { dial: 1, upstream: 0 });
        assert_eq!(receive(&mut peers, key), Err(PeerError::NoHello));
    }

    #[test]
    fn another_version_nonsense_and_a_pushed_descriptor_are_errors_with_their_reason() {
        let mut peers = Peers::default();
        let (key, socket) = join(&mut peers);
        say(&socket, &FromFilterd::Hello(Hello { minor: 99, oldest_minor: 98 }));
        assert_eq!(receive(&mut peers, key), Err(PeerError::Decode(DecodeError::Version)));
        let (key, socket) = join(&mut peers);
        channel::send(&socket, b"nonsense", None).unwrap();
        assert!(matches!(receive(&mut peers, key), Err(PeerError::Decode(_))));
        let (key, socket) = join(&mut peers);
        let mut bytes = Vec::new();
        FromFilterd::Hello(Hello::OURS).encode(&mut bytes);
        channel::send(&socket, &bytes, Some(socket.as_fd())).unwrap();
        // FreeBSD discards it without a word
        let got = receive(&mut peers, key);
        assert!(
            matches!(
                got,
                Err(PeerError::Channel(ChannelError::Descriptor)) | Ok(Some(FromFilterd::Hello(Hello::OURS)))
            ),
            "{got:?}"
        );
        let (key, socket) = join(&mut peers);
        drop(socket);
        assert_eq!(receive(&mut peers, key), Err(PeerError::Channel(ChannelError::Closed)));
    }

    #[test]
    fn the_newest_attached_gets_connections_and_the_oldest_goes_when_there_are_too_many() {
        let mut peers = Peers::default();
        let mut sockets = Vec::new();
        for _ in 0..MAX_PEERS {
            assert_eq!(peers.surplus(), None);
            let (key, socket) = join(&mut peers);
            serve(&mut peers, key, &socket, Hello::OURS);
            assert_eq!(peers.newest(), Some(key));
            sockets.push((key, socket));
        }
        assert_eq!(peers.surplus(), Some(sockets[0].0));
        peers.remove(sockets[0].0);
        let (silent, _socket) = join(&mut peers);
        assert_eq!(peers.surplus(), Some(silent));
        assert_eq!(peers.newest(), Some(sockets[MAX_PEERS - 1].0));
    }

    #[test]
    fn an_older_one_is_told_to_leave_once_and_dropped_if_it_does_not() {
        let mut peers = Peers::default();
        let now = Instant::now();
        let (old, old_socket) = join(&mut peers);
        serve(&mut peers, old, &old_socket, Hello::OURS);
        assert_eq!(peers.older(), []);
        let (new, new_socket) = join(&mut peers);
        serve(&mut peers, new, &new_socket, Hello::OURS);
        assert_eq!(peers.older(), [old]);
        for _ in 0..2 {
            peers.get_mut(old).unwrap().dismiss(now).unwrap();
        }
        assert_eq!(hear(&old_socket), Some(FromInterceptor::Hello(Hello::OURS)));
        assert_eq!(hear(&old_socket), Some(FromInterceptor::Drain));
        assert_eq!(hear(&old_socket), None, "told twice");
        assert_eq!(peers.overdue(now + LEAVING / 2), None);
        assert_eq!(peers.overdue(now + LEAVING), Some((old, PeerError::StillThere)));
        // one that leaves of its own gets nothing more, and is given as long
        peers.get_mut(new).unwrap().leave(now);
        assert_eq!(peers.newest(), Some(old), "better an old one than none");
        assert!(peers.get_mut(new).unwrap().is_leaving());
    }

    #[test]
    fn one_of_the_previous_minor_is_not_told_what_it_does_not_know_and_may_not_say_it() {
        let mut peers = Peers::default();
        let previous = Hello { minor: 0, oldest_minor: 0 };
        let (key, socket) = join(&mut peers);
        serve(&mut peers, key, &socket, previous);
        assert_eq!(peers.newest(), Some(key));
        let peer = peers.get_mut(key).unwrap();
        assert!(!peer.tells_answers());
        peer.dismiss(Instant::now()).unwrap();
        assert_eq!(hear(&socket), Some(FromInterceptor::Hello(Hello::OURS)));
        assert_eq!(hear(&socket), None);
        assert_eq!(peers.next_deadline(), None);
        say(&socket, &FromFilterd::Leaving);
        assert_eq!(receive(&mut peers, key), Err(PeerError::Decode(DecodeError::Kind)));
    }

    #[test]
    fn one_that_never_reads_is_offered_nothing_more_and_in_the_end_dropped() {
        let mut peers = Peers::default();
        let (key, socket) = join(&mut peers);
        let peer = peers.get_mut(key).unwrap();
        let answer = FromInterceptor::DialFailed { dial: 1, why: imds_ipc::DialFailure::TooMany };
        let mut answers = 0;
        while !peer.needs_room() {
            peer.answer(&answer, None).unwrap();
            answers += 1;
        }
        assert_eq!(peer.offer(&answer, socket.as_fd()), Err(ChannelError::WouldBlock));
        let error = (0..=MAX_UNREAD).find_map(|_| peer.answer(&answer, None).err());
        assert_eq!(error, Some(PeerError::NotReading));
        // and one that reads on gets all of them
        let mut buffer = [0; MAX_MESSAGE];
        let mut got = 0;
        while channel::receive(&socket, &mut buffer).is_ok() {
            got += 1;
            peer.flush().unwrap();
        }
        assert!(!peer.needs_room());
        assert!(got > answers);
    }
}
