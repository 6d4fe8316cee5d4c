//! /dev/bpf: writes whole Ethernet frames to one interface. Reads nothing and cannot be turned to another one.

use super::control::{self, named};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;

const BIOCGDLT: libc::c_ulong = control::tell(b'B', 106, 4);
const BIOCSETIF: libc::c_ulong = control::set(b'B', 108, 32);
const BIOCSHDRCMPLT: libc::c_ulong = control::set(b'B', 117, 4);
const BIOCLOCK: libc::c_ulong = control::plain(b'B', 122);
const ETHERNET: u32 = 1;

/// One instruction: keep no byte of any packet (BPF_RET | BPF_K, 0).
const NOTHING: [u8; 8] = {
    let [a, b] = 0x06_u16.to_ne_bytes();
    [a, b, 0, 0, 0, 0, 0, 0]
};

#[derive(Debug)]
pub(super) struct Frames(File);

impl Frames {
    /// # Errors
    /// `Unsupported` for an interface that is not Ethernet.
    pub(super) fn open(interface: &str) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK)
            .open("/dev/bpf")?;
        take_nothing(&file)?;
        control::request(file.as_fd(), BIOCSETIF, &mut named(interface, &[]))?;
        let mut kind = [0; 4];
        control::request(file.as_fd(), BIOCGDLT, &mut kind)?;
        if u32::from_ne_bytes(kind) != ETHERNET {
            return Err(io::ErrorKind::Unsupported.into());
        }
        // the sender's address is ours to write
        control::request(file.as_fd(), BIOCSHDRCMPLT, &mut 1_u32.to_ne_bytes())?;
        control::request(file.as_fd(), BIOCLOCK, &mut [])?;
        Ok(Self(file))
    }

    pub(super) fn send(&self, header: &[u8], packet: &[u8]) -> io::Result<()> {
        (&self.0).write_vectored(&[IoSlice::new(header), IoSlice::new(packet)]).map(drop)
    }
}

fn take_nothing(file: &File) -> io::Result<()> {
    #[repr(C)]
    struct Program {
        length: libc::c_uint,
        instructions: *const u8,
    }
    let program = Program { length: 1, instructions: NOTHING.as_ptr() };
    // SAFETY: reads one struct bpf_program, which Program is, and the one instruction it points to; keeps a copy.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::BIOCSETF, &raw const program) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
