//! Descriptors that the service manager passes at the start (sd_listen_fds(3)). Uses none of them.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// Each by its name; of two with the same name the first, and the other is closed. To be called once: a second call finds
/// none.
///
/// # Errors
/// When the service manager's variables make no sense.
pub(crate) fn inherited() -> io::Result<BTreeMap<String, OwnedFd>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let mut named = BTreeMap::new();
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(named);
    }
    for (descriptor, name) in sd_notify::listen_fds_with_names()? {
        // SAFETY: sd_listen_fds(3) gives us these numbers, which sd_notify has just found open; they are taken once, by
        // this loop, before anything else could know of them.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        named.entry(name).or_insert(descriptor);
    }
    Ok(named)
}
