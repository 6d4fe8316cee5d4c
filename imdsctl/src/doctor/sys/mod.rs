//! What the ways need of the system; decides nothing.
//!
//! Each system's file implements, with `Unsupported` where there is no such thing:
//! - `bind_device(socket, link)`, `multipath()`, `enter_user_namespace()`, `mark(socket)`

#[cfg(target_os = "freebsd")]
mod freebsd;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "freebsd")]
pub(super) use freebsd::{bind_device, enter_user_namespace, mark, multipath};
#[cfg(target_os = "linux")]
pub(super) use linux::{bind_device, enter_user_namespace, mark, multipath};
