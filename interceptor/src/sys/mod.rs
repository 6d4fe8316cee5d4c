//! Everything that is the operating system's: the contract is written here once, each OS implements it in its own file.
//! The only place with unsafe code. Decides nothing.
//!
//! - `SocketOwners::open(device)`, `connecting(four_tuple)`: the local socket that sends a SYN now; `is_still(four_tuple,
//!   cookie)`: whether it is that one yet
//! - `Programs::load(services)`, `watch_connects(cgroup)`, `watch_tun(index, hook)`, `want(..)`, `read(..)`: who made a
//!   socket and who connects it
//! - `upstream_socket(address, mark)`: a TCP socket, not blocking, whose packets do not enter our own tun
//! - `Signals::take()`, `ends_us()`: the signals that end the program, as a descriptor
//! - `may_capture()`: whether this process has the privilege that capture needs
//! - `bound(descriptors)`: how many descriptors this process may have, and no core file
//! - `inherited()`: descriptors that the service manager passes at the start, by their names
//! - `give_up(directory, sandbox)`: everything that serving does not need, once all of it is open

mod inherited;
#[cfg(target_os = "linux")]
pub(crate) mod linux;
pub(crate) use inherited::inherited;
#[cfg(target_os = "linux")]
pub use linux::bpf::{Connecting, GroupList, KeptPrograms, ProgramError, Programs, Record, TunHook};
#[cfg(all(target_os = "linux", feature = "fuzzing"))]
pub use linux::fuzzing;
#[cfg(target_os = "linux")]
pub(crate) use linux::{
    diag::SocketOwners,
    privilege::{Missing, PrivilegeError, bound, give_up},
    signals::Signals,
    socket::{may_capture, upstream_socket},
    tun::Tun,
};
