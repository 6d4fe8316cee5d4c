//! Counts connections, all together and for each uid, and says whether one more is admitted.
//! Must not count what was not admitted, nor forget what is still open.

use imds_settings::Limits;
use rustc_hash::FxHashMap;
use std::fmt;

/// Connection numbers keep their slot in 20 bits; a host with more captured connections than that has other troubles.
pub(super) const MAX_CONNECTIONS: usize = 1 << 20;

/// Why a connection is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crowded {
    /// As many connections as `limits.connections`.
    All,
    /// Twice `limits.connections_per_uid`: filterd answers 503 at the limit itself, and needs connections for that.
    Uid(Option<u32>),
    /// More unfinished handshakes than allowed, of this uid or of all. The SYN is dropped as a full kernel backlog does:
    /// in a burst the missing ACKs wait just behind it, and the client asks again.
    HalfOpen(Option<u32>),
}

impl fmt::Display for Crowded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("limits.connections are open"),
            Self::Uid(Some(uid)) => write!(f, "uid {uid} has twice limits.connections_per_uid open"),
            Self::Uid(None) => {
                f.write_str("clients whom nobody can tell have twice limits.connections_per_uid open")
            }
            Self::HalfOpen(Some(uid)) => write!(f, "too many half-open connections, the last of uid {uid}"),
            Self::HalfOpen(None) => f.write_str("too many half-open connections, the last of nobody"),
        }
    }
}

#[derive(Debug, Default, Clone, Copy)]
struct Count {
    total: usize,
    half_open: usize,
}

#[derive(Debug)]
pub(super) struct Admission {
    all: Count,
    /// `None`: all whom nobody can tell, together.
    of_uid: FxHashMap<Option<u32>, Count>,
    max: Count,
    max_of_uid: Count,
}

fn at_most(limit: u32) -> usize {
    usize::try_from(limit).unwrap_or(MAX_CONNECTIONS).min(MAX_CONNECTIONS)
}

impl Admission {
    pub(super) fn new(limits: &Limits) -> Self {
        let total = at_most(limits.connections);
        Self {
            all: Count::default(),
            of_uid: FxHashMap::default(),
            // half: a few users who never finish handshakes must leave room for the others
            max: Count { total, half_open: total.div_ceil(2) },
            max_of_uid: Count {
                total: at_most(limits.connections_per_uid).saturating_mul(2),
                half_open: at_most(limits.half_open_per_uid),
            },
        }
    }

    /// Before attribution is asked: whether anybody may have one more.
    pub(super) fn any_room(&self) -> Result<(), Crowded> {
        if self.all.total < self.max.total { Ok(()) } else { Err(Crowded::All) }
    }

    /// Counts one more half-open connection of `uid`.
    pub(super) fn admit(&mut self, uid: impl Into<Option<u32>>) -> Result<(), Crowded> {
        let uid = uid.into();
        self.any_room()?;
        let count = self.of_uid.get(&uid).map_or(Count { total: 0, half_open: 0 }, |count| *count);
        if count.total >= self.max_of_uid.total {
            return Err(Crowded::Uid(uid));
        }
        if count.half_open >= self.max_of_uid.half_open || self.all.half_open >= self.max.half_open {
            return Err(Crowded::HalfOpen(uid));
        }
        self.all.total += 1;
        self.all.half_open += 1;
        self.of_uid.insert(uid, Count { total: count.total + 1, half_open: count.half_open + 1 });
        Ok(())
    }

    /// How many `uid` has.
    pub(super) fn of(&self, uid: impl Into<Option<u32>>) -> u32 {
        let total = self.of_uid.get(&uid.into()).map_or(0, |count| count.total);
        u32::try_from(total).unwrap_or(u32::MAX)
    }

    pub(super) fn established(&mut self, uid: impl Into<Option<u32>>) {
        let uid = uid.into();
        self.all.half_open = self.all.half_open.saturating_sub(1);
        if let Some(count) = self.of_uid.get_mut(&uid) {
            count.half_open = count.half_open.saturating_sub(1);
        }
    }

    pub(super) fn gone(&mut self, uid: impl Into<Option<u32>>, half_open: bool) {
        let uid = uid.into();
        if half_open {
            self.established(uid);
        }
        self.all.total = self.all.total.saturating_sub(1);
        if let Some(count) = self.of_uid.get_mut(&uid) {
            count.total = count.total.saturating_sub(1);
            if count.total == 0 {
                self.of_uid.remove(&uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission() -> Admission {
        let limits =
            Limits { connections: 10, connections_per_uid: 3, half_open_per_uid: 2, ..Limits::default() };
        Admission::new(&limits)
    }

    #[test]
    fn a_uid_gets_twice_its_limit_and_no_more_until_one_is_gone() {
        let mut admission = admission();
        for _ in 0..6 {
            admission.admit(7).unwrap();
            admission.established(7);
        }
        assert_eq!(admission.admit(7), Err(Crowded::Uid(Some(7))));
        admission.gone(7, false);
        assert_eq!(admission.admit(7), Ok(()));
    }

    #[test]
    fn half_open_connections_are_bounded_for_a_uid_and_for_all() {
        let mut admission = admission();
        admission.admit(7).unwrap();
        admission.admit(7).unwrap();
        assert_eq!(admission.admit(7), Err(Crowded::HalfOpen(Some(7))));
        for uid in [1, 2, 3] {
            admission.admit(uid).unwrap();
        }
        assert_eq!(admission.admit(4), Err(Crowded::HalfOpen(Some(4))));
        admission.gone(1, true);
        assert_eq!(admission.admit(4), Ok(()));
    }

    #[test]
    fn all_together_are_bounded_and_nothing_is_remembered_of_who_is_gone() {
        let mut admission = admission();
        for uid in 0..10 {
            admission.admit(uid).unwrap();
            admission.established(uid);
        }
        assert_eq!(admission.any_room(), Err(Crowded::All));
        assert_eq!(admission.admit(99), Err(Crowded::All));
        for uid in 0..10 {
            admission.gone(uid, false);
        }
        assert_eq!(admission.all.total + admission.all.half_open + admission.of_uid.len(), 0);
    }
}
