//! The program on the tun's way out: for each SYN, who made the socket that sends it, into the ring.
//! Must not let a SYN through that it had no room to record; must not record what it could not read; must not let anything
//! but TCP, or one user without end, take a SYN's place in the tun.

use super::assembler::{Assembler, Call, Label, Reg, Unreachable, When, Width};
use super::pace::keep_pace;
use super::types::{Types, TypesError};
use super::walk::{STACK, follow, keep, read};
use super::{Maps, record};
use crate::attribution::Pace;
use Reg::{R0, R1, R2, R3, R4, R6, R7, R8, R9, R10};
use Width::{Bits32, Bits64};

/// `TC_ACT_UNSPEC`: go on as if there were no program.
const PASS: i32 = -1;
/// `TC_ACT_SHOT`: as if the tun's queue were full. The client's kernel sends the SYN again.
const DROP: i32 = 2;
/// Of `struct __sk_buff` and `struct bpf_sock` in linux/bpf.h.
const PACKET_SOCKET: i16 = 168;
const SOCKET_TYPE: i16 = 8;
const SOCKET_PROTOCOL: i16 = 12;
const SOCKET_STATE: i16 = 72;
const RAW: i32 = 3;
const TCP: i32 = 6;
const SYN_SENT: i32 = 2;
/// user_namespaces(7): namespaces are nested 32 deep at most.
const NAMESPACES: usize = 33;
/// cgroups nested deeper than this have no unit known: a service manager makes ten, users as many as they like.
const CGROUPS: usize = 56;

/// Offsets of the members it reads.
pub(super) struct Offsets {
    sock_socket: i32,
    socket_file: i32,
    file_cred: i32,
    cred_fsuid: i32,
    cred_fsgid: i32,
    cred_groups: i32,
    cred_namespace: i32,
    groups_count: i32,
    groups_list: i32,
    namespace_level: i32,
    namespace_parent: i32,
    namespace_owner: i32,
    sock_cgroup: i32,
    cgroup_level: i32,
    cgroup_node: i32,
    cgroup_parent: i32,
    cgroup_self: i32,
    node_name: i32,
}

impl Offsets {
    pub(super) fn of(types: &Types) -> Result<Self, TypesError> {
        let at = |of, name| types.offset(of, name);
        let cgroup_self = at("cgroup", "self")?;
        Ok(Self {
            sock_socket: at("sock", "sk_socket")?,
            socket_file: at("socket", "file")?,
            file_cred: at("file", "f_cred")?,
            cred_fsuid: at("cred", "fsuid")?,
            cred_fsgid: at("cred", "fsgid")?,
            cred_groups: at("cred", "group_info")?,
            cred_namespace: at("cred", "user_ns")?,
            groups_count: at("group_info", "ngroups")?,
            groups_list: at("group_info", "gid")?,
            namespace_level: at("user_namespace", "level")?,
            namespace_parent: at("user_namespace", "parent")?,
            namespace_owner: at("user_namespace", "owner")?,
            // before 5.15 the pointer shares its word with flags in the lowest bits
            sock_cgroup: at("sock", "sk_cgrp_data")?
                + at("sock_cgroup_data", "cgroup").or_else(|_| at("sock_cgroup_data", "val"))?,
            cgroup_level: at("cgroup", "level")?,
            cgroup_node: at("cgroup", "kn")?,
            cgroup_parent: cgroup_self + at("cgroup_subsys_state", "parent")?,
            cgroup_self,
            node_name: at("kernfs_node", "name")?,
        })
    }
}

/// The ways out.
struct Exits {
    pass: Label,
    /// Without a record: of a socket without a file.
    unrecorded: Label,
    drop: Label,
}

/// R6: the packet, then how long the names are. R7: along the structures. R8: the record being made.
pub(super) fn program(
    offsets: &Offsets,
    maps: &Maps,
    pace: Option<Pace>,
) -> Result<Vec<[u8; 8]>, Unreachable> {
    let a = &mut Assembler::default();
    let exits = Exits { pass: a.label(), unrecorded: a.label(), drop: a.label() };
    a.copy(R6, R1);
    connecting_socket(a, &exits);
    empty_record(a, maps, &exits);
    who_connects(a, maps);
    what_is_wanted(a, maps, &exits);
    a.copy(R1, R6);
    a.call(Call::SocketCookie);
    a.store(Bits64, R8, record::COOKIE, R0);
    // for the pace alone, until it is known who made the socket
    a.copy(R1, R6);
    a.call(Call::SocketUid);
    a.store(Bits32, R8, record::UID, R0);
    a.copy(R1, R7);
    a.call(Call::TcpSocket);
    a.jump_if(R0, When::Equal, 0, exits.pass);
    a.copy(R7, R0);
    cgroup_names(a, offsets);
    credentials(a, offsets, &exits);
    if let Some(pace) = pace {
        keep_pace(a, maps, pace, exits.drop);
    }
    groups(a, offsets, &exits);
    output(a, maps, &exits);
    a.jump(exits.pass);
    a.place(exits.unrecorded);
    if let Some(pace) = pace {
        keep_pace(a, maps, pace, exits.drop);
    }
    a.place(exits.pass);
    a.set(R0, PASS);
    a.end();
    a.place(exits.drop);
    a.set(R0, DROP);
    a.end();
    std::mem::take(a).finish()
}

