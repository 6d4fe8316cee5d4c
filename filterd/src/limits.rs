//! How much one uid may have: connections, and requests a second after a burst.
//! Reads no clock; its table stays bounded whatever uids there are.

use imds_settings::Limits as Settings;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// uids remembered at least before those with nothing open and a full bucket are forgotten.
const MANY: usize = 1024;

/// What a uid asked for and cannot have now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverLimit {
    Connections,
    Requests,
}

impl std::fmt::Display for OverLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Connections => "too many connections of this user",
            Self::Requests => "too many requests of this user",
        })
    }
}

/// One uid's share. The bucket is kept as the time at which it will be full again (GCRA, ITU-T I.371): nothing has to be
/// refilled.
struct Share {
    connections: u32,
    full_at: Instant,
}

pub struct Limits {
    /// `None`: all whom nobody can tell, together.
    shares: HashMap<Option<u32>, Share>,
    forget_at: usize,
    connections_per_uid: u32,
    /// What one request costs; nothing if there is no limit.
    interval: Duration,
    /// How far `full_at` may lie ahead.
    burst: Duration,
}

impl Limits {
    /// `requests_per_second` 0 means no limit.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let interval =
            Duration::from_secs(1).checked_div(settings.requests_per_second).unwrap_or(Duration::ZERO);
        Self {
            shares: HashMap::new(),
            forget_at: MANY,
            connections_per_uid: settings.connections_per_uid,
            interval,
            burst: interval.saturating_mul(settings.request_burst.max(1)),
        }
    }

    /// Counts a connection. Each `open` is followed by one `close`, also when it is over the limit: then the requests of
    /// this connection are answered with [`OverLimit::Connections`].
    ///
    /// # Errors
    /// When the uid has as many as it may.
    pub fn open(&mut self, uid: impl Into<Option<u32>>, now: Instant) -> Result<(), OverLimit> {
        let most = self.connections_per_uid;
        let share = self.share(uid.into(), now);
        share.connections = share.connections.saturating_add(1);
        if share.connections > most { Err(OverLimit::Connections) } else { Ok(()) }
    }

    /// Whether a connection is over the limit that somebody else counts: it began as the `place`th of its uid's.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn place(&self, place: u32) -> Result<(), OverLimit> {
        if place > self.connections_per_uid { Err(OverLimit::Connections) } else { Ok(()) }
    }

    pub fn close(&mut self, uid: impl Into<Option<u32>>) {
        if let Some(share) = self.shares.get_mut(&uid.into()) {
            share.connections = share.connections.saturating_sub(1);
        }
    }

    /// Takes one request off the uid's bucket.
    ///
    /// # Errors
    /// When the bucket is empty; then nothing is taken.
    pub fn request(&mut self, uid: impl Into<Option<u32>>, now: Instant) -> Result<(), OverLimit> {
        let (interval, burst) = (self.interval, self.burst);
        let share = self.share(uid.into(), now);
        let full_at = share.full_at.max(now) + interval;
        if full_at.duration_since(now) > burst {
            return Err(OverLimit::Requests);
        }
        share.full_at = full_at;
        Ok(())
    }

    /// An uid with nothing open and a full bucket is as good as new. The table is looked through when it has doubled, so
    /// the cost is constant for each new uid; it holds at most twice those with something open or spent.
    fn share(&mut self, uid: Option<u32>, now: Instant) -> &mut Share {
        if self.shares.len() >= self.forget_at {
            self.shares.retain(|_, share| share.connections > 0 || share.full_at > now);
            self.forget_at = self.shares.len().saturating_mul(2).max(MANY);
        }
        self.shares.entry(uid).or_insert(Share { connections: 0, full_at: now })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(connections: u32, rate: u32, burst: u32) -> Limits {
        Limits::new(&Settings {
            connections_per_uid: connections,
            requests_per_second: rate,
            request_burst: burst,
            ..Settings::default()
        })
    }

    #[test]
    fn a_burst_passes_and_then_the_rate_and_other_users_do_not_notice() {
        let mut limits = limits(1, 100, 10);
        let mut now = Instant::now();
        let passed =
            |limits: &mut Limits, uid, now| (0..100).filter(|_| limits.request(uid, now).is_ok()).count();
        assert_eq!(passed(&mut limits, 1, now), 10);
        assert_eq!(limits.request(1, now), Err(OverLimit::Requests));
        assert_eq!(passed(&mut limits, 2, now), 10);
        now += Duration::from_millis(30);
        assert_eq!(passed(&mut limits, 1, now), 3);
        now += Duration::from_secs(3600);
        assert_eq!(passed(&mut limits, 1, now), 10, "a long rest gives no more than the burst");
    }

    #[test]
    fn the_connection_over_the_limit_is_told_so_and_one_closed_makes_room() {
        let mut limits = limits(2, 100, 10);
        let now = Instant::now();
        assert_eq!(limits.open(7, now), Ok(()));
        assert_eq!(limits.open(7, now), Ok(()));
        assert_eq!(limits.open(7, now), Err(OverLimit::Connections));
        assert_eq!(limits.open(8, now), Ok(()));
        limits.close(7);
        assert_eq!(
            limits.open(7, now),
            Err(OverLimit::Connections),
            "the refused one counts until it is closed"
        );
        limits.close(7);
        limits.close(7);
        assert_eq!(limits.open(7, now), Ok(()));
    }

    #[test]
    fn a_million_users_do_not_fill_the_table_and_none_gets_its_burst_back_early() {
        let mut limits = limits(1, 100, 1);
        let mut now = Instant::now();
        assert_eq!(limits.open(4_000_000_000, now), Ok(()));
        for uid in 0..1_000_000 {
            now += Duration::from_micros(10); // a share is spent for 10 ms: a thousand users
            assert_eq!(limits.request(uid, now), Ok(()));
            assert_eq!(limits.request(uid, now), Err(OverLimit::Requests));
            assert!(limits.shares.len() <= 2 * MANY + 2, "{}", limits.shares.len());
        }
        assert_eq!(limits.open(4_000_000_000, now), Err(OverLimit::Connections));
    }

    #[test]
    fn no_rate_means_no_limit() {
        let mut limits = limits(1, 0, 0);
        let now = Instant::now();
        assert!((0..100_000).all(|_| limits.request(1, now).is_ok()));
    }
}
