//! What interceptor keeps for filterd and gives to the next one: bytes that mean nothing to it.
//! Shown to nobody, and wiped when dropped.

use std::fmt;
use zeroize::Zeroizing;

/// Bytes. Two keys and what belongs to them take 75.
pub const MAX_BLOB: usize = 256;

/// At most [`MAX_BLOB`] bytes of one filterd for the next.
#[derive(Clone, PartialEq, Eq)]
pub struct Blob(Zeroizing<Vec<u8>>);

impl Blob {
    /// `None` if they are too many.
    #[must_use]
    pub fn new(bytes: Zeroizing<Vec<u8>>) -> Option<Self> {
        (bytes.len() <= MAX_BLOB).then_some(Self(bytes))
    }

    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({} bytes)", self.0.len())
    }
}
