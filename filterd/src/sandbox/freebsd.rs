//! FreeBSD. See the contract in `sandbox`.
//! Judges nothing.

use rustix::process::{DumpableBehavior, set_dumpable_behavior, set_no_new_privs};

pub(super) fn no_new_privileges() -> rustix::io::Result<()> {
    set_no_new_privs(None)
}

pub(super) fn no_dumps() -> rustix::io::Result<()> {
    set_dumpable_behavior(None, DumpableBehavior::NotDumpable)
}
