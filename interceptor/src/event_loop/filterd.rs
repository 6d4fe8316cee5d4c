//! What filterds ask and get: their coming, their messages, their dials, their end.
//! Must not do for one what concerns another's connection.

use super::tokens::{self, Source};
use super::{DOOR_RETRY, EventLoop};
use crate::filter::{Caller, Course, Peer, PeerError, Place};
use crate::netstack::Connection;
use crate::upstream::{Dialled, Dialling};
use imds_ipc::channel::ChannelError;
use imds_ipc::control::Mode;
use imds_ipc::{DialFailure, FromFilterd, FromInterceptor, Needs};
use mio::Interest;
use mio::unix::SourceFd;
use std::os::fd::OwnedFd;
use std::time::Instant;

/// Messages read of one peer before others get their turn.
const MESSAGES: usize = 256;
/// More than lie in the channel of one that is gone.
const LAST_WORDS: usize = 1024;
/// Who came in before packets get their turn: whoever comes and goes without end must not keep us at the door.
const CALLERS: usize = 16;

impl EventLoop {
    pub(super) fn serve_peers(&mut self, now: Instant) {
        let mut keys = std::mem::take(&mut self.ready.peers);
        // once a turn each, however often it was said
        keys.sort_unstable();
        keys.dedup();
        for key in keys {
            let Some(peer) = self.peers.get_mut(key) else { continue };
            match peer.flush() {
                Ok(()) => self.watch_peer(key),
                Err(error) => {
                    self.drop_peer(key, &error, now);
                    continue;
                }
            }
            self.read_peer(key, now);
        }
        while let Some((key, error)) = self.peers.overdue(now) {
            self.drop_peer(key, &error, now);
        }
        if !self.held.is_empty() {
            self.release_held(now);
        }
    }

    /// Reads what a peer said. Whether that was all: one that never stops is heard again later.
    pub(super) fn read_peer(&mut self, key: usize, now: Instant) -> bool {
        for _ in 0..MESSAGES {
            let Some(peer) = self.peers.get_mut(key) else { return true };
            let obeyed = match peer.receive() {
                Ok(None) => return true,
                Ok(Some(message)) => self.obey(key, &message, now),
                Err(error) => Err(error),
            };
            if let Err(error) = obeyed {
                self.drop_peer(key, &error, now);
                return true;
            }
        }
        self.ready.peers.push(key);
        false
    }

    fn obey(&mut self, key: usize, message: &FromFilterd, now: Instant) -> Result<(), PeerError> {
        match message {
            FromFilterd::Hello(_) => {
                if let Some(more) = self.throttles.attached.pass(now) {
                    tracing::info!("imds-filterd attached{}", and_more(more));
                }
                Ok(())
            }
            FromFilterd::Needs(needs) => {
                self.serve_by_newest(key, *needs, now);
                Ok(())
            }
            FromFilterd::Mode(mode) => {
                if let Some(peer) = self.peers.get_mut(key) {
                    peer.mode = *mode;
                }
                self.take_mode(key);
                Ok(())
            }
            FromFilterd::Keep(blob) => {
                if self.peers.newest() == Some(key) {
                    self.kept = Some(blob.clone());
                }
                Ok(())
            }
            FromFilterd::Dial { dial, upstream } => self.dial(key, *dial, *upstream, now),
            FromFilterd::Close { connection } => self.announce_close(key, *connection, now),
            FromFilterd::Answered { connection, bytes, end, closes } => self
                .of_peer(key, *connection, |connection| {
                    connection.course.ledger.answered(*bytes, *end, *closes)
                })?
                .unwrap_or(Ok(()))
                .map_err(|_| PeerError::NotAnswered),
            FromFilterd::Reset { connection } => self.give_up(key, *connection),
            FromFilterd::Answer { connection, closes, bytes } => {
                self.take_answer(key, *connection, *closes, bytes, now)
            }
            FromFilterd::Open { connection } => self.open(key, *connection),
            FromFilterd::Sync => self.answer(key, &FromInterceptor::Synced, None),
            FromFilterd::Leaving => {
                if let Some(peer) = self.peers.get_mut(key).filter(|peer| !peer.is_leaving()) {
                    peer.leave(now);
                    if let Some(more) = self.throttles.leaves.pass(now) {
                        tracing::info!("imds-filterd leaves{}", and_more(more));
                    }
                }
                self.need_all_if_alone();
                Ok(())
            }
        }
    }

