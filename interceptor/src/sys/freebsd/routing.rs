//! The kernel's routing tables, one for each FIB: listed, changed, listened to. Decides nothing.

use super::sysctl;
use crate::sys::bsd::links::{self, Link};
use crate::sys::bsd::route::{self, Route};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socket_with};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

const FAMILIES: [libc::c_int; 2] = [libc::AF_INET, libc::AF_INET6];
/// Of what is said while one look at the socket goes on; an overrun means "compare all".
const MOST_MESSAGES: usize = 1024;
/// Routing messages are a few hundred bytes.
const MESSAGE: usize = 2048;

/// How many routing tables the kernel has; may grow at run time.
pub(super) fn fibs() -> io::Result<u32> {
    sysctl::number(c"net.fibs")
}

/// The table that our own sockets use.
pub(super) fn own_fib() -> io::Result<u32> {
    sysctl::number(c"net.my_fibnum")
}

/// All routes of a FIB, of both families.
pub(super) fn table(fib: u32) -> io::Result<Vec<Route>> {
    let fib = libc::c_int::try_from(fib).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut routes = Vec::new();
    for family in FAMILIES {
        let name = [libc::CTL_NET, libc::PF_ROUTE, 0, family, libc::NET_RT_DUMP, 0, fib];
        match sysctl::listing(&name) {
            Ok(listing) => routes.extend(route::table(&listing)),
            // a kernel without that family
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(routes)
}

pub(super) fn links() -> io::Result<Vec<Link>> {
    let name = [libc::CTL_NET, libc::PF_ROUTE, 0, 0, libc::NET_RT_IFLIST, 0];
    Ok(links::links(&sysctl::listing(&name)?))
}

/// Who has which Ethernet address, by ARP and by neighbour discovery.
pub(super) fn neighbours() -> io::Result<Vec<(std::net::IpAddr, u16, [u8; 6])>> {
    let mut found = Vec::new();
    for family in FAMILIES {
        let name = [libc::CTL_NET, libc::PF_ROUTE, 0, family, libc::NET_RT_FLAGS, libc::RTF_LLINFO];
        match sysctl::listing(&name) {
            Ok(listing) => found.extend(route::neighbours(&listing)),
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// A routing socket of a FIB: it changes and hears that one.
fn socket(fib: u32) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // AF_ROUTE has no constant there
    let family = AddressFamily::from_raw(AF_ROUTE);
    let socket = socket_with(family, SocketType::RAW, flags, None)?;
    set_fib(socket.as_fd(), fib)?;
    Ok(socket)
}

const AF_ROUTE: u16 = 17;

fn set_fib(socket: BorrowedFd<'_>, fib: u32) -> io::Result<()> {
    let length = size_of::<u32>() as libc::socklen_t;
    let place: *const u32 = &raw const fib;
    // SAFETY: reads the four bytes of `fib`, which lives past the call; keeps nothing.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_SETFIB, place.cast(), length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn tell(fib: u32, message: &[u8]) -> io::Result<()> {
    rustix::io::write(socket(fib)?, message)?;
    Ok(())
}

/// False if there is one with that destination that ours cannot take the place of.
pub(super) fn add(fib: u32, route: &Route) -> io::Result<bool> {
    match tell(fib, &route.message(route::ADD, 1)) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        other => other.map(|()| true),
    }
}

/// One that is not there is deleted already.
pub(super) fn delete(fib: u32, route: &Route) -> io::Result<()> {
    match tell(fib, &route.message(route::DELETE, 1)) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        other => other,
    }
}

/// What was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Drained {
    Quiet,
    Relevant,
    Overrun,
}

/// Tells of changes of a FIB's routes, and of interfaces.
pub(super) struct Notifications(OwnedFd);

impl Notifications {
    pub(super) fn of(fib: u32) -> io::Result<Self> {
        Ok(Self(socket(fib)?))
    }

    /// Reads all that waits.
    pub(super) fn drain(&self, concerns: impl Fn(u8, &[u8]) -> bool) -> io::Result<Drained> {
        let mut found = Drained::Quiet;
        let mut buffer = [0; MESSAGE];
        for _ in 0..MOST_MESSAGES {
            match recv(&self.0, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((length, _)) => {
                    let bytes = buffer.get(..length).unwrap_or(&[]);
                    if route::messages(bytes).any(|(kind, message)| concerns(kind, message)) {
                        found = Drained::Relevant;
                    }
                }
                Err(Errno::AGAIN) => return Ok(found),
                Err(Errno::INTR) => {}
                Err(Errno::NOBUFS) => return Ok(Drained::Overrun),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Drained::Overrun)
    }
}

impl AsFd for Notifications {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
