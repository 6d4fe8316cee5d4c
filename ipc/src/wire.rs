//! Bytes and fields: a little-endian header (length, version, kind), then the typed fields of that kind.
//! Total: no indexing, no cast; whatever is not exactly one message is an error.

use crate::blob::Blob;
use crate::message::Hello;
use crate::piece::Piece;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use zeroize::Zeroizing;

/// Programs with different majors cannot talk.
pub const PROTOCOL_MAJOR: u16 = 1;
/// 1 added what is needed to give connections to the next filterd, 2 requests and small answers in messages.
pub const PROTOCOL_MINOR: u8 = 2;
/// Each program also speaks the minors before its own, at least the last one.
pub(crate) const OLDEST_MINOR: u8 = 0;
/// No message is longer (the longest tells of a client with all its groups); room for one and not more is offered to a
/// peer.
pub const MAX_MESSAGE: usize = 8192;
/// The operator's protocol (`control`) has its own version: its programs are installed together.
pub(crate) const CONTROL_VERSION: u16 = 1;
/// No frame of the operator's protocol is longer: a rules file (4 MiB), its names and the names of local users.
pub(crate) const MAX_FRAME: usize = 16 << 20;
pub(crate) const HEADER: usize = 8;

pub(crate) mod kind {
    pub(crate) const HELLO: u16 = 1;
    pub(crate) const CONNECTION: u16 = 2;
    pub(crate) const DIALLED: u16 = 3;
    pub(crate) const DIAL_FAILED: u16 = 4;
    pub(crate) const IDENTITY: u16 = 5;
    pub(crate) const DRAIN: u16 = 6;
    pub(crate) const UNATTRIBUTED: u16 = 7;
    pub(crate) const KEPT: u16 = 8;
    pub(crate) const ASKED: u16 = 9;
    pub(crate) const OPENED: u16 = 10;
    pub(crate) const GONE: u16 = 11;
    pub(crate) const DIALLING: u16 = 12;
    pub(crate) const SYNCED: u16 = 13;
    pub(crate) const DIAL: u16 = 16;
    pub(crate) const CLOSE: u16 = 17;
    pub(crate) const NEEDS: u16 = 18;
    pub(crate) const ANSWERED: u16 = 19;
    pub(crate) const RESET: u16 = 20;
    pub(crate) const LEAVING: u16 = 21;
    pub(crate) const MODE: u16 = 22;
    pub(crate) const ANSWER: u16 = 23;
    pub(crate) const OPEN: u16 = 24;
    pub(crate) const SYNC: u16 = 25;
    pub(crate) const KEEP: u16 = 28;
}

/// Why bytes are no message. Fatal for the peer that sent them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeError {
    /// The length in the header is not the length of the record.
    Length,
    /// The two programs are of versions that cannot talk.
    Version,
    /// No message of this direction has that kind.
    Kind,
    /// A field has a value that nothing sends.
    Value,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Length => "a message of the wrong length",
            Self::Version => {
                "a protocol version this program does not speak: install the same version of both programs"
            }
            Self::Kind => "a message of an unknown kind",
            Self::Value => "a message with an impossible value",
        })
    }
}

impl std::error::Error for DecodeError {}

pub(crate) struct Writer<'a>(&'a mut Vec<u8>);

impl<'a> Writer<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Self {
        Self::with_version(out, PROTOCOL_MAJOR)
    }
    pub(crate) fn control(out: &'a mut Vec<u8>) -> Self {
        Self::with_version(out, CONTROL_VERSION)
    }
    fn with_version(out: &'a mut Vec<u8>, version: u16) -> Self {
        out.clear();
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&version.to_le_bytes());
        Self(out)
    }
    pub(crate) fn kind(&mut self, kind: u16) {
        self.u16(kind);
    }
    pub(crate) fn hello(&mut self, hello: Hello) {
        self.kind(kind::HELLO);
        self.u8(hello.minor);
        self.u8(hello.oldest_minor);
    }
    pub(crate) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }
    pub(crate) fn bool(&mut self, value: bool) {
        self.u8(value.into());
    }
    pub(crate) fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    pub(crate) fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    pub(crate) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }
    pub(crate) fn array<const N: usize>(&mut self, bytes: &[u8; N]) {
        self.0.extend_from_slice(bytes);
    }
    /// Whoever makes a text keeps to its bound; a longer one is refused by who reads it.
    pub(crate) fn text(&mut self, text: &str) {
        self.u16(u16::try_from(text.len()).unwrap_or(u16::MAX));
        self.0.extend_from_slice(text.as_bytes());
    }
    /// Up to a frame.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(bytes);
    }
    pub(crate) fn blob(&mut self, blob: &Blob) {
        // it has a bound far below
        self.u16(u16::try_from(blob.bytes().len()).unwrap_or(u16::MAX));
        self.0.extend_from_slice(blob.bytes());
    }
    /// Up to the end of the message.
    pub(crate) fn piece(&mut self, piece: &Piece) {
        self.0.extend_from_slice(piece.bytes());
    }
    pub(crate) fn address(&mut self, address: SocketAddr) {
        match address.ip() {
            IpAddr::V4(ip) => {
                self.u8(4);
                self.0.extend_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                self.u8(6);
                self.0.extend_from_slice(&ip.octets());
            }
        }
        self.u16(address.port());
    }
    /// Writes the length into the header.
    pub(crate) fn finish(self) {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        if let Some(place) = self.0.first_chunk_mut::<4>() {
            *place = length.to_le_bytes();
        }
    }
}

