//! Asks the kernel whether a socket without our mark would be let out by a certain link. Sends no packet where it is not.

use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, bind, connect, send, socket_with, sockopt,
};
use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// asm-generic/socket.h; by index, so that a link's new name does not matter.
const SO_BINDTOIFINDEX: libc::c_int = 62;

/// Whether connecting a datagram socket (which sends nothing) bound to `link`, and to `source`, succeeds. What the
/// kernel refuses, for whatever reason, is not a way out.
///
/// # Errors
/// The question could not be asked.
pub(crate) fn would_leave(to: SocketAddr, link: Option<u32>, source: Option<Ipv6Addr>) -> io::Result<bool> {
    Ok(connected(to, link, source)?.is_some())
}

/// Whether an empty datagram is let out by `link`: what refuses packets, not routes, is asked only by one. It goes
/// one hop far, to the service's port, where nothing listens for datagrams.
///
/// # Errors
/// The question could not be asked.
pub(crate) fn leaves(to: SocketAddr, link: u32) -> io::Result<bool> {
    let Some(socket) = connected(to, Some(link), None)? else { return Ok(false) };
    if to.is_ipv4() {
        sockopt::set_ip_ttl(&socket, 1)?;
    } else {
        sockopt::set_ipv6_unicast_hops(&socket, Some(1))?;
    }
    Ok(send(&socket, &[], SendFlags::empty()).is_ok())
}

/// A datagram socket bound to `link` and `source`; none if the kernel refuses to connect it.
fn connected(to: SocketAddr, link: Option<u32>, source: Option<Ipv6Addr>) -> io::Result<Option<OwnedFd>> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = match socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None) {
        Ok(socket) => socket,
        Err(rustix::io::Errno::AFNOSUPPORT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if let Some(link) = link {
        match bind_to_link(socket.as_fd(), link) {
            // the link went away meanwhile
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
            other => other?,
        }
    }
    if let Some(source) = source {
        sockopt::set_ipv6_freebind(&socket, true)?;
        if bind(&socket, &SocketAddrV6::new(source, 0, 0, 0)).is_err() {
            return Ok(None);
        }
    }
    Ok(connect(&socket, &to).is_ok().then_some(socket))
}

fn bind_to_link(socket: BorrowedFd<'_>, link: u32) -> io::Result<()> {
    let length = size_of::<u32>() as libc::socklen_t;
    let place = &raw const link;
    // SAFETY: reads `length` bytes, the size of `link`, at `place`, which lives past the call; keeps nothing.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_BINDTOIFINDEX, place.cast(), length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
