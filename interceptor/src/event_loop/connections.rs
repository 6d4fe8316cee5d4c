//! What becomes of a captured connection: held, handed over, pumped, ended.
//! Must not take the end of filterd's bytes for an answer's end before filterd has said so.

use super::tokens::{self, Source};
use super::{EventLoop, TunWire};
use crate::filter::{Pair, Place, Pumped, pump};
use crate::netstack::{Connection, Entry, Phase, Refused};
use imds_ipc::FromInterceptor;
use imds_ipc::channel::ChannelError;
use mio::Interest;
use mio::event::Event;
use mio::unix::SourceFd;
use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// SDKs give up after one second: whoever waits longer than this has gone (promise P2).
const LONGEST_HOLD: Duration = Duration::from_millis(800);

/// Established connections that wait for a filterd, in the order they came.
#[derive(Default)]
pub(super) struct Held {
    /// Numbers; of connections that may be gone by now.
    queue: VecDeque<u64>,
    pub(super) count: usize,
}

/// What one look at a connection asks of the loop.
enum Step {
    /// Its bytes are moved, or it waits.
    Done,
    HandOver,
    /// filterd's end is closed and nothing was said.
    Judge,
}

impl EventLoop {
    pub(super) fn note_entry(&mut self, entry: &Entry, now: Instant) {
        match entry {
            Entry::Taken | Entry::NotOurs(_) | Entry::Stray | Entry::Unknown => {}
            Entry::Refused(four_tuple, why) => {
                if let Some(more) = self.throttles.refused.pass(now) {
                    let what = match why {
                        Refused::Unattributable(_) | Refused::Crowded(_) | Refused::NoEndpoint => why,
                    };
                    tracing::warn!(
                        "refused a connection from {}: {what} ({more} more such)",
                        four_tuple.client
                    );
                }
            }
            Entry::Panicked => self.note_panic(now),
        }
    }

    fn note_panic(&mut self, now: Instant) {
        if let Some(more) = self.throttles.panicked.pass(now) {
            tracing::error!("a connection was dropped: the TCP stack panicked ({more} more such)");
        }
    }

    pub(super) fn note_pair(&mut self, key: usize, event: &Event) {
        let ending = event.is_read_closed() || event.is_error();
        let (readable, writable) = (event.is_readable(), event.is_writable());
        self.netstack.with(key, |connection| {
            if let Place::Filterd { pair, .. } = &mut connection.place {
                pair.ready(readable, ending, writable);
            }
        });
        self.netstack.touch(key);
    }

    /// Works off all that packets, events and timers touched.
    pub(super) fn serve_connections(&mut self, now: Instant) {
        let mut keys = Vec::new();
        loop {
            self.netstack.take_touched(&mut keys);
            if keys.is_empty() {
                break;
            }
            for key in keys.iter().copied() {
                self.serve_connection(key, now);
            }
        }
        self.bury(now);
    }

    fn serve_connection(&mut self, key: usize, now: Instant) {
        match self.netstack.with(key, |connection| step(connection, now)) {
            Some(Step::Done) | None => {}
            Some(Step::HandOver) => {
                if self.confirm(key, now) && !self.hand_over(key, now) {
                    self.hold(key, now);
                }
            }
            Some(Step::Judge) => self.judge(key, now),
        }
        self.settle(key, now);
    }

    fn settle(&mut self, key: usize, now: Instant) {
        self.watch_pair(key);
        let deadline = self.netstack.with(key, |connection| connection.place.deadline()).flatten();
        let mut wire = TunWire { tun: &self.tun, failed: None };
        self.netstack.settle(key, now, deadline, &mut wire);
        let failed = wire.failed;
        self.note_wire(failed, now);
    }

    /// Asks for events about room only while there is none: filterd makes room with every read.
    fn watch_pair(&mut self, key: usize) {
        let registry = self.poll.registry();
        self.netstack.with(key, |connection| {
            let Place::Filterd { pair, .. } = &mut connection.place else { return };
            if pair.needs_room() == pair.waits_for_room {
                return;
            }
            pair.waits_for_room = pair.needs_room();
            let interest = if pair.waits_for_room {
                Interest::READABLE | Interest::WRITABLE
            } else {
                Interest::READABLE
            };
            let token = tokens::of(Source::Pair(key));
            if registry.reregister(&mut SourceFd(&pair.descriptor()), token, interest).is_err() {
                connection.tcp.reset();
            }
        });
    }

    /// The handshake is complete: is it the socket that began it? If not, nobody is to speak in its owner's name.
    fn confirm(&mut self, key: usize, now: Instant) -> bool {
        let attribution = &mut self.attribution;
        let refused = self.netstack.with(key, |connection| {
            let confirmed = attribution.confirm(&connection.four_tuple, connection.cookie);
            confirmed.inspect_err(|_| connection.tcp.reset()).err()
        });
        // a panic is no confirmation
        let Some(refused) = refused else { return false };
        if let Some(why) = &refused
            && let Some(more) = self.throttles.refused.pass(now)
        {
            tracing::warn!("reset a connection when it was established: {why} ({more} more such)");
        }
        refused.is_none()
    }

    /// Gives an established connection to the newest filterd. `false`: nobody takes it now.
    fn hand_over(&mut self, key: usize, now: Instant) -> bool {
        while let Some(newest) = self.peers.newest() {
            match self.offer(key, newest) {
                Ok(()) => return true,
                Err(ChannelError::WouldBlock) => {
                    self.watch_peer(newest);
                    return false;
                }
                Err(error) => self.drop_peer(newest, &crate::filter::PeerError::Channel(error), now),
            }
        }
        false
    }

