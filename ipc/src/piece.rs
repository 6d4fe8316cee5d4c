//! Bytes of a client's, or for one, that travel in a message: a request's head, or a small answer.
//! Shown to nobody, and wiped when dropped: tokens are in them.

use std::fmt;
use zeroize::Zeroizing;

/// Of a client's bytes in one message: nearly every head is a quarter of it. With the longest that can be told of a client
/// it fits in a message.
pub const MAX_ASKED: usize = 2048;
/// Of an answer in one message, its head among them.
pub const MAX_ANSWER: usize = 6 * 1024;

/// Some bytes, at least one.
#[derive(Clone, PartialEq, Eq)]
pub struct Piece(Zeroizing<Vec<u8>>);

impl Piece {
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.to_vec()))
    }

    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    #[must_use]
    pub fn into_bytes(self) -> Zeroizing<Vec<u8>> {
        self.0
    }
}

impl From<Zeroizing<Vec<u8>>> for Piece {
    fn from(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Piece({} bytes)", self.0.len())
    }
}
