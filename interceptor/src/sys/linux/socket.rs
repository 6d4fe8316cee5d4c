//! Upstream sockets and the privilege they need.
//! Must not connect: an unmarked socket would come back to our own tun, so the mark is on before the caller has it.

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with, sockopt};
use rustix::thread::{CapabilitySet, capabilities};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// A TCP socket for `address`, marked, not blocking, without Nagle's delay.
pub(crate) fn upstream_socket(address: SocketAddr, mark: u32) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    set_mark(socket.as_fd(), mark)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    Ok(socket)
}

fn set_mark(socket: BorrowedFd<'_>, mark: u32) -> Result<(), Errno> {
    let value: *const u32 = &raw const mark;
    // SAFETY: reads the four bytes of `mark`, which lives until after the call; keeps nothing.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_MARK, value.cast(), 4) };
    if result == 0 {
        Ok(())
    } else {
        Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL))
    }
}

/// Routes, rules, the tun and the mark all want `CAP_NET_ADMIN`.
pub(crate) fn may_capture() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::NET_ADMIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_needs_the_privilege_and_its_lack_is_an_error_not_an_unmarked_socket() {
        let socket = upstream_socket("192.0.2.1:80".parse().unwrap(), 5);
        if may_capture() {
            assert!(socket.is_ok());
        } else {
            assert_eq!(socket.unwrap_err(), Errno::PERM);
        }
    }
}
