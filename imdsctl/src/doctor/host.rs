//! The installation: files and sockets and who may change them, rules, what the kernel has. Changes nothing.

use super::Finding;
use crate::load;
use imds_ipc::FILTER_SOCKET;
use imds_ipc::control::{CONTROL_DIRECTORY, CONTROL_SOCKET};
use imds_rules::Severity;
use imds_settings::{Accounts, Settings, read_trusted};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const MAX_RULES: u64 = 4 << 20;
/// Only Linux has it.
const LINUX: &str = "/proc/sys/kernel";

pub(super) fn findings(settings: &Settings, config: Option<&Path>) -> Vec<Finding> {
    let config = config.unwrap_or(Path::new(imds_settings::DEFAULT_PATH));
    let mut findings = vec![Finding::of("settings can be used", owned_by_root(config, true))];
    findings.push(rules(&settings.filter.rules));
    let directory = &settings.runtime_dir;
    let control = directory.join(CONTROL_DIRECTORY);
    findings.push(Finding::of("the runtime directory is nobody else's", private(directory, 0o022)));
    findings
        .push(Finding::of("the door is the filter's alone", private(&directory.join(FILTER_SOCKET), 0o007)));
    findings.push(Finding::of("the control directory is root's alone", private(&control, 0o077)));
    findings.push(Finding::of(
        "the control socket is root's alone",
        private(&control.join(CONTROL_SOCKET), 0o077),
    ));
    if Path::new(LINUX).is_dir() {
        findings.extend(kernel());
    }
    findings
}

fn rules(path: &Path) -> Finding {
    let what = format!("{} can be used", path.display());
    let read = read_trusted(path, MAX_RULES).map_err(|error| error.to_string());
    let parsed = read.and_then(|_| load::rules(path).map_err(|fault| fault.message));
    let unknown = parsed.and_then(|parsed| {
        let names = load::names(&parsed, &Accounts::open()).map_err(|fault| fault.message)?;
        let unknown = parsed.unknown_names(&names, Severity::Error);
        unknown.first().map_or(Ok(()), |first| Err(first.to_string()))
    });
    Finding::of(&what, unknown.and_then(|()| owned_by_root(path, false)))
}

/// A file that decides who may read credentials is root's.
fn owned_by_root(path: &Path, may_lack: bool) -> Result<(), String> {
    match fs::metadata(path) {
        Ok(found) if found.uid() == 0 => Ok(()),
        Ok(found) => Err(format!("{} belongs to uid {}", path.display(), found.uid())),
        Err(error) if may_lack && error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// No permission of `others` is given.
fn private(path: &Path, others: u32) -> Result<(), String> {
    let found = fs::symlink_metadata(path).map_err(|error| format!("{}: {error}", path.display()))?;
    if found.mode() & others == 0 {
        return Ok(());
    }
    Err(format!("{} has mode {:o}", path.display(), found.mode() & 0o7777))
}

fn kernel() -> Vec<Finding> {
    let there = |what: &str, path: &str| {
        let found = if Path::new(path).exists() { Ok(()) } else { Err(format!("no {path}")) };
        Finding::of(what, found)
    };
    let lsm = fs::read_to_string("/sys/kernel/security/lsm");
    let landlock = match lsm {
        Ok(names) if names.contains("landlock") => Finding::pass("the kernel has Landlock"),
        Ok(_) => Finding::fail("the kernel has no Landlock: one layer less around imds-filterd"),
        Err(error) => Finding::note(format!("not known whether the kernel has Landlock: {error}")),
    };
    vec![
        there("the kernel has tun devices", "/dev/net/tun"),
        there("the kernel filters system calls", "/proc/sys/kernel/seccomp/actions_avail"),
        there("the kernel describes its types (BTF), for groups and units", "/sys/kernel/btf/vmlinux"),
        landlock,
    ]
}
