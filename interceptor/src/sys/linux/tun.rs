//! The tun device: one packet a read, one packet a write. Sets no addresses and looks into no packet.

use std::ffi::c_short;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

/// For who finds no tun.
pub(crate) const NO_TUN: &str = "/dev/net/tun is missing: load the module tun";

/// One queue, bare IP packets, and a new device or none. IFF_TUN_EXCL is the sign bit of the 16: the bits are meant.
const FLAGS: c_short = (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_TUN_EXCL) as c_short;

/// An open tun. It goes, with its routes and addresses, when this is dropped or the process ends.
#[derive(Debug)]
pub struct Tun {
    file: File,
}

/// `struct ifreq` as TUNSETIFF and TUNGETIFF use it: name, flags, and the rest of its union.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: c_short,
    rest: [u8; 22],
}

impl Tun {
    /// Makes the device `name`, owned by root, not persistent, with one queue.
    ///
    /// # Errors
    /// `EBUSY` if a device of that name exists, whoever made it: one with another owner could be read by that owner.
    pub(crate) fn make(name: &str) -> io::Result<Self> {
        let mut request = InterfaceRequest { name: [0; 16], flags: FLAGS, rest: [0; 22] };
        // the last byte stays NUL
        for (place, byte) in request.name.iter_mut().take(15).zip(name.bytes()) {
            *place = byte;
        }

        let tun = Self { file: open()? };
        tun.set_interface(&mut request)?;
        tun.set_owner_root()?;
        Ok(tun)
    }

    /// Takes over a tun that the service manager kept for us.
    #[must_use]
    pub fn adopt(fd: OwnedFd) -> Self {
        Self { file: File::from(fd) }
    }

    /// # Errors
    /// `WouldBlock` when no packet waits; `EBADFD` when somebody deleted the device.
    pub fn read(&self, packet: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(packet)
    }

    /// # Errors
    /// `EIO` while the device is down; `EINVAL` for what is not an IP packet.
    pub fn write(&self, packet: &[u8]) -> io::Result<usize> {
        (&self.file).write(packet)
    }

    /// A second hold on the same device.
    pub(crate) fn share(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()? })
    }

    /// The device's name now: root may have renamed it.
    ///
    /// # Errors
    /// `EBADFD` when somebody deleted the device.
    pub(crate) fn name(&self) -> io::Result<String> {
        let mut request = InterfaceRequest { name: [0; 16], flags: 0, rest: [0; 22] };
        let place = &raw mut request;
        // SAFETY: TUNGETIFF writes one `struct ifreq`, whose size InterfaceRequest has, at `place`; keeps nothing.
        let result = unsafe { libc::ioctl(self.file.as_raw_fd(), libc::TUNGETIFF, place) };
        checked(result)?;
        let name = request.name.split(|byte| *byte == 0).next().unwrap_or(&[]);
        String::from_utf8(name.to_vec()).map_err(|_| io::ErrorKind::InvalidData.into())
    }

    fn set_interface(&self, request: &mut InterfaceRequest) -> io::Result<()> {
        let place: *mut InterfaceRequest = request;
        // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, whose size InterfaceRequest has, at `place`; keeps
        // nothing.
        let result = unsafe { libc::ioctl(self.file.as_raw_fd(), libc::TUNSETIFF, place) };
        checked(result)
    }

    /// Without an owner, whoever may open /dev/net/tun (everybody) may attach to a tun that nobody holds.
    fn set_owner_root(&self) -> io::Result<()> {
        let root: libc::c_ulong = 0;
        // SAFETY: TUNSETOWNER takes a uid by value and touches no memory of ours.
        let result = unsafe { libc::ioctl(self.file.as_raw_fd(), libc::TUNSETOWNER, root) };
        checked(result)
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn open() -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")
}

fn checked(result: libc::c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_has_the_size_of_the_kernels() {
        assert_eq!(size_of::<InterfaceRequest>(), size_of::<libc::ifreq>());
    }
}