    /// From its first word about needs on a filterd takes connections, and the others are to go.
    fn serve_by_newest(&mut self, key: usize, needs: Needs, now: Instant) {
        // what an older one needs is of the past
        if self.peers.newest() != Some(key) {
            return;
        }
        self.attribution.need(needs);
        self.take_mode(key);
        let given = self.peers.get_mut(key).map(|peer| peer.give(self.kept.as_ref()));
        match given {
            Some(Err(error)) => return self.drop_peer(key, &error, now),
            Some(Ok(())) | None => self.watch_peer(key),
        }
        for older in self.peers.older() {
            let told = self.peers.get_mut(older).map(|peer| peer.dismiss(now));
            match told {
                Some(Err(error)) => self.drop_peer(older, &error, now),
                Some(Ok(())) | None => self.watch_peer(older),
            }
        }
        self.release_held(now);
    }

    /// The mode of the filterd that is given connections counts.
    fn take_mode(&mut self, key: usize) {
        if self.peers.newest() != Some(key) {
            return;
        }
        if let Some(peer) = self.peers.get_mut(key) {
            self.attribution.set_mode(peer.mode);
            self.capture.watch_forwarded(peer.mode);
        }
    }

    /// What waits may meet any rules.
    fn need_all_if_alone(&mut self) {
        if self.peers.newest().is_none() {
            self.attribution.need(Needs { groups: true, unit: true });
            self.attribution.set_mode(Mode::Enforce);
        }
    }

    /// Lets `f` see a connection that this filterd has, if it is still there: the client may have been quicker, or the
    /// end of its bytes.
    pub(super) fn of_peer<R>(
        &mut self,
        key: usize,
        id: u64,
        f: impl FnOnce(&mut Connection<Course>) -> R,
    ) -> Result<Option<R>, PeerError> {
        let age = self.peers.get_mut(key).map(|peer| peer.age());
        let Some(found) = self.netstack.key_of(id) else { return Ok(None) };
        let seen = self.netstack.with(found, |connection| match &connection.course.place {
            Place::Filterd { peer, .. } | Place::Asked { peer, .. } if *peer == key => {
                Ok(Some(f(connection)))
            }
            Place::Held { .. } | Place::Emptying { .. } | Place::Waiting { .. } | Place::Ending { .. }
                if Some(connection.course.after) == age =>
            {
                Ok(None)
            }
            Place::Filterd { .. }
            | Place::Opening
            | Place::Held { .. }
            | Place::Waiting { .. }
            | Place::Asked { .. }
            | Place::Ending { .. }
            | Place::Emptying { .. } => Err(PeerError::NotIts),
        });
        self.netstack.touch(found);
        seen.unwrap_or(Ok(None)) // TCP panicked
    }

    /// The client of this filterd's connection sees a reset, also if it waits for the next one already.
    pub(super) fn give_up(&mut self, key: usize, id: u64) -> Result<(), PeerError> {
        if self.of_peer(key, id, |connection| connection.tcp.reset())?.is_none()
            && let Some(left) = self.netstack.key_of(id)
        {
            self.netstack.with(left, |connection| connection.tcp.reset());
        }
        Ok(())
    }

    /// From here on the end of its bytes is meant. A client that then does not take them keeps its slot no longer than
    /// an idle one does.
    fn announce_close(&mut self, key: usize, id: u64, now: Instant) -> Result<(), PeerError> {
        let until = now + self.limits.idle();
        self.of_peer(key, id, |connection| match &mut connection.course.place {
            Place::Filterd { leaving, .. } => {
                leaving.get_or_insert(until);
            }
            place @ Place::Asked { .. } => {
                *place = Place::Ending { until };
                connection.tcp.finish();
            }
            Place::Opening
            | Place::Held { .. }
            | Place::Waiting { .. }
            | Place::Ending { .. }
            | Place::Emptying { .. } => {}
        })
        .map(drop)
    }

