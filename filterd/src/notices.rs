//! What the service manager is told (sd_notify(3)), over a socket connected at the start: later nothing can be.
//! Decides nothing.

use sd_notify::NotifyState;
use std::io;
use std::os::unix::net::UnixDatagram;

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
        let told = self.0.as_ref().map(|socket| socket.send(format!("{state}\n").as_bytes()));
        if let Some(Err(error)) = told {
            tracing::warn!("service manager not told: {error}");
        }
    }
}
