//! Waiting for a change of the local account database. Reads none of it.
//!
//! Each system's file implements:
//! - `Changes::open()`
//! - `wait(filterd, unsettled)`: until something is to be looked at; whether it is that `filterd` says something.
//!   `unsettled`: some name stands for nobody, so that other name services are asked from time to time too
//! - `renew()`: before a look

#[cfg(target_os = "freebsd")]
mod freebsd;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "freebsd")]
pub(super) use freebsd::Changes;
#[cfg(target_os = "linux")]
pub(super) use linux::Changes;
