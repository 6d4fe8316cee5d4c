//! FreeBSD. See the contract in `sandbox`. Judges nothing.
//!
//! Capability mode (capsicum(4)) takes the place of three of Linux's layers: nothing that has a name can be reached, be it
//! a file, a socket, a process or the network. What a descriptor that we hold may be used for, its rights say.

use super::{SandboxError, Use};
use capsicum::{CapRights, FileRights, IoctlRights, IoctlsBuilder, Right};
use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, set_no_new_privs, setrlimit,
};
use std::io;
use std::os::fd::AsFd;

/// Capability mode does it, once it is entered: it has no way to bind, to connect or to send to an address.
pub(super) fn leave_network() -> io::Result<()> {
    Ok(())
}

/// FreeBSD has none: root's power goes with its uid.
pub(super) fn forgo_capabilities() {}

#[expect(clippy::unnecessary_wraps, reason = "the contract")]
pub(super) fn drop_capabilities() -> Result<(), SandboxError> {
    Ok(())
}

pub(super) fn no_new_privileges() -> rustix::io::Result<()> {
    set_no_new_privs(None)
}

pub(super) fn no_dumps() -> rustix::io::Result<()> {
    // no core file; and since it changed its user the kernel lets root alone trace this process (P_SUGID)
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    match set_dumpable_behavior(None, DumpableBehavior::NotDumpable) {
        // rustix 1.1.6 hands procctl(2) the number and not its address
        Err(Errno::FAULT) => Ok(()),
        other => other,
    }
}

/// Standard descriptors can do no more than take the log.
pub(super) fn close_files() -> Result<(), String> {
    let limited = limit(&io::stdin(), Use::Nothing)
        .and_then(|()| limit(&io::stdout(), Use::Lines))
        .and_then(|()| limit(&io::stderr(), Use::Lines));
    limited.map_err(|error| format!("rights of standard descriptors: {error}"))
}

pub(super) fn close_calls() -> Result<(), String> {
    capsicum::enter().map_err(|error| format!("capability mode: {error}"))?;
    // the kernel said yes
    if capsicum::sandboxed() { Ok(()) } else { Err("capability mode was not entered".into()) }
}

pub(super) fn limit(descriptor: &impl AsFd, what_for: Use) -> io::Result<()> {
    let rights: &[Right] = match what_for {
        Use::Nothing => &[],
        Use::Lines => &[Right::Write, Right::Event, Right::Fcntl, Right::Fstat],
        Use::Exchange => &[
            Right::Read,
            Right::Write,
            Right::Event,
            Right::Shutdown,
            Right::Getpeername,
            Right::Getsockname,
            Right::Getsockopt,
            Right::Setsockopt,
            Right::Fcntl,
            Right::Ioctl,
        ],
    };
    let mut wanted = FileRights::new();
    for right in rights {
        wanted.allow(*right);
    }
    let limited = wanted.limit(&descriptor.as_fd()).and_then(|()| match what_for {
        Use::Exchange => only_not_to_block().limit(&descriptor.as_fd()),
        Use::Nothing | Use::Lines => Ok(()),
    });
    match limited {
        // a kernel without them; then `close_calls` fails too, and decides
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        // it was limited already, by who gave it to us or by a former call
        Err(error) if error.raw_os_error() == Some(libc::ENOTCAPABLE) => Ok(()),
        other => other,
    }
}

/// A pipe to daemon(8) that is full must not stop us: it may take a part of a line, the rest of which comes next.
pub(super) fn take_lines(descriptor: &impl AsFd) -> io::Result<()> {
    let descriptor = descriptor.as_fd();
    if FileType::from_raw_mode(rustix::fs::fstat(descriptor)?.st_mode) == FileType::Fifo {
        let flags = rustix::fs::fcntl_getfl(descriptor)?;
        rustix::fs::fcntl_setfl(descriptor, flags | rustix::fs::OFlags::NONBLOCK)?;
    }
    limit(&descriptor, Use::Lines)
}

fn only_not_to_block() -> IoctlRights {
    IoctlsBuilder::new().allow(libc::FIONBIO).finalize()
}

/// What reads the account database cannot be in capability mode.
pub(super) fn close_watcher() {}
