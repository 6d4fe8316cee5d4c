//! A descriptor that is pushed where none is taken ends the channel. FreeBSD discards it and does not tell.
//! Tests nothing else of the channel: the rest stands with it.
#![cfg(target_os = "linux")]

use imds_ipc::MAX_MESSAGE;
use imds_ipc::channel::{ChannelError, receive, send};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::os::fd::AsFd;

#[test]
fn a_descriptor_pushed_where_none_is_taken_is_an_error() {
    let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    send(&a, b"x", Some(a.as_fd())).unwrap();
    assert_eq!(receive(&b, &mut [0; MAX_MESSAGE]), Err(ChannelError::Descriptor));
}
