//! FreeBSD, which has none of these. See the contract in `sys`.

use rustix::net::Protocol;
use std::io;
use std::os::fd::OwnedFd;

fn none<T>() -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no such thing"))
}

pub(in super::super) fn bind_device(_socket: &OwnedFd, _link: &str) -> io::Result<()> {
    none()
}

pub(in super::super) fn multipath() -> io::Result<Protocol> {
    none()
}

pub(in super::super) fn enter_user_namespace() -> io::Result<()> {
    none()
}

pub(in super::super) fn mark(_socket: &OwnedFd) -> io::Result<()> {
    none()
}
