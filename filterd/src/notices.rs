//! What the service manager is told (sd_notify(3)), over a socket connected at the start: later nothing can be.
//! Decides nothing.

use rustix::io::Errno;
use sd_notify::NotifyState;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;
use tokio::time::sleep;

/// While the service manager has no room: many services start when we do, and it hears them one after the other.
const RETRY_TIME: Duration = Duration::from_millis(50);

/// Empty where nobody asked to be told.
pub struct Notices(Option<UnixDatagram>);

impl Notices {
    /// # Errors
    /// When the service manager's socket cannot be reached.
    pub fn connect() -> io::Result<Self> {
        let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(Self(None)) };
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        socket.set_nonblocking(true)?;
        Ok(Self(Some(socket)))
    }

    /// One that nobody hears.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// A service manager that cannot be told is no reason not to serve.
    pub fn tell(&self, state: &NotifyState<'_>) {
        if let Err(errno) = self.send(state) {
            tracing::warn!("service manager not told: {errno}");
        }
    }

    /// Until it is told, or never will be: what is not ready in time is ended.
    pub async fn tell_ready(&self) {
        let mut late = false;
        loop {
            match self.send(&NotifyState::Ready) {
                Ok(()) => return,
                Err(Errno::AGAIN | Errno::NOBUFS) if late => {}
                Err(Errno::AGAIN | Errno::NOBUFS) => {
                    late = true;
                    tracing::warn!("service manager not told yet: it has no room");
                }
                Err(errno) => return tracing::warn!("service manager not told: {errno}"),
            }
            sleep(RETRY_TIME).await;
        }
    }

    fn send(&self, state: &NotifyState<'_>) -> Result<(), Errno> {
        let Some(socket) = &self.0 else { return Ok(()) };
        let sent = socket.send(format!("{state}\n").as_bytes());
        sent.map(drop).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }
}