    fn offer(&mut self, key: usize, newest: usize) -> Result<(), ChannelError> {
        let (pair, theirs) = Pair::new().map_err(|_| ChannelError::WouldBlock)?;
        let (registry, dials) = (self.poll.registry(), &self.dials);
        let Some(peer) = self.peers.get_mut(newest) else { return Err(ChannelError::WouldBlock) };
        let offered = self.netstack.with(key, |connection| {
            let Some(upstream) = dials.index_of(connection.four_tuple.service) else {
                return Err(ChannelError::WouldBlock); // never: only services are captured
            };
            let message = FromInterceptor::Connection {
                id: connection.id,
                subject: connection.subject.clone(),
                client: connection.four_tuple.client,
                service: connection.four_tuple.service,
                upstream,
            };
            registry
                .register(
                    &mut SourceFd(&pair.descriptor()),
                    tokens::of(Source::Pair(key)),
                    Interest::READABLE,
                )
                .map_err(|_| ChannelError::WouldBlock)?;
            peer.offer(&message, theirs.as_fd())?;
            let before = std::mem::replace(
                &mut connection.place,
                Place::Filterd { peer: newest, pair, leaving: None },
            );
            Ok(matches!(before, Place::Held { .. }))
        });
        let was_held = offered.unwrap_or(Ok(false))?;
        self.held.count -= usize::from(was_held);
        // what the client has sent already
        self.netstack.touch(key);
        Ok(())
    }

    fn hold(&mut self, key: usize, now: Instant) {
        let full = self.held.count >= usize::try_from(self.limits.held_connections).unwrap_or(usize::MAX);
        let until = now + self.limits.hold().min(LONGEST_HOLD);
        let held = self.netstack.with(key, |connection| match connection.place {
            Place::Opening if full => {
                connection.tcp.reset();
                None
            }
            Place::Opening => {
                connection.place = Place::Held { until };
                Some(connection.id)
            }
            Place::Held { .. } | Place::Filterd { .. } => None,
        });
        if let Some(Some(id)) = held {
            self.held.count += 1;
            self.held.queue.push_back(id);
        } else if full && let Some(more) = self.throttles.reset.pass(now) {
            tracing::warn!(
                "a connection was reset: limits.held_connections wait for imds-filterd ({more} more such)"
            );
        }
    }

    /// Hands over what waits, oldest first, as much as is taken.
    pub(super) fn release_held(&mut self, now: Instant) {
        while let Some(id) = self.held.queue.pop_front() {
            let Some(key) = self.netstack.key_of(id) else { continue };
            let waits = self.netstack.with(key, |connection| matches!(connection.place, Place::Held { .. }));
            if waits == Some(true) && !self.hand_over(key, now) {
                self.held.queue.push_front(id);
                return;
            }
        }
    }

    /// filterd's end of a connection is closed, and nothing was said. What it said may still wait to be read; if that is
    /// that it would close, the connection is touched again. Else it died over this connection, or gave the answer up:
    /// the client is not to take what it got for the whole.
    fn judge(&mut self, key: usize, now: Instant) {
        let peer = self.netstack.with(key, |connection| match &connection.place {
            Place::Filterd { peer, .. } => Some(*peer),
            Place::Opening | Place::Held { .. } => None,
        });
        if let Some(Some(peer)) = peer {
            self.read_peer(peer, now);
        }
        let died = self.netstack.with(key, |connection| match &connection.place {
            Place::Filterd { leaving: Some(_), .. } => false,
            Place::Filterd { leaving: None, .. } | Place::Opening | Place::Held { .. } => {
                connection.tcp.reset();
                true
            }
        });
        if died == Some(true)
            && let Some(more) = self.throttles.reset.pass(now)
        {
            tracing::warn!("a connection was reset: imds-filterd left it without a word ({more} more such)");
        }
    }

    /// Counts out those that are gone, and forgets the numbers of those that waited in vain.
    fn bury(&mut self, now: Instant) {
        while let Some(connection) = self.netstack.take_gone() {
            match connection.place {
                Place::Held { until } => {
                    self.held.count -= 1;
                    if until <= now
                        && let Some(more) = self.throttles.reset.pass(now)
                    {
                        tracing::warn!(
                            "a connection was reset: no imds-filterd took it in time ({more} more such)"
                        );
                    }
                }
                Place::Opening | Place::Filterd { .. } => {}
            }
        }
        if self.held.queue.len() > 2 * self.held.count + 64 {
            let netstack = &self.netstack;
            self.held.queue.retain(|id| netstack.key_of(*id).is_some());
        }
    }
}

fn step(connection: &mut Connection<Place>, now: Instant) -> Step {
    if connection.place.deadline().is_some_and(|until| until <= now) {
        connection.tcp.reset();
        return Step::Done;
    }
    match &mut connection.place {
        Place::Opening if connection.tcp.phase() == Phase::Open => Step::HandOver,
        Place::Opening | Place::Held { .. } => Step::Done,
        Place::Filterd { pair, leaving, .. } => match (pump(&mut connection.tcp, pair), leaving) {
            (Pumped::Going, _) | (Pumped::Ending, Some(_)) => Step::Done,
            (Pumped::Ended, Some(_)) => {
                connection.tcp.finish();
                Step::Done
            }
            // at once: a client that does not read would keep what is waiting, and its slot, for ever
            (Pumped::Ending | Pumped::Ended, None) => Step::Judge,
        },
    }
}
