//! Where files are when nobody says otherwise. Reads none.
//!
//! - `SETTINGS`, `RULES`: root's configuration
//! - `RUNTIME`: the directory of sockets and notes

#[cfg(target_os = "freebsd")]
mod freebsd;
#[cfg(target_os = "linux")]
mod linux;

#[cfg(target_os = "freebsd")]
pub(crate) use freebsd::{RULES, RUNTIME, SETTINGS};
#[cfg(target_os = "linux")]
pub(crate) use linux::{RULES, RUNTIME, SETTINGS};
