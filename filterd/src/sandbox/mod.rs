//! What this process gives up, in two steps: [`enter`] when its files are read, [`lock`] when it has its channel and has
//! not yet heard a byte on it. Judges nothing.
//!
//! Each system's file implements, in this order:
//! - `leave_network()`: no link of the host's is left; before the change of user
//! - `forgo_capabilities()`: none can come back; before the change of user
//! - `drop_capabilities()`: nothing is left of root's power, whatever the start gave us; after it
//! - `no_new_privileges()`, `no_dumps()`
//! - `close_files()`: no file can be opened, by a layer of its own
//! - `close_calls()`: no system call that serving does not need
//! - `close_watcher()`: for the watcher of names, which reads files: writes none, runs nothing, no network
//! - `limit(descriptor, use)`: what a descriptor may be used for, where the system has such rights
//! - `take_lines(descriptor)`: makes the log's descriptor one whose reader cannot stop us

#[cfg(target_os = "linux")]
mod calls;
#[cfg(target_os = "freebsd")]
mod freebsd;
mod limits;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "freebsd")]
use freebsd as system;
#[cfg(target_os = "linux")]
use linux as system;

pub use limits::bound;

use imds_settings::{Accounts, Sandbox, User};
use nix::unistd::{Gid, Uid, getegid, geteuid, getgid, getuid, setgroups, setresgid, setresuid};
use std::fmt;
use std::io;
use std::os::fd::AsFd;

#[derive(Debug)]
pub enum SandboxError {
    UnknownUser(String),
    Accounts(imds_settings::AccountError),
    /// The filter is to have no privileges at all.
    IsRoot(String),
    /// Neither root nor the filter's user.
    CannotBecome(String),
    Os(&'static str, io::Error),
    /// The kernel said yes and did not do it.
    StillPrivileged,
    /// The settings want a layer that is not to be had.
    Required(Missing),
}

impl fmt::Display for SandboxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownUser(name) => write!(
                f,
                "filter.user = {name:?}: no such user; create it (a system user without a home) or name another"
            ),
            Self::Accounts(error) => error.fmt(f),
            Self::IsRoot(name) => write!(f, "filter.user = {name:?}: expected a user other than root"),
            Self::CannotBecome(name) => {
                write!(f, "cannot become the user {name:?}: start imds-filterd as root or as that user")
            }
            Self::Os(what, error) => write!(f, "{what}: {error}"),
            Self::StillPrivileged => f.write_str("privileges are still there after they were given up"),
            Self::Required(missing) => write!(
                f,
                "{missing}; filter.sandbox = \"besteffort\" in imds-filterd.toml starts without, and less safe"
            ),
        }
    }
}

impl std::error::Error for SandboxError {}

impl SandboxError {
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::UnknownUser(_) | Self::IsRoot(_) => imds_settings::exit::CONFIGURATION,
            Self::CannotBecome(_) => imds_settings::exit::PERMISSION,
            Self::Accounts(_) | Self::Os(..) | Self::StillPrivileged | Self::Required(_) => {
                imds_settings::exit::OS
            }
        }
    }
}

/// A layer that is not there. Serving goes on without, unless the settings say otherwise.
#[derive(Debug)]
pub enum Missing {
    Limits(io::Error),
    Network(io::Error),
    Files(String),
    Calls(String),
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limits(error) => {
                write!(f, "limits.connections needs more open files than this process may have ({error})")
            }
            Self::Network(error) => write!(f, "no network namespace of its own ({error})"),
            Self::Files(why) => write!(f, "no Landlock ({why})"),
            Self::Calls(why) => write!(f, "no filter of system calls ({why})"),
        }
    }
}

/// What a descriptor is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// It was there at the start.
    Nothing,
    /// Lines of the log or of the audit trail.
    Lines,
    /// Bytes, both ways: the channel, a captured connection, a connection to the service.
    Exchange,
}

/// From here on the descriptor is good for nothing else.
///
/// # Errors
/// When that is not to be had; the descriptor must not be used then.
pub fn limit(descriptor: &impl AsFd, what_for: Use) -> io::Result<()> {
    system::limit(descriptor, what_for)
}

/// From here on the descriptor takes lines and does not wait for its reader.
///
/// # Errors
/// When that is not to be had.
pub fn take_lines(descriptor: &impl AsFd) -> io::Result<()> {
    system::take_lines(descriptor)
}

fn os<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> SandboxError {
    move |error| SandboxError::Os(what, error.into())
}

/// The user that this process is to become.
///
/// # Errors
/// When there is none of that name, or it is root.
pub fn user(accounts: &Accounts, name: &str) -> Result<User, SandboxError> {
    let found = accounts.user(name).map_err(SandboxError::Accounts)?;
    let user = found.ok_or_else(|| SandboxError::UnknownUser(name.into()))?;
    if user.uid == 0 { Err(SandboxError::IsRoot(name.into())) } else { Ok(user) }
}

/// Becomes `user` for good, in a network of its own. No tracer, no way back. Descriptors already open stay what they
/// are, and paths still lead to sockets. Returns what could not be had.
///
/// # Errors
/// When anything is left of what was to be given up; the process must end then.
pub fn enter(name: &str, user: &User) -> Result<Option<Missing>, SandboxError> {
    let network = system::leave_network().err().map(Missing::Network);
    system::forgo_capabilities();
    become_user(name, user)?;
    system::drop_capabilities()?;
    system::no_new_privileges().map_err(os("forbidding new privileges"))?;
    // last: a change of uid may make the process dumpable again
    system::no_dumps().map_err(os("forbidding tracers"))?;
    Ok(network)
}

fn become_user(name: &str, user: &User) -> Result<(), SandboxError> {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    if geteuid().is_root() {
        // groups and gid while we still may
        setgroups(&[]).map_err(os("dropping groups"))?;
        setresgid(gid, gid, gid).map_err(os("becoming the filter's group"))?;
        setresuid(uid, uid, uid).map_err(os("becoming the filter's user"))?;
        if (getuid(), geteuid(), getgid(), getegid()) != (uid, uid, gid, gid) {
            return Err(SandboxError::StillPrivileged);
        }
    } else if (getuid(), geteuid()) != (uid, uid) {
        return Err(SandboxError::CannotBecome(name.into()));
    }
    let root = Uid::from_raw(0);
    if setresuid(root, root, root).is_ok() { Err(SandboxError::StillPrivileged) } else { Ok(()) }
}

/// From here on nothing can be opened, connected or run; trying what only an intruder tries ends the process. Everything
/// that serving needs must be there already, threads too: there is one, and only the caller is locked. Returns what
/// could not be had.
///
/// # Errors
/// When system calls cannot be filtered and the settings want it.
pub fn lock(wanted: Sandbox) -> Result<Vec<Missing>, SandboxError> {
    let mut missing = Vec::new();
    // the filter last: it forbids what the others are made with
    if let Err(why) = system::close_files() {
        missing.push(Missing::Files(why));
    }
    match (system::close_calls(), wanted) {
        (Ok(()), _) => (),
        (Err(why), Sandbox::Required) => return Err(SandboxError::Required(Missing::Calls(why))),
        (Err(why), Sandbox::BestEffort) => missing.push(Missing::Calls(why)),
    }
    Ok(missing)
}

/// For the watcher of names, after [`enter`]: it goes on reading files and asking name services.
pub fn lock_watcher() {
    system::close_watcher();
}
