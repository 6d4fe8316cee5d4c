//! The one thread: waits for packets, filterd, dials, changes of the network and time, and lets each be dealt with.
//! Must not decide who may connect, and must never open capture: whatever ends it, capture stays closed.

mod asks;
mod connections;
mod filterd;
mod hold;
mod status;
mod tokens;

use crate::attribution::Attribution;
use crate::capture::Capture;
use crate::filter::{Course, Door, Peers};
use crate::log::Throttle;
use crate::netstack::{Netstack, Wire};
use crate::sys::{Signals, Tun};
use crate::upstream::Dials;
use hold::Held;
use imds_settings::{Mode, Settings};
use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll};
use status::Counts;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::{Duration, Instant};
use tokens::Source;

/// Packets read before others get their turn: about the length of a tun's queue.
const BURST: usize = 512;
/// Larger than any packet the kernel can hand us on a tun without offloads.
const PACKET: usize = 65_536;
/// After a failed accept, since the door's event comes only once.
const DOOR_RETRY: Duration = Duration::from_millis(100);

/// What is said when, and how often at most.
#[derive(Default)]
struct Throttles {
    refused: Throttle,
    panicked: Throttle,
    strangers: Throttle,
    attached: Throttle,
    leaves: Throttle,
    detached: Throttle,
    reset: Throttle,
    deadly: Throttle,
    wire: Throttle,
}

/// Everything the loop works with.
pub(crate) struct EventLoop {
    poll: Poll,
    signals: Signals,
    tun: Tun,
    capture: Capture,
    door: Door,
    retry_door: Option<Instant>,
    peers: Peers,
    dials: Dials,
    netstack: Netstack<Course>,
    attribution: Attribution,
    stays: bool,
    held: Held,
    /// Of the newest filterd, for the next. Lost with us: what it opens then is asked for again.
    kept: Option<imds_ipc::Blob>,
    limits: imds_settings::Limits,
    throttles: Throttles,
    counts: Counts,
    /// Of our own settings, for the status.
    audit: bool,
    ready: Ready,
    /// By a check that an operator made us do.
    found: Vec<crate::capture::Event>,
}

/// What the events of one turn said; those that stay true were not worked off.
#[derive(Default)]
struct Ready {
    tun: bool,
    signals: bool,
    capture: bool,
    door: bool,
    peers: Vec<usize>,
    dials: Vec<usize>,
    /// Connections to be looked at again.
    again: Vec<usize>,
}

/// What a loop is made of; each part is up already.
pub(crate) struct Parts {
    pub(crate) signals: Signals,
    pub(crate) capture: Capture,
    pub(crate) tun: Tun,
    pub(crate) door: Door,
    pub(crate) attribution: Attribution,
    /// The tun outlives us, and a next interceptor goes on with it.
    pub(crate) stays: bool,
}

impl EventLoop {
    /// # Errors
    /// When the OS has no event queue for us.
    pub(crate) fn new(settings: &Settings, parts: Parts) -> io::Result<Self> {
        let Parts { signals, capture, tun, door, attribution, stays } = parts;
        let poll = Poll::new()?;
        let watch = |fd: RawFd, source| {
            poll.registry().register(&mut SourceFd(&fd), tokens::of(source), Interest::READABLE)
        };
        watch(tun.as_fd().as_raw_fd(), Source::Tun)?;
        watch(signals.as_raw_fd(), Source::Signals)?;
        watch(door.descriptor(), Source::Door)?;
        for socket in capture.notification_sockets() {
            watch(socket.as_raw_fd(), Source::Capture)?;
        }
        Ok(Self {
            poll,
            signals,
            tun,
            capture,
            door,
            retry_door: None,
            peers: Peers::default(),
            dials: Dials::new(settings),
            netstack: Netstack::new(settings, Instant::now()),
            attribution,
            stays,
            held: Held::default(),
            kept: None,
            limits: settings.limits.clone(),
            throttles: Throttles::default(),
            counts: Counts::default(),
            audit: settings.filter.mode == Mode::Audit,
            // edges that came before we looked are not told again
            ready: Ready { tun: true, capture: true, door: true, ..Ready::default() },
            found: Vec::new(),
        })
    }

