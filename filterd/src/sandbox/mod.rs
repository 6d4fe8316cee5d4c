//! What this process gives up after it has read its files, and before it hears anything from outside.
//! Each system's file implements `no_new_privileges` and `no_dumps`.

#[cfg(target_os = "freebsd")]
mod freebsd;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "freebsd")]
use freebsd as system;
#[cfg(target_os = "linux")]
use linux as system;

use imds_settings::{Accounts, User};
use nix::unistd::{Gid, Uid, getegid, geteuid, getgid, getuid, setgroups, setresgid, setresuid};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fmt;

/// Descriptors beside those of connections: standard ones, epoll, the channel, signals.
const OTHER_DESCRIPTORS: u64 = 64;

#[derive(Debug)]
pub enum SandboxError {
    UnknownUser(String),
    Accounts(imds_settings::AccountError),
    /// The filter is to have no privileges at all.
    IsRoot(String),
    /// Neither root nor the filter's user.
    CannotBecome(String),
    Os(&'static str, std::io::Error),
    /// The kernel said yes and did not do it.
    StillPrivileged,
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
            Self::Accounts(_) | Self::Os(..) | Self::StillPrivileged => imds_settings::exit::OS,
        }
    }
}

fn os(what: &'static str) -> impl Fn(nix::Error) -> SandboxError {
    move |errno| SandboxError::Os(what, errno.into())
}

fn os_rustix(what: &'static str) -> impl Fn(rustix::io::Errno) -> SandboxError {
    move |errno| SandboxError::Os(what, errno.into())
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

/// Room for as many descriptors as the limits allow connections, two each. Before [`enter`]: root may raise the hard limit.
///
/// # Errors
/// When the limit cannot be raised as far.
pub fn make_room(connections: u32) -> Result<(), SandboxError> {
    let needed = u64::from(connections) * 2 + OTHER_DESCRIPTORS;
    let now = getrlimit(Resource::Nofile);
    if now.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let maximum = now.maximum.map(|maximum| maximum.max(needed));
    setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum }).map_err(|errno| {
        SandboxError::Os("raising the number of open files for limits.connections", errno.into())
    })
}

/// Becomes `user` for good. No core file, no tracer, no way back.
///
/// # Errors
/// When anything is left of what was to be given up; the process must end then.
pub fn enter(name: &str, user: &User) -> Result<(), SandboxError> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none).map_err(os_rustix("forbidding core files"))?;
    become_user(name, user)?;
    system::no_new_privileges().map_err(os_rustix("forbidding new privileges"))?;
    // last: a change of uid may make the process dumpable again
    system::no_dumps().map_err(os_rustix("forbidding tracers"))
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
