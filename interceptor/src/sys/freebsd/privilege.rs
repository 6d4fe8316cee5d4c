//! What this process gives up when everything that needs more power is open. Decides nothing.
//!
//! It stays root and outside of capability mode: the kernel answers getcred to root alone and to nobody in that mode, and
//! a repair of capture changes routes. What is left to give up is to be traced, to leave a core file, and to gain more.

use imds_settings::Sandbox;
use rustix::process::{Resource, Rlimit, getrlimit, set_no_new_privs, setrlimit};
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
    forbid_tracers().map_err(|error| PrivilegeError::Os("forbidding tracers", error))?;
    set_no_new_privs(None).map_err(os("forbidding new privileges"))?;
    Ok(Vec::new())
}

/// rustix 1.1.6 has a call for it which the kernel answers with EFAULT: it hands over the number and not its address.
fn forbid_tracers() -> io::Result<()> {
    let mut disable: libc::c_int = libc::PROC_TRACE_CTL_DISABLE;
    let place = (&raw mut disable).cast();
    // SAFETY: reads the int at `place`, which lives past the call; keeps nothing. 0 is this process.
    let result = unsafe { libc::procctl(libc::P_PID, 0, libc::PROC_TRACE_CTL, place) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_takes_what_forbids_tracers() {
        forbid_tracers().unwrap();
    }
}