    fn dial(&mut self, key: usize, dial: u64, upstream: u16, now: Instant) -> Result<(), PeerError> {
        let Some(peer) = self.peers.get_mut(key) else { return Ok(()) };
        let by = (key, peer.dials, peer.speaks_in_messages());
        match self.dials.dial(by, dial, upstream, now) {
            Dialled::Connecting(socket) => {
                self.answer(key, &FromInterceptor::Dialling { dial }, Some(socket))
            }
            Dialled::Connected(socket) => self.answer(key, &FromInterceptor::Dialled { dial }, Some(socket)),
            Dialled::Failed(why) => self.answer(key, &FromInterceptor::DialFailed { dial, why }, None),
            Dialled::Waiting(waiting) => {
                peer.dials += 1;
                let descriptor = self.dials.descriptor(waiting).unwrap_or(-1);
                let token = tokens::of(Source::Dial(waiting));
                let interest = Interest::WRITABLE;
                // should that fail, the dial runs into its limit
                let _ = self.poll.registry().register(&mut SourceFd(&descriptor), token, interest);
                Ok(())
            }
        }
    }

    pub(super) fn serve_dials(&mut self, now: Instant) {
        for key in std::mem::take(&mut self.ready.dials) {
            if let Some((dialling, result)) = self.dials.ready(key) {
                self.end_dial(dialling, result, now);
            }
        }
        while let Some(dialling) = self.dials.overdue(now) {
            self.end_dial(dialling, Err(DialFailure::TimedOut), now);
        }
    }

    fn end_dial(&mut self, dialling: Dialling, result: Result<(), DialFailure>, now: Instant) {
        let (key, dial) = (dialling.peer, dialling.dial);
        let Some(peer) = self.peers.get_mut(key) else { return };
        peer.dials -= 1;
        let answered = match result {
            Ok(()) => {
                // filterd will have it too, so closing it here would not end its events
                let _ = self.poll.registry().deregister(&mut SourceFd(&dialling.descriptor()));
                self.answer(key, &FromInterceptor::Dialled { dial }, Some(dialling.into_socket()))
            }
            Err(why) => self.answer(key, &FromInterceptor::DialFailed { dial, why }, None),
        };
        if let Err(error) = answered {
            self.drop_peer(key, &error, now);
        }
    }

    pub(super) fn answer(
        &mut self,
        key: usize,
        message: &FromInterceptor,
        descriptor: Option<OwnedFd>,
    ) -> Result<(), PeerError> {
        let Some(peer) = self.peers.get_mut(key) else { return Ok(()) };
        peer.answer(message, descriptor)?;
        self.watch_peer(key);
        Ok(())
    }

