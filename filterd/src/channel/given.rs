//! A captured connection, and how we have it.
//! Must not show what a client said.

use imds_ipc::Who;
use std::fmt;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use zeroize::Zeroizing;

/// A captured connection, as interceptor hands it over.
#[derive(Debug)]
pub struct Captured {
    pub id: u64,
    pub subject: Who,
    pub client: SocketAddr,
    pub service: SocketAddr,
    pub upstream: u16,
    pub given: Given,
}

/// How we have a connection.
pub enum Given {
    Stream(OwnedFd),
    /// For one answer, to these bytes. `place`: as how manieth of its uid's connections it began.
    Asked {
        place: u32,
        bytes: Zeroizing<Vec<u8>>,
    },
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream(_) => f.write_str("Stream"),
            Self::Asked { place, bytes } => write!(f, "Asked({place}, {} bytes)", bytes.len()),
        }
    }
}
