//! Numbers and pieces out of a target's bytes, front to back. Total: an exhausted source gives zeros.
//! Must not read ahead: what a byte decides stays the same when something is appended.

pub(crate) struct Source<'a>(&'a [u8]);

impl<'a> Source<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// At most `most` bytes.
    pub(crate) fn piece(&mut self, most: usize) -> &'a [u8] {
        let (piece, rest) = self.0.split_at_checked(most).unwrap_or((self.0, &[]));
        self.0 = rest;
        piece
    }

    pub(crate) fn u8(&mut self) -> u8 {
        self.piece(1).first().copied().unwrap_or(0)
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from(self.u16()) | u32::from(self.u16()) << 16
    }

    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }
}
