//! Linux. See the contract in `sandbox`.
//! Judges nothing.

use super::{SandboxError, Use, calls, os};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetError,
    RulesetStatus, Scope,
};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;
use rustix::process::DumpableBehavior;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    remove_capability_from_bounding_set, set_capabilities,
};
use std::io;
use std::os::fd::AsFd;

/// The newest that the crate knows; an older kernel gives what it has.
const NEWEST: ABI = ABI::V9;

/// root makes an empty network namespace; anybody else may have been given one (systemd's `PrivateNetwork`).
pub(super) fn leave_network() -> io::Result<()> {
    if geteuid().is_root() {
        return unshare(CloneFlags::CLONE_NEWNET).map_err(io::Error::from);
    }
    let links = std::fs::read_to_string("/proc/self/net/dev")?;
    if has_links(&links) { Err(io::ErrorKind::PermissionDenied.into()) } else { Ok(()) }
}

/// proc_pid_net(5): two lines of heading, then a line for each link. The loopback device leads nowhere.
fn has_links(table: &str) -> bool {
    table.lines().skip(2).any(|line| !line.trim_start().starts_with("lo:"))
}

/// Empties the bounding set, as far as we may. It has no meaning after `no_new_privileges`, but so nobody has to know that.
pub(super) fn forgo_capabilities() {
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match capability_is_in_bounding_set(capability) {
            // the kernel knows no further ones, or we may not: then there is nothing to drop that we could use
            Err(_) => return,
            Ok(false) => (),
            Ok(true) if remove_capability_from_bounding_set(capability).is_err() => return,
            Ok(true) => (),
        }
    }
}

pub(super) fn drop_capabilities() -> Result<(), SandboxError> {
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    set_capabilities(None, sets).map_err(os("dropping capabilities"))?;
    let left = capabilities(None).map_err(os("looking at the capabilities left"))?;
    let left = left.effective | left.permitted | left.inheritable;
    if left.is_empty() { Ok(()) } else { Err(SandboxError::StillPrivileged) }
}

pub(super) fn no_new_privileges() -> rustix::io::Result<()> {
    rustix::thread::set_no_new_privs(true)
}

pub(super) fn no_dumps() -> rustix::io::Result<()> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
}

/// Landlock without a single exception.
pub(super) fn close_files() -> Result<(), String> {
    match landlock(AccessFs::from_all(NEWEST)) {
        // an older kernel knows fewer kinds of access; opening files is among those of the first
        Ok(RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced) => Ok(()),
        Ok(_) => Err("the kernel has none, or it is switched off".into()),
        Err(error) => Err(error.to_string()),
    }
}

fn landlock(files: BitFlags<AccessFs>) -> Result<RulesetStatus, RulesetError> {
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(files)?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .restrict_self()?;
    Ok(status.ruleset)
}

pub(super) fn close_calls() -> Result<(), String> {
    calls::filter().map_err(|error| error.to_string())
}

/// filterd says what of this its kernel lacks.
pub(super) fn close_watcher() {
    let _ = landlock(AccessFs::from_write(NEWEST) | AccessFs::Execute);
    let _ = calls::filter_watcher();
}

/// Linux has no rights of single descriptors; no system call is left that would misuse them.
#[expect(clippy::unnecessary_wraps, reason = "the contract")]
pub(super) fn limit(_descriptor: &impl AsFd, _what_for: Use) -> io::Result<()> {
    Ok(())
}

/// A pipe that poll(2) calls writable has room for a piece of a line here, and no more than that is written at once.
#[expect(clippy::unnecessary_wraps, reason = "the contract")]
pub(super) fn take_lines(_descriptor: &impl AsFd) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// What is given up is given up by one thread here, so the other tests keep it.
    fn alone(test: impl FnOnce() + Send + 'static) {
        std::thread::spawn(test).join().unwrap();
    }

    #[test]
    fn landlock_alone_closes_every_file_and_no_descriptor() {
        let path = "/proc/self/status";
        alone(move || {
            let open = std::fs::File::open(path).unwrap();
            close_files().unwrap();
            for path in [path, "/", "/dev/null", "/etc/passwd"] {
                let error = std::fs::File::open(path).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{path}");
            }
            let made = std::fs::File::create(std::env::temp_dir().join("imds-landlock"));
            assert_eq!(made.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
            assert!(io::read_to_string(open).unwrap().contains("Name:"));
        });
        assert!(std::fs::File::open(path).is_ok());
    }

    #[test]
    fn landlock_alone_dials_nowhere() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        alone(move || {
            close_files().unwrap();
            let error = std::net::TcpStream::connect(address).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        });
    }

    #[test]
    fn a_network_with_another_link_than_loopback_is_not_empty() {
        let heading = "Inter-|   Receive\n face |bytes    packets\n";
        assert!(!has_links(heading));
        assert!(!has_links(&format!("{heading}    lo:       0       0\n")));
        assert!(has_links(&format!("{heading}    lo:       0       0\n  eth0: 1 1\n")));
        assert!(has_links(&format!("{heading}  lo0: 1 1\n")));
    }
}
