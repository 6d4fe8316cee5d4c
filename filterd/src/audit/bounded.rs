//! How many lines one uid may fill the log with by requests that no other limit bounds: malformed ones, and those over a
//! limit. Without, whoever asks on end writes some ten megabytes a second, and what others did is soon rotated away.
//! Reads no clock; forgets no number before it is told.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// What is wrong with a client that is no attacker shows in fewer.
const BURST: u32 = 1000;
/// From then on ten a second.
const INTERVAL: Duration = Duration::from_millis(100);
/// uids remembered at least before those of whom nothing is to be known are forgotten.
const MANY: usize = 1024;

/// Kept as in `limits`: the time at which the burst may be had again.
struct Share {
    full_at: Instant,
    kept_back: u64,
}

pub(super) struct Bounded {
    shares: HashMap<Option<u32>, Share>,
    forget_at: usize,
}

impl Default for Bounded {
    fn default() -> Self {
        Self { shares: HashMap::new(), forget_at: MANY }
    }
}

impl Bounded {
    /// Whether one more of this uid's is written; else it is counted.
    pub(super) fn pass(&mut self, uid: Option<u32>, now: Instant) -> bool {
        if self.shares.len() >= self.forget_at {
            self.shares.retain(|_, share| share.kept_back > 0 || share.full_at > now);
            self.forget_at = self.shares.len().saturating_mul(2).max(MANY);
        }
        let share = self.shares.entry(uid).or_insert(Share { full_at: now, kept_back: 0 });
        let full_at = share.full_at.max(now) + INTERVAL;
        let passes = full_at.duration_since(now) <= INTERVAL * BURST;
        if passes {
            share.full_at = full_at;
        } else {
            share.kept_back = share.kept_back.saturating_add(1);
        }
        passes
    }

    /// Those that were not written and not told of.
    pub(super) fn kept_back(&self, uid: Option<u32>) -> u64 {
        self.shares.get(&uid).map_or(0, |share| share.kept_back)
    }

    /// A line that says so is written.
    pub(super) fn told(&mut self, uid: Option<u32>) {
        if let Some(share) = self.shares.get_mut(&uid) {
            share.kept_back = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_written_and_then_ten_a_second_and_the_rest_is_counted_for_its_user_alone() {
        let (mut bounded, mut now) = (Bounded::default(), Instant::now());
        let passed = |bounded: &mut Bounded, uid, now| (0..5000).filter(|_| bounded.pass(uid, now)).count();
        assert_eq!(passed(&mut bounded, Some(1), now), 1000);
        assert_eq!((bounded.kept_back(Some(1)), bounded.kept_back(Some(2))), (4000, 0));
        assert_eq!(passed(&mut bounded, None, now), 1000);
        bounded.told(Some(1));
        now += Duration::from_secs(1);
        assert_eq!(passed(&mut bounded, Some(1), now), 10);
        assert_eq!((bounded.kept_back(Some(1)), bounded.kept_back(None)), (4990, 4000));
    }

    #[test]
    fn a_million_users_do_not_fill_the_table_and_no_number_is_forgotten() {
        let (mut bounded, mut now) = (Bounded::default(), Instant::now());
        assert_eq!((0..=BURST).filter(|_| !bounded.pass(None, now)).count(), 1);
        for uid in 0..1_000_000 {
            now += INTERVAL / 1000;
            assert!(bounded.pass(Some(uid), now));
            assert!(bounded.shares.len() <= 2 * MANY + 2, "{}", bounded.shares.len());
        }
        assert_eq!(bounded.kept_back(None), 1);
    }
}