/// R7 = the packet's socket, R9 = the same in full. Only one that connects: an answer of ours or of others is no SYN.
fn connecting_socket(a: &mut Assembler, exits: &Exits) {
    a.load(Bits64, R7, R6, PACKET_SOCKET);
    a.jump_if(R7, When::Equal, 0, exits.pass);
    a.copy(R1, R7);
    a.call(Call::FullSocket);
    a.jump_if(R0, When::Equal, 0, exits.pass);
    a.copy(R9, R0);
    only_tcp(a, exits);
    a.load(Bits32, R1, R9, SOCKET_STATE);
    a.jump_if(R1, When::NotEqual, SYN_SENT, exits.pass);
}

/// What is no TCP would be thrown away when it is read; but anybody can send it faster than that, and SYNs would be lost.
/// For what raw sockets send, root has to answer.
fn only_tcp(a: &mut Assembler, exits: &Exits) {
    let may_pass = a.label();
    a.load(Bits32, R1, R9, SOCKET_TYPE);
    a.jump_if(R1, When::Equal, RAW, may_pass);
    a.load(Bits32, R1, R9, SOCKET_PROTOCOL);
    a.jump_if(R1, When::NotEqual, TCP, exits.drop);
    a.place(may_pass);
}

/// R8 = this processor's room for one record. No packet leaves twice at once on one processor.
fn empty_record(a: &mut Assembler, maps: &Maps, exits: &Exits) {
    only_entry(a, maps.scratch(), exits.drop);
    a.copy(R8, R0);
    for at in (0..record::HEADER).step_by(8) {
        a.store_number(Bits64, R8, at, 0);
    }
}

/// R0 = the one value of an array.
fn only_entry(a: &mut Assembler, map: std::os::fd::BorrowedFd<'_>, none: Label) {
    a.store_number(Bits32, R10, STACK, 0);
    a.map(R1, map);
    a.copy(R2, R10);
    a.add(R2, STACK.into());
    a.call(Call::MapLookup);
    a.jump_if(R0, When::Equal, 0, none);
}

/// What the other program left with the socket.
fn who_connects(a: &mut Assembler, maps: &Maps) {
    let unknown = a.label();
    a.map(R1, maps.connecting());
    a.copy(R2, R9);
    a.set(R3, 0);
    a.set(R4, 0);
    a.call(Call::SocketStorage);
    a.jump_if(R0, When::Equal, 0, unknown);
    for (from, to) in [
        (super::who_connects::VALID, record::CONNECTED),
        (super::who_connects::UID, record::CONNECTING_UID),
        (super::who_connects::PID, record::PID),
    ] {
        a.load(Bits32, R1, R0, from);
        a.store(Bits32, R8, to, R1);
    }
    for at in (0..record::EXE_LENGTH).step_by(8) {
        a.load(Bits64, R1, R0, super::who_connects::EXE + at);
        a.store(Bits64, R8, record::EXE + at, R1);
    }
    a.place(unknown);
}

fn what_is_wanted(a: &mut Assembler, maps: &Maps, exits: &Exits) {
    only_entry(a, maps.wanted(), exits.drop);
    a.load(Bits32, R1, R0, 0);
    a.store(Bits32, R8, record::WANTED, R1);
}

/// The names of the cgroups nearest the root, the deepest first, each with its NUL. R6 = their length. R9 goes up.
fn cgroup_names(a: &mut Assembler, offsets: &Offsets) {
    let (root, unknown, done) = (a.label(), a.label(), a.label());
    a.set(R6, 0);
    a.load(Bits32, R1, R8, record::WANTED);
    a.and(R1, record::WANTS_UNIT);
    a.jump_if(R1, When::Equal, 0, done);
    read(a, Bits64, R9, R7, offsets.sock_cgroup, unknown);
    // before 5.15: a socket that another kind of cgroup has classified has no pointer here
    a.jump_if(R9, When::AnyBitOf, 1, unknown);
    a.and(R9, -4);
    let top = a.label();
    for _ in 0..CGROUPS {
        level_of(a, offsets, unknown);
        a.jump_if(R0, When::AtMost, record::LEVELS, top);
        one_up(a, offsets, unknown);
    }
    a.jump(unknown);
    // apart from the way up to here: the verifier would follow each of the two at each step
    a.place(top);
    for _ in 0..record::LEVELS {
        level_of(a, offsets, unknown);
        a.jump_if(R0, When::Equal, 0, root);
        cgroup_name(a, offsets, unknown);
        one_up(a, offsets, unknown);
    }
    level_of(a, offsets, unknown);
    a.jump_if(R0, When::Equal, 0, root);
    a.place(unknown);
    a.set(R6, 0);
    a.jump(done);
    a.place(root);
    a.store_number(Bits32, R8, record::UNIT_KNOWN, 1);
    a.place(done);
    a.store(Bits32, R8, record::NAMES, R6);
}

