//! Linux: netlink, tun, socket options, signals. Decides nothing: what follows from an answer stands with the caller.

pub(crate) mod bpf;
mod calls;
pub(crate) mod capture;
pub(crate) mod diag;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub(crate) mod netlink;
pub(crate) mod nftables;
pub(crate) mod privilege;
pub(crate) mod rtnl;
pub(crate) mod signals;
pub(crate) mod socket;
pub(crate) mod sysctl;
pub(crate) mod tun;
pub(crate) mod unmarked;
pub(crate) mod xfrm;

// by the names of the contract
pub(crate) use {bpf as programs, diag as owners};
