//! What filterds ask and get: their coming, their messages, their dials, their end.
//! Must not do for one what concerns another's connection.

use super::tokens::{self, Source};
use super::{DOOR_RETRY, EventLoop};
use crate::filter::{Caller, PeerError, Place};
use crate::upstream::{Dialled, Dialling};
use imds_ipc::{DialFailure, FromFilterd, FromInterceptor};
use mio::Interest;
use mio::unix::SourceFd;
use std::os::fd::OwnedFd;
use std::time::Instant;

/// Messages read of one peer before others get their turn.
const MESSAGES: usize = 1024;
/// Who came in before packets get their turn: whoever comes and goes without end must not keep us at the door.
const CALLERS: usize = 16;

impl EventLoop {
    pub(super) fn serve_peers(&mut self, now: Instant) {
        for key in std::mem::take(&mut self.ready.peers) {
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
        while let Some(key) = self.peers.overdue(now) {
            self.drop_peer(key, &PeerError::NoHello, now);
        }
        if self.held.count > 0 {
            self.release_held(now);
        }
    }

    /// Reads what a peer said, to the end unless it never stops.
    pub(super) fn read_peer(&mut self, key: usize, now: Instant) {
        for _ in 0..MESSAGES {
            let Some(peer) = self.peers.get_mut(key) else { return };
            let obeyed = match peer.receive() {
                Ok(None) => return,
                Ok(Some(message)) => self.obey(key, &message, now),
                Err(error) => Err(error),
            };
            if let Err(error) = obeyed {
                self.drop_peer(key, &error, now);
                return;
            }
        }
        self.ready.peers.push(key);
    }

    fn obey(&mut self, key: usize, message: &FromFilterd, now: Instant) -> Result<(), PeerError> {
        match message {
            FromFilterd::Hello(_) => {
                if let Some(more) = self.throttles.attached.pass(now) {
                    tracing::info!("imds-filterd attached{}", and_more(more));
                }
                self.release_held(now);
                Ok(())
            }
            FromFilterd::Needs(needs) => {
                // what an older one needed is of the past
                if self.peers.newest() == Some(key) {
                    self.attribution.need(*needs);
                }
                Ok(())
            }
            FromFilterd::Dial { dial, upstream } => self.dial(key, *dial, *upstream, now),
            FromFilterd::Close { connection } => self.announce_close(key, *connection, now),
        }
    }

    /// From here on the end of its bytes is meant. A client that then does not take them keeps its slot no longer than
    /// an idle one does.
    fn announce_close(&mut self, key: usize, id: u64, now: Instant) -> Result<(), PeerError> {
        let until = now + self.limits.idle();
        // it may be gone already: the client was quicker
        let Some(found) = self.netstack.key_of(id) else { return Ok(()) };
        let its = self.netstack.with(found, |connection| match &mut connection.place {
            Place::Filterd { peer, leaving, .. } if *peer == key => {
                leaving.get_or_insert(until);
                true
            }
            Place::Filterd { .. } | Place::Opening | Place::Held { .. } => false,
        });
        if its == Some(false) {
            return Err(PeerError::NotIts);
        }
        self.netstack.touch(found);
        Ok(())
    }

    fn dial(&mut self, key: usize, dial: u64, upstream: u16, now: Instant) -> Result<(), PeerError> {
        let Some(peer) = self.peers.get_mut(key) else { return Ok(()) };
        match self.dials.dial(key, peer.dials, dial, upstream, now) {
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

    fn answer(
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

    /// Ends a peer: its dials are given up, its connections reset unless it had said that they end. Here a later
    /// version gives them, and their unanswered bytes, to the next filterd.
    pub(super) fn drop_peer(&mut self, key: usize, why: &PeerError, now: Instant) {
        let Some(peer) = self.peers.remove(key) else { return };
        if let Some(more) = self.throttles.detached.pass(now) {
            let what = if peer.attached() { "imds-filterd detached" } else { "refused an imds-filterd" };
            tracing::warn!("{what}: {why}{}", and_more(more));
        }
        self.dials.forget(key);
        let orphans: Vec<usize> = self
            .netstack
            .iter()
            .filter(|(_, connection)| {
                matches!(&connection.place, Place::Filterd { peer, leaving: None, .. } if *peer == key)
            })
            .map(|(orphan, _)| orphan)
            .collect();
        for orphan in orphans {
            self.netstack.with(orphan, |connection| connection.tcp.reset());
            self.netstack.touch(orphan);
        }
    }
}

/// Comings and goings are few, and their number is news only when they are not.
fn and_more(number: u64) -> String {
    if number == 0 { String::new() } else { format!(" ({number} more such)") }
}
