//! Linux. See the contract in `sys`. Uses no privilege.

use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{setsockopt, sockopt};
use rustix::net::Protocol;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;

/// The default of `capture.mark`; any would do.
const MARK: u32 = 0x1068;

pub(in super::super) fn bind_device(socket: &OwnedFd, link: &str) -> io::Result<()> {
    Ok(setsockopt(socket, sockopt::BindToDevice, &OsString::from(link))?)
}

#[expect(clippy::unnecessary_wraps, reason = "the contract")]
pub(in super::super) fn multipath() -> io::Result<Protocol> {
    Ok(rustix::net::ipproto::MPTCP)
}

/// Of this thread alone.
pub(in super::super) fn enter_user_namespace() -> io::Result<()> {
    Ok(unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_FS)?)
}

pub(in super::super) fn mark(socket: &OwnedFd) -> io::Result<()> {
    Ok(setsockopt(socket, sockopt::Mark, &MARK)?)
}
