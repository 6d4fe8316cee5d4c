//! What becomes of a captured connection: handed over, pumped, ended.
//! Must not take the end of filterd's bytes for an answer's end before filterd has said so.

use super::hold::Offered;
use super::tokens::{self, Source};
use super::{EventLoop, TunWire};
use crate::filter::{Course, Pair, Place, Pumped, empty, pump};
use crate::netstack::{Connection, Entry, Phase, Refused};
use imds_ipc::channel::ChannelError;
use imds_ipc::{FromInterceptor, MAX_ANSWER};
use mio::Interest;
use mio::event::Event;
use mio::unix::SourceFd;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// What one look at a connection asks of the loop.
enum Step {
    /// Its bytes are moved, or it waits.
    Done,
    HandOver,
    /// Its bytes are an ask.
    Ask,
    /// All that a gone filterd wrote is on its way: the next one may have it.
    HoldAgain,
    /// filterd's end is closed and nothing was said.
    Judge,
}

impl EventLoop {
    pub(super) fn note_entry(&mut self, entry: &Entry, now: Instant) {
        match entry {
            Entry::Taken | Entry::NotOurs(_) | Entry::Stray | Entry::Unknown => {}
            Entry::Refused(four_tuple, why) => {
                self.counts.refused(why);
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
        self.netstack.with(key, |connection| match &mut connection.course.place {
            Place::Filterd { pair, .. } | Place::Emptying { pair, .. } => {
                pair.ready(readable, ending, writable);
            }
            Place::Opening
            | Place::Held { .. }
            | Place::Waiting { .. }
            | Place::Asked { .. }
            | Place::Ending { .. } => {}
        });
        self.netstack.touch(key);
    }

    /// Works off all that packets, events and timers touched.
    pub(super) fn serve_connections(&mut self, now: Instant) {
        let mut keys = Vec::new();
        loop {
            self.netstack.take_touched(&mut keys);
            if keys.is_empty() {
                self.bury(now);
                if self.look_at_held(now) {
                    continue;
                }
                break;
            }
            for key in keys.iter().copied() {
                self.serve_connection(key, now);
            }
        }
    }

    fn serve_connection(&mut self, key: usize, now: Instant) {
        let idle = self.limits.idle();
        self.wait_on(key, now);
        let mut looked = self.netstack.with(key, |connection| step(connection, now, idle));
        if matches!(looked, Some(Step::HandOver)) {
            if self.confirm(key, now) && self.hand_over(key, now) != Offered::Taken {
                self.hold(key, now);
            }
            // its first bytes may be there already
            looked = self.netstack.with(key, |connection| step(connection, now, idle));
        }
        match looked {
            Some(Step::Done | Step::HandOver) | None => {}
            Some(Step::Ask) => {
                if self.ask(key, now) != Offered::Taken {
                    self.hold(key, now);
                }
            }
            Some(Step::HoldAgain) => self.hold_again(key, now),
            Some(Step::Judge) => self.judge(key, now),
        }
        self.end_trial_if_answered(key);
        self.settle(key, now);
    }

    fn settle(&mut self, key: usize, now: Instant) {
        self.watch_pair(key);
        let deadline = self.netstack.with(key, |connection| connection.course.place.deadline()).flatten();
        let mut wire = TunWire { tun: &self.tun, failed: None };
        self.netstack.settle(key, now, deadline, &mut wire);
        let failed = wire.failed;
        self.note_wire(failed, now);
    }

    /// Asks for events about room only while there is none: filterd makes room with every read.
    fn watch_pair(&mut self, key: usize) {
        let registry = self.poll.registry();
        self.netstack.with(key, |connection| {
            let Place::Filterd { pair, .. } = &mut connection.course.place else { return };
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
            let confirmed =
                attribution.confirm(&connection.four_tuple, &mut connection.subject, connection.cookie);
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

    /// Gives an established connection to the newest filterd, if that one is newer than who had it last. One that takes
    /// requests in messages has it when its next bytes come.
    pub(super) fn hand_over(&mut self, key: usize, now: Instant) -> Offered {
        let after = self.netstack.with(key, |connection| connection.course.after).unwrap_or(u64::MAX);
        while let Some(newest) = self.peers.newest() {
            if self.peers.get_mut(newest).is_none_or(|peer| peer.age() <= after) {
                break;
            }
            let given = match self.let_wait(key, newest, now) {
                Some(given) => given,
                None => self.offer(key, newest),
            };
            match given {
                Ok(()) => return Offered::Taken,
                Err(ChannelError::WouldBlock) => {
                    self.watch_peer(newest);
                    return Offered::Full;
                }
                Err(error) => self.drop_peer(newest, &crate::filter::PeerError::Channel(error), now),
            }
        }
        Offered::Nobody
    }

    pub(super) fn offer(&mut self, key: usize, newest: usize) -> Result<(), ChannelError> {
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
            peer.offer(&message, Some(theirs.as_fd()))?;
            connection.course.ledger.begin(peer.tells_answers());
            connection.course.after = peer.age();
            let place = Place::Filterd { peer: newest, pair, leaving: None };
            let before = std::mem::replace(&mut connection.course.place, place);
            Ok(matches!(before, Place::Held { new: true, .. }))
        });
        let was_new = offered.unwrap_or(Ok(false))?;
        self.held.new -= usize::from(was_new);
        // what the client has sent already
        self.netstack.touch(key);
        Ok(())
    }

    /// filterd's end of a connection is closed, and nothing was said. What it said may still wait to be read; if that is
    /// that it would close, the connection is touched again. Else it died, or leaves.
    fn judge(&mut self, key: usize, now: Instant) {
        let peer = self.netstack.with(key, |connection| match &connection.course.place {
            Place::Filterd { peer, leaving: None, .. } => Some(*peer),
            Place::Filterd { .. }
            | Place::Opening
            | Place::Held { .. }
            | Place::Waiting { .. }
            | Place::Asked { .. }
            | Place::Ending { .. }
            | Place::Emptying { .. } => None,
        });
        let Some(Some(peer)) = peer else { return };
        if !self.read_peer(peer, now) {
            // in the next turn, or one that talks without end would keep everybody else waiting
            self.ready.again.push(key);
            return;
        }
        // if it is gone by now its connections are already left behind
        if let Some(peer) = self.peers.get_mut(peer) {
            let on_purpose = peer.is_leaving();
            self.leave_behind(key, on_purpose, now);
        }
    }
}

fn step(connection: &mut Connection<Course>, now: Instant, idle: Duration) -> Step {
    let Course { place, ledger, .. } = &mut connection.course;
    if let Place::Waiting { until } = *place {
        let tcp = &mut connection.tcp;
        match (tcp.has_bytes(), tcp.has_room_for(MAX_ANSWER)) {
            (true, true) => return Step::Ask,
            // until a client has taken most of the last answer it gets no other
            (true, false) if until <= now => tcp.reset(),
            (true, false) => {}
            (false, _) if until <= now || tcp.client_finished() => {
                tcp.finish();
                *place = Place::Ending { until: now + idle };
            }
            (false, _) => {}
        }
        return Step::Done;
    }
    if place.deadline().is_some_and(|until| until <= now) {
        connection.tcp.reset();
        return Step::Done;
    }
    match place {
        Place::Opening if connection.tcp.phase() == Phase::Open => Step::HandOver,
        Place::Opening | Place::Held { .. } | Place::Waiting { .. } | Place::Asked { .. } => Step::Done,
        Place::Ending { .. } => {
            // nobody reads what it still sends
            let waiting = connection.tcp.waiting_bytes();
            connection.tcp.take_bytes(waiting, |_| ());
            Step::Done
        }
        Place::Emptying { pair, left, .. } => match empty(&mut connection.tcp, pair, left) {
            true => Step::HoldAgain,
            false => Step::Done,
        },
        Place::Filterd { pair, leaving, .. } => match (pump(&mut connection.tcp, pair, ledger), leaving) {
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
