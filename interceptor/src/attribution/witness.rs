//! What the kernel's programs told of sockets, kept by the sockets' cookies until their SYNs are looked at.
//! Must not forget one whose SYN may still come, nor grow with SYNs that were lost on the way.

use crate::sys::{Programs, Record};
use imds_ipc::{Identity, Needs};
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::os::fd::BorrowedFd;

/// A few times what the ring holds: however fast somebody makes SYNs that find the tun's queue full, a record stays
/// longer than its SYN waits in that queue.
const MAX_KEPT: usize = 16_384;

/// Thirty times the ring, too, and all that SYNs in the tun's queue can need: who has a thousand groups, which any owner of
/// subordinate gids can have, makes records of six KiB.
const MAX_BYTES: usize = 8 << 20;

/// About what a record takes of our memory.
fn size(record: &Record) -> usize {
    let groups = record.groups.as_ref().map_or(0, |groups| groups.gids.capacity() * size_of::<u32>());
    let names = record.cgroups.iter().flatten().map(|name| name.capacity() + size_of::<Vec<u8>>());
    size_of::<Record>() + groups + names.sum::<usize>()
}

/// Looks at the ring before a record is given up. It is there: what hides it, one of another processor that is still
/// being written, is whole within a microsecond unless that processor is taken away meanwhile.
const MOST_LOOKS: usize = 1000;

/// The records, in the order they came.
#[derive(Default)]
struct Kept {
    by_cookie: FxHashMap<u64, (u64, Record)>,
    /// Number and cookie; of records that may have been taken or replaced.
    order: VecDeque<(u64, u64)>,
    came: u64,
    bytes: usize,
}

impl Kept {
    /// A SYN that is sent again says the same again.
    fn add(&mut self, record: Record) {
        self.came += 1;
        let cookie = record.cookie;
        drop(self.take(cookie));
        self.bytes += size(&record);
        self.by_cookie.insert(cookie, (self.came, record));
        self.order.push_back((self.came, cookie));
        while self.order.len() > MAX_KEPT || self.bytes > MAX_BYTES {
            let Some((number, cookie)) = self.order.pop_front() else { break };
            if self.by_cookie.get(&cookie).is_some_and(|(newest, _)| *newest == number) {
                drop(self.take(cookie));
            }
        }
    }

    fn take(&mut self, cookie: u64) -> Option<Record> {
        let (_, record) = self.by_cookie.remove(&cookie)?;
        self.bytes -= size(&record);
        Some(record)
    }

    /// The newest of a cookie, when `look` has seen all that there is; before, an older one may be known.
    fn told_of(&mut self, cookie: u64, mut look: impl FnMut(&mut Self) -> bool) -> Option<Record> {
        for _ in 0..MOST_LOOKS {
            if look(self) {
                return self.take(cookie);
            }
            std::thread::yield_now();
        }
        None
    }
}

/// The programs, and what they said.
pub struct Witness {
    programs: Programs,
    identity: Identity,
    kept: Kept,
}

impl Witness {
    pub(super) fn new(programs: Programs, identity: Identity) -> Self {
        let witness = Self { programs, identity, kept: Kept::default() };
        // until somebody says what the rules need, they may need all
        witness.need(Needs { groups: true, unit: true });
        witness
    }

    pub(super) fn identity(&self) -> Identity {
        self.identity
    }

    pub(super) fn parts(&self) -> Vec<(&'static str, BorrowedFd<'_>)> {
        self.programs.parts()
    }

    pub(super) fn need(&self, needs: Needs) {
        let groups = needs.groups && self.identity.groups.is_ok();
        self.programs.want(groups, needs.unit && self.identity.unit.is_ok());
    }

    /// The record of the last SYN of the socket with that cookie. It was there before the SYN was.
    pub(super) fn told_of(&mut self, cookie: u64) -> Option<Record> {
        let Self { programs, kept, .. } = self;
        kept.told_of(cookie, |kept| programs.read(|record| kept.add(record)))
    }

    /// Makes room in the ring. SYNs that are never asked about leave records, too, and without room no SYN leaves, of
    /// anybody: then nobody would be asked about ever again.
    pub(super) fn make_room(&mut self) {
        let Self { programs, kept, .. } = self;
        programs.read(|record| kept.add(record));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::GroupList;

    fn record(cookie: u64, uid: u32) -> Record {
        Record { cookie, uid, connecting: None, namespace_owner: None, groups: None, cgroups: None }
    }

    #[test]
    fn the_newest_record_of_a_cookie_counts_and_is_given_once() {
        let mut kept = Kept::default();
        kept.add(record(1, 5));
        kept.add(record(2, 6));
        kept.add(record(1, 7));
        assert_eq!(kept.take(1), Some(record(1, 7)));
        assert_eq!(kept.take(1), None);
        assert_eq!(kept.take(2), Some(record(2, 6)));
    }

    #[test]
    fn while_a_newer_record_may_be_hidden_an_older_one_does_not_count() {
        let mut kept = Kept::default();
        kept.add(record(1, 0));
        let mut looks = 0;
        let told = kept.told_of(1, |kept| {
            looks += 1;
            if looks == 3 {
                kept.add(record(1, 7));
            }
            looks == 3
        });
        assert_eq!(told, Some(record(1, 7)));
        kept.add(record(1, 0));
        assert_eq!(kept.told_of(1, |_| false), None, "it is never seen");
    }

    #[test]
    fn the_oldest_are_forgotten_and_a_repeated_one_is_not_old() {
        let mut kept = Kept::default();
        kept.add(record(1, 5));
        kept.add(record(2, 5));
        for cookie in 10..10 + u64::try_from(MAX_KEPT).unwrap() - 3 {
            kept.add(record(cookie, 5));
        }
        kept.add(record(1, 5)); // the SYN is sent again
        kept.add(record(3, 5));
        kept.add(record(4, 5));
        assert_eq!(kept.take(2), None);
        assert_eq!(kept.take(1), Some(record(1, 5)));
        assert!(kept.by_cookie.len() <= MAX_KEPT && kept.order.len() <= MAX_KEPT);
    }

    #[test]
    fn large_records_are_fewer_and_more_than_wait_in_the_tun() {
        let groups = GroupList { gids: vec![7; 1025], cut: true };
        let large = |cookie| Record {
            groups: Some(groups.clone()),
            cgroups: Some(vec![vec![b'a'; 255]; Record::LEVELS]),
            ..record(cookie, 5)
        };
        let mut kept = Kept::default();
        for cookie in 0..5000 {
            kept.add(large(cookie));
            kept.add(large(cookie)); // sent again
        }
        let held: usize = kept.by_cookie.values().map(|(_, record)| size(record)).sum();
        assert_eq!(kept.bytes, held);
        assert!(held <= MAX_BYTES && kept.by_cookie.len() >= 1000, "{}", kept.by_cookie.len());
        assert_eq!(kept.take(4999), Some(large(4999)));
        assert_eq!(kept.take(0), None);
        for cookie in 0..5000 {
            kept.take(cookie);
        }
        assert_eq!(kept.bytes, 0);
    }
}
