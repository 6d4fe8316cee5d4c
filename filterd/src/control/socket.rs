//! The control socket itself: bound while we are still who we were started as, in a directory that is theirs alone.
//! Reads nothing of what callers say.

use imds_ipc::control::CONTROL_SOCKET;
use nix::sys::stat::{Mode, umask};
use std::fmt;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use tokio::net::UnixStream;

/// Why there is no control socket.
#[derive(Debug)]
pub struct ControlError(PathBuf, io::Error);

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(path, error) = self;
        write!(f, "no control socket, so no `imdsctl reload` and no status: {}: {error}", path.display())
    }
}

impl std::error::Error for ControlError {}

pub struct Bound {
    listener: UnixListener,
    owner: u32,
}

pub struct Control {
    listener: tokio::net::UnixListener,
    /// Who started us.
    owner: u32,
}

impl Control {
    /// In the place of an older filterd's, which nobody finds any more.
    ///
    /// # Errors
    /// When it cannot be bound there.
    pub fn bind(directory: &Path) -> Result<Bound, ControlError> {
        let path = directory.join(CONTROL_SOCKET);
        bind(&path).map_err(|error| ControlError(path, error))
    }

    /// # Errors
    /// When the runtime cannot wait for it.
    pub fn listen(bound: Bound) -> io::Result<Self> {
        Ok(Self { listener: tokio::net::UnixListener::from_std(bound.listener)?, owner: bound.owner })
    }

    /// The next caller who may ask; others are turned away unheard.
    pub(super) async fn caller(&self) -> io::Result<UnixStream> {
        loop {
            let (stream, _) = self.listener.accept().await?;
            let uid = stream.peer_cred()?.uid();
            if uid == 0 || uid == self.owner {
                return Ok(stream);
            }
            tracing::warn!("control socket: refused a process of uid {uid}");
        }
    }
}

fn bind(path: &Path) -> io::Result<Bound> {
    let new = path.with_extension("new");
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let old = umask(Mode::S_IXUSR | Mode::S_IRWXG | Mode::S_IRWXO);
    let bound = UnixListener::bind(&new);
    umask(old);
    let listener = bound?;
    listener.set_nonblocking(true)?;
    // at every moment somebody answers to the name, or will
    std::fs::rename(&new, path)?;
    Ok(Bound { listener, owner: nix::unistd::geteuid().as_raw() })
}
