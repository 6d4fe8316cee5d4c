//! A program as a classifier of a link's queue (tc-bpf(8)), for kernels before 6.6. Goes with the link.
//! Must not be put on a link that others use.

use super::super::netlink::{CREATE, MAKE, Message, Requests, Subsystem};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

const RTM_NEWQDISC: u16 = 36;
const RTM_NEWTFILTER: u16 = 44;
/// linux/pkt_sched.h: TC_H_CLSACT with the minors of the queue itself, and of what leaves.
const CLSACT: u32 = 0xffff_fff1;
const QUEUE: u32 = 0xffff_0000;
const EGRESS: u32 = 0xffff_fff3;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
/// The first priority, for packets of every protocol (`ETH_P_ALL`, in network byte order).
const PRIORITY_AND_PROTOCOL: u32 = 1 << 16 | 3_u16.to_be() as u32;

/// The filter's handle: ours is the only one.
const ONE: u32 = 1;

pub(super) fn attach(program: BorrowedFd<'_>, index: u32) -> io::Result<()> {
    let mut requests = Requests::open(Subsystem::Route)?;
    let queue = Message::new(RTM_NEWQDISC, CREATE).body(&tcmsg(index, QUEUE, CLSACT, 0));
    match requests.change(queue.attribute_name(TCA_KIND, "clsact")) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    // in the place of a former run's, at one moment: that one's ring is read by nobody, and when it is full no SYN leaves
    let filter = Message::new(RTM_NEWTFILTER, MAKE).body(&tcmsg(index, ONE, EGRESS, PRIORITY_AND_PROTOCOL));
    requests.change(filter.attribute_name(TCA_KIND, "bpf").attribute(TCA_OPTIONS, &options(program)))
}

/// `struct tcmsg`: family and padding, link, handle, parent, info.
fn tcmsg(index: u32, handle: u32, parent: u32, info: u32) -> [u8; 20] {
    let mut bytes = [0; 20];
    let words = [0, index, handle, parent, info];
    for (place, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(words) {
        *place = word.to_ne_bytes();
    }
    bytes
}

/// linux/pkt_cls.h
fn options(program: BorrowedFd<'_>) -> Vec<u8> {
    const TCA_BPF_FD: u16 = 6;
    const TCA_BPF_NAME: u16 = 7;
    const TCA_BPF_FLAGS: u16 = 8;
    // what the program gives back is the verdict
    const ACT_DIRECT: u32 = 1;
    let mut bytes = Vec::new();
    let mut attribute = |kind: u16, value: &[u8]| {
        // none comes near 64 KiB
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        bytes.extend(length.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    };
    attribute(TCA_BPF_FD, &program.as_raw_fd().to_ne_bytes());
    attribute(TCA_BPF_NAME, b"imds_who_made\0");
    attribute(TCA_BPF_FLAGS, &ACT_DIRECT.to_ne_bytes());
    bytes
}
