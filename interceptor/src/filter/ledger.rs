//! What of a client's bytes filterd has answered, and those it has not: they are for the next filterd if this one dies.
//! Must not grow without bound, and must not take an answer for whole, or for not begun, that may be neither.

use zeroize::Zeroizing;

/// Of a connection's unanswered bytes so many are kept, as many as a head may have by default. Who has more under way is
/// served as well, but not twice.
const MOST_KEPT: usize = 16 * 1024;
/// The first piece of memory, for nearly every head.
const FIRST: usize = 1024;

/// An answer about to be whole, as filterd said.
#[derive(Debug, Clone, Copy)]
struct Announced {
    /// Bytes of the client's that it answers.
    bytes: usize,
    /// Bytes of filterd's when it is whole.
    end: u64,
    closes: bool,
}

/// How a filterd left a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// All is answered, and the last answer was the end.
    Closed,
    /// In the middle of an answer, or we do not know what is unanswered: nobody can go on.
    Begun,
    /// The next one may go on.
    Resumable,
}

/// filterd claims to have answered what it was not given, or to have written less than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Impossible;

/// One connection's. Counts anew with each filterd.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Unanswered bytes, tokens among them.
    kept: Zeroizing<Vec<u8>>,
    /// Of those, how many this filterd was given.
    given: usize,
    /// Unanswered bytes that it was given and that were too many to keep. While there are any, none is kept.
    unkept: usize,
    /// Whether this filterd says what it has answered.
    told: bool,
    /// filterd's bytes so far.
    written: u64,
    /// Its bytes when its last whole answer was.
    whole: u64,
    announced: Option<Announced>,
    /// filterds that died since the last whole answer, and had been given what is unanswered.
    deaths: u32,
}

impl Ledger {
    /// A filterd begins, and is to be given all that is kept. `told`: it will say what it has answered.
    pub fn begin(&mut self, told: bool) {
        self.told = told;
        self.given = 0;
        self.written = 0;
        self.whole = 0;
        self.announced = None;
    }

    /// What another filterd was given before, and this one was not yet.
    #[must_use]
    pub fn to_give(&self) -> &[u8] {
        self.kept.get(self.given..).unwrap_or(&[])
    }

    /// It took so many of [`Self::to_give`].
    pub fn gave(&mut self, count: usize) {
        self.given = self.given.saturating_add(count).min(self.kept.len());
    }

