//! FreeBSD: tun, routes, /dev/bpf, getcred, kqueue. Decides nothing: what follows from an answer stands with the caller,
//! what is plain code in `bsd`.

mod bpf;
pub(crate) mod capture;
mod control;
pub(crate) mod owners;
pub(crate) mod privilege;
pub(crate) mod programs;
mod routing;
pub(crate) mod signals;
pub(crate) mod socket;
mod sysctl;
pub(crate) mod tun;

// the layouts in `bsd` are those of 64-bit machines
const _: () = assert!(size_of::<usize>() == 8);
const _: () = assert!(size_of::<libc::if_msghdr>() == 168);
const _: () = assert!(size_of::<libc::ifa_msghdr>() == 20);
const _: () = assert!(size_of::<libc::sockaddr_dl>() == 54);
const _: () = assert!(size_of::<libc::xucred>() == super::bsd::credential::XUCRED);
