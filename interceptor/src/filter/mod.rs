//! The hand-over to filterd: its door, those who came in, and the bytes of the connections they were given.
//! Must not look into the bytes, and must take whoever came in for hostile.

mod door;
mod pair;
mod peer;

pub use door::{Caller, Door, DoorError, make_directory};
pub use pair::{Pair, Pumped, pump};
pub use peer::{Peer, PeerError, Peers};

use std::time::Instant;

/// Where a captured connection's bytes go.
#[derive(Default)]
pub enum Place {
    /// The handshake is not finished: nowhere yet.
    #[default]
    Opening,
    /// Waiting for a filterd that takes it.
    Held { until: Instant },
    /// With a filterd.
    Filterd { peer: usize, pair: Pair, leaving: Option<Instant> },
}

impl Place {
    /// When the connection is reset if nothing changes.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Opening => None,
            Self::Held { until } => Some(*until),
            Self::Filterd { leaving, .. } => *leaving,
        }
    }
}
