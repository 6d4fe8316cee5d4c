//! FreeBSD. See the contract in `sandbox`. Judges nothing.
//! Capability mode takes the place of three of Linux's layers; it is not entered yet, so they are missing here.

use super::SandboxError;
use rustix::process::{DumpableBehavior, set_dumpable_behavior, set_no_new_privs};
use std::io;

const NOT_YET: &str = "capability mode is not entered by this version";

pub(super) fn leave_network() -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, NOT_YET))
}

/// FreeBSD has none: root's power goes with its uid.
pub(super) fn forgo_capabilities() {}

#[expect(clippy::unnecessary_wraps, reason = "the contract")]
pub(super) fn drop_capabilities() -> Result<(), SandboxError> {
    Ok(())
}

pub(super) fn no_new_privileges() -> rustix::io::Result<()> {
    set_no_new_privs(None)
}

pub(super) fn no_dumps() -> rustix::io::Result<()> {
    set_dumpable_behavior(None, DumpableBehavior::NotDumpable)
}

pub(super) fn close_files() -> Result<(), String> {
    Err(NOT_YET.into())
}

pub(super) fn close_calls() -> Result<(), String> {
    Err(NOT_YET.into())
}

/// What reads the account database cannot be in capability mode.
pub(super) fn close_watcher() {}
