//! Everything that is the operating system's: the contract is written here once, each OS implements it in its own file.
//! The only place with unsafe code. Decides nothing.
//!
//! - `SocketOwners::open(device)`, `uid_of_connecting(four_tuple)`: who owns the local socket that sends a SYN now
//! - `upstream_socket(address, mark)`: a TCP socket, not blocking, whose packets do not enter our own tun
//! - `Signals::take()`, `ends_us()`: the signals that end the program, as a descriptor
//! - `may_capture()`: whether this process has the privilege that capture needs

#[cfg(target_os = "linux")]
pub(crate) mod linux;
#[cfg(target_os = "linux")]
pub(crate) use linux::{
    diag::SocketOwners,
    signals::Signals,
    socket::{may_capture, upstream_socket},
    tun::Tun,
};
