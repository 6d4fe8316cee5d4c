//! Stands in for the service manager: takes what daemons say by sd_notify(3), for as long as the lab lives, and writes it
//! down. Keeps no descriptors that come along and acts on nothing.

use crate::error::LabError;
use crate::world;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

/// The value of NOTIFY_SOCKET for a daemon.
pub(crate) fn socket(daemon: &str) -> PathBuf {
    Path::new(world::LAB).join("notify").join(daemon)
}

fn file(daemon: &str) -> PathBuf {
    Path::new(world::LOGS).join(format!("{daemon}.notify"))
}

/// Begins to listen. Only for pid 1: nobody else lives long enough.
pub(crate) fn listen(daemon: &str) -> Result<(), LabError> {
    let path = socket(daemon);
    let socket = UnixDatagram::bind(&path).map_err(LabError::file(&path))?;
    // filterd has another uid by the time it says something
    fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).map_err(LabError::file(&path))?;
    let path = file(daemon);
    let file = OpenOptions::new().create(true).append(true).open(&path).map_err(LabError::file(&path))?;
    std::thread::spawn(move || write_down(&socket, file));
    Ok(())
}

fn write_down(socket: &UnixDatagram, mut file: File) {
    let mut message = [0; 4096];
    while let Ok(length) = socket.recv(&mut message) {
        let mut lines: Vec<u8> = message.iter().take(length).copied().collect();
        lines.push(b'\n');
        if let Err(error) = file.write_all(&lines) {
            eprintln!("imds-lab: writing a notification down: {error}");
        }
    }
}

/// What a daemon says from now on.
pub(crate) struct Said {
    path: PathBuf,
    from: u64,
}

impl Said {
    pub(crate) fn from_now(daemon: &str) -> Result<Self, LabError> {
        let path = file(daemon);
        let from = fs::metadata(&path).map_err(LabError::file(&path))?.len();
        Ok(Self { path, from })
    }

    pub(crate) fn ready(&self) -> Result<bool, LabError> {
        let mut text = Vec::new();
        let read = File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.from))?;
            file.read_to_end(&mut text)
        });
        read.map_err(LabError::file(&self.path))?;
        Ok(text.split(|byte| *byte == b'\n').any(|line| line == b"READY=1"))
    }
}
