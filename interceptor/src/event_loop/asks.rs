//! Requests and small answers that travel in messages: most never need a socket between us and filterd.
//! Must not let a byte of the client's go before it is answered, nor take two answers for one ask.

use super::EventLoop;
use super::hold::{MOST_DEATHS, Offered};
use super::tokens::{self, Source};
use crate::filter::{Pair, PeerError, Place};
use crate::netstack::Endpoint;
use imds_ipc::channel::ChannelError;
use imds_ipc::{FromInterceptor, MAX_ANSWER, MAX_ASKED, Piece};
use mio::Interest;
use mio::unix::SourceFd;
use std::time::Instant;
use zeroize::Zeroizing;

impl EventLoop {
    /// From here on the connection's next bytes are an ask, if its filterd takes such. What an earlier one was given and did
    /// not answer can only be given again through a socket. Those that are here already are asked now: until they are
    /// taken, it goes on waiting no longer than it was to. `None`: it does not take such.
    pub(super) fn let_wait(
        &mut self,
        key: usize,
        newest: usize,
        now: Instant,
    ) -> Option<Result<(), ChannelError>> {
        if !self.peers.get_mut(newest).is_some_and(|peer| peer.speaks_in_messages()) {
            return None;
        }
        let until = now + self.limits.idle();
        let asks = self.netstack.with(key, |connection| {
            if !connection.course.ledger.is_empty() || connection.tcp.waiting_bytes() > MAX_ASKED {
                return None;
            }
            let tcp = &connection.tcp;
            let asks = matches!(connection.course.place, Place::Held { .. })
                && tcp.has_bytes()
                && tcp.has_room_for(MAX_ANSWER);
            Some(asks)
        })??;
        if asks {
            let message = self.message_of(key)?;
            return Some(self.offer_ask(key, newest, &message));
        }
        self.place(key, Place::Waiting { until });
        self.netstack.touch(key);
        Some(Ok(()))
    }

    /// Where a connection is from now on; it may have been held.
    fn place(&mut self, key: usize, place: Place) {
        let before =
            self.netstack.with(key, |connection| std::mem::replace(&mut connection.course.place, place));
        self.held.new -= usize::from(matches!(before, Some(Place::Held { new: true, .. })));
    }

    /// Asks the newest filterd for an answer to the bytes that wait. They stay in TCP's buffer until it comes.
    pub(super) fn ask(&mut self, key: usize, now: Instant) -> Offered {
        while let Some(newest) = self.peers.newest() {
            let speaks = self.peers.get_mut(newest).is_some_and(|peer| peer.speaks_in_messages());
            let asked = match self.message_of(key).filter(|_| speaks) {
                Some(message) => self.offer_ask(key, newest, &message),
                None => self.offer(key, newest),
            };
            match asked {
                Ok(()) => return Offered::Taken,
                Err(ChannelError::WouldBlock) => {
                    self.watch_peer(newest);
                    return Offered::Full;
                }
                Err(error) => self.drop_peer(newest, &PeerError::Channel(error), now),
            }
        }
        Offered::Nobody
    }

    /// `None`: more than fits in a message.
    fn message_of(&mut self, key: usize) -> Option<FromInterceptor> {
        let dials = &self.dials;
        let message = self.netstack.with(key, |connection| {
            let count = connection.tcp.waiting_bytes();
            if count > MAX_ASKED {
                return None;
            }
            let mut bytes = Zeroizing::new(vec![0; count]);
            if connection.tcp.look_at_bytes(&mut bytes) != count {
                return None;
            }
            Some(FromInterceptor::Asked {
                id: connection.id,
                subject: connection.subject.clone(),
                client: connection.four_tuple.client,
                service: connection.four_tuple.service,
                upstream: dials.index_of(connection.four_tuple.service)?,
                place: connection.place,
                bytes: Piece::from(bytes),
            })
        });
        message.flatten()
    }

