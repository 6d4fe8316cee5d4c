//! The lab's own cgroup: whoever watches the hierarchy's root in the lab watches the lab and nobody else.
//! Never puts anything into a cgroup of the machine's, nor a process of the machine's into the lab's.

use crate::error::LabError;
use rustix::process::{Pid, test_kill_process};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// In the environment of a lab's first process: the number of the outer one.
pub(crate) const OUTSIDE: &str = "IMDS_LAB_OUTSIDE";
const PREFIX: &str = "imds-lab-";

/// Where the cgroup v2 hierarchy is mounted; some machines have none.
#[must_use]
pub fn hierarchy() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (path, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| path.into())
    })
}

/// Of the lab whose outer process has this number. A slice, so that units below it are units.
fn of(hierarchy: &Path, outside: &str) -> PathBuf {
    hierarchy.join(format!("{PREFIX}{outside}.slice"))
}

/// Makes the lab's cgroup and goes into it, with all that is started later.
pub(crate) fn enter(hierarchy: &Path, outside: &str) -> Result<PathBuf, LabError> {
    let path = of(hierarchy, outside);
    match fs::create_dir(&path) {
        // of a killed lab whose outer process had the same number
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        other => other.map_err(LabError::file(&path))?,
    }
    fs::write(path.join("cgroup.procs"), "0").map_err(LabError::file(&path))?;
    Ok(path)
}

/// Removes the cgroup of the lab of this process, which has ended, and what killed labs left.
pub(crate) fn remove_ended() {
    let Some(hierarchy) = hierarchy() else { return };
    remove(&of(&hierarchy, &std::process::id().to_string()));
    for entry in fs::read_dir(hierarchy).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(".slice"));
        let outside = number.and_then(|number| Pid::from_raw(number.parse().ok()?));
        // a running lab may just have made one that is empty still
        if outside.is_some_and(|outside| test_kill_process(outside).is_err()) {
            remove(&entry.path());
        }
    }
}

fn remove(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    // in use, or gone already
    let _ = fs::remove_dir(cgroup);
}
