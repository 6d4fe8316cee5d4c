//! One queue for the timers of all connections, one entry a connection at most.
//! Must not cost anything for a connection whose timer only moves away: that one fires early, once.

use std::collections::BTreeSet;
use std::time::Instant;

#[derive(Debug, Default)]
pub(super) struct Timers(BTreeSet<(Instant, usize)>);

impl Timers {
    /// Sees to it that `key` comes due at `at` or before; `armed` is what the connection remembers of its entry.
    pub(super) fn arm(&mut self, key: usize, armed: &mut Option<Instant>, at: Instant) {
        match *armed {
            Some(earlier) if earlier <= at => {}
            Some(later) => {
                self.0.remove(&(later, key));
                self.insert(key, armed, at);
            }
            None => self.insert(key, armed, at),
        }
    }

    fn insert(&mut self, key: usize, armed: &mut Option<Instant>, at: Instant) {
        self.0.insert((at, key));
        *armed = Some(at);
    }

    pub(super) fn disarm(&mut self, key: usize, armed: Option<Instant>) {
        if let Some(at) = armed {
            self.0.remove(&(at, key));
        }
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.0.first().map(|entry| entry.0)
    }

    /// Takes the first that is due.
    pub(super) fn due(&mut self, now: Instant) -> Option<usize> {
        let first = *self.0.first()?;
        if first.0 > now {
            return None;
        }
        self.0.remove(&first);
        Some(first.1)
    }
}
