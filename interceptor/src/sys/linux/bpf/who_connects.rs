//! The program that cgroups run before a connect(2): leaves with the socket who connects it, if to the service.
//! Must never refuse a connect, and must do nothing to those that go elsewhere.

use super::assembler::{Assembler, Call, Label, Reg, Unreachable, When, Width};
use super::types::{Types, TypesError};
use super::walk::{STACK, follow, keep};
use super::{Maps, record};
use Reg::{R0, R1, R2, R3, R4, R5, R6, R7, R8, R10};
use Width::{Bits32, Bits64};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// What is kept with a socket, in words: whether the others mean something, fsuid, process, nothing, name of the program.
pub(super) const WORDS: u32 = 4 + 16;
pub(super) const VALID: i16 = 0;
pub(super) const UID: i16 = 4;
pub(super) const PID: i16 = 8;
pub(super) const EXE: i16 = 16;

/// Of `struct bpf_sock_addr` in linux/bpf.h; address and port in network byte order.
const ADDRESS4: i16 = 4;
const ADDRESS6: i16 = 8;
const PORT: i16 = 24;
const TYPE: i16 = 32;
const SOCKET: i16 = 64;
const STREAM: i32 = 1;
/// Of `struct bpf_sock`.
const BOUND_TO: i16 = 0;

/// The kernel goes on with the connect.
const GO_ON: i32 = 1;
/// asm-generic/socket.h. With an empty name the socket is bound to none; unlike SO_BINDTOIFINDEX older kernels have it.
const SOL_SOCKET: i32 = 1;
const SO_BINDTODEVICE: i32 = 25;

/// Offsets of the members it reads.
pub(super) struct Offsets {
    task_cred: i32,
    cred_fsuid: i32,
    exe: Option<ExeOffsets>,
}

/// The way to a program's name, which is only for the log: a kernel that keeps it elsewhere tells all else.
struct ExeOffsets {
    task_memory: i32,
    memory_file: i32,
    file_entry: i32,
    entry_name: i32,
}

impl Offsets {
    pub(super) fn of(types: &Types) -> Result<Self, TypesError> {
        Ok(Self {
            task_cred: types.offset("task_struct", "cred")?,
            cred_fsuid: types.offset("cred", "fsuid")?,
            exe: ExeOffsets::of(types).ok(),
        })
    }
}

impl ExeOffsets {
    fn of(types: &Types) -> Result<Self, TypesError> {
        Ok(Self {
            task_memory: types.offset("task_struct", "mm")?,
            memory_file: types.offset("mm_struct", "exe_file")?,
            file_entry: types.offset("file", "f_path")? + types.offset("path", "dentry")?,
            entry_name: types.offset("dentry", "d_name")? + types.offset("qstr", "name")?,
        })
    }
}

/// The two programs differ in how they see the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// R6: the connect. R7: its socket. R8: what is kept with it.
pub(super) fn program(
    family: Family,
    services: &[SocketAddr],
    offsets: &Offsets,
    maps: &Maps,
) -> Result<Vec<[u8; 8]>, Unreachable> {
    let a = &mut Assembler::default();
    let (ours, go_on) = (a.label(), a.label());
    a.copy(R6, R1);
    a.load(Bits32, R1, R6, TYPE);
    a.jump_if(R1, When::NotEqual, STREAM, go_on);
    for service in services {
        match family {
            Family::V4 => to_address4(a, *service, ours),
            Family::V6 => to_address6(a, *service, ours),
        }
    }
    a.jump(go_on);
    a.place(ours);
    a.load(Bits64, R7, R6, SOCKET);
    a.jump_if(R7, When::Equal, 0, go_on);
    keep_who_connects(a, offsets, maps);
    unbind(a, go_on);
    a.place(go_on);
    a.set(R0, GO_ON);
    a.end();
    std::mem::take(a).finish()
}

