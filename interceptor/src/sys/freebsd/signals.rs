//! SIGTERM and SIGINT as a descriptor for the event loop, by a kqueue of their own; SIGHUP is taken and means nothing.
//! Must be taken before there is a second thread, which there never is.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

const TAKEN: [libc::c_int; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

pub(crate) struct Signals(OwnedFd);

impl Signals {
    /// From here on these signals only make the descriptor readable.
    pub(crate) fn take() -> io::Result<Self> {
        // SAFETY: touches no memory of ours.
        let fd: RawFd = unsafe { libc::kqueue() };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just made and nobody else has it.
        let queue = unsafe { OwnedFd::from_raw_fd(fd) };
        rustix::io::fcntl_setfd(&queue, rustix::io::FdFlags::CLOEXEC)?;
        for signal in TAKEN {
            watch(&queue, signal)?;
            // kqueue(2) tells ignored ones too
            // SAFETY: sets a disposition that runs no code; touches no memory of ours.
            if unsafe { libc::signal(signal, libc::SIG_IGN) } == libc::SIG_ERR {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(Self(queue))
    }

    /// Whether one of those that end us has come; reads all that have.
    pub(crate) fn ends_us(&self) -> bool {
        let mut ends = false;
        while let Some(signal) = next(&self.0) {
            ends |= i64::try_from(signal).is_ok_and(|signal| signal != i64::from(libc::SIGHUP));
        }
        ends
    }
}

fn watch(queue: &OwnedFd, signal: libc::c_int) -> io::Result<()> {
    let mut change = MaybeUninit::<libc::kevent>::zeroed();
    let place = change.as_mut_ptr();
    // SAFETY: all zeroes is a valid kevent: numbers, and a pointer that is not followed.
    let event = unsafe { &mut *place };
    event.ident = usize::try_from(signal).unwrap_or(0);
    event.filter = libc::EVFILT_SIGNAL;
    event.flags = libc::EV_ADD;
    // SAFETY: reads one kevent at `place`, written above; writes none; keeps nothing.
    let result =
        unsafe { libc::kevent(queue.as_raw_fd(), place, 1, std::ptr::null_mut(), 0, std::ptr::null()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The number of one that has come.
fn next(queue: &OwnedFd) -> Option<usize> {
    let mut event = MaybeUninit::<libc::kevent>::zeroed();
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let place = event.as_mut_ptr();
    // SAFETY: reads no change, writes at most one kevent to `place` and reads `now`; keeps nothing.
    let count = unsafe { libc::kevent(queue.as_raw_fd(), std::ptr::null(), 0, place, 1, &raw const now) };
    // SAFETY: zeroed, and perhaps written by the kernel.
    (count == 1).then(|| unsafe { event.assume_init() }.ident)
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Signals {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hangup_does_not_end_us_and_a_termination_does() {
        let signals = Signals::take().unwrap();
        assert!(!signals.ends_us());
        let me = rustix::process::getpid();
        rustix::process::kill_process(me, rustix::process::Signal::HUP).unwrap();
        assert!(!signals.ends_us());
        rustix::process::kill_process(me, rustix::process::Signal::TERM).unwrap();
        assert!(signals.ends_us());
        assert!(!signals.ends_us());
    }
}
