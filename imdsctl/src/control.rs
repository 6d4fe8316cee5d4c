//! One ask to the running imds-filterd and its reply. Decides nothing.

use crate::Fault;
use imds_ipc::control::{Ask, CONTROL_DIRECTORY, CONTROL_SOCKET, Reply, rest_of};
use imds_settings::{Settings, exit};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// imds-filterd answers in milliseconds; one that starts just now, in a second or two.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn directory(settings: &Settings) -> PathBuf {
    settings.runtime_dir.join(CONTROL_DIRECTORY)
}

pub(crate) fn ask(settings: &Settings, ask: &Ask) -> Result<Reply, Fault> {
    let path = directory(settings).join(CONTROL_SOCKET);
    let fault = |code, error: io::Error| Fault::new(code, format!("{}: {error}", path.display()));
    let mut stream = UnixStream::connect(&path).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => Fault::new(exit::PERMISSION, "it takes root to ask imds-filterd"),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            Fault::new(exit::UNAVAILABLE, format!("imds-filterd does not run ({}: {error})", path.display()))
        }
        _ => fault(exit::OS, error),
    })?;
    let frame = converse(&mut stream, ask).map_err(|error| fault(exit::TEMPORARY, error))?;
    Reply::decode(&frame).map_err(|error| Fault::new(exit::OS, format!("imds-filterd sent {error}")))
}

fn converse(stream: &mut UnixStream, ask: &Ask) -> io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut frame = Vec::new();
    ask.encode(&mut frame);
    stream.write_all(&frame)?;
    let mut header = [0; 8];
    stream.read_exact(&mut header)?;
    let rest = rest_of(header).map_err(io::Error::other)?;
    let mut frame = header.to_vec();
    stream.take(u64::try_from(rest).unwrap_or(u64::MAX)).read_to_end(&mut frame)?;
    Ok(frame)
}