/// R0 = how far below the root the cgroup R9 is.
fn level_of(a: &mut Assembler, offsets: &Offsets, unknown: Label) {
    a.jump_if(R9, When::Equal, 0, unknown);
    read(a, Bits32, R0, R9, offsets.cgroup_level, unknown);
}

fn one_up(a: &mut Assembler, offsets: &Offsets, unknown: Label) {
    // a pointer to its member `self`, the first in all kernels so far
    follow(a, R9, R9, offsets.cgroup_parent, unknown);
    a.add(R9, -offsets.cgroup_self);
}

fn cgroup_name(a: &mut Assembler, offsets: &Offsets, unknown: Label) {
    follow(a, R0, R9, offsets.cgroup_node, unknown);
    follow(a, R0, R0, offsets.node_name, unknown);
    a.copy(R3, R0);
    a.copy(R1, R8);
    a.add(R1, record::HEADER.into());
    a.add_register(R1, R6);
    a.set(R2, record::NAME);
    a.call(Call::ReadKernelText);
    a.jump_if(R0, When::Less, 1, unknown);
    a.add_register(R6, R0);
    // the verifier wants to see it
    a.jump_if(R6, When::Above, record::LEVELS * record::NAME, unknown);
}

/// R7 = the credentials the socket was made with.
fn credentials(a: &mut Assembler, offsets: &Offsets, exits: &Exits) {
    follow(a, R7, R7, offsets.sock_socket, exits.unrecorded);
    // a socket that was closed, or that the kernel made for itself or as a part of another
    follow(a, R7, R7, offsets.socket_file, exits.unrecorded);
    follow(a, R7, R7, offsets.file_cred, exits.pass);
    keep(a, (R8, record::UID), R7, offsets.cred_fsuid, exits.pass);
    keep(a, (R8, record::GID), R7, offsets.cred_fsgid, exits.pass);
    let done = a.label();
    follow(a, R9, R7, offsets.cred_namespace, exits.pass);
    for _ in 0..NAMESPACES {
        let up = a.label();
        read(a, Bits32, R0, R9, offsets.namespace_level, exits.pass);
        a.jump_if(R0, When::Equal, 0, done);
        a.jump_if(R0, When::NotEqual, 1, up);
        keep(a, (R8, record::NAMESPACE_OWNER), R9, offsets.namespace_owner, exits.pass);
        a.store_number(Bits32, R8, record::IN_NAMESPACE, 1);
        a.jump(done);
        a.place(up);
        follow(a, R9, R9, offsets.namespace_parent, exits.pass);
    }
    a.jump(exits.pass);
    a.place(done);
}

/// Behind the names. R7 = their length in bytes.
fn groups(a: &mut Assembler, offsets: &Offsets, exits: &Exits) {
    let (none, fit) = (a.label(), a.label());
    a.copy(R9, R7);
    a.set(R7, 0);
    a.load(Bits32, R1, R8, record::WANTED);
    a.and(R1, record::WANTS_GROUPS);
    a.jump_if(R1, When::Equal, 0, none);
    follow(a, R9, R9, offsets.cred_groups, exits.pass);
    read(a, Bits32, R7, R9, offsets.groups_count, exits.pass);
    a.store(Bits32, R8, record::GROUPS_HAD, R7);
    a.jump_if(R7, When::AtMost, record::GROUPS, fit);
    a.set(R7, record::GROUPS);
    a.place(fit);
    a.store(Bits32, R8, record::GROUPS_HERE, R7);
    a.shift_left(R7, 2);
    a.jump_if(R7, When::Equal, 0, none);
    a.copy(R3, R9);
    a.add(R3, offsets.groups_list);
    a.copy(R1, R8);
    a.add(R1, record::HEADER.into());
    a.add_register(R1, R6);
    a.copy(R2, R7);
    a.call(Call::ReadKernel);
    a.jump_if(R0, When::NotEqual, 0, exits.pass);
    a.place(none);
}

fn output(a: &mut Assembler, maps: &Maps, exits: &Exits) {
    const NO_WAKEUP: i32 = 1;
    a.map(R1, maps.ring());
    a.copy(R2, R8);
    a.copy(R3, R6);
    a.add_register(R3, R7);
    a.add(R3, record::HEADER.into());
    a.set(R4, NO_WAKEUP);
    a.call(Call::RingOutput);
    a.jump_if(R0, When::NotEqual, 0, exits.drop);
}
