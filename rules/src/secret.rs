//! Bytes of a client's that may be a token: not shown, and wiped when dropped.
//! Knows nothing of what they mean.

use std::fmt;
use std::hint::black_box;

/// A header's value, or a token. Its copies are secrets again.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<[u8]>);

impl Secret {
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// The copy that `bytes` may leave when its room is cut to its length is not wiped: give it that room.
    pub(crate) fn owned(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }

    /// For who sends it.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.fill(0);
        // or the compiler would see that nobody reads the zeros, and not write them
        black_box(&mut self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown() {
        let shown = format!("{:?}", Secret::new(b"AQAEA-token"));
        assert_eq!(shown, "Secret(11 bytes)");
    }
}
