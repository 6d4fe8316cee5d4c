//! Maps shared with the kernel by mmap(2), so that they are read and written without any further call.
//! Must not read what the kernel is still writing.

use super::record::Record;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// Bits of a record's length in the ring.
const BUSY: u32 = 1 << 31;
const DISCARDED: u32 = 1 << 30;
/// Length and the kernel's own number, before each record.
const HEAD: u64 = 8;

/// Memory shared with the kernel; given back when dropped.
struct Shared {
    start: NonNull<libc::c_void>,
    length: usize,
}

// SAFETY: the mapping is the process's, not a thread's, and who owns the `Shared` is the only one here who reaches it.
unsafe impl Send for Shared {}

impl Shared {
    fn map(map: BorrowedFd<'_>, from: usize, length: usize, writable: bool) -> io::Result<Self> {
        let access = if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        let from = from.try_into().map_err(|_| io::ErrorKind::InvalidInput)?;
        let (anywhere, shared) = (std::ptr::null_mut(), libc::MAP_SHARED);
        // SAFETY: asks for a new mapping at a place of the kernel's choice; replaces none and reads nothing of ours.
        let start = unsafe { libc::mmap(anywhere, length, access, shared, map.as_raw_fd(), from) };
        match NonNull::new(start) {
            Some(start) if start.as_ptr() != libc::MAP_FAILED => Ok(Self { start, length }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The number at `at`, if it lies inside and is aligned; the kernel writes it whole.
    fn position(&self, at: usize) -> Option<&AtomicU64> {
        let place = self.place(at, size_of::<AtomicU64>())?.cast::<AtomicU64>();
        if !place.is_aligned() {
            return None;
        }
        // SAFETY: `place` is aligned, inside the mapping, which lives as long as `self`, and only ever accessed
        // atomically, by us and by the kernel.
        Some(unsafe { place.as_ref() })
    }

    fn word(&self, at: usize) -> Option<&AtomicU32> {
        let place = self.place(at, size_of::<AtomicU32>())?.cast::<AtomicU32>();
        if !place.is_aligned() {
            return None;
        }
        // SAFETY: as above.
        Some(unsafe { place.as_ref() })
    }

    fn copy(&self, at: usize, length: usize) -> Option<Vec<u8>> {
        let place = self.place(at, length)?.cast::<u8>();
        let mut bytes = vec![0; length];
        // SAFETY: `length` bytes from `place` lie inside the mapping, and `bytes` is that long and our own. Should the
        // kernel write meanwhile (it does not before the reader has passed) the copy is wrong, and nothing else.
        unsafe { std::ptr::copy_nonoverlapping(place.as_ptr(), bytes.as_mut_ptr(), length) };
        Some(bytes)
    }

    fn place(&self, at: usize, length: usize) -> Option<NonNull<libc::c_void>> {
        if at.checked_add(length)? > self.length {
            return None;
        }
        // SAFETY: `at` is inside the mapping, as was just seen.
        Some(unsafe { self.start.byte_add(at) })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: exactly what `map` made, and every reference into it borrows from `self`.
        unsafe { libc::munmap(self.start.as_ptr(), self.length) };
    }
}

/// A number that the programs read.
pub(super) struct Word(Shared);

impl Word {
    pub(super) fn map(map: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self(Shared::map(map, 0, rustix::param::page_size(), true)?))
    }

    pub(super) fn set(&self, value: u32) {
        if let Some(word) = self.0.word(0) {
            word.store(value, Ordering::Relaxed);
        }
    }
}

/// The reader's side of a BPF ring (linux: kernel/bpf/ringbuf.c): a page that says how far we are, a page that says how
/// far the kernel is, and the data, mapped twice so that no record is broken at the end.
pub(super) struct Ring {
    reader: Shared,
    writer: Shared,
    size: usize,
    page: usize,
}

impl Ring {
    pub(super) fn map(map: BorrowedFd<'_>, size: usize) -> io::Result<Self> {
        let page = rustix::param::page_size();
        let reader = Shared::map(map, 0, page, true)?;
        let writer = Shared::map(map, page, page + 2 * size, false)?;
        Ok(Self { reader, writer, size, page })
    }

    /// Everything that is there, in the order it came. A record still being written ends the turn: whoever writes it
    /// is not disturbed, and the packet it is about has not left yet. Others behind it may have: whether it was all.
    /// What comes meanwhile is for the next time: users who write without end would keep us here without end.
    pub(super) fn read(&self, mut take: impl FnMut(Record)) -> bool {
        let Some(written) = self.writer.position(0) else { return false };
        self.up_to(written.load(Ordering::Acquire), |bytes| {
            if let Some(record) = bytes.and_then(|bytes| Record::parse(&bytes)) {
                take(record);
            }
        })
    }

    /// The same, as bytes, with all that comes meanwhile; none is one that its writer discarded.
    pub(super) fn each(&self, take: impl FnMut(Option<Vec<u8>>)) -> bool {
        self.up_to(u64::MAX, take)
    }

    fn up_to(&self, end: u64, mut take: impl FnMut(Option<Vec<u8>>)) -> bool {
        let Some((read, written)) = self.reader.position(0).zip(self.writer.position(0)) else {
            return false;
        };
        let mut at = read.load(Ordering::Relaxed);
        while at < end.min(written.load(Ordering::Acquire)) {
            let Some((length, bytes)) = self.record(at) else { return false };
            take(bytes);
            at = at.saturating_add(HEAD + length.next_multiple_of(8));
            read.store(at, Ordering::Release);
            // a writer wakes us if he sees that we have read all; so who comes now must see that, or be seen below
            fence(Ordering::SeqCst);
        }
        true
    }

    /// The length and the record at a position; `None`: not finished.
    fn record(&self, at: u64) -> Option<(u64, Option<Vec<u8>>)> {
        let size = u64::try_from(self.size).ok()?;
        let start = self.page.checked_add(usize::try_from(at % size).ok()?)?;
        let length = self.writer.word(start)?.load(Ordering::Acquire);
        if length & BUSY != 0 {
            return None;
        }
        let bytes = usize::try_from(length & !DISCARDED).ok()?;
        let copy = || self.writer.copy(start.checked_add(8)?, bytes);
        let copied = if length & DISCARDED == 0 { copy() } else { None };
        Some((u64::from(length & !DISCARDED), copied))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use std::os::fd::{AsFd, OwnedFd};

    const SIZE: usize = 4096;
    const LENGTH: u32 = 120;

    /// A file where the kernel's memory would be.
    fn kernel() -> (OwnedFd, usize) {
        let file = memfd_create("ring", MemfdFlags::CLOEXEC).unwrap();
        let page = rustix::param::page_size();
        ftruncate(&file, (2 * page + 2 * SIZE) as u64).unwrap();
        (file, page)
    }

    fn write(file: &OwnedFd, at: usize, bytes: &[u8]) {
        assert_eq!(rustix::io::pwrite(file, bytes, at as u64).unwrap(), bytes.len());
    }

    /// The record of that number, with this in its head.
    fn put(file: &OwnedFd, page: usize, number: u8, head: u32) {
        let at = 2 * page + usize::from(number) * (8 + 120);
        write(file, at, &head.to_ne_bytes());
        write(file, at + 8, &u64::from(number).to_ne_bytes());
    }

    #[test]
    fn a_record_that_is_still_being_written_hides_those_behind_it_and_that_is_told() {
        let (file, page) = kernel();
        let ring = Ring::map(file.as_fd(), SIZE).unwrap();
        let seen = || {
            let mut cookies = Vec::new();
            let whole = ring.read(|record| cookies.push(record.cookie));
            (whole, cookies)
        };
        assert_eq!(seen(), (true, vec![]));
        put(&file, page, 0, LENGTH);
        put(&file, page, 1, LENGTH | BUSY);
        put(&file, page, 2, LENGTH);
        write(&file, page, &(3 * (8 + 120_u64)).to_ne_bytes());
        assert_eq!(seen(), (false, vec![0]));
        assert_eq!(seen(), (false, vec![]));
        put(&file, page, 1, LENGTH | DISCARDED);
        assert_eq!(seen(), (true, vec![2]));
    }

    #[test]
    fn who_writes_as_fast_as_we_read_does_not_keep_us_reading() {
        let (file, page) = kernel();
        let ring = Ring::map(file.as_fd(), SIZE).unwrap();
        let length = 8 + u64::from(LENGTH);
        let write_one_more = |number: u8| {
            put(&file, page, number, LENGTH);
            write(&file, page, &(u64::from(number + 1) * length).to_ne_bytes());
        };
        write_one_more(0);
        let mut cookies = Vec::new();
        let whole = ring.read(|record| {
            assert!(record.cookie < 2, "it goes on and on");
            cookies.push(record.cookie);
            write_one_more(u8::try_from(record.cookie + 1).unwrap());
        });
        assert_eq!((whole, cookies), (true, vec![0]));
        let mut cookies = Vec::new();
        assert!(ring.read(|record| cookies.push(record.cookie)));
        assert_eq!(cookies, [1], "nothing is lost by it");
    }
}
