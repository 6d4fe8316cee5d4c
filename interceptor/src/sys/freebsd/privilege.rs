//! What this process gives up when everything that needs more power is open. Decides nothing.
//!
//! It stays root and outside of capability mode: the kernel answers getcred to root alone and to nobody in that mode, and
//! a repair of capture changes routes. What is left to give up is to be traced, to leave a core file, and to gain more.

use imds_settings::Sandbox;
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, set_no_new_privs, setrlimit,
};
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::path::Path;

/// Why this process has more power than it should.
#[derive(Debug)]
pub enum PrivilegeError {
    Os(&'static str, io::Error),
}

impl fmt::Display for PrivilegeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Os(what, error) => write!(f, "{what}: {error}"),
        }
    }
}

impl std::error::Error for PrivilegeError {}

/// A layer that is not to be had: none here is left out.
#[derive(Debug)]
pub(crate) struct Missing(Infallible);

impl fmt::Display for Missing {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {}
    }
}

fn os(what: &'static str) -> impl Fn(rustix::io::Errno) -> PrivilegeError {
    move |errno| PrivilegeError::Os(what, errno.into())
}

/// No core file, and room for `descriptors`, no more. Whether there is as much: kern.maxfilesperproc is the most.
pub(crate) fn bound(descriptors: u64) -> io::Result<bool> {
    let exactly = |limit| Rlimit { current: Some(limit), maximum: Some(limit) };
    setrlimit(Resource::Core, exactly(0))?;
    // the kernel cuts what is too much without a word
    setrlimit(Resource::Nofile, exactly(descriptors))?;
    Ok(getrlimit(Resource::Nofile).current.is_none_or(|got| got >= descriptors))
}

/// For good. `directory` and `wanted` are about layers of other systems.
pub(crate) fn give_up(_directory: &Path, _wanted: Sandbox) -> Result<Vec<Missing>, PrivilegeError> {
    // nothing it opens at run time is relative
    rustix::process::chdir("/").map_err(os("leaving the working directory"))?;
    set_dumpable_behavior(None, DumpableBehavior::NotDumpable).map_err(os("forbidding tracers"))?;
    set_no_new_privs(None).map_err(os("forbidding new privileges"))?;
    Ok(Vec::new())
}