pub(crate) struct Reader<'a> {
    kind: u16,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        Self::with_version(bytes, MAX_MESSAGE, PROTOCOL_MAJOR)
    }
    pub(crate) fn control(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        Self::with_version(bytes, MAX_FRAME, CONTROL_VERSION)
    }
    fn with_version(bytes: &'a [u8], most: usize, version: u16) -> Result<Self, DecodeError> {
        if bytes.len() < HEADER || bytes.len() > most {
            return Err(DecodeError::Length);
        }
        let mut reader = Self { kind: 0, rest: bytes };
        let length = reader.u32()?;
        if usize::try_from(length) != Ok(bytes.len()) {
            return Err(DecodeError::Length);
        }
        if reader.u16()? != version {
            return Err(DecodeError::Version);
        }
        reader.kind = reader.u16()?;
        Ok(reader)
    }
    pub(crate) fn kind(&self) -> u16 {
        self.kind
    }
    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (chunk, rest) = self.rest.split_first_chunk::<N>().ok_or(DecodeError::Length)?;
        self.rest = rest;
        Ok(*chunk)
    }
    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.chunk().map(u8::from_le_bytes)
    }
    pub(crate) fn bool(&mut self) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Value),
        }
    }
    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.chunk().map(u16::from_le_bytes)
    }
    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.chunk().map(u32::from_le_bytes)
    }
    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.chunk().map(u64::from_le_bytes)
    }
    pub(crate) fn hello(&mut self) -> Result<Hello, DecodeError> {
        Ok(Hello { minor: self.u8()?, oldest_minor: self.u8()? })
    }
    pub(crate) fn bytes(&mut self, most: usize) -> Result<Vec<u8>, DecodeError> {
        let length = usize::try_from(self.u32()?).map_err(|_| DecodeError::Value)?;
        if length > most {
            return Err(DecodeError::Value);
        }
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(DecodeError::Length)?;
        self.rest = rest;
        Ok(bytes.to_vec())
    }
    /// Of fixed length.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        self.chunk()
    }
    pub(crate) fn text(&mut self, most: usize) -> Result<String, DecodeError> {
        let length = usize::from(self.u16()?);
        if length > most {
            return Err(DecodeError::Value);
        }
        let (text, rest) = self.rest.split_at_checked(length).ok_or(DecodeError::Length)?;
        self.rest = rest;
        String::from_utf8(text.to_vec()).map_err(|_| DecodeError::Value)
    }
    pub(crate) fn blob(&mut self) -> Result<Blob, DecodeError> {
        let length = usize::from(self.u16()?);
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(DecodeError::Length)?;
        self.rest = rest;
        Blob::new(Zeroizing::new(bytes.to_vec())).ok_or(DecodeError::Value)
    }
    /// All that is left.
    pub(crate) fn piece(&mut self, most: usize) -> Result<Piece, DecodeError> {
        let bytes = std::mem::take(&mut self.rest);
        if bytes.is_empty() || bytes.len() > most {
            return Err(DecodeError::Value);
        }
        Ok(Piece::of(bytes))
    }
    pub(crate) fn address(&mut self) -> Result<SocketAddr, DecodeError> {
        let ip = match self.u8()? {
            4 => IpAddr::from(self.chunk::<4>()?),
            6 => IpAddr::from(self.chunk::<16>()?),
            _ => return Err(DecodeError::Value),
        };
        Ok(SocketAddr::new(ip, self.u16()?))
    }
    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Length) }
    }
}
