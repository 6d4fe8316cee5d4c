//! Our end of the channel to interceptor. Never waits for room, never blocks, and takes nothing on trust: whatever
//! interceptor may not say now ends the channel.

mod ends;
mod given;

use crate::sandbox::{self, Use};
pub use ends::{ChannelEnd, DialError};
pub use given::{Captured, Given};
use imds_ipc::channel::{self, ChannelError};
use imds_ipc::control::Mode;
use imds_ipc::{Blob, DialFailure, FromFilterd, FromInterceptor, Hello, Identity, MAX_MESSAGE, Needs};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, timeout};
use zeroize::{Zeroize, Zeroizing};

/// interceptor answers a Hello at once; one that does not is no interceptor.
const HELLO_TIME: Duration = Duration::from_secs(5);
/// Between two attempts to connect. Only while a service starts.
const RETRY_TIME: Duration = Duration::from_millis(50);
/// Messages that wait for room: four for each of 4,096 connections. An interceptor that does not read for so long is dead.
const MAX_UNSENT: usize = 16 * 1024;
/// interceptor opens what it was asked to at once.
const OPEN_TIME: Duration = Duration::from_secs(5);
/// It obeys in milliseconds; an operator who waits learns of one that does not.
const SYNC_TIME: Duration = Duration::from_secs(2);
/// Messages taken before the exchanges get their turn.
const MAX_BATCH: u32 = 64;

type DialResult = Result<Dialled, DialFailure>;

/// An upstream socket.
pub(crate) enum Dialled {
    Connected(OwnedFd),
    /// Not yet: that is to be waited for, and may fail.
    Connecting(OwnedFd),
}

pub struct Channel {
    /// Waited for to be read alone: interceptor makes room with every message that it reads, and each would wake us.
    socket: AsyncFd<OwnedFd>,
    /// The same, to wait for room while there is none.
    room: OwnedFd,
    unsent: RefCell<VecDeque<Zeroizing<Vec<u8>>>>,
    /// There is something unsent.
    wake: Notify,
    /// Messages that ever had to wait, and those of them that do no longer.
    delayed: Cell<u64>,
    caught_up: Cell<u64>,
    /// Some were sent, or none ever will be.
    moved: Notify,
    gone: Cell<bool>,
    deaf: Cell<bool>,
    /// What interceptor says it can tell of clients.
    identity: Cell<Option<Identity>>,
    /// The minor version that both of us speak.
    minor: Cell<u8>,
    /// A newer filterd is attached.
    dismissed: Notify,
    /// What a filterd before us left with interceptor.
    kept: RefCell<Option<Blob>>,
    /// It may still come.
    kept_is_due: Cell<bool>,
    next_dial: Cell<u64>,
    dials: RefCell<HashMap<u64, oneshot::Sender<DialResult>>>,
    /// Connections that interceptor was asked to open.
    opens: RefCell<HashMap<u64, oneshot::Sender<OwnedFd>>>,
    /// Who waits until interceptor has obeyed, in order.
    syncs: RefCell<VecDeque<oneshot::Sender<()>>>,
}

impl Channel {
    /// Connects, as whom we are now. interceptor may not be there yet: tries again until `patience` ends. Nothing is
    /// read before [`Channel::greet`].
    ///
    /// # Errors
    /// The last reason why it did not work.
    pub async fn connect(path: &Path, patience: Duration) -> Result<Self, ChannelEnd> {
        let deadline = Instant::now() + patience;
        let mut told = false;
        let socket = loop {
            match connect(path) {
                Ok(socket) => break socket,
                Err(errno) if Instant::now() >= deadline => return Err(ChannelEnd::Channel(errno.into())),
                Err(errno) if !told => {
                    told = true;
                    tracing::info!("waiting for interceptor: {}: {errno}", path.display());
                }
                Err(_) => sleep(RETRY_TIME).await,
            }
        };
        Self::new(socket)
    }

    /// Says hello and hears it.
    ///
    /// # Errors
    /// When interceptor does not answer, or has a version that we cannot talk to.
    pub async fn greet(&self) -> Result<(), ChannelEnd> {
        self.say(&FromFilterd::Hello(Hello::OURS));
        timeout(HELLO_TIME, self.hello()).await.map_err(|_| ChannelEnd::NoHello)??;
        Ok(())
    }

