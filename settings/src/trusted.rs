//! Reads a file that only its owner may write, up to a bound. Knows nothing of what is in it.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Why a file's contents are not to be had, or not to be trusted.
#[derive(Debug)]
pub enum ReadError {
    Unreadable(PathBuf, io::Error),
    /// Others than its owner may write it.
    Writable(PathBuf),
    TooLarge(PathBuf, u64),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Writable(path) => write!(
                f,
                "{0}: writable by its group or by everybody; expected a file that only its owner may write \
                 (chmod go-w {0})",
                path.display()
            ),
            Self::TooLarge(path, most) => write!(f, "{}: larger than {most} bytes", path.display()),
        }
    }
}

impl std::error::Error for ReadError {}

impl ReadError {
    /// There is no such file.
    #[must_use]
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::Unreadable(_, error) if error.kind() == io::ErrorKind::NotFound)
    }
}

/// # Errors
/// For anything but a regular file of at most `most` bytes that its group and others may not write.
pub fn read_trusted(path: &Path, most: u64) -> Result<Vec<u8>, ReadError> {
    let unreadable = |error| ReadError::Unreadable(path.into(), error);
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(unreadable(io::Error::other("not a regular file")));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(ReadError::Writable(path.into()));
    }
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(unreadable)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > most) {
        return Err(ReadError::TooLarge(path.into(), most));
    }
    Ok(bytes)
}