    /// Whether nothing of an earlier filterd's waits to be given again.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.unkept == 0
    }

    /// It took these from the client, behind all that is kept.
    pub fn keep(&mut self, bytes: &[u8]) {
        if !self.told || self.unkept > 0 || self.kept.len() + bytes.len() > MOST_KEPT {
            self.unkept = self.unkept.saturating_add(self.kept.len()).saturating_add(bytes.len());
            self.forget(self.kept.len());
            return;
        }
        self.append(bytes);
        self.given = self.kept.len();
    }

    /// Never grown in place, which could leave a copy behind.
    fn append(&mut self, bytes: &[u8]) {
        let length = self.kept.len() + bytes.len();
        if length > self.kept.capacity() {
            let mut larger = Zeroizing::new(Vec::with_capacity(length.next_power_of_two().max(FIRST)));
            larger.extend_from_slice(&self.kept);
            self.kept = larger;
        }
        self.kept.extend_from_slice(bytes);
    }

    fn forget(&mut self, count: usize) {
        if count >= self.kept.len() {
            self.kept = Zeroizing::default(); // an idle connection costs no memory here
        } else {
            self.kept.drain(..count);
        }
        self.given = self.given.saturating_sub(count);
    }

    /// So many bytes of filterd's are on their way to the client.
    pub fn wrote(&mut self, count: usize) {
        self.written = self.written.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
        self.settle(self.written);
    }

    /// filterd says that `bytes` more of the client's are answered once it has written `end` bytes.
    ///
    /// # Errors
    /// When that cannot be.
    pub fn answered(&mut self, bytes: u32, end: u64, closes: bool) -> Result<(), Impossible> {
        let mut bytes = usize::try_from(bytes).map_err(|_| Impossible)?;
        let mut least = self.whole;
        // the one before may not be whole yet: the client reads slowly. From here on both count as one.
        if let Some(before) = self.announced {
            bytes = bytes.checked_add(before.bytes).ok_or(Impossible)?;
            least = before.end;
        }
        if end <= least || bytes > self.given.saturating_add(self.unkept) {
            return Err(Impossible);
        }
        self.announced = Some(Announced { bytes, end, closes });
        self.settle(self.written);
        Ok(())
    }

    /// Believes what was announced if it is written.
    fn settle(&mut self, written: u64) {
        let Some(Announced { bytes, end, closes }) = self.announced else { return };
        if written < end {
            return;
        }
        self.whole = end;
        self.deaths = 0;
        let unkept = bytes.min(self.unkept);
        self.unkept -= unkept;
        self.forget(bytes - unkept);
        self.announced = closes.then_some(Announced { bytes: 0, end, closes });
    }

    /// filterd's end is closed, with `pending` bytes of its still unread. From then on those count as written.
    pub fn left(&mut self, pending: u64) -> Left {
        let written = self.written.saturating_add(pending);
        self.settle(written);
        let closed = self.announced.is_some_and(|last| last.closes && last.end == self.whole);
        match (written == self.whole, closed, self.told && self.unkept == 0) {
            (true, true, _) => Left::Closed,
            (true, false, true) => Left::Resumable,
            (true, false, false) | (false, ..) => Left::Begun,
        }
    }

    /// A filterd answered what it was asked in a message.
    pub fn answered_whole(&mut self) {
        self.deaths = 0;
    }

    /// Notes that a filterd died over what it was asked in a message. Returns as [`Self::died`].
    pub fn died_over_ask(&mut self) -> u32 {
        self.deaths += 1;
        self.deaths
    }

    /// Notes that a filterd died over this. Returns how many have since the last whole answer, those alone that were
    /// given what is unanswered.
    pub fn died(&mut self) -> u32 {
        self.deaths += u32::from(self.given > 0);
        self.deaths
    }

    /// Whether a filterd died that had been given what is unanswered.
    #[must_use]
    pub fn is_suspect(&self) -> bool {
        self.deaths > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn begun() -> Ledger {
        let mut ledger = Ledger::default();
        ledger.begin(true);
        ledger
    }

    #[test]
    fn what_is_not_answered_is_given_again_and_what_is_answered_is_not() {
        let mut ledger = begun();
        ledger.keep(b"onetwothr");
        assert_eq!(ledger.to_give(), b"", "it was given already");
        ledger.answered(3, 10, false).unwrap();
        ledger.wrote(10);
        assert_eq!((ledger.left(0), ledger.died()), (Left::Resumable, 1));
        ledger.begin(true);
        assert_eq!(ledger.to_give(), b"twothr");
        ledger.gave(3);
        assert_eq!(ledger.to_give(), b"thr");
        ledger.gave(3);
        ledger.keep(b"ee");
        ledger.answered(8, 4, false).unwrap();
        ledger.wrote(4);
        assert_eq!(ledger.left(0), Left::Resumable);
        ledger.begin(true);
        assert_eq!(ledger.to_give(), b"");
    }

    #[test]
    fn an_answer_counts_when_all_of_it_is_written_and_not_when_it_is_announced() {
        for (read, unread, left, again) in [
            (0, 0, Left::Resumable, "request"), // nothing was written
            (0, 10, Left::Resumable, ""),
            (4, 6, Left::Resumable, ""),
            (10, 0, Left::Resumable, ""),
            (4, 0, Left::Begun, "request"),
            (0, 9, Left::Begun, "request"),
            (10, 1, Left::Begun, ""), // the next one is begun
        ] {
            let mut ledger = begun();
            ledger.keep(b"request");
            ledger.answered(7, 10, false).unwrap();
            ledger.wrote(read);
            assert_eq!(ledger.left(unread), left, "{read} {unread}");
            ledger.begin(true);
            assert_eq!(ledger.to_give(), again.as_bytes(), "{read} {unread}");
        }
    }

    #[test]
    fn an_answer_that_closes_is_an_end_only_if_it_is_whole() {
        for (written, left) in [(0, Left::Resumable), (9, Left::Begun), (10, Left::Closed)] {
            let mut ledger = begun();
            ledger.keep(b"request");
            ledger.answered(7, 10, true).unwrap();
            assert_eq!(ledger.left(written), left, "{written}");
        }
    }

    #[test]
    fn answers_announced_while_the_one_before_is_not_written_count_together() {
        let announced = || {
            let mut ledger = begun();
            ledger.keep(b"onetwo");
            ledger.answered(3, 10, false).unwrap();
            ledger.answered(3, 20, false).unwrap();
            ledger
        };
        assert_eq!(announced().left(20), Left::Resumable);
        assert_eq!(announced().left(0), Left::Resumable);
        assert_eq!(announced().left(10), Left::Begun, "closed when unsure");
    }

    #[test]
    fn claims_that_cannot_be_are_refused() {
        let mut ledger = begun();
        ledger.keep(b"abc");
        assert_eq!(ledger.answered(4, 1, false), Err(Impossible), "more than it was given");
        assert_eq!(ledger.answered(1, 0, false), Err(Impossible), "an answer of no bytes");
        ledger.answered(1, 5, false).unwrap();
        assert_eq!(ledger.answered(1, 5, false), Err(Impossible), "no further bytes");
        assert_eq!(ledger.answered(3, 9, false), Err(Impossible), "more than is left");
        assert_eq!(ledger.answered(u32::MAX, u64::MAX, false), Err(Impossible));
        let mut again = begun();
        again.keep(b"abc");
        again.begin(true);
        assert_eq!(again.answered(1, 1, false), Err(Impossible), "it was not given them yet");
    }

    #[test]
    fn more_than_is_kept_is_served_but_not_twice_until_all_of_it_is_answered() {
        let mut ledger = begun();
        ledger.keep(&[7; MOST_KEPT]);
        assert_eq!(ledger.left(0), Left::Resumable);
        ledger.keep(b"x");
        assert_eq!(ledger.left(0), Left::Begun);
        assert_eq!(ledger.kept.capacity(), 0);
        let all = u32::try_from(MOST_KEPT).unwrap() + 1;
        ledger.answered(all - 1, 10, false).unwrap();
        assert_eq!(ledger.left(10), Left::Begun);
        ledger.wrote(10);
        ledger.answered(1, 20, false).unwrap();
        ledger.wrote(10);
        ledger.keep(b"next");
        assert_eq!(ledger.left(0), Left::Resumable);
        ledger.begin(true);
        assert_eq!(ledger.to_give(), b"next");
    }

    #[test]
    fn of_a_filterd_that_does_not_say_what_it_answered_nothing_is_kept() {
        let mut ledger = Ledger::default();
        ledger.begin(false);
        assert_eq!(ledger.left(0), Left::Begun);
        ledger.keep(b"abc");
        assert_eq!(ledger.kept.capacity(), 0);
        assert_eq!(ledger.left(0), Left::Begun);
    }

    #[test]
    fn deaths_count_from_the_last_answer_on_and_only_over_bytes_that_were_given() {
        let mut ledger = begun();
        assert_eq!(ledger.died(), 0, "it was idle");
        ledger.begin(true);
        ledger.keep(b"one");
        assert_eq!(ledger.died(), 1);
        ledger.begin(true);
        assert_eq!(ledger.died(), 1, "this one was not given it");
        assert!(ledger.is_suspect());
        ledger.begin(true);
        ledger.gave(3);
        ledger.answered(3, 5, false).unwrap();
        ledger.wrote(5);
        assert!(!ledger.is_suspect());
        ledger.keep(b"two");
        assert_eq!(ledger.died(), 1);
        ledger.begin(true);
        ledger.gave(1);
        assert_eq!(ledger.died(), 2);
    }

    proptest! {
        /// Against a filterd that answers whole requests of four bytes with ten bytes each, killed anywhere.
        #[test]
        fn after_a_death_each_request_was_answered_or_is_given_again_or_the_client_is_told(
            requests in 1_usize..40, announced in 0_usize..40, written in 0_u64..400, read in 0_u64..400,
        ) {
            let announced = announced.min(requests);
            let most = u64::try_from(announced).unwrap() * 10;
            let (written, read) = (written.min(most), read.min(written).min(most));
            let mut ledger = begun();
            let sent: Vec<u8> = (0..requests * 4).map(|n| u8::try_from(n % 251).unwrap()).collect();
            ledger.keep(&sent);
            for n in 1..=announced {
                ledger.answered(4, u64::try_from(n).unwrap() * 10, false).unwrap();
            }
            ledger.wrote(usize::try_from(read).unwrap());
            match ledger.left(written - read) {
                Left::Resumable => {
                    ledger.begin(true);
                    let answered = usize::try_from(written / 10).unwrap();
                    prop_assert_eq!(written % 10, 0);
                    prop_assert_eq!(ledger.to_give(), &sent[answered * 4..]);
                }
                Left::Begun => prop_assert!(written > 0),
                Left::Closed => prop_assert!(false),
            }
        }
    }
}
