//! The readers of what the kernel says, opened to fuzz targets. Only built with the feature `fuzzing`.
//! Must not read anything itself: what is tried here is what runs.

use super::netlink::messages;
use super::xfrm::Policy;
use super::{bpf, diag, nftables, rtnl};
use crate::attribution::Record;
use crate::netstack::FourTuple;

/// Reads a datagram of any netlink socket of ours in every way.
///
/// # Panics
/// When a policy, rule or route of a kind of ours is read as another one after it was written.
pub fn netlink(datagram: &[u8]) {
    for received in messages(datagram) {
        rtnl::fuzzing::read(received);
        nftables::fuzzed(received);
        let Some(policy) = Policy::read(received) else { continue };
        let again = policy.insertion().into_bytes();
        let again = messages(&again).find_map(Policy::read);
        if policy.plain {
            // the kernel gives the number
            assert_eq!(again, Some(Policy { index: 0, ..policy }));
        }
    }
}

/// The uid and the socket's number that this answer of sock_diag's gives for the four-tuple.
#[must_use]
pub fn owner_in(answer: &[u8], asked: &FourTuple, device: u32) -> Option<(u32, u64)> {
    let socket = diag::judge(answer, asked, device).and_then(diag::Found::connecting).ok()?;
    Some((socket.uid, socket.cookie))
}

/// What the program on the tun says of a socket.
#[must_use]
pub fn record(bytes: &[u8]) -> Option<Record> {
    bpf::fuzzed_record(bytes)
}

/// Where a description of the kernel's types puts a structure's member, in bytes.
#[must_use]
pub fn offset(description: &[u8], of: &'static str, name: &'static str) -> Option<i32> {
    bpf::fuzzed_offset(description, of, name)
}
