//! The lab's world: where its files are, how it is built, how to enter its namespaces.
//! Starts no daemon. The steps of the building are in world.sh.

use crate::command_line::{Container, Place};
use crate::error::LabError;
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub const LAB: &str = "/run/lab";
pub(crate) const LOGS: &str = "/run/lab/log";
pub(crate) const BIN: &str = "/run/lab/bin";
pub(crate) const RULES: &str = "/run/lab/imds.conf";
pub(crate) const CONFIG: &str = "/run/lab/imds-filterd.toml";
pub(crate) const RECORD: &str = "/run/lab/log/record.jsonl";
pub(crate) const AUDIT: &str = "/run/lab/log/audit.jsonl";
/// What sh runs to serve the metadata service.
pub(crate) const UPSTREAM: &str = "/run/lab/upstream.sh";
/// The same for everybody: what a developer's own path holds would not be found on another machine.
pub(crate) const PATH: &str = "/run/lab/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// All else is cleared, or a developer's AWS_ and proxy settings would decide what a test sees.
const ENVIRONMENT_KEPT: [&str; 7] = ["TERM", "LANG", "LC_ALL", "TZ", "RUST_LOG", "RUST_BACKTRACE", "COLUMNS"];

/// Of the checkout that this program was built from.
pub(crate) fn checkout(below: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(below)
}

/// Builds everything that world.sh names. Only for pid 1 of a new mount, network and process namespace.
pub(crate) fn build(container: Option<Container>, cgroups: Option<(&Path, &Path)>) -> Result<(), LabError> {
    let (hierarchy, own) = cgroups.unwrap_or((Path::new(""), Path::new("")));
    let program = std::env::current_exe().map_err(|e| LabError::System("looking for my own program", e))?;
    let bin = program.parent().unwrap_or(Path::new("/"));
    let tests = checkout("tests");
    let bin = File::open(bin).map_err(LabError::file(bin))?;
    let script = File::open(tests.join("src/world.sh")).map_err(LabError::file(&tests))?;
    let tests = File::open(&tests).map_err(LabError::file(&tests))?;
    let status = Command::new("sh")
        .stdin(Stdio::from(script))
        .env("BIN", bin.as_raw_fd().to_string())
        .env("TESTS", tests.as_raw_fd().to_string())
        .env("CGROUP_MOUNT", hierarchy)
        .env("CGROUP", own)
        .env(
            "CONTAINER",
            match container {
                None => "none",
                Some(Container::Bridge) => "bridge",
                Some(Container::Masquerade) => "masquerade",
            },
        )
        .status()
        .map_err(|e| LabError::System("starting sh", e))?;
    if status.success() { Ok(()) } else { Err(LabError::Failed("building the lab's world", status)) }
}

/// A command that will run `program` in a network namespace, with the lab's environment and nothing of the caller's.
pub(crate) fn command_in(place: Place) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{}", place.name())).arg("--");
    set_environment(&mut command);
    command
}

fn set_environment(command: &mut Command) {
    command.env_clear().env("PATH", PATH).env("LAB", LAB).env("TMPDIR", format!("{LAB}/tmp"));
    command.env("LAB_RECORD", RECORD).env("LAB_AUDIT", AUDIT);
    if let Some(cgroups) = crate::cgroup::hierarchy() {
        command.env("LAB_CGROUPS", cgroups);
    }
    command.env("LAB_CONFIG", CONFIG).env("LAB_RULES", RULES);
    for name in ENVIRONMENT_KEPT {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
}

/// Whether this process is in a lab.
pub(crate) fn require_inside() -> Result<(), LabError> {
    if Path::new(LAB).join("tests/src/world.sh").exists() { Ok(()) } else { Err(LabError::NotInside) }
}

/// Becomes `command` in another network namespace.
///
/// # Errors
/// Returns only if that failed.
pub fn enter(place: Place, command: &[OsString]) -> Result<u8, LabError> {
    require_inside()?;
    let error = Command::new("nsenter")
        .arg(format!("--net=/run/netns/{}", place.name()))
        .arg("--")
        .args(command)
        .exec();
    Err(LabError::System("starting nsenter", error))
}