    fn new(socket: OwnedFd) -> Result<Self, ChannelEnd> {
        sandbox::limit(&socket, Use::Exchange)?;
        Ok(Self {
            room: socket.try_clone()?,
            socket: watched(socket, Interest::READABLE)?,
            unsent: RefCell::default(),
            wake: Notify::new(),
            delayed: Cell::new(0),
            caught_up: Cell::new(0),
            moved: Notify::new(),
            gone: Cell::new(false),
            deaf: Cell::new(false),
            identity: Cell::new(None),
            minor: Cell::new(0),
            dismissed: Notify::new(),
            kept: RefCell::default(),
            kept_is_due: Cell::new(true),
            next_dial: Cell::new(0),
            dials: RefCell::default(),
            opens: RefCell::default(),
            syncs: RefCell::default(),
        })
    }

    /// What interceptor can tell of clients besides their uids.
    #[must_use]
    pub fn identity(&self) -> Option<Identity> {
        self.identity.get()
    }

    /// Whether interceptor gives connections that we leave, and what of them is not answered, to the next filterd.
    #[must_use]
    pub(crate) fn replays(&self) -> bool {
        self.minor.get() >= FromFilterd::Leaving.since()
    }

    /// Until interceptor says that we are to leave.
    pub(crate) async fn dismissed(&self) {
        self.dismissed.notified().await;
    }

    /// What a filterd before us asked interceptor to keep, the first time that it is taken.
    pub(crate) fn take_kept(&self) -> Option<Blob> {
        self.kept.borrow_mut().take()
    }

    /// Tells interceptor what is to be told, and of whom.
    pub fn need(&self, needs: Needs, mode: Mode) {
        // before its needs: from these on we are given connections
        self.say(&FromFilterd::Mode(mode));
        self.say(&FromFilterd::Needs(needs));
    }

    async fn hello(&self) -> Result<(), ChannelEnd> {
        let (FromInterceptor::Hello(hello), descriptor) = self.message().await? else {
            return Err(ChannelEnd::OutOfTurn);
        };
        none_with_it(descriptor)?;
        self.minor.set(Hello::OURS.agree(hello)?);
        let (FromInterceptor::Identity(identity), descriptor) = self.message().await? else {
            return Err(ChannelEnd::OutOfTurn);
        };
        none_with_it(descriptor)?;
        self.identity.set(Some(identity));
        Ok(())
    }

    /// The next captured connection. Answers to dials are passed to who waits for them.
    ///
    /// # Errors
    /// Whatever ends the channel.
    pub async fn captured(&self) -> Result<Captured, ChannelEnd> {
        for taken in 1_u32.. {
            match self.message().await? {
                (FromInterceptor::Connection { id, subject, client, service, upstream }, Some(stream)) => {
                    self.kept_is_due.set(false);
                    let given = Given::Stream(stream);
                    return Ok(Captured { id, subject, client, service, upstream, given });
                }
                (FromInterceptor::Asked { id, subject, client, service, upstream, place, bytes }, None)
                    if self.minor.get() >= 2 =>
                {
                    self.kept_is_due.set(false);
                    let given = Given::Asked { place, bytes: bytes.into_bytes() };
                    return Ok(Captured { id, subject, client, service, upstream, given });
                }
                (FromInterceptor::Opened { id }, Some(stream)) => self.opened(id, Some(stream))?,
                (FromInterceptor::Gone { id }, None) => self.opened(id, None)?,
                (FromInterceptor::Dialled { dial }, Some(stream)) => {
                    self.settle(dial, Ok(Dialled::Connected(stream)))?;
                }
                (FromInterceptor::Dialling { dial }, Some(stream)) => {
                    self.settle(dial, Ok(Dialled::Connecting(stream)))?;
                }
                (FromInterceptor::DialFailed { dial, why }, None) => self.settle(dial, Err(why))?,
                (FromInterceptor::Synced, None) => self.synced()?,
                (FromInterceptor::Drain, None) if self.replays() => self.dismissed.notify_one(),
                (FromInterceptor::Kept(blob), None) if self.kept_is_due.replace(false) => {
                    self.kept.replace(Some(blob));
                }
                (
                    FromInterceptor::Hello(_)
                    | FromInterceptor::Identity(_)
                    | FromInterceptor::Kept(_)
                    | FromInterceptor::Drain
                    | FromInterceptor::Asked { .. },
                    _,
                ) => {
                    return Err(ChannelEnd::OutOfTurn);
                }
                (
                    FromInterceptor::Connection { .. }
                    | FromInterceptor::Opened { .. }
                    | FromInterceptor::Gone { .. }
                    | FromInterceptor::Dialled { .. }
                    | FromInterceptor::Dialling { .. }
                    | FromInterceptor::DialFailed { .. }
                    | FromInterceptor::Synced,
                    _,
                ) => return Err(ChannelEnd::Descriptor),
            }
            if taken % MAX_BATCH == 0 {
                tokio::task::yield_now().await;
            }
        }
        Err(ChannelEnd::Deaf) // after four billion dials with no connection
    }