    /// Runs until a signal ends it. Capture is closed afterwards, or waits for the next interceptor.
    ///
    /// # Errors
    /// When the event queue or the tun fails. Capture is closed then too: with the tun gone nothing leads anywhere.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        let mut packet = vec![0; PACKET];
        loop {
            let timeout = self.timeout(Instant::now());
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => other?,
            }
            for event in &events {
                self.note(event);
            }
            if !events.is_empty() {
                self.capture.stirred(Instant::now());
            }
            if std::mem::take(&mut self.ready.signals) && self.signals.ends_us() {
                break;
            }
            self.turn(Instant::now(), &mut packet)?;
        }
        self.end_connections(Instant::now());
        if self.stays {
            self.capture.leave();
            return Ok(());
        }
        self.capture.down().map_err(io::Error::other)
    }

    /// Their clients would wait for answers that nobody gives.
    fn end_connections(&mut self, now: Instant) {
        let keys: Vec<usize> = self.netstack.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.netstack.with(key, |connection| connection.tcp.reset());
            self.netstack.settle(key, now, None, &mut TunWire { tun: &self.tun, failed: None });
        }
    }

    fn note(&mut self, event: &Event) {
        match tokens::source(event.token()) {
            Some(Source::Tun) => self.ready.tun = true,
            Some(Source::Signals) => self.ready.signals = true,
            Some(Source::Capture) => self.ready.capture = true,
            Some(Source::Door) => self.ready.door = true,
            Some(Source::Peer(key)) => self.ready.peers.push(key),
            Some(Source::Dial(key)) => self.ready.dials.push(key),
            Some(Source::Pair(key)) => self.note_pair(key, event),
            None => {}
        }
    }

    /// The order matters: the network is repaired before its packets are believed, and what filterd says is heard
    /// before what it did to a connection is judged.
    fn turn(&mut self, now: Instant, packet: &mut [u8]) -> io::Result<()> {
        if std::mem::take(&mut self.ready.capture) {
            let found = self.capture.notified(now);
            heed(&found)?;
        }
        if self.capture.next_check().is_some_and(|at| at <= now) {
            let found = self.capture.check(now);
            heed(&found)?;
        }
        self.serve_peers(now);
        self.serve_door(now);
        heed(&std::mem::take(&mut self.found))?;
        self.serve_dials(now);
        self.read_tun(now, packet)?;
        self.attribution.make_room();
        self.netstack.touch_due(now);
        for key in std::mem::take(&mut self.ready.again) {
            self.netstack.touch(key);
        }
        self.serve_connections(now);
        Ok(())
    }

    fn timeout(&self, now: Instant) -> Option<Duration> {
        if self.ready.tun || self.ready.door || !self.ready.peers.is_empty() {
            return Some(Duration::ZERO);
        }
        [
            self.netstack.next_timer(),
            self.peers.next_deadline(),
            self.dials.next_deadline(),
            self.held.next_deadline(),
            self.retry_door,
            self.capture.next_check(),
        ]
        .into_iter()
        .flatten()
        .min()
        .map(|at| at.saturating_duration_since(now))
    }

    fn read_tun(&mut self, now: Instant, packet: &mut [u8]) -> io::Result<()> {
        if !self.ready.tun {
            return Ok(());
        }
        for _ in 0..BURST {
            match self.tun.read(packet) {
                Ok(length) => {
                    let bytes = packet.get(..length).unwrap_or(&[]);
                    // our own connections to the service come by here where no mark keeps them away
                    if self.dials.carries(bytes) {
                        continue;
                    }
                    let attribution = &mut self.attribution;
                    let mut wire = TunWire { tun: &self.tun, failed: None };
                    let entry = self
                        .netstack
                        .packet(bytes, now, &mut wire, &mut |four_tuple| attribution.attribute(four_tuple));
                    let failed = wire.failed;
                    self.note_wire(failed, now);
                    self.note_entry(&entry, now);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.ready.tun = false;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(io::Error::new(error.kind(), format!("reading the tun: {error}"))),
            }
        }
        Ok(())
    }

    fn note_wire(&mut self, failed: Option<io::ErrorKind>, now: Instant) {
        if let Some(kind) = failed
            && let Some(more) = self.throttles.wire.pass(now)
        {
            tracing::warn!("the tun does not take packets: {kind} ({more} more such)");
        }
    }
}

/// Packets leave by the tun at once; no room is a lost packet, as on any wire.
struct TunWire<'a> {
    tun: &'a Tun,
    failed: Option<io::ErrorKind>,
}

impl Wire for TunWire<'_> {
    fn send(&mut self, packet: &[u8]) {
        if let Err(error) = self.tun.write(packet)
            && error.kind() != io::ErrorKind::WouldBlock
        {
            self.failed = Some(error.kind());
        }
    }
}

/// Tells what was found. Without its tun capture cannot go on: a new start makes a new one.
fn heed(found: &[crate::capture::Event]) -> io::Result<()> {
    for event in found {
        if event.is_alarm() {
            tracing::error!("{event}");
        } else {
            tracing::info!("{event}");
        }
    }
    if found.contains(&crate::capture::Event::TunGone) {
        return Err(io::Error::other("the tun was deleted"));
    }
    Ok(())
}
