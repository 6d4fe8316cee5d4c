//! Connections that wait for a filterd: new ones, and those that another filterd left.
//! Must not keep anybody waiting for longer than a client waits, nor let one request end filterd after filterd.

use super::EventLoop;
use crate::filter::{Left, Place};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// SDKs give up after one second: whoever waits longer than this has gone (promise P2).
const LONGEST_HOLD: Duration = Duration::from_millis(800);
/// Most requests are answered in a few milliseconds. Until then the next suspect waits.
const TRIAL: Duration = Duration::from_millis(50);
/// filterds that may die over the same request.
pub(super) const MOST_DEATHS: u32 = 1;

/// Established connections that wait for a filterd, by their numbers; some may be gone by now.
#[derive(Default)]
pub(super) struct Held {
    /// In the order they came.
    queue: VecDeque<u64>,
    /// A filterd died when it had these. If one of them was the reason, it is to cost only itself: they are given to the
    /// next filterd one after the other.
    suspects: VecDeque<u64>,
    trial: Option<Trial>,
    /// Of those that wait, the ones that no filterd ever had: the others are bounded by what was admitted.
    pub(super) new: usize,
    /// Somebody may go on now.
    look: bool,
    /// When the newest filterd last took one that waited, or answered somebody.
    moved: Option<Instant>,
}

/// A suspect that a filterd has.
struct Trial {
    id: u64,
    until: Instant,
}

impl Held {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.suspects.is_empty()
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.queue.len() + self.suspects.len()
    }

    /// When the next suspect goes, if nothing happens.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let trial = self.trial.as_ref().filter(|_| !self.suspects.is_empty())?;
        Some(trial.until)
    }

    pub(super) fn end_trial(&mut self, id: u64) {
        if self.trial.as_ref().is_some_and(|trial| trial.id == id) {
            self.trial = None;
            self.look = true;
        }
    }
}

/// What a filterd said of a connection that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offered {
    Taken,
    /// Nobody is there who may have it.
    Nobody,
    /// Who may have it takes no more now.
    Full,
}

impl EventLoop {
    /// A new connection waits, or one whose next bytes have come.
    pub(super) fn hold(&mut self, key: usize, now: Instant) {
        let full = self.held.new >= usize::try_from(self.limits.held_connections).unwrap_or(usize::MAX);
        let until = self.hold_until(now);
        let held = self.netstack.with(key, |connection| match connection.course.place {
            Place::Opening if full => {
                connection.tcp.reset();
                None
            }
            Place::Opening => {
                connection.course.place = Place::Held { until, new: true };
                Some((connection.id, true))
            }
            Place::Waiting { .. } => {
                connection.course.place = Place::Held { until, new: false };
                // whoever answered it before may have it again
                connection.course.after = 0;
                Some((connection.id, false))
            }
            Place::Held { .. }
            | Place::Asked { .. }
            | Place::Ending { .. }
            | Place::Filterd { .. }
            | Place::Emptying { .. } => None,
        });
        if let Some(Some((id, new))) = held {
            self.held.new += usize::from(new);
            let suspect =
                self.netstack.of(id).is_some_and(|connection| connection.course.ledger.is_suspect());
            if suspect { &mut self.held.suspects } else { &mut self.held.queue }.push_back(id);
        } else if full && let Some(more) = self.throttles.reset.pass(now) {
            tracing::warn!(
                "a connection was reset: limits.held_connections wait for imds-filterd ({more} more such)"
            );
        }
    }

    fn hold_until(&self, now: Instant) -> Instant {
        now + self.limits.hold().min(LONGEST_HOLD)
    }

    pub(super) fn note_moved(&mut self, now: Instant) {
        self.held.moved = Some(now);
    }

    /// A filterd that takes or answers others is slow and not dead: whoever waits for it waits on.
    pub(super) fn wait_on(&mut self, key: usize, now: Instant) {
        let Some(moved) = self.held.moved.filter(|_| !self.held.is_empty()) else { return };
        let later = self.hold_until(moved);
        let newest = self.peers.newest().and_then(|newest| self.peers.get_mut(newest)).map(|peer| peer.age());
        self.netstack.with(key, |connection| {
            // those that it left wait for a newer one
            let may_have_it = newest.is_some_and(|age| age > connection.course.after);
            if let Place::Held { until, .. } = &mut connection.course.place
                && *until <= now
                && may_have_it
            {
                *until = later;
            }
        });
    }

    /// A connection waits whose filterd is gone, and all that this one wrote is on its way.
    pub(super) fn hold_again(&mut self, key: usize, now: Instant) {
        let until = self.hold_until(now);
        let held = self.netstack.with(key, |connection| match connection.course.place {
            Place::Emptying { until, .. } => {
                connection.course.place = Place::Held { until, new: false };
                Some((connection.id, connection.course.ledger.is_suspect()))
            }
            Place::Asked { .. } => {
                connection.course.place = Place::Held { until, new: false };
                Some((connection.id, connection.course.ledger.is_suspect()))
            }
            Place::Opening
            | Place::Held { .. }
            | Place::Waiting { .. }
            | Place::Ending { .. }
            | Place::Filterd { .. } => None,
        });
        match held.flatten() {
            Some((id, true)) => self.held.suspects.push_back(id),
            Some((id, false)) => self.held.queue.push_back(id),
            None => {}
        }
        self.held.look = true;
    }

