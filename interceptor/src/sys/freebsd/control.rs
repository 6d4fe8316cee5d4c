//! ioctl(2): interfaces are made, named, given addresses and destroyed. Decides nothing.

use crate::sys::bsd::address::{AF_INET, mask, push_ip};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

// sys/ioccom.h
const OUT: libc::c_ulong = 0x4000_0000;
const IN: libc::c_ulong = 0x8000_0000;
const NONE: libc::c_ulong = 0x2000_0000;

const fn code(direction: libc::c_ulong, group: u8, number: u8, length: libc::c_ulong) -> libc::c_ulong {
    direction | length << 16 | (group as libc::c_ulong) << 8 | number as libc::c_ulong
}

/// The kernel reads that many bytes.
pub(super) const fn set(group: u8, number: u8, length: libc::c_ulong) -> libc::c_ulong {
    code(IN, group, number, length)
}

/// The kernel writes that many bytes.
pub(super) const fn tell(group: u8, number: u8, length: libc::c_ulong) -> libc::c_ulong {
    code(OUT, group, number, length)
}

pub(super) const fn plain(group: u8, number: u8) -> libc::c_ulong {
    code(NONE, group, number, 0)
}

/// IFNAMSIZ, with its final NUL
const NAME: usize = 16;
/// struct ifreq: a name and a union of sixteen bytes
pub(super) const REQUEST: usize = 32;

const SIOCSIFFLAGS: libc::c_ulong = set(b'i', 16, 32);
const SIOCGIFFLAGS: libc::c_ulong = code(IN | OUT, b'i', 17, 32);
const SIOCGIFINDEX: libc::c_ulong = code(IN | OUT, b'i', 32, 32);
const SIOCSIFNAME: libc::c_ulong = set(b'i', 40, 32);
const SIOCSIFDESCR: libc::c_ulong = set(b'i', 41, 32);
const SIOCGIFDESCR: libc::c_ulong = code(IN | OUT, b'i', 42, 32);
const SIOCSIFMTU: libc::c_ulong = set(b'i', 52, 32);
const SIOCIFDESTROY: libc::c_ulong = set(b'i', 121, 32);
const SIOCIFCREATE2: libc::c_ulong = code(IN | OUT, b'i', 124, 32);
/// struct in_aliasreq
const SIOCAIFADDR: libc::c_ulong = set(b'i', 43, 68);
/// struct in6_aliasreq
const SIOCAIFADDR_IN6: libc::c_ulong = set(b'i', 27, 136);

/// libc has it as a signed number of another width
const UP: u16 = 0x1;

