//! The hand-over to filterd: its door, those who came in, and the bytes of the connections they were given.
//! Must not look into the bytes, and must take whoever came in for hostile.

mod door;
mod ledger;
mod pair;
mod peer;

pub use door::{Caller, Door, DoorError, make_directory};
pub use ledger::{Impossible, Ledger, Left};
pub use pair::{Pair, Pumped, empty, pump};
pub use peer::{Peer, PeerError, Peers};

use std::time::Instant;

/// A captured connection on its way through filterds.
#[derive(Default)]
pub struct Course {
    pub place: Place,
    pub ledger: Ledger,
    /// Only a filterd newer than this takes it: the last one that had it is gone, or nearly so.
    pub after: u64,
}

/// Where a captured connection's bytes go.
#[derive(Default)]
pub enum Place {
    /// The handshake is not finished: nowhere yet.
    #[default]
    Opening,
    /// Waiting for a filterd that takes it. `new`: no filterd ever had it.
    Held { until: Instant, new: bool },
    /// With none: its next bytes are an ask of the newest filterd, if they come in time.
    Waiting { until: Instant },
    /// Its first `bytes`, which TCP keeps, are an ask that this filterd has not answered.
    Asked { peer: usize, bytes: usize },
    /// Its last answer, and its end, are on their way.
    Ending { until: Instant },
    /// With a filterd, by a socket of its own.
    Filterd { peer: usize, pair: Pair, leaving: Option<Instant> },
    /// Its filterd left it, and so many bytes of that one's last answer wait for the client to make room.
    Emptying { pair: Pair, left: u64, until: Instant },
}

impl Place {
    /// When the connection is reset if nothing changes.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Opening | Self::Asked { .. } => None,
            Self::Held { until, .. }
            | Self::Emptying { until, .. }
            | Self::Waiting { until }
            | Self::Ending { until } => Some(*until),
            Self::Filterd { leaving, .. } => *leaving,
        }
    }
}