    /// Whether somebody may go on who could not before; to be asked when nothing else is to be done.
    pub(super) fn look_at_held(&mut self, now: Instant) -> bool {
        let look = std::mem::take(&mut self.held.look) && !self.held.is_empty();
        if look {
            self.release_held(now);
        }
        look
    }

    /// Hands over what waits, oldest first, as much as is taken; of suspects one.
    pub(super) fn release_held(&mut self, now: Instant) {
        let mut still = VecDeque::new();
        while let Some(id) = self.held.queue.pop_front() {
            match self.release(id, now) {
                None => {}
                Some(Offered::Taken) => self.note_moved(now),
                Some(Offered::Nobody) => still.push_back(id),
                Some(Offered::Full) => {
                    still.push_back(id);
                    break;
                }
            }
        }
        still.append(&mut self.held.queue);
        self.held.queue = still;
        if self.held.trial.as_ref().is_some_and(|trial| trial.until <= now) {
            self.held.trial = None;
        }
        while self.held.trial.is_none()
            && let Some(id) = self.held.suspects.pop_front()
        {
            match self.release(id, now) {
                None => {}
                Some(Offered::Taken) => {
                    self.held.trial = Some(Trial { id, until: now + TRIAL });
                    self.note_moved(now);
                }
                Some(Offered::Nobody | Offered::Full) => {
                    self.held.suspects.push_front(id);
                    break;
                }
            }
        }
    }

    /// `None`: it does not wait any more.
    fn release(&mut self, id: u64, now: Instant) -> Option<Offered> {
        let key = self.netstack.key_of(id)?;
        let waits =
            self.netstack.with(key, |connection| matches!(connection.course.place, Place::Held { .. }))?;
        waits.then(|| self.hand_over(key, now))
    }

    /// To be called when a connection was served: if it was on trial, it may be through.
    pub(super) fn end_trial_if_answered(&mut self, key: usize) {
        if self.held.trial.is_none() {
            return;
        }
        let through = self
            .netstack
            .with(key, |connection| (!connection.course.ledger.is_suspect()).then_some(connection.id));
        if let Some(Some(id)) = through {
            self.held.end_trial(id);
        }
    }

    /// A filterd's end of a connection is closed and it was not said that this would be. `on_purpose`: it had said that
    /// it would leave, so nothing is wrong with the request.
    pub(super) fn leave_behind(&mut self, key: usize, on_purpose: bool, now: Instant) {
        let (until, idle) = (self.hold_until(now), now + self.limits.idle());
        let mut deadly = None;
        let left = self.netstack.with(key, |connection| {
            let course = &mut connection.course;
            let Place::Filterd { pair, leaving: leaving @ None, .. } = &mut course.place else { return None };
            // what the OS does not tell of may be half an answer
            let (pending, left) = match pair.pending() {
                Ok(pending) => (pending, course.ledger.left(pending)),
                Err(_) => (0, Left::Begun),
            };
            match left {
                Left::Closed => *leaving = Some(idle),
                Left::Begun => connection.tcp.reset(),
                Left::Resumable if !on_purpose && course.ledger.died() > MOST_DEATHS => {
                    deadly = Some(connection.uid());
                    connection.tcp.reset();
                }
                Left::Resumable => {
                    pair.ready(true, true, false);
                    if let Place::Filterd { pair, .. } = std::mem::take(&mut course.place) {
                        course.place = Place::Emptying { pair, left: pending, until };
                    }
                }
            }
            Some((connection.id, left))
        });
        let Some(Some((id, left))) = left else { return };
        self.held.end_trial(id);
        self.netstack.touch(key);
        if left == Left::Begun
            && let Some(more) = self.throttles.reset.pass(now)
        {
            tracing::warn!("a connection was reset: imds-filterd left it in an answer ({more} more such)");
        }
        if let Some(uid) = deadly {
            self.distrust(uid, now);
        }
    }

    /// Two filterds ended when they had this user's request. His others wait until everybody else's are through.
    pub(super) fn distrust(&mut self, uid: Option<u32>, now: Instant) {
        if let Some(more) = self.throttles.deadly.pass(now) {
            let whose = uid.map_or("nobody known".into(), |uid| format!("uid {uid}"));
            tracing::error!(
                "a connection of {whose} was reset: two imds-filterds ended over its request ({more} more such)"
            );
        }
        let netstack = &self.netstack;
        let is_his = |id: &u64| netstack.of(*id).is_some_and(|connection| connection.uid() == uid);
        self.held.suspects.make_contiguous().sort_by_key(is_his);
    }

    /// Counts out those that are gone, and forgets the numbers of those that waited in vain.
    pub(super) fn bury(&mut self, now: Instant) {
        while let Some(connection) = self.netstack.take_gone() {
            self.held.end_trial(connection.id);
            match connection.course.place {
                Place::Held { until, new } => {
                    self.held.new -= usize::from(new);
                    if until <= now
                        && let Some(more) = self.throttles.reset.pass(now)
                    {
                        tracing::warn!(
                            "a connection was reset: no imds-filterd took it in time ({more} more such)"
                        );
                    }
                }
                Place::Opening
                | Place::Waiting { .. }
                | Place::Asked { .. }
                | Place::Ending { .. }
                | Place::Filterd { .. }
                | Place::Emptying { .. } => {}
            }
        }
        let most = 2 * self.netstack.len() + 64;
        for waiting in [&mut self.held.queue, &mut self.held.suspects] {
            if waiting.len() > most {
                let netstack = &self.netstack;
                waiting.retain(|id| netstack.key_of(*id).is_some());
            }
        }
    }
}
