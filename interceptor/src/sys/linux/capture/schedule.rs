//! When everything is compared again besides whenever the kernel tells of a change. While nothing happens: never.
//! Looks at nothing itself.

use std::time::{Duration, Instant};

/// While there is traffic, and while something is wrong, this often. Always, where nothing tells of writes to
/// disable_xfrm.
const EVERY: Duration = Duration::from_secs(5);
/// After traffic that comes out of silence: its answers do not wait for the comparison.
const SOON: Duration = Duration::from_millis(100);
/// We are told before a write is done. It is done in microseconds, unless who writes is not given a processor. The first
/// is also how often one who writes without end can make us look.
const AFTER_WRITES: [Duration; 3] =
    [Duration::from_millis(40), Duration::from_secs(1), Duration::from_secs(5)];

pub(super) struct Schedule {
    /// Changes may come of which nothing tells.
    blind: bool,
    /// The last one, in full.
    last: Option<Instant>,
    next: Option<Instant>,
    /// In order, those to come.
    after_write: Vec<Instant>,
}

impl Schedule {
    /// The first is due at once.
    pub(super) fn new(blind: bool, now: Instant) -> Self {
        Self { blind, last: None, next: Some(now), after_write: Vec::new() }
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.next.into_iter().chain(self.after_write.iter().copied()).min()
    }

    pub(super) fn at(&mut self, time: Instant) {
        self.next = Some(self.next.map_or(time, |next| next.min(time)));
    }

    /// Something happened: clients, filterd, an operator.
    pub(super) fn stirred(&mut self, now: Instant) {
        if self.next.is_none() {
            let soon = now + SOON;
            self.next = Some(self.last.map_or(soon, |last| soon.max(last + EVERY)));
        }
    }

    /// Somebody is about to write disable_xfrm. A look that is to come soon is not put off.
    pub(super) fn written(&mut self, now: Instant) {
        // one that is due may come too early for this write
        self.after_write.retain(|at| *at > now);
        let soon = self.after_write.first().copied().filter(|_| self.looks_soon());
        self.after_write = AFTER_WRITES.map(|wait| now + wait).to_vec();
        if let (Some(soon), Some(first)) = (soon, self.after_write.first_mut()) {
            *first = soon;
        }
    }

    /// Whether the first look after a write is still to come.
    pub(super) fn looks_soon(&self) -> bool {
        self.after_write.len() == AFTER_WRITES.len()
    }

    /// Whether a full comparison is due, with probes, and not only what a change asks for.
    pub(super) fn in_full(&self, now: Instant) -> bool {
        self.last.is_none_or(|last| now >= last + EVERY)
    }

    /// `full`: it was one with probes. `settled`: nothing is wrong.
    pub(super) fn compared(&mut self, now: Instant, full: bool, settled: bool) {
        if full {
            self.last = Some(now);
        }
        self.after_write.retain(|at| *at > now);
        if self.blind || !settled {
            self.next = Some(self.last.map_or(now, |last| last + EVERY));
        } else if full || self.next.is_some_and(|next| next <= now) {
            self.next = None;
        }
    }

    /// It failed.
    pub(super) fn again(&mut self, at: Instant) {
        self.after_write.retain(|after| *after > at);
        self.next = Some(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(blind: bool) -> (Schedule, Instant) {
        let now = Instant::now();
        let mut schedule = Schedule::new(blind, now);
        assert_eq!(schedule.next(), Some(now));
        schedule.compared(now, true, true);
        (schedule, now)
    }

    #[test]
    fn in_silence_nothing_is_due() {
        assert_eq!(compared(false).0.next(), None);
    }

    #[test]
    fn where_nothing_tells_of_writes_it_is_due_in_silence_too() {
        let (schedule, now) = compared(true);
        assert_eq!(schedule.next(), Some(now + EVERY));
    }

    #[test]
    fn while_something_is_wrong_it_is_due_again_and_again() {
        let (mut schedule, now) = compared(false);
        schedule.compared(now, true, false);
        assert_eq!(schedule.next(), Some(now + EVERY));
    }

    #[test]
    fn traffic_is_followed_by_one_at_most_every_five_seconds() {
        let (mut schedule, now) = compared(false);
        for wait in [1, 2, 3000] {
            schedule.stirred(now + Duration::from_millis(wait));
            assert_eq!(schedule.next(), Some(now + EVERY));
        }
        // a change in between, compared without probes, does not put it off
        schedule.compared(now + Duration::from_secs(4), false, true);
        assert_eq!(schedule.next(), Some(now + EVERY));
        schedule.compared(now + EVERY, true, true);
        assert_eq!(schedule.next(), None);
        let later = now + Duration::from_mins(1);
        schedule.stirred(later);
        assert_eq!(schedule.next(), Some(later + SOON));
    }

    #[test]
    fn a_write_is_looked_for_until_it_is_surely_done() {
        let (mut schedule, now) = compared(false);
        schedule.written(now);
        for wait in AFTER_WRITES {
            assert_eq!(schedule.next(), Some(now + wait));
            schedule.compared(now + wait, false, true);
        }
        assert_eq!(schedule.next(), None);
    }

    #[test]
    fn who_writes_without_end_does_not_put_the_look_off() {
        let (mut schedule, now) = compared(false);
        schedule.written(now);
        let first = now + AFTER_WRITES[0];
        for wait in 1..40 {
            assert!(schedule.looks_soon());
            schedule.written(now + Duration::from_millis(wait));
            assert_eq!(schedule.next(), Some(first));
        }
        schedule.written(first);
        schedule.compared(first, false, true);
        assert_eq!(schedule.next(), Some(first + AFTER_WRITES[0]));
    }

    #[test]
    fn a_comparison_that_failed_is_made_again() {
        let (mut schedule, now) = compared(false);
        schedule.again(now + SOON);
        assert_eq!(schedule.next(), Some(now + SOON));
    }
}
