//! The cgroup v2 hierarchy of this host. Opens it; makes and changes no cgroup.

use super::ProgramError;
use rustix::fs::{Mode, OFlags, fstatfs, open as open_path};
use std::fs::read_to_string;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// linux/magic.h: CGROUP2_SUPER_MAGIC.
const MAGIC: u64 = 0x6367_7270;
const MOUNTS: &str = "/proc/self/mounts";

/// The directory given, or the hierarchy's root.
pub(super) fn open(given: Option<&Path>) -> Result<OwnedFd, ProgramError> {
    let path = match given {
        Some(path) => path.to_owned(),
        None => root()?,
    };
    let fault = |what: String| ProgramError::NoCgroups(format!("{}: {what}", path.display()));
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
    let directory = open_path(&path, flags, Mode::empty()).map_err(|errno| fault(errno.to_string()))?;
    let found = fstatfs(&directory).map_err(|errno| fault(errno.to_string()))?;
    // something else may be mounted over it
    if u64::try_from(found.f_type) != Ok(MAGIC) {
        return Err(fault("not a cgroup v2 directory".into()));
    }
    Ok(directory)
}

fn root() -> Result<PathBuf, ProgramError> {
    let mounts =
        read_to_string(MOUNTS).map_err(|error| ProgramError::NoCgroups(format!("{MOUNTS}: {error}")))?;
    mount_point(&mounts).ok_or_else(|| ProgramError::NoCgroups("not mounted".into()))
}

/// The first that proc_pid_mounts(5) lists; in it blanks are octal, and a path with blanks is not one we would look for.
fn mount_point(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (path, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2" && !path.contains('\\')).then(|| path.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_is_where_it_is_mounted() {
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                      cgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(mount_point(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(mount_point("cgroup2 /a\\040b cgroup2 rw 0 0\nx /sys y z\n"), None);
    }

    #[test]
    fn a_directory_of_another_kind_is_refused() {
        assert!(matches!(open(Some(Path::new("/proc"))), Err(ProgramError::NoCgroups(_))));
        assert!(matches!(open(Some(Path::new("/none"))), Err(ProgramError::NoCgroups(_))));
    }
}
