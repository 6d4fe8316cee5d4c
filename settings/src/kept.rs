//! The last good rules, kept in a directory that is its owner's alone (root's), for a start that finds none on disk.
//! Knows nothing of what the bytes are; must never give older ones than were last in force.
//!
//! A start does not know yet whether its rules can be put in force, and when it knows it can write no file any more. So
//! it proposes them, and leaves itself an open file in which it can but say that it did.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const ACCEPTED: &str = "last-good";
const PROPOSED: &str = "proposed";
const SERVED: &str = "proposed.in-force";
const NEW: &str = "new";

#[derive(Debug)]
pub struct Kept(PathBuf);

impl Kept {
    /// Makes the directory if it is not there.
    ///
    /// # Errors
    /// When it cannot be made, or others than we may enter or change it.
    pub fn open(directory: &Path) -> io::Result<Self> {
        match DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let found = fs::symlink_metadata(directory)?;
        let ours = found.is_dir() && found.uid() == nix::unistd::geteuid().as_raw();
        if !ours || found.mode() & 0o077 != 0 {
            return Err(io::Error::other("not a directory that its owner alone may enter, or not ours"));
        }
        Ok(Self(directory.into()))
    }

    /// Until the returned file is dropped nobody else gets one: of two who put rules in force at once, the one whose rules
    /// stay must be the one who is the last to keep them.
    ///
    /// # Errors
    /// When there is no such directory, or we may not read it.
    pub fn alone(directory: &Path) -> io::Result<File> {
        let file = File::open(directory)?;
        file.lock()?;
        Ok(file)
    }

    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.0
    }

    /// What was last in force; `None` if nothing was since the machine started.
    ///
    /// # Errors
    /// When there is something and it cannot be read.
    pub fn recall(&self) -> io::Result<Option<Vec<u8>>> {
        if fs::metadata(self.path(SERVED)).is_ok_and(|said| said.len() > 0) {
            match fs::rename(self.path(PROPOSED), self.path(ACCEPTED)) {
                // a start that was killed between the two
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => self.withdraw()?,
            }
        }
        match fs::read(self.path(ACCEPTED)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// These count as accepted once a byte is written to the returned file.
    ///
    /// # Errors
    /// When they cannot be written; then what was accepted before still counts.
    pub fn propose(&self, bytes: &[u8]) -> io::Result<OwnedFd> {
        self.withdraw()?;
        self.write(PROPOSED, bytes)?;
        Ok(self.create(SERVED)?.into())
    }

    /// These are in force now.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn accept(&self, bytes: &[u8]) -> io::Result<()> {
        // first, or it could still be accepted after these
        self.withdraw()?;
        self.write(ACCEPTED, bytes)
    }

    fn withdraw(&self) -> io::Result<()> {
        match fs::remove_file(self.path(SERVED)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Whole or not at all. Not synced: nothing here counts after the next boot, and clients wait for a start that would
    /// wait for a disk (FreeBSD's /var/run is on one).
    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut file = self.create(NEW)?;
        file.write_all(bytes)?;
        fs::rename(self.path(NEW), self.path(name))
    }

    fn create(&self, name: &str) -> io::Result<File> {
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(self.path(name))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("imds-kept-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            Self(path)
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn recalled(kept: &Kept) -> String {
        kept.recall().unwrap().map_or("nothing".into(), |bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn what_was_proposed_counts_once_it_was_in_force_and_never_before() {
        let place = Place::new("proposed");
        let kept = Kept::open(&place.0).unwrap();
        assert_eq!(recalled(&kept), "nothing");
        let never = kept.propose(b"a").unwrap();
        assert_eq!(recalled(&kept), "nothing");
        let served = kept.propose(b"b").unwrap();
        File::from(never).write_all(b"1").unwrap();
        assert_eq!(recalled(&kept), "nothing", "the word of an earlier start is not about this one");
        File::from(served).write_all(b"1").unwrap();
        assert_eq!((recalled(&kept).as_str(), recalled(&kept).as_str()), ("b", "b"));
        let _refused = kept.propose(b"c").unwrap();
        assert_eq!(recalled(&kept), "b");
    }

    #[test]
    fn what_is_accepted_later_counts_more() {
        let place = Place::new("accepted");
        let kept = Kept::open(&place.0).unwrap();
        let served = kept.propose(b"a").unwrap();
        File::from(served).write_all(b"1").unwrap();
        kept.accept(b"b").unwrap();
        assert_eq!(recalled(&kept), "b");
        let mode = fs::metadata(kept.path(ACCEPTED)).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o600);
    }

    #[test]
    fn a_directory_that_others_may_enter_is_not_trusted() {
        let place = Place::new("directory");
        Kept::open(&place.0).unwrap();
        fs::set_permissions(&place.0, fs::Permissions::from_mode(0o750)).unwrap();
        assert!(Kept::open(&place.0).is_err());
        let link = Place::new("link");
        std::os::unix::fs::symlink(&place.0, &link.0).unwrap();
        fs::set_permissions(&place.0, fs::Permissions::from_mode(0o700)).unwrap();
        assert!(Kept::open(&link.0).is_err());
        fs::remove_file(&link.0).unwrap();
    }
}
