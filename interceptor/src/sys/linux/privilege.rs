//! What this process gives up when everything that needs more power is open. Decides nothing.
//! Must not take what a repair of capture needs: `CAP_NET_ADMIN`, its own directory, /proc/sys/net.

use super::calls;
use imds_settings::Sandbox;
use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, PathFdError, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus,
};
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};
use std::fmt;
use std::io;
use std::path::Path;

/// Routes, rules, policies, the mark, and writing below /proc/sys/net.
const KEPT: CapabilitySet = CapabilitySet::NET_ADMIN;
/// Kinds of access to files. Later versions are about other things, connecting to the service manager among them.
const FILES: ABI = ABI::V5;

/// Why this process has more power than it should.
#[derive(Debug)]
pub enum PrivilegeError {
    Os(&'static str, io::Error),
    /// The kernel said yes and did not do it.
    StillThere,
    /// The settings want a layer that is not to be had.
    Required(Missing),
}

impl fmt::Display for PrivilegeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Os(what, error) => write!(f, "{what}: {error}"),
            Self::StillThere => f.write_str("capabilities are still there after they were given up"),
            Self::Required(missing) => write!(
                f,
                "{missing}; filter.sandbox = \"besteffort\" in imds-filterd.toml starts without, and less safe"
            ),
        }
    }
}

impl std::error::Error for PrivilegeError {}

/// A layer that this kernel does not give us.
#[derive(Debug)]
pub enum Missing {
    Files(String),
    Calls(String),
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Files(why) => write!(f, "no Landlock ({why})"),
            Self::Calls(why) => write!(f, "no filter of system calls ({why})"),
        }
    }
}

fn os(what: &'static str) -> impl Fn(rustix::io::Errno) -> PrivilegeError {
    move |errno| PrivilegeError::Os(what, errno.into())
}

/// No core file, and room for `descriptors`, no more. Whether there is as much: without root a hard limit stays.
pub(crate) fn bound(descriptors: u64) -> io::Result<bool> {
    let exactly = |limit| Rlimit { current: Some(limit), maximum: Some(limit) };
    setrlimit(Resource::Core, exactly(0))?;
    if setrlimit(Resource::Nofile, exactly(descriptors)).is_ok() {
        return Ok(true);
    }
    let possible = getrlimit(Resource::Nofile).maximum.map_or(descriptors, |most| most.min(descriptors));
    setrlimit(Resource::Nofile, exactly(possible))?;
    Ok(false)
}

/// For good, and for this thread: there is no other. `directory` is the one whose files are still written. Returns what
/// could not be had.
pub(crate) fn give_up(directory: &Path, wanted: Sandbox) -> Result<Vec<Missing>, PrivilegeError> {
    drop_capabilities()?;
    set_no_new_privs(true).map_err(os("forbidding new privileges"))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(os("forbidding tracers"))?;
    let mut missing = Vec::new();
    // the filter last: it forbids what the others are made with
    if let Err(why) = close_files(directory) {
        missing.push(Missing::Files(why));
    }
    match (calls::filter(), wanted) {
        (Ok(()), _) => {}
        (Err(why), Sandbox::Required) => {
            return Err(PrivilegeError::Required(Missing::Calls(why.to_string())));
        }
        (Err(why), Sandbox::BestEffort) => missing.push(Missing::Calls(why.to_string())),
    }
    Ok(missing)
}

fn drop_capabilities() -> Result<(), PrivilegeError> {
    forgo_capabilities();
    // what is not inheritable is not ambient either
    let sets = CapabilitySets { effective: KEPT, permitted: KEPT, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).map_err(os("dropping capabilities"))?;
    let left = capabilities(None).map_err(os("looking at the capabilities left"))?;
    let left = (left.effective | left.permitted | left.inheritable).difference(KEPT);
    if left.is_empty() { Ok(()) } else { Err(PrivilegeError::StillThere) }
}

/// Empties the bounding set but for what is kept, as far as we may. It has no meaning when no new privileges can be
/// had, but so nobody has to know that.
fn forgo_capabilities() {
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match capability_is_in_bounding_set(capability) {
            Err(_) => return, // the kernel knows no further ones
            Ok(false) => {}
            Ok(true) if KEPT.contains(capability) => {}
            Ok(true) if remove_capability_from_bounding_set(capability).is_err() => return,
            Ok(true) => {}
        }
    }
}

