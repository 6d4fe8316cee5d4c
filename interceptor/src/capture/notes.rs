//! What release must restore and cannot derive: the original values of settings we changed, in a file of root's below
//! the runtime directory. Written before the change. Also the lock that keeps a second interceptor out.

use super::event::CaptureError;
use rustix::fs::{FlockOperation, flock};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// One line: link index, link name ("all" and "default" have index 0), setting, original value, our value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) index: u32,
    pub(super) link: String,
    pub(super) setting: Setting,
    pub(super) original: u32,
    pub(super) ours: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Setting {
    RpFilter,
    DisableXfrm,
}

impl Setting {
    /// Its name below net.ipv4.conf.LINK.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::RpFilter => "rp_filter",
            Self::DisableXfrm => "disable_xfrm",
        }
    }
}

impl Note {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let mut next = || words.next();
        let note = Self {
            index: next()?.parse().ok()?,
            link: next()?.to_owned(),
            setting: match next()? {
                "rp_filter" => Setting::RpFilter,
                "disable_xfrm" => Setting::DisableXfrm,
                _ => return None,
            },
            original: next()?.parse().ok()?,
            ours: next()?.parse().ok()?,
        };
        words.next().is_none().then_some(note)
    }

    fn line(&self) -> String {
        format!("{} {} {} {} {}\n", self.index, self.link, self.setting.key(), self.original, self.ours)
    }
}

pub(super) struct Notes {
    path: PathBuf,
    notes: Vec<Note>,
    lock_path: PathBuf,
    /// Held as long as this is open: the kernel lets go of it when the process ends, however it ends.
    _lock: File,
}

impl Notes {
    pub(super) fn open(directory: &Path) -> Result<Self, CaptureError> {
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
        let path = directory.join("capture.undo");
        let notes = match std::fs::read_to_string(&path) {
            Ok(text) => parse(&text).map_err(|error| failed(&path, error))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(failed(&path, error)),
        };
        Ok(Self { path, notes, lock_path, _lock: lock })
    }

    pub(super) fn all(&self) -> &[Note] {
        &self.notes
    }

    /// Notes a change that is about to be made. The first note of a setting holds the original; later ones are ours.
    pub(super) fn write(&mut self, note: Note) -> io::Result<()> {
        let same = |old: &Note| (old.index, old.setting) == (note.index, note.setting) && twin(old, &note);
        if self.notes.iter().any(same) {
            return Ok(());
        }
        self.notes.push(note);
        let text: String = self.notes.iter().map(Note::line).collect();
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
    pub(super) fn forget(self) -> Result<(), CaptureError> {
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

/// "all" and "default" share index 0 and are told apart by name; links may be renamed.
fn twin(old: &Note, new: &Note) -> bool {
    old.index != 0 || old.link == new.link
}

fn parse(text: &str) -> io::Result<Vec<Note>> {
    text.lines()
        .enumerate()
        .map(|(at, line)| {
            Note::parse(line).ok_or_else(|| {
                io::Error::other(format!(
                    "line {}: expected a link's index, its name, a setting and two numbers; restore what it means by \
                     hand and remove the file",
                    at + 1
                ))
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_read_as_written_and_the_original_is_kept() {
        let directory = std::env::temp_dir().join(format!("imds-notes-{}", std::process::id()));
        let note = |index, link: &str, original| Note {
            index,
            link: link.into(),
            setting: Setting::RpFilter,
            original,
            ours: 2,
        };
        let mut notes = Notes::open(&directory).unwrap();
        assert!(matches!(Notes::open(&directory), Err(CaptureError::Held(_))), "two may not hold it");
        notes.write(note(2, "eth0", 1)).unwrap();
        notes.write(note(2, "renamed", 2)).unwrap();
        notes.write(note(0, "all", 1)).unwrap();
        notes.write(note(0, "default", 0)).unwrap();
        drop(notes);
        let notes = Notes::open(&directory).unwrap();
        assert_eq!(notes.all(), [note(2, "eth0", 1), note(0, "all", 1), note(0, "default", 0)]);
        notes.forget().unwrap();
        assert!(std::fs::read_dir(&directory).unwrap().next().is_none());
        std::fs::remove_dir(&directory).unwrap();
    }

    #[test]
    fn a_spoilt_note_is_an_error_and_not_skipped() {
        for line in
            ["", "2 eth0 rp_filter 1", "2 eth0 rp_filter 1 2 3", "x eth0 rp_filter 1 2", "2 eth0 other 1 2"]
        {
            assert!(parse(&format!("2 eth0 rp_filter 1 2\n{line}\n")).is_err(), "{line:?}");
        }
    }
}