    async fn message(&self) -> Result<(FromInterceptor, Option<OwnedFd>), ChannelEnd> {
        let received = self.socket.async_io(Interest::READABLE, |_| unless_blocked(self.receive()));
        received.await?
    }

    fn receive(&self) -> Result<(FromInterceptor, Option<OwnedFd>), ChannelEnd> {
        let mut buffer = [0; MAX_MESSAGE];
        let (bytes, descriptor) = channel::receive_with_descriptor(self.socket.get_ref(), &mut buffer)?;
        if let Some(descriptor) = &descriptor {
            sandbox::limit(descriptor, Use::Exchange)?;
        }
        let length = bytes.len();
        let message = FromInterceptor::decode(bytes)?;
        if matches!(message, FromInterceptor::Kept(_) | FromInterceptor::Asked { .. }) {
            buffer.get_mut(..length).into_iter().for_each(Zeroize::zeroize);
        }
        Ok((message, descriptor))
    }

    /// An answer that comes after its exchange gave up is dropped, and its socket with it.
    fn settle(&self, dial: u64, result: DialResult) -> Result<(), ChannelEnd> {
        if dial >= self.next_dial.get() {
            return Err(ChannelEnd::UnknownDial);
        }
        if let Some(waiting) = self.dials.borrow_mut().remove(&dial) {
            let _ = waiting.send(result); // fails if the exchange has just been dropped
        }
        Ok(())
    }

    /// `None`: its client has gone.
    fn opened(&self, id: u64, stream: Option<OwnedFd>) -> Result<(), ChannelEnd> {
        let waiting = self.opens.borrow_mut().remove(&id).ok_or(ChannelEnd::UnknownOpen)?;
        if let Some(stream) = stream {
            let _ = waiting.send(stream); // fails if nobody waits any longer
        }
        Ok(())
    }

    /// Has interceptor open a connection that we were asked for one answer on. `None`: it is gone.
    pub(crate) async fn open(&self, connection: u64) -> Option<OwnedFd> {
        let (answer, waiting) = oneshot::channel();
        self.opens.borrow_mut().insert(connection, answer);
        self.say(&FromFilterd::Open { connection });
        timeout(OPEN_TIME, waiting).await.ok()?.ok()
    }

    fn synced(&self) -> Result<(), ChannelEnd> {
        let waiting = self.syncs.borrow_mut().pop_front().ok_or(ChannelEnd::OutOfTurn)?;
        let _ = waiting.send(()); // fails if nobody waits any longer
        Ok(())
    }

    /// Until interceptor has obeyed what was said before this call, if it knows how to say so. Whether it did in time.
    pub(crate) async fn obeyed(&self) -> bool {
        if FromFilterd::Sync.since() > self.minor.get() {
            return true;
        }
        let (answer, waiting) = oneshot::channel();
        self.syncs.borrow_mut().push_back(answer);
        self.say(&FromFilterd::Sync);
        timeout(SYNC_TIME, waiting).await.is_ok_and(|answer| answer.is_ok())
    }

    /// Sends now, or as soon as there is room, in order. An interceptor of the previous minor is not told what it does
    /// not know.
    pub(crate) fn say(&self, message: &FromFilterd) {
        if message.since() > self.minor.get() {
            return;
        }
        // room for all of it at once: what a vector grew out of would not be wiped
        let mut bytes = Zeroizing::new(Vec::with_capacity(message.longest()));
        message.encode(&mut bytes);
        let mut unsent = self.unsent.borrow_mut();
        if unsent.is_empty() {
            match channel::send(self.socket.get_ref(), &bytes, None) {
                // a channel that has ended is noticed by who reads it
                Ok(()) | Err(ChannelError::Closed | ChannelError::Truncated) => return,
                Err(ChannelError::Descriptor | ChannelError::Os(_)) => return,
                Err(ChannelError::WouldBlock) => (),
            }
        }
        if unsent.len() < MAX_UNSENT {
            unsent.push_back(bytes);
            self.delayed.set(self.delayed.get().wrapping_add(1));
        } else {
            self.deaf.set(true);
        }
        self.wake.notify_one();
    }