/// Why files are not closed.
#[derive(Debug)]
enum FilesError {
    Path(PathFdError),
    Ruleset(RulesetError),
}

impl fmt::Display for FilesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(error) => error.fmt(f),
            Self::Ruleset(error) => error.fmt(f),
        }
    }
}

impl From<PathFdError> for FilesError {
    fn from(error: PathFdError) -> Self {
        Self::Path(error)
    }
}

impl From<RulesetError> for FilesError {
    fn from(error: RulesetError) -> Self {
        Self::Ruleset(error)
    }
}

/// Who is root without root's capabilities still owns root's files.
fn close_files(directory: &Path) -> Result<(), String> {
    match landlock(directory) {
        // an older kernel knows fewer kinds of access; opening files is among those of the first
        Ok(RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced) => Ok(()),
        Ok(_) => Err("the kernel has none, or it is switched off".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// What the kernel shows is read, settings of links and our own directory are written. Whoever needs another file after
/// the start opens it before, or adds it here with the reason.
fn landlock(directory: &Path) -> Result<RulesetStatus, FilesError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let beneath = |path: &Path, access| Ok::<_, FilesError>(PathBeneath::new(PathFd::new(path)?, access));
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(FILES))?
        .create()?
        .add_rule(beneath(Path::new("/proc"), read)?)?
        .add_rule(beneath(Path::new("/sys"), read)?)?
        .add_rule(beneath(Path::new("/proc/sys/net"), read | AccessFs::WriteFile)?)?
        .add_rule(beneath(directory, AccessFs::from_all(FILES) & !AccessFs::Execute)?)?
        .restrict_self()?;
    Ok(status.ruleset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};

    /// What is given up is given up by one thread here, so the other tests keep it.
    fn alone(test: impl FnOnce() + Send + 'static) {
        std::thread::spawn(test).join().unwrap();
    }

    #[test]
    fn landlock_alone_leaves_the_kernels_files_to_read_and_one_directory_to_write() {
        let directory = std::env::temp_dir().join(format!("imds-privilege-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let ours = directory.clone();
        alone(move || {
            close_files(&ours).unwrap();
            for path in ["/etc/passwd", "/", "/dev/null"] {
                assert_eq!(File::open(path).unwrap_err().kind(), io::ErrorKind::PermissionDenied, "{path}");
            }
            let outside = ours.with_extension("outside");
            assert_eq!(File::create(outside).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
            assert!(fs::read("/proc/sys/net/ipv4/conf/lo/rp_filter").is_ok());
            let setting = File::options().write(true).open("/proc/sys/kernel/core_pattern");
            assert_eq!(setting.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
            fs::write(ours.join("new"), "x").unwrap();
            fs::rename(ours.join("new"), ours.join("old")).unwrap();
            fs::remove_file(ours.join("old")).unwrap();
        });
        fs::remove_dir(&directory).unwrap();
    }

    #[test]
    fn everything_is_given_up_by_one_call() {
        alone(|| {
            let had = capabilities(None).unwrap().permitted.contains(KEPT);
            let given_up = give_up(&std::env::temp_dir(), Sandbox::Required);
            if !had {
                assert!(given_up.is_err(), "one that we do not have cannot be kept");
                return;
            }
            assert!(given_up.unwrap().is_empty());
            let status = fs::read_to_string("/proc/thread-self/status").unwrap();
            assert!(status.contains(&format!("CapPrm:\t{:016x}\n", KEPT.bits())), "{status}");
            let closed = File::open("/etc/passwd").unwrap_err();
            assert_eq!(closed.kind(), io::ErrorKind::PermissionDenied);
            assert_eq!(rustix::process::chdir("/"), Err(rustix::io::Errno::NOSYS));
        });
    }

    #[test]
    fn of_the_capabilities_one_is_left() {
        alone(|| {
            let had = capabilities(None).unwrap().permitted.contains(KEPT);
            match drop_capabilities() {
                Ok(()) => assert_eq!(capabilities(None).unwrap().permitted, KEPT),
                // one that we do not have cannot be kept
                Err(_) => assert!(!had),
            }
        });
    }
}
