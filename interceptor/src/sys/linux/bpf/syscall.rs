//! bpf(2): maps, programs, links. Each call as a short safe function.
//! Must not be needed once the program serves: by then a sandbox may forbid the call.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// `union bpf_attr` as of Linux 6.6, larger than any member used here. Kernels take a longer one if the rest is zero.
const ATTRIBUTES: usize = 144;
/// `BPF_OBJ_NAME_LEN`, with its NUL.
const NAME: usize = 16;
/// The helpers that read the kernel's memory want a licence that goes with the kernel's.
const LICENCE: &[u8; 13] = b"Dual BSD/GPL\0";
/// What the verifier says of a program it refuses.
const VERIFIER_LOG: usize = 1 << 20;
/// A signal, also one that stops us or wakes us up again, ends the verifier's work with EAGAIN (bpf_check() in
/// kernel/bpf/verifier.c). Each attempt takes milliseconds, so more signals than that are meant to keep us from starting.
const MAX_ATTEMPTS: u32 = 50;

#[derive(Debug, Clone, Copy)]
#[repr(i32)]
enum Command {
    MapCreate = 0,
    ProgramLoad = 5,
    TypesLoad = 18,
    LinkCreate = 28,
}

/// `enum bpf_map_type`.
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub(super) enum MapKind {
    Array = 2,
    PerCpuArray = 6,
    RecentlyUsed = 9,
    SocketStorage = 24,
    Ring = 27,
}

/// `enum bpf_prog_type`.
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub(super) enum ProgramKind {
    PacketClassifier = 3,
    SocketAddress = 18,
    Setting = 23,
}

/// `enum bpf_attach_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Hook {
    Connect4 = 10,
    Connect6 = 11,
    Setting = 18,
    LinkEgress = 47,
}

/// The bytes of a `union bpf_attr`.
struct Attributes([u8; ATTRIBUTES]);

impl Attributes {
    fn new() -> Self {
        Self([0; ATTRIBUTES])
    }
    fn bytes(mut self, at: usize, bytes: &[u8]) -> Self {
        for (place, byte) in self.0.iter_mut().skip(at).zip(bytes) {
            *place = *byte;
        }
        self
    }
    fn word(self, at: usize, value: u32) -> Self {
        self.bytes(at, &value.to_ne_bytes())
    }
    fn descriptor(self, at: usize, value: RawFd) -> Self {
        self.bytes(at, &value.to_ne_bytes())
    }
    fn place(self, at: usize, value: *const u8) -> Self {
        let address: u64 = value.addr().try_into().unwrap_or(0);
        self.bytes(at, &address.to_ne_bytes())
    }
    fn name(self, at: usize, name: &str) -> Self {
        self.bytes(at, name.as_bytes().get(..NAME - 1).unwrap_or(name.as_bytes()))
    }
}

/// All commands used here give a descriptor.
fn bpf(command: Command, attributes: &mut Attributes) -> io::Result<OwnedFd> {
    let place = attributes.0.as_mut_ptr();
    // SAFETY: the kernel reads the ATTRIBUTES bytes at `place`, and what the addresses in them point to: slices that
    // the functions below borrow until after the call. Of those it writes to the verifier's log alone, which is
    // borrowed mutably. It keeps none.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_long, place, ATTRIBUTES) };
    let descriptor = RawFd::try_from(result).ok().filter(|descriptor| *descriptor >= 0);
    let Some(descriptor) = descriptor else { return Err(io::Error::last_os_error()) };
    // SAFETY: the kernel has just made this descriptor for us (close-on-exec), and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// A map to be made. `key` and `value` in bytes.
pub(super) struct MapPlan<'a> {
    pub(super) kind: MapKind,
    pub(super) name: &'a str,
    pub(super) key: u32,
    pub(super) value: u32,
    pub(super) entries: u32,
    pub(super) flags: u32,
    /// Descriptions of key and value, where the kind wants them: number 1 and number 2 of these types.
    pub(super) types: Option<BorrowedFd<'a>>,
}