    fn offer_ask(
        &mut self,
        key: usize,
        newest: usize,
        message: &FromInterceptor,
    ) -> Result<(), ChannelError> {
        let FromInterceptor::Asked { bytes, .. } = message else { return Err(ChannelError::WouldBlock) };
        let count = bytes.bytes().len();
        let Some(peer) = self.peers.get_mut(newest) else { return Err(ChannelError::WouldBlock) };
        peer.offer(message, None)?;
        let age = peer.age();
        self.netstack.with(key, |connection| connection.course.after = age);
        self.place(key, Place::Asked { peer: newest, bytes: count });
        Ok(())
    }

    /// The whole answer to an ask: it is on its way to the client before anything else of filterd's is heard.
    pub(super) fn take_answer(
        &mut self,
        peer: usize,
        id: u64,
        closes: bool,
        answer: &Piece,
        now: Instant,
    ) -> Result<(), PeerError> {
        let until = now + self.limits.idle();
        if self.peers.newest() == Some(peer) {
            self.note_moved(now);
        }
        let taken = self.of_peer(peer, id, |connection| {
            let course = &mut connection.course;
            let Place::Asked { bytes, .. } = course.place else { return Err(PeerError::NotAnswered) };
            connection.tcp.take_bytes(bytes, |_| ());
            course.ledger.answered_whole();
            course.place = if closes { Place::Ending { until } } else { Place::Waiting { until } };
            send(&mut connection.tcp, answer.bytes(), closes);
            Ok(())
        })?;
        taken.unwrap_or(Ok(()))
    }

    /// What was asked needs a socket after all. The bytes asked are with filterd; all that follow go through the socket.
    pub(super) fn open(&mut self, peer: usize, id: u64) -> Result<(), PeerError> {
        let Some(tells) = self.peers.get_mut(peer).map(|peer| peer.tells_answers()) else { return Ok(()) };
        let Ok((pair, theirs)) = Pair::new() else {
            self.give_up(peer, id)?;
            return self.answer(peer, &FromInterceptor::Gone { id }, None);
        };
        let descriptor = pair.descriptor();
        let opened = self.of_peer(peer, id, |connection| {
            let course = &mut connection.course;
            let Place::Asked { bytes, .. } = course.place else { return Err(PeerError::NotAnswered) };
            course.ledger.begin(tells);
            connection.tcp.take_bytes(bytes, |bytes| course.ledger.keep(bytes));
            course.place = Place::Filterd { peer, pair, leaving: None };
            Ok(())
        })?;
        match opened {
            None => self.answer(peer, &FromInterceptor::Gone { id }, None),
            Some(Err(error)) => Err(error),
            Some(Ok(())) => {
                let key = self.netstack.key_of(id).unwrap_or(usize::MAX);
                let token = tokens::of(Source::Pair(key));
                let interest = Interest::READABLE;
                if self.poll.registry().register(&mut SourceFd(&descriptor), token, interest).is_err() {
                    self.netstack.with(key, |connection| connection.tcp.reset());
                }
                self.answer(peer, &FromInterceptor::Opened { id }, Some(theirs))
            }
        }
    }

    /// What a gone filterd was asked and did not answer, the next one is asked; nothing of an answer was sent.
    /// `on_purpose`: it had said that it would leave.
    pub(super) fn leave_asks(&mut self, peer: usize, on_purpose: bool, now: Instant) {
        let asks = |place: &Place| matches!(place, Place::Asked { peer: asked, .. } if *asked == peer);
        let orphans: Vec<usize> = self
            .netstack
            .iter()
            .filter(|(_, connection)| asks(&connection.course.place))
            .map(|(orphan, _)| orphan)
            .collect();
        for key in orphans {
            let found = self.netstack.with(key, |connection| {
                let deadly = !on_purpose && connection.course.ledger.died_over_ask() > MOST_DEATHS;
                if deadly {
                    connection.tcp.reset();
                }
                (connection.id, deadly.then(|| connection.uid()))
            });
            let Some((id, deadly)) = found else { continue };
            self.held.end_trial(id);
            match deadly {
                Some(uid) => self.distrust(uid, now),
                None => self.hold_again(key, now),
            }
            self.netstack.touch(key);
        }
    }
}

/// There was room when it was asked, and nobody else puts anything.
fn send(tcp: &mut Endpoint, answer: &[u8], closes: bool) {
    if !tcp.put_all(answer) {
        return tcp.reset();
    }
    if closes {
        tcp.finish();
    }
}
