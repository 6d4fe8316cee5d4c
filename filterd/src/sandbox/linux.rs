//! Linux. See the contract in `sandbox`.
//! Judges nothing.

use rustix::process::DumpableBehavior;

pub(super) fn no_new_privileges() -> rustix::io::Result<()> {
    rustix::thread::set_no_new_privs(true)
}

pub(super) fn no_dumps() -> rustix::io::Result<()> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
}