/// `place` is what the code says: so many bytes, read, written or both, with no pointers in them.
pub(super) fn request(to: BorrowedFd<'_>, code: libc::c_ulong, place: &mut [u8]) -> io::Result<()> {
    if place.len() as libc::c_ulong != code >> 16 & 0x1fff {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the kernel reads and writes as many bytes as the code says, and `place` has that many; keeps nothing.
    let result = unsafe { libc::ioctl(to.as_raw_fd(), code, place.as_mut_ptr()) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The same, with the address of `more` and before it, if it is asked for, its length in the union. The kernel reads or
/// writes `more`, up to its NUL or that length.
fn request_with(
    to: BorrowedFd<'_>,
    code: libc::c_ulong,
    name: &str,
    with_length: bool,
    more: &mut [u8],
) -> io::Result<()> {
    if more.last() != Some(&0) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut value = Vec::new();
    if with_length {
        value.extend(more.len().to_ne_bytes());
    }
    // the union keeps the address as a number
    value.extend(more.as_mut_ptr().expose_provenance().to_ne_bytes());
    request(to, code, &mut named(name, &value))
}

/// A struct ifreq about the interface `name`.
pub(super) fn named(name: &str, value: &[u8]) -> [u8; REQUEST] {
    let mut place = [0; REQUEST];
    // the last byte of the name stays NUL
    place.iter_mut().take(NAME - 1).zip(name.bytes()).for_each(|(place, byte)| *place = byte);
    place.iter_mut().skip(NAME).zip(value).for_each(|(place, byte)| *place = *byte);
    place
}

fn name_in(place: &[u8; REQUEST]) -> io::Result<String> {
    let name = place.get(..NAME).and_then(|name| name.split(|byte| *byte == 0).next()).unwrap_or(&[]);
    String::from_utf8(name.to_vec()).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// The name that a device's own request wrote.
pub(super) fn told_name(device: BorrowedFd<'_>, code: libc::c_ulong) -> io::Result<String> {
    let mut place = [0; REQUEST];
    request(device, code, &mut place)?;
    name_in(&place)
}

/// Sockets on which interfaces are asked for things.
pub(super) struct Control {
    ipv4: OwnedFd,
    /// None where the kernel has no IPv6.
    ipv6: Option<OwnedFd>,
}

impl Control {
    pub(super) fn open() -> io::Result<Self> {
        let open = |family| socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
        let ipv6 = match open(AddressFamily::INET6) {
            Ok(socket) => Some(socket),
            Err(rustix::io::Errno::AFNOSUPPORT | rustix::io::Errno::PROTONOSUPPORT) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Self { ipv4: open(AddressFamily::INET)?, ipv6 })
    }

    pub(super) fn has_ipv6(&self) -> bool {
        self.ipv6.is_some()
    }

    /// A new interface of the kind `kind`; its name.
    pub(super) fn create(&self, kind: &str) -> io::Result<String> {
        let mut place = named(kind, &[]);
        request(self.ipv4.as_fd(), SIOCIFCREATE2, &mut place)?;
        name_in(&place)
    }

    /// Waits for everybody who has it open.
    pub(super) fn destroy(&self, name: &str) -> io::Result<()> {
        request(self.ipv4.as_fd(), SIOCIFDESTROY, &mut named(name, &[]))
    }

    pub(super) fn rename(&self, name: &str, new: &str) -> io::Result<()> {
        let mut new = new.as_bytes().to_vec();
        new.resize(NAME, 0);
        request_with(self.ipv4.as_fd(), SIOCSIFNAME, name, false, &mut new)
    }

    pub(super) fn describe(&self, name: &str, text: &str) -> io::Result<()> {
        let mut text = text.as_bytes().to_vec();
        text.push(0);
        request_with(self.ipv4.as_fd(), SIOCSIFDESCR, name, true, &mut text)
    }

    /// Empty if it has none, or a longer one than ours.
    pub(super) fn description(&self, name: &str) -> io::Result<String> {
        let mut text = [0; 64];
        match request_with(self.ipv4.as_fd(), SIOCGIFDESCR, name, true, &mut text) {
            // there is none
            Err(error) if error.raw_os_error() == Some(libc::ENOMSG) => return Ok(String::new()),
            other => other?,
        }
        let text = text.split(|byte| *byte == 0).next().unwrap_or(&[]);
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    pub(super) fn index(&self, name: &str) -> io::Result<u16> {
        let mut place = named(name, &[]);
        request(self.ipv4.as_fd(), SIOCGIFINDEX, &mut place)?;
        let index = place.get(NAME..).and_then(|value| value.first_chunk()).copied();
        index
            .map(u16::from_ne_bytes)
            .filter(|index| *index != 0)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn set_mtu(&self, name: &str, mtu: u16) -> io::Result<()> {
        let mtu = u32::from(mtu).to_ne_bytes();
        request(self.ipv4.as_fd(), SIOCSIFMTU, &mut named(name, &mtu))
    }

    fn flags(&self, name: &str) -> io::Result<[u8; 4]> {
        let mut place = named(name, &[]);
        request(self.ipv4.as_fd(), SIOCGIFFLAGS, &mut place)?;
        place
            .get(NAME..)
            .and_then(|value| value.first_chunk())
            .copied()
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    pub(super) fn is_up(&self, name: &str) -> io::Result<bool> {
        let [low, high, ..] = self.flags(name)?;
        Ok(u16::from_ne_bytes([low, high]) & UP != 0)
    }

    pub(super) fn raise(&self, name: &str) -> io::Result<()> {
        let [low, high, more @ ..] = self.flags(name)?;
        let [low, high] = (u16::from_ne_bytes([low, high]) | UP).to_ne_bytes();
        let [third, fourth] = more;
        request(self.ipv4.as_fd(), SIOCSIFFLAGS, &mut named(name, &[low, high, third, fourth]))
    }

    /// Gives a point-to-point interface an address, and (IPv4, which wants one) that of its other end.
    pub(super) fn add_address(&self, name: &str, address: IpAddr, other: IpAddr) -> io::Result<()> {
        match (address, &self.ipv6) {
            (IpAddr::V4(_), _) => request(self.ipv4.as_fd(), SIOCAIFADDR, &mut alias4(name, address, other)),
            (IpAddr::V6(_), Some(socket)) => {
                request(socket.as_fd(), SIOCAIFADDR_IN6, &mut alias6(name, address))
            }
            (IpAddr::V6(_), None) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

/// struct in_aliasreq: name, address, other end, mask, and a number that is 0.
fn alias4(name: &str, address: IpAddr, other: IpAddr) -> Vec<u8> {
    let mut bytes = named(name, &[]).get(..NAME).unwrap_or(&[]).to_vec();
    push_ip(&mut bytes, address, 0);
    push_ip(&mut bytes, other, 0);
    push_ip(&mut bytes, mask(false, 32), 0);
    bytes.resize(68, 0);
    debug_assert_eq!(bytes.get(NAME + 1), Some(&AF_INET));
    bytes
}

/// struct in6_aliasreq: name, address, other end (none), mask, flags, when it was given and its two lifetimes (for ever),
/// and a number that is 0.
fn alias6(name: &str, address: IpAddr) -> Vec<u8> {
    let mut bytes = named(name, &[]).get(..NAME).unwrap_or(&[]).to_vec();
    push_ip(&mut bytes, address, 0);
    bytes.resize(NAME + 28 + 28, 0);
    push_ip(&mut bytes, mask(true, 128), 0);
    bytes.truncate(NAME + 3 * 28);
    bytes.resize(NAME + 3 * 28 + 4 + 16, 0);
    bytes.extend([0xff; 8]);
    bytes.resize(136, 0);
    bytes
}