fn to_address4(a: &mut Assembler, service: SocketAddr, ours: Label) {
    let IpAddr::V4(ip) = service.ip() else { return };
    let other = a.label();
    a.load(Bits32, R1, R6, ADDRESS4);
    a.jump_if(R1, When::NotEqual32, i32::from_ne_bytes(ip.octets()), other);
    at_port(a, service.port(), ours);
    a.place(other);
}

/// An IPv4 service is reached from an IPv6 socket by its mapped address.
fn to_address6(a: &mut Assembler, service: SocketAddr, ours: Label) {
    let ip: Ipv6Addr = match service.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let other = a.label();
    for (at, word) in (ADDRESS6..).step_by(4).zip(ip.octets().as_chunks::<4>().0) {
        a.load(Bits32, R1, R6, at);
        a.jump_if(R1, When::NotEqual32, i32::from_ne_bytes(*word), other);
    }
    at_port(a, service.port(), ours);
    a.place(other);
}

fn at_port(a: &mut Assembler, port: u16, ours: Label) {
    a.load(Bits32, R1, R6, PORT);
    a.jump_if(R1, When::Equal, u16::from_ne_bytes(port.to_be_bytes()).into(), ours);
}

/// The task's own credentials: those of a set-uid program, or of who began an io_uring request. (What the kernel has a
/// helper for is the real uid, which such programs legitimately differ in.)
fn keep_who_connects(a: &mut Assembler, offsets: &Offsets, maps: &Maps) {
    const MAKE: i32 = 1;
    let unknown = a.label();
    a.map(R1, maps.connecting());
    a.copy(R2, R7);
    a.set(R3, 0);
    a.set(R4, MAKE);
    a.call(Call::SocketStorage);
    a.jump_if(R0, When::Equal, 0, unknown);
    a.copy(R8, R0);
    // of an earlier connect, perhaps
    a.store_number(Bits32, R8, VALID, 0);
    for at in (EXE..EXE + record::EXE_LENGTH).step_by(8) {
        a.store_number(Bits64, R8, at, 0);
    }
    a.call(Call::CurrentTask);
    follow(a, R0, R0, offsets.task_cred, unknown);
    keep(a, (R8, UID), R0, offsets.cred_fsuid, unknown);
    a.call(Call::CurrentPid);
    a.shift_right(R0, 32);
    a.store(Bits32, R8, PID, R0);
    a.store_number(Bits32, R8, VALID, 1);
    if let Some(offsets) = &offsets.exe {
        keep_program(a, offsets, unknown);
    }
    a.place(unknown);
}

/// The name of the file that the task runs, cut to what there is room for. A task of the kernel has none.
fn keep_program(a: &mut Assembler, offsets: &ExeOffsets, none: Label) {
    a.call(Call::CurrentTask);
    follow(a, R0, R0, offsets.task_memory, none);
    follow(a, R0, R0, offsets.memory_file, none);
    follow(a, R0, R0, offsets.file_entry, none);
    follow(a, R0, R0, offsets.entry_name, none);
    a.copy(R3, R0);
    a.copy(R1, R8);
    a.add(R1, EXE.into());
    a.set(R2, record::EXE_LENGTH.into());
    a.call(Call::ReadKernelText);
}

/// Takes a socket off the device it is bound to, so that it meets the tun. The kernel lets only processes that may use
/// raw sockets do that; for others it stays bound, and the guard refuses it.
fn unbind(a: &mut Assembler, go_on: Label) {
    a.load(Bits32, R1, R7, BOUND_TO);
    a.jump_if(R1, When::Equal, 0, go_on);
    a.store_number(Bits64, R10, STACK, 0);
    a.copy(R1, R6);
    a.set(R2, SOL_SOCKET);
    a.set(R3, SO_BINDTODEVICE);
    a.copy(R4, R10);
    a.add(R4, STACK.into());
    a.set(R5, 4);
    a.call(Call::SetSocketOption);
}
