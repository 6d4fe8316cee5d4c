//! How many SYNs of one uid reach the tun: so few that those of others find room there, whatever he sends.
//! Must not keep back what would be served: filterd's limits come long before.

use imds_settings::Limits;
use std::time::Duration;

/// For each request that a uid may make. A client that is refused, or asked for more, connects again.
const SYNS: u32 = 10;
/// A second, and at once, however low the limits are: half a tun's queue, and what is read in some hundredths of a second.
const AT_LEAST: u32 = 1000;
const AT_LEAST_AT_ONCE: u32 = 250;

/// SYNs of one uid: one each `interval`, and as many before as come to `burst`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pace {
    pub interval: Duration,
    pub burst: Duration,
}

impl Pace {
    /// `None`: no limit, as for requests.
    #[must_use]
    pub fn of(limits: &Limits) -> Option<Self> {
        if limits.requests_per_second == 0 {
            return None;
        }
        let a_second = limits.requests_per_second.saturating_mul(SYNS).max(AT_LEAST);
        let at_once = limits.connections_per_uid.saturating_mul(2).max(AT_LEAST_AT_ONCE);
        let interval = Duration::from_secs(1).checked_div(a_second)?;
        Some(Self { interval, burst: interval.saturating_mul(at_once) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_default_it_is_a_thousand_a_second_and_all_connections_at_once_and_never_much_less() {
        let interval = Duration::from_millis(1);
        let usual = Pace { interval, burst: Duration::from_millis(512) };
        assert_eq!(Pace::of(&Limits::default()), Some(usual));
        let low = Limits { requests_per_second: 1, connections_per_uid: 1, ..Limits::default() };
        assert_eq!(Pace::of(&low), Some(Pace { interval, burst: Duration::from_millis(250) }));
    }

    #[test]
    fn it_grows_with_what_a_uid_may_do_and_goes_with_its_limit() {
        let limits = Limits { requests_per_second: 1000, connections_per_uid: 4000, ..Limits::default() };
        let pace = Pace { interval: Duration::from_micros(100), burst: Duration::from_millis(800) };
        assert_eq!(Pace::of(&limits), Some(pace));
        assert_eq!(Pace::of(&Limits { requests_per_second: 0, ..Limits::default() }), None);
    }
}