    /// Until all that was said before this call is on its way to interceptor, or nobody will ever hear it.
    pub(crate) async fn said(&self) {
        let mine = self.delayed.get();
        while self.caught_up.get() < mine && !self.gone.get() {
            self.moved.notified().await; // one thread: nothing moves between the two
        }
    }

    /// Sends what found no room at first. Runs beside everything else; ends only with the channel.
    pub(crate) async fn send_unsent(&self) -> ChannelEnd {
        loop {
            if self.deaf.get() {
                return ChannelEnd::Deaf;
            }
            if self.unsent.borrow().is_empty() {
                self.wake.notified().await;
                continue;
            }
            let room = match watched(self.room.as_fd(), Interest::WRITABLE) {
                Ok(room) => room,
                Err(error) => return error.into(),
            };
            let sent = room.async_io(Interest::WRITABLE, |_| unless_blocked(self.send_some()));
            let sent = tokio::select! {
                sent = sent => sent,
                // more waits: perhaps too much, and room may never come
                () = self.wake.notified() => continue,
            };
            match sent {
                Ok(Ok(())) => self.moved.notify_waiters(),
                Ok(Err(end)) => return end,
                Err(error) => return error.into(),
            }
        }
    }

    /// At least one if it says so, and as many as there is room for.
    fn send_some(&self) -> Result<(), ChannelEnd> {
        let mut unsent = self.unsent.borrow_mut();
        let mut some = false;
        while let Some(first) = unsent.front() {
            match channel::send(self.socket.get_ref(), first, None) {
                Err(ChannelError::WouldBlock) if some => break,
                sent => sent?,
            }
            unsent.pop_front();
            self.caught_up.set(self.caught_up.get().wrapping_add(1));
            some = true;
        }
        Ok(())
    }

    /// Asks interceptor for a connection to one of its configured upstreams.
    ///
    /// # Errors
    /// When it cannot be had within `patience`.
    pub(crate) async fn dial(&self, upstream: u16, patience: Duration) -> Result<Dialled, DialError> {
        let dial = self.next_dial.get();
        self.next_dial.set(dial.wrapping_add(1)); // 2^64 dials are never asked for
        let (answer, waiting) = oneshot::channel();
        self.dials.borrow_mut().insert(dial, answer);
        let _forgotten_when_dropped = Asked { channel: self, dial };
        self.say(&FromFilterd::Dial { dial, upstream });
        match timeout(patience, waiting).await {
            Ok(Ok(Ok(stream))) => Ok(stream),
            Ok(Ok(Err(failure))) => Err(DialError::Failed(failure)),
            Ok(Err(_)) => Err(DialError::ChannelGone),
            Err(_) => Err(DialError::NoAnswer),
        }
    }

    /// Nobody will answer the dials any more, nor hear what we say.
    pub(crate) fn give_up(&self) {
        self.dials.borrow_mut().clear();
        self.opens.borrow_mut().clear();
        self.syncs.borrow_mut().clear();
        self.gone.set(true);
        self.moved.notify_waiters();
    }
}

fn none_with_it(descriptor: Option<OwnedFd>) -> Result<(), ChannelEnd> {
    descriptor.map_or(Ok(()), |_| Err(ChannelEnd::Descriptor))
}

struct Asked<'a> {
    channel: &'a Channel,
    dial: u64,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.channel.dials.borrow_mut().remove(&self.dial);
    }
}

/// A descriptor that is open as long as it is watched: its type says so.
#[expect(deprecated, reason = "what follows it is unsafe, for types that could close a descriptor under it")]
fn watched<T: AsFd + AsRawFd>(socket: T, interest: Interest) -> std::io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(socket, interest)
}

/// In the words of the runtime, which waits for readiness when it hears `WouldBlock`.
fn unless_blocked<T>(result: Result<T, ChannelEnd>) -> std::io::Result<Result<T, ChannelEnd>> {
    match result {
        Err(ChannelEnd::Channel(ChannelError::WouldBlock)) => Err(std::io::ErrorKind::WouldBlock.into()),
        other => Ok(other),
    }
}

fn connect(path: &Path) -> rustix::io::Result<OwnedFd> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    rustix::net::connect(&socket, &address)?;
    Ok(socket)
}
