//! Upstream sockets and the privilege they need.
//! Must not connect: an unmarked socket would come back to our own tun, so the mark is on before the caller has it.

use imds_settings::Settings;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with, sockopt};
use rustix::thread::{CapabilitySet, capabilities};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// The way to the service past our own tun. Here the mark is all that it takes: the kernel's rules know it.
pub(crate) struct Outward {
    mark: u32,
}

/// A socket's way out. Here none has one of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way;

impl Outward {
    /// The mark goes with it.
    pub(crate) const LETS_GO: bool = true;

    pub(crate) fn new(settings: &Settings) -> Self {
        Self { mark: settings.capture.mark }
    }

    /// A TCP socket for `address`, marked, not blocking, without Nagle's delay.
    pub(crate) fn socket(&mut self, address: SocketAddr) -> Result<OwnedFd, Errno> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
        set_mark(socket.as_fd(), self.mark)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        Ok(socket)
    }

    #[expect(clippy::unnecessary_wraps, reason = "the contract")]
    pub(crate) fn dialled(&mut self, _socket: &OwnedFd, _address: SocketAddr) -> Result<Way, Errno> {
        Ok(Way)
    }

    pub(crate) fn connected(&mut self, _way: Way) {}

    pub(crate) fn forget(&mut self, _way: Way) {}

    /// Marked packets never come to the tun.
    pub(crate) fn carries(&mut self, _packet: &[u8]) -> bool {
        false
    }
}

/// Of who connected or listened at the other end.
pub(crate) fn peer_uid(socket: &OwnedFd) -> io::Result<u32> {
    Ok(sockopt::socket_peercred(socket)?.uid.as_raw())
}

fn set_mark(socket: BorrowedFd<'_>, mark: u32) -> Result<(), Errno> {
    let value: *const u32 = &raw const mark;
    // SAFETY: reads the four bytes of `mark`, which lives until after the call; keeps nothing.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_MARK, value.cast(), 4) };
    if result == 0 {
        Ok(())
    } else {
        Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL))
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
        let socket = Outward::new(&Settings::default()).socket("192.0.2.1:80".parse().unwrap());
        if may_capture() {
            assert!(socket.is_ok());
        } else {
            assert_eq!(socket.unwrap_err(), Errno::PERM);
        }
    }
}
