//! FreeBSD's byte formats, and what follows from them: routing messages, credentials, frames, whose packet it is. Plain
//! code without a system call, so that its tests run on every system. Decides no identity.
//!
//! Layouts are those of 64-bit machines (sys/net/route.h, net/if.h, net/if_dl.h, netinet/in.h, sys/ucred.h; the same in
//! 14 and 15).
#![deny(unsafe_code)]
#![cfg_attr(not(target_os = "freebsd"), allow(dead_code))]

pub(crate) mod address;
pub(crate) mod credential;
pub(crate) mod frame;
pub(crate) mod links;
pub(crate) mod own;
pub(crate) mod recipe;
pub(crate) mod route;
pub(crate) mod way;

/// A part of `bytes`, if it is there.
pub(crate) fn at<const N: usize>(bytes: &[u8], from: usize) -> Option<[u8; N]> {
    bytes.get(from..)?.first_chunk().copied()
}

pub(crate) fn u16_at(bytes: &[u8], from: usize) -> Option<u16> {
    at(bytes, from).map(u16::from_ne_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], from: usize) -> Option<u32> {
    at(bytes, from).map(u32::from_ne_bytes)
}
