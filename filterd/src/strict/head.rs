//! One complete request head, and why bytes are none.
//! Total; holds no opinion about methods, targets or header values beyond their form.

use imds_rules::Version;
use std::fmt;
use zeroize::Zeroizing;

/// hyper's own bound is 100; no client of a metadata service sends more than a dozen.
const MAX_FIELDS: usize = 64;
/// The longest registered method has 17 letters (UPDATEREDIRECTREF).
const MAX_METHOD: usize = 24;

/// Why a client's bytes are no request head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    BareLf,
    BareCr,
    ControlByte,
    LeadingBlankLine,
    RequestLine,
    Version,
    FoldedLine,
    NoColon,
    Body,
    CutShort,
    TooManyFields,
    TooLong,
    TooSlow,
}

impl Malformed {
    /// The HTTP status of the answer.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::TooSlow => 408,
            Self::TooManyFields | Self::TooLong => 431,
            Self::BareLf
            | Self::BareCr
            | Self::ControlByte
            | Self::LeadingBlankLine
            | Self::RequestLine
            | Self::Version
            | Self::FoldedLine
            | Self::NoColon
            | Self::Body
            | Self::CutShort => 400,
        }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BareLf => "line end without carriage return",
            Self::BareCr => "carriage return without line feed",
            Self::ControlByte => "control byte in the request head",
            Self::LeadingBlankLine => "blank line before the request",
            Self::RequestLine => "malformed request line",
            Self::Version => "neither HTTP/1.1 nor HTTP/1.0",
            Self::FoldedLine => "folded header line",
            Self::NoColon => "header line without a colon",
            Self::Body => "request with a body",
            Self::CutShort => "request head cut short",
            Self::TooManyFields => "too many header lines",
            Self::TooLong => "request head too long",
            Self::TooSlow => "request head took too long",
        })
    }
}

impl std::error::Error for Malformed {}

/// A head whose line ends, bytes and request line are in order. Owns its bytes, the final blank line included;
/// they are wiped when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Head {
    bytes: Zeroizing<Vec<u8>>,
    version: Version,
}

impl fmt::Debug for Head {
    /// A head may hold a token: it is not shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Head({} bytes)", self.bytes.len())
    }
}

/// The parts of a head, borrowed from it.
pub struct Fields<'a> {
    pub method: &'a [u8],
    pub target: &'a [u8],
    pub version: Version,
    /// (name, value) in order of arrival; blanks around the value are gone, those around the name are not: the rules
    /// refuse them, and look through them for a forwarding header.
    pub headers: Vec<(&'a [u8], &'a [u8])>,
}

impl Head {
    /// `bytes` end with a blank line and have passed the [`crate::strict::Collector`].
    pub(super) fn new(bytes: Zeroizing<Vec<u8>>, version: Version) -> Self {
        Self { bytes, version }
    }

    pub(crate) fn version(&self) -> Version {
        self.version
    }

    /// Bytes, the final blank line included.
    pub(crate) fn length(&self) -> usize {
        self.bytes.len()
    }

    /// HEAD's answer has no body, whatever it says.
    pub(crate) fn is_for_head_only(&self) -> bool {
        self.bytes.starts_with(b"HEAD ")
    }

    /// # Errors
    /// For header lines that have more than one reading, and for a head that announces a body: none is ever read, so
    /// what follows this head would be taken for the next one.
    pub fn fields(&self) -> Result<Fields<'_>, Malformed> {
        let mut lines = self.bytes.split(|byte| *byte == b'\n').map(without_cr);
        let (method, target, version) = request_line(lines.next().unwrap_or(b""))?;
        let mut headers = Vec::with_capacity(12);
        for line in lines.take_while(|line| !line.is_empty()) {
            if headers.len() == MAX_FIELDS {
                return Err(Malformed::TooManyFields);
            }
            headers.push(field(line)?);
        }
        Ok(Fields { method, target, version, headers })
    }
}

impl Fields<'_> {
    /// Whether the client wants the connection closed after the answer. HTTP/1.0 clients get no keep-alive: they that
    /// ask for it understand its end too.
    pub(crate) fn wants_close(&self) -> bool {
        self.version == Version::Http10
            || self.headers.iter().any(|(name, value)| {
                name.eq_ignore_ascii_case(b"connection")
                    && value
                        .split(|byte| *byte == b',')
                        .any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
            })
    }
}

fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// RFC 9112 section 3, with exactly one space between the parts.
pub(super) fn request_line(line: &[u8]) -> Result<(&[u8], &[u8], Version), Malformed> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Malformed::RequestLine);
    };
    let method_ok = (1..=MAX_METHOD).contains(&method.len()) && method.iter().all(|byte| is_token(*byte));
    if !method_ok || target.is_empty() || !target.iter().all(u8::is_ascii_graphic) {
        return Err(Malformed::RequestLine);
    }
    match version {
        b"HTTP/1.1" => Ok((method, target, Version::Http11)),
        b"HTTP/1.0" => Ok((method, target, Version::Http10)),
        _ => Err(Malformed::Version),
    }
}

fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    if line.first().is_some_and(|byte| matches!(byte, b' ' | b'\t')) {
        return Err(Malformed::FoldedLine); // RFC 9112 section 5.2
    }
    let mut halves = line.splitn(2, |byte| *byte == b':');
    let (Some(name), Some(value)) = (halves.next(), halves.next()) else { return Err(Malformed::NoColon) };
    let value = value.trim_ascii();
    let plain = name.trim_ascii();
    let announces_body = plain.eq_ignore_ascii_case(b"transfer-encoding")
        || (plain.eq_ignore_ascii_case(b"content-length") && value != b"0");
    if announces_body { Err(Malformed::Body) } else { Ok((name, value)) }
}

/// RFC 9110 section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
