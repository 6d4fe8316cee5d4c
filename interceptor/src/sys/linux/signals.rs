//! SIGTERM and SIGINT as a descriptor for the event loop; SIGHUP is taken and means nothing.
//! Must be taken before there is a second thread, which there never is.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

const TAKEN: [libc::c_int; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

pub(crate) struct Signals(OwnedFd);

impl Signals {
    /// From here on these signals only make the descriptor readable.
    pub(crate) fn take() -> io::Result<Self> {
        let set = taken()?;
        // SAFETY: reads `set`, which lives until after the call; writes no old set; keeps nothing.
        let result = unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: reads `set`, which lives until after the call; keeps a copy in the kernel.
        let fd: RawFd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just made and nobody else has it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Whether one of those that end us has come; reads all that have.
    pub(crate) fn ends_us(&self) -> bool {
        let mut buffer = [0_u8; size_of::<libc::signalfd_siginfo>()];
        let mut ends = false;
        while rustix::io::read(&self.0, &mut buffer) == Ok(buffer.len()) {
            // ssi_signo is the first field
            let number = buffer.first_chunk::<4>().map(|bytes| u32::from_ne_bytes(*bytes));
            ends |= number.is_some_and(|number| i64::from(number) != i64::from(libc::SIGHUP));
        }
        ends
    }
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

fn taken() -> io::Result<libc::sigset_t> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: writes the whole set; keeps nothing.
    if unsafe { libc::sigemptyset(set.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: sigemptyset has written it.
    let mut set = unsafe { set.assume_init() };
    for signal in TAKEN {
        // SAFETY: reads and writes `set` only; keeps nothing.
        if unsafe { libc::sigaddset(&raw mut set, signal) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(set)
}
