//! What release must restore and cannot derive: the original values of settings we changed, in a file of root's below
//! the runtime directory. Written before the change. Also the lock that keeps a second interceptor out.

use super::event::CaptureError;
use rustix::fs::{FlockOperation, flock};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The notes, below the runtime directory.
pub(crate) const FILE: &str = "capture.undo";

/// What a line of the notes says; each system has its own.
pub(crate) trait Note: Sized + PartialEq {
    /// For who has to mend a line by hand.
    const EXPECTED: &str;

    fn parse(line: &str) -> Option<Self>;

    /// Without its end.
    fn line(&self) -> String;

    /// Whether both are about the same thing: then the older one holds the original.
    fn same(&self, new: &Self) -> bool;
}

pub(crate) struct Notes<N> {
    path: PathBuf,
    notes: Vec<N>,
    lock_path: PathBuf,
    /// Held as long as this is open: the kernel lets go of it when the process ends, however it ends.
    _lock: File,
}

impl<N: Note> Notes<N> {
    pub(crate) fn open(directory: &Path) -> Result<Self, CaptureError> {
        let failed = |path: &Path, error| CaptureError::File { path: path.into(), error };
        DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(|e| failed(directory, e))?;
        let lock_path = directory.join("capture.lock");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let lock = options.open(&lock_path).map_err(|e| failed(&lock_path, e))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(CaptureError::Held(lock_path)),
            other => other.map_err(|e| failed(&lock_path, e.into()))?,
        }
        let path = directory.join(FILE);
        let notes = match std::fs::read_to_string(&path) {
            Ok(text) => parse(&text).map_err(|error| failed(&path, error))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(failed(&path, error)),
        };
        Ok(Self { path, notes, lock_path, _lock: lock })
    }

    pub(crate) fn all(&self) -> &[N] {
        &self.notes
    }

    /// Notes a change that is about to be made. The first note of a setting holds the original; later ones are ours.
    pub(crate) fn write(&mut self, note: N) -> io::Result<()> {
        if self.notes.iter().any(|old| old.same(&note)) {
            return Ok(());
        }
        self.notes.push(note);
        let text: String = self.notes.iter().map(|note| note.line() + "\n").collect();
        let new = self.path.with_extension("new");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let written = options
            .open(&new)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .and_then(|()| std::fs::rename(&new, &self.path));
        if written.is_err() {
            self.notes.pop();
        }
        written
    }

    /// Everything is restored: the files go.
    pub(crate) fn forget(self) -> Result<(), CaptureError> {
        for path in [&self.path, &self.lock_path] {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(CaptureError::File { path: path.clone(), error });
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }
}

fn parse<N: Note>(text: &str) -> io::Result<Vec<N>> {
    text.lines()
        .enumerate()
        .map(|(at, line)| {
            N::parse(line).ok_or_else(|| {
                io::Error::other(format!(
                    "line {}: expected {}; restore what it means by hand and remove the file",
                    at + 1,
                    N::EXPECTED
                ))
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Eq)]
    struct Pair(u32, u32);

    impl Note for Pair {
        const EXPECTED: &str = "two numbers";

        fn parse(line: &str) -> Option<Self> {
            let (a, b) = line.split_once(' ')?;
            Some(Self(a.parse().ok()?, b.parse().ok()?))
        }
        fn line(&self) -> String {
            format!("{} {}", self.0, self.1)
        }
        fn same(&self, new: &Self) -> bool {
            self.0 == new.0
        }
    }

    #[test]
    fn notes_are_read_as_written_the_first_of_its_kind_is_kept_and_nobody_else_holds_them() {
        let directory = std::env::temp_dir().join(format!("imds-notes-{}", std::process::id()));
        let mut notes = Notes::open(&directory).unwrap();
        assert!(matches!(Notes::<Pair>::open(&directory), Err(CaptureError::Held(_))), "two may not hold it");
        notes.write(Pair(1, 5)).unwrap();
        notes.write(Pair(1, 6)).unwrap();
        notes.write(Pair(2, 7)).unwrap();
        drop(notes);
        let notes: Notes<Pair> = Notes::open(&directory).unwrap();
        assert_eq!(notes.all(), [Pair(1, 5), Pair(2, 7)]);
        notes.forget().unwrap();
        assert!(std::fs::read_dir(&directory).unwrap().next().is_none());
        std::fs::remove_dir(&directory).unwrap();
    }

    #[test]
    fn a_spoilt_note_is_an_error_and_not_skipped() {
        assert!(parse::<Pair>("1 2\n").is_ok());
        let error = parse::<Pair>("1 2\n1 x\n").unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("two numbers"), "{error}");
    }
}
