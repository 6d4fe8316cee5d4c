//! Everything that is the operating system's: the contract is written here once, each OS implements it in its own file.
//! The only place with unsafe code. Decides nothing.
//!
//! - `Capture::up(settings)`, `up_with(settings, tun)`, `notification_sockets()`, `notified(now)`, `next_check()`,
//!   `stirred(now)`, `check(now)`, `health()`, `guard_name()`, `watch_forwarded(mode)`, `forwarded()`, `leave()`, `down()`;
//!   `release(settings)`: what leads clients to us and keeps them from the service, put up, kept up and taken away
//! - `Tun::adopt(descriptor)`, `read(packet)`, `write(packet)`: one bare IP packet each; `NO_TUN`: what to do without one
//! - `SocketOwners::open(device)`, `connecting(four_tuple)`: the local socket that sends a SYN now; `is_still(four_tuple,
//!   cookie)`: whether it is that one yet; `TELLS_GROUPS`: whether it knows the groups, too
//! - `Programs::load(services, pace)`, `adopt(kept)`, `watch_connects(cgroup)`, `watch_tun(index, hook)`, `want(..)`,
//!   `read(..)`: whether that was all, `parts()`; `KeptPrograms::take(find)`: who made a socket and who connects it
//! - `Outward::new(settings)`, `socket(address)`: a TCP socket, not blocking, whose packets get past our own tun; then
//!   `dialled(socket, address)`, and `connected(way)` or, before it is closed, `forget(way)`; `carries(packet)`: whether
//!   a packet from the tun is such a socket's, and is on its way now; `LETS_GO`: whether the socket may be another's
//!   before it is connected
//! - `peer_uid(socket)`: who is at the other end of a unix socket
//! - `Signals::take()`, `ends_us()`: the signals that end the program, as a descriptor
//! - `may_capture()`: whether this process has the privilege that capture needs
//! - `bound(descriptors)`: how many descriptors this process may have, and no core file
//! - `inherited()`: descriptors that the service manager passes at the start, by their names
//! - `give_up(directory, sandbox)`: everything that serving does not need, once all of it is open

#[cfg(any(target_os = "freebsd", test))]
mod bsd;
#[cfg(target_os = "freebsd")]
mod freebsd;
mod inherited;
#[cfg(target_os = "linux")]
pub(crate) mod linux;

#[cfg(target_os = "freebsd")]
use freebsd as system;
#[cfg(target_os = "linux")]
use linux as system;

pub(crate) use inherited::inherited;
#[cfg(all(target_os = "linux", feature = "fuzzing"))]
pub use linux::fuzzing;
pub use system::capture::{Capture, release};
pub use system::programs::{Connecting, GroupList, KeptPrograms, ProgramError, Programs, Record, TunHook};
pub use system::tun::Tun;
pub(crate) use system::{
    owners::SocketOwners,
    privilege::{Missing, PrivilegeError, bound, give_up},
    signals::Signals,
    socket::{Outward, Way, may_capture, peer_uid},
    tun::NO_TUN,
};