    /// Asks for events about room only while something waits for it.
    pub(super) fn watch_peer(&mut self, key: usize) {
        let Some(peer) = self.peers.get_mut(key) else { return };
        if peer.needs_room() == peer.waits_for_room {
            return;
        }
        peer.waits_for_room = peer.needs_room();
        let interest =
            if peer.waits_for_room { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        let token = tokens::of(Source::Peer(key));
        if let Err(error) =
            self.poll.registry().reregister(&mut SourceFd(&peer.descriptor()), token, interest)
        {
            tracing::error!("waiting for imds-filterd: {error}");
        }
    }

    pub(super) fn serve_door(&mut self, now: Instant) {
        if self.retry_door.is_some_and(|at| at <= now) {
            self.retry_door = None;
            self.ready.door = true;
        }
        for _ in 0..CALLERS {
            if !self.ready.door {
                return;
            }
            match self.door.accept() {
                Ok(None) => self.ready.door = false,
                Ok(Some(Caller::Filterd(socket))) => self.let_in(socket, now),
                Ok(Some(Caller::Operator(socket))) => self.tell_status(&socket, now),
                Ok(Some(Caller::Stranger(uid))) => {
                    if let Some(more) = self.throttles.strangers.pass(now) {
                        tracing::warn!(
                            "refused a process of uid {uid}: not the filter's user ({more} more such)"
                        );
                    }
                }
                Err(error) => {
                    tracing::error!("accepting imds-filterd: {error}");
                    self.ready.door = false;
                    self.retry_door = Some(now + DOOR_RETRY);
                }
            }
        }
    }

    fn let_in(&mut self, socket: OwnedFd, now: Instant) {
        if let Some(surplus) = self.peers.surplus() {
            self.drop_peer(surplus, &PeerError::TooMany, now);
        }
        let Ok(key) = self.peers.add(socket, now) else { return };
        let Some(peer) = self.peers.get_mut(key) else { return };
        let token = tokens::of(Source::Peer(key));
        let watched =
            self.poll.registry().register(&mut SourceFd(&peer.descriptor()), token, Interest::READABLE);
        if let Err(error) = watched {
            tracing::error!("waiting for imds-filterd: {error}");
            self.peers.remove(key);
            return;
        }
        let identity = FromInterceptor::Identity(self.attribution.identity());
        if let Err(error) = self.answer(key, &identity, None) {
            self.drop_peer(key, &error, now);
        }
    }

    /// What one said before it died may still wait to be read: the end shows first where something lay unread at its side,
    /// or where we were about to say something. Which answers are whole and which ends are meant counts; its asks do not.
    fn hear_last_words(&mut self, key: usize, now: Instant) {
        for _ in 0..LAST_WORDS {
            let Some(Ok(Some(message))) = self.peers.get_mut(key).map(Peer::receive) else { return };
            let heard = match message {
                FromFilterd::Answered { .. }
                | FromFilterd::Answer { .. }
                | FromFilterd::Close { .. }
                | FromFilterd::Reset { .. }
                | FromFilterd::Keep(_)
                | FromFilterd::Leaving => self.obey(key, &message, now),
                FromFilterd::Hello(_)
                | FromFilterd::Needs(_)
                | FromFilterd::Mode(_)
                | FromFilterd::Open { .. }
                | FromFilterd::Sync
                | FromFilterd::Dial { .. } => Ok(()),
            };
            if heard.is_err() {
                return;
            }
        }
    }

    /// Ends a peer: its dials are given up, its connections go to the next one unless it had said that they end.
    pub(super) fn drop_peer(&mut self, key: usize, why: &PeerError, now: Instant) {
        if *why == PeerError::Channel(ChannelError::Closed) {
            self.hear_last_words(key, now);
        }
        let Some(peer) = self.peers.remove(key) else { return };
        let on_purpose = peer.is_leaving() && *why == PeerError::Channel(ChannelError::Closed);
        if let Some(more) = self.throttles.detached.pass(now) {
            let more = and_more(more);
            match (on_purpose, peer.attached()) {
                (true, _) => tracing::info!("imds-filterd left{more}"),
                (false, true) => tracing::warn!("imds-filterd detached: {why}{more}"),
                (false, false) => tracing::warn!("refused an imds-filterd: {why}{more}"),
            }
        }
        self.dials.forget(key);
        let orphans: Vec<usize> = self
            .netstack
            .iter()
            .filter(|(_, connection)| {
                matches!(&connection.course.place, Place::Filterd { peer, leaving: None, .. } if *peer == key)
            })
            .map(|(orphan, _)| orphan)
            .collect();
        for orphan in orphans {
            self.leave_behind(orphan, on_purpose, now);
        }
        self.leave_asks(key, on_purpose, now);
        self.need_all_if_alone();
    }
}

/// Comings and goings are few, and their number is news only when they are not.
fn and_more(number: u64) -> String {
    if number == 0 { String::new() } else { format!(" ({number} more such)") }
}