pub(super) fn make_map(plan: &MapPlan<'_>) -> io::Result<OwnedFd> {
    let mut attributes = Attributes::new()
        .word(0, plan.kind as u32)
        .word(4, plan.key)
        .word(8, plan.value)
        .word(12, plan.entries)
        .word(16, plan.flags)
        .name(28, plan.name);
    if let Some(types) = plan.types {
        attributes = attributes.descriptor(48, types.as_raw_fd()).word(52, 1).word(56, 2);
    }
    bpf(Command::MapCreate, &mut attributes)
}

/// # Errors
/// With the verifier's last words where it refused the program.
pub(super) fn load_program(
    kind: ProgramKind,
    name: &str,
    code: &[[u8; 8]],
    hook: Hook,
) -> io::Result<OwnedFd> {
    let count = u32::try_from(code.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // a classifier is loaded without naming its hook, as kernels before TCX want it
    let expected = match hook {
        Hook::Connect4 | Hook::Connect6 | Hook::Setting => hook as u32,
        Hook::LinkEgress => 0,
    };
    let attributes = || {
        Attributes::new()
            .word(0, kind as u32)
            .word(4, count)
            .place(8, code.as_ptr().cast())
            .place(16, LICENCE.as_ptr())
            .name(48, name)
            .word(68, expected)
    };
    undisturbed(|| bpf(Command::ProgramLoad, &mut attributes())).map_err(|error| {
        if error.kind() == io::ErrorKind::PermissionDenied || error.raw_os_error() == Some(libc::EINVAL) {
            let mut log = vec![0; VERIFIER_LOG];
            let length = u32::try_from(log.len()).unwrap_or(0);
            let asked = attributes().word(24, 1).word(28, length).place(32, log.as_mut_ptr());
            let again = bpf(Command::ProgramLoad, &mut { asked });
            if again.is_err() {
                return io::Error::new(error.kind(), format!("{error}: {}", last_words(&log)));
            }
        }
        error
    })
}

/// Tries again what a signal cut short.
fn undisturbed(load: impl Fn() -> io::Result<OwnedFd>) -> io::Result<OwnedFd> {
    for _ in 1..MAX_ATTEMPTS {
        match load() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
            done => return done,
        }
    }
    load()
}

/// The line before the verifier's statistics says what is wrong.
fn last_words(log: &[u8]) -> String {
    let text = String::from_utf8_lossy(log.split(|byte| *byte == 0).next().unwrap_or(&[]));
    let telling = |line: &&str| !line.starts_with("processed ") && !line.is_empty();
    text.lines().rev().find(telling).unwrap_or("no reason given").to_owned()
}

/// Types for a map whose key is a number and whose value is `words` of them (linux/btf.h).
pub(super) fn load_types(words: u32) -> io::Result<OwnedFd> {
    const NAMES: &[u8; 5] = b"\0int\0";
    let integer = [1, 1 << 24, 4, 32];
    let array = [0, 3 << 24, 0, 1, 1, words];
    let length = 4 * 10;
    let mut bytes = 0xeb9f_u16.to_ne_bytes().to_vec();
    bytes.extend([1, 0]);
    for word in [24, 0, length, length, 5].into_iter().chain(integer).chain(array) {
        bytes.extend(u32::to_ne_bytes(word));
    }
    bytes.extend(NAMES);
    let size = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    bpf(Command::TypesLoad, &mut Attributes::new().place(0, bytes.as_ptr()).word(16, size))
}

/// Attaches a program to a network link (by index) until the descriptor is closed.
pub(super) fn attach_to_link(program: BorrowedFd<'_>, index: u32, hook: Hook) -> io::Result<OwnedFd> {
    let attributes = Attributes::new().descriptor(0, program.as_raw_fd()).word(4, index);
    bpf(Command::LinkCreate, &mut attributes.word(8, hook as u32))
}

/// Attaches a program to a cgroup and all below it until the descriptor is closed.
pub(super) fn attach_to_cgroup(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    hook: Hook,
) -> io::Result<OwnedFd> {
    let attributes = Attributes::new().descriptor(0, program.as_raw_fd()).descriptor(4, cgroup.as_raw_fd());
    bpf(Command::LinkCreate, &mut attributes.word(8, hook as u32))
}
