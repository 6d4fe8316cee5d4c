//! What differs between systems and is no part of the sandbox: the clock that tokens live by.
//! Decides nothing.

// not rustix, which opens a file when it is first asked, and that is no longer allowed
use nix::time::{ClockId, clock_gettime};

/// Sleeping counts: who hibernates for a day wakes up with expired tokens.
#[cfg(target_os = "linux")]
const SINCE_BOOT: ClockId = ClockId::CLOCK_BOOTTIME;
/// FreeBSD's has no name that says so, but is not set back either.
#[cfg(target_os = "freebsd")]
const SINCE_BOOT: ClockId = ClockId::CLOCK_UPTIME;

/// Whole seconds since the machine was started. Nobody can set it.
pub(crate) fn seconds_since_boot() -> u64 {
    // a clock that cannot be read has come to the end of every token
    clock_gettime(SINCE_BOOT).ok().and_then(|time| u64::try_from(time.tv_sec()).ok()).unwrap_or(u64::MAX)
}
