//! The tun device: one packet a read, one packet a write. Sets no addresses and looks into no packet.
//!
//! Its last close takes addresses and routes away, by whatever way the process ends. The interface itself goes then too
//! where the kernel can do that (TUNSTRANSIENT); else when this is dropped, or at the next start.

use super::control::{self, Control};
use crate::sys::bsd::address::{AF_INET, AF_INET6};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::rc::Rc;

/// For who finds no tun.
pub(crate) const NO_TUN: &str = "there is no tun driver: load the module if_tuntap";

/// By this an interface is recognised that a killed run left.
const DESCRIPTION: &str = "imds-filterd";

const TUNGIFNAME: libc::c_ulong = control::tell(b't', 93, 32);
const TUNSIFMODE: libc::c_ulong = control::set(b't', 94, 4);
const TUNSIFHEAD: libc::c_ulong = control::set(b't', 96, 4);
const TUNSTRANSIENT: libc::c_ulong = control::set(b't', 98, 4);

/// An open tun. It goes, with its routes and addresses, when the last hold on it is dropped or the process ends.
#[derive(Debug, Clone)]
pub struct Tun(Rc<Device>);

/// Dropped in this order: the kernel destroys it only when nobody has it open.
#[derive(Debug)]
struct Device {
    file: File,
    interface: Interface,
}

/// An interface of ours, by its name; goes with this.
#[derive(Debug)]
struct Interface(String);

impl Drop for Interface {
    fn drop(&mut self) {
        if let Ok(control) = Control::open() {
            let _ = destroy_own(&control, &self.0);
        }
    }
}

impl Tun {
    /// Makes the device `name`. What a killed run left under that name goes before.
    ///
    /// # Errors
    /// `EEXIST` if an interface of that name exists that is not ours.
    pub(super) fn make(control: &Control, name: &str) -> io::Result<Self> {
        destroy_own(control, name)?;
        let made = control.create("tun")?;
        let file = open(&made).inspect_err(|_| drop(control.destroy(&made)))?;
        // before it has another name: one that has not is not ours to destroy
        control.describe(&made, DESCRIPTION)?;
        let mut device = Device { file, interface: Interface(made.clone()) };
        set(&device.file, TUNSIFHEAD, 1)?;
        // without IFF_MULTICAST: no link-local address, no look for duplicates, no router solicitations in the tun
        set(&device.file, TUNSIFMODE, libc::IFF_POINTOPOINT)?;
        match set(&device.file, TUNSTRANSIENT, 1) {
            // older than that
            Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => {}
            other => other?,
        }
        if made != name {
            control.rename(&made, name)?;
            device.interface.0 = name.into();
        }
        Ok(Self(Rc::new(device)))
    }

    /// Takes over a tun that the service manager kept for us.
    #[must_use]
    pub fn adopt(descriptor: OwnedFd) -> Self {
        let file = File::from(descriptor);
        // without a name it destroys nothing
        let name = control::told_name(file.as_fd(), TUNGIFNAME).unwrap_or_else(|_| String::new());
        Self(Rc::new(Device { file, interface: Interface(name) }))
    }

    /// # Errors
    /// `WouldBlock` when no packet waits.
    pub fn read(&self, packet: &mut [u8]) -> io::Result<usize> {
        let mut family = [0; 4];
        let mut place = [IoSliceMut::new(&mut family), IoSliceMut::new(packet)];
        let length = (&self.0.file).read_vectored(&mut place)?;
        length.checked_sub(4).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// # Errors
    /// `InvalidInput` for what is not an IP packet; what the kernel says.
    pub fn write(&self, packet: &[u8]) -> io::Result<usize> {
        let family = match packet.first().map(|first| first >> 4) {
            Some(4) => AF_INET,
            Some(6) => AF_INET6,
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        let family = u32::from(family).to_be_bytes();
        let length = (&self.0.file).write_vectored(&[IoSlice::new(&family), IoSlice::new(packet)])?;
        Ok(length.saturating_sub(4))
    }

    /// The device's name now: root may have renamed it.
    ///
    /// # Errors
    /// When it is gone.
    pub(crate) fn name(&self) -> io::Result<String> {
        control::told_name(self.as_fd(), TUNGIFNAME)
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.file.as_fd()
    }
}

fn set(device: &File, code: libc::c_ulong, value: libc::c_int) -> io::Result<()> {
    control::request(device.as_fd(), code, &mut value.to_ne_bytes())
}

/// Removes the interface `name` if it is ours.
pub(super) fn destroy_own(control: &Control, name: &str) -> io::Result<()> {
    let gone = |error: &io::Error| matches!(error.raw_os_error(), Some(libc::ENXIO | libc::EINVAL));
    match control.description(name) {
        Err(error) if gone(&error) => Ok(()),
        Err(error) => Err(error),
        Ok(description) if description == DESCRIPTION => match control.destroy(name) {
            Err(error) if gone(&error) => Ok(()),
            other => other,
        },
        Ok(_) => Err(io::Error::from_raw_os_error(libc::EEXIST)),
    }
}

fn open(name: &str) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(format!("/dev/{name}"))
}
