//! Why a request is answered by us before any rule is asked. Texts hold no byte of the client's.

use std::fmt;

/// A request that cannot be judged, or that no service may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    Method,
    /// PUT asks for a token and nothing else.
    PutPath,
    /// The service gives tokens under `/latest` only, and answers 403 elsewhere.
    DatedToken,
    /// It came through a proxy.
    Forwarded,
    TargetForm,
    Authority,
    Fragment,
    TargetByte,
    Escape,
    DecodedTwice,
    EncodedSlash,
    Backslash,
    Semicolon,
    Control,
    NotUtf8,
    DotSegment,
    QueryKey,
    QueryRepeated,
    HeaderName,
    HeaderValue,
    HeaderRepeated(&'static str),
    HeaderHopByHop(&'static str),
    HostMissing,
    HostRepeated,
    HostForeign,
    TransferEncoding,
    ContentLength,
}

impl Refusal {
    /// The HTTP status of the answer.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::Method | Self::PutPath => 405,
            Self::DatedToken | Self::Forwarded => 403,
            Self::TargetForm
            | Self::Authority
            | Self::Fragment
            | Self::TargetByte
            | Self::Escape
            | Self::DecodedTwice
            | Self::EncodedSlash
            | Self::Backslash
            | Self::Semicolon
            | Self::Control
            | Self::NotUtf8
            | Self::DotSegment
            | Self::QueryKey
            | Self::QueryRepeated
            | Self::HeaderName
            | Self::HeaderValue
            | Self::HeaderRepeated(_)
            | Self::HeaderHopByHop(_)
            | Self::HostMissing
            | Self::HostRepeated
            | Self::HostForeign
            | Self::TransferEncoding
            | Self::ContentLength => 400,
        }
    }

    /// The `Allow` header that a 405 must carry (RFC 9110 section 15.5.6).
    #[must_use]
    pub fn allow(&self) -> Option<&'static str> {
        match self {
            Self::Method => Some("GET, HEAD, PUT"),
            Self::PutPath => Some("GET, HEAD"),
            _ => None, // nothing is decided here: status() names every refusal
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Method => "method not allowed",
            Self::PutPath => "put is for /latest/api/token only",
            Self::DatedToken => "tokens are given under /latest only",
            Self::Forwarded => "forwarded by a proxy",
            Self::TargetForm => "request target is neither a path nor an http url",
            Self::Authority => "request target names another server",
            Self::Fragment => "fragment in the request target",
            Self::TargetByte => "byte that a request target cannot hold",
            Self::Escape => "incomplete percent-encoding",
            Self::DecodedTwice => "percent-encoding inside percent-encoding",
            Self::EncodedSlash => "encoded slash in the path",
            Self::Backslash => "backslash in the request target",
            Self::Semicolon => "semicolon in the request target",
            Self::Control => "control character in the request target",
            Self::NotUtf8 => "request target is not utf-8",
            Self::DotSegment => "dot segment in the path",
            Self::QueryKey => "query key that the service does not know",
            Self::QueryRepeated => "query key given twice",
            Self::HeaderName => "malformed header name",
            Self::HeaderValue => "malformed header value",
            Self::HeaderRepeated(name) => return write!(f, "header {name} given twice"),
            Self::HeaderHopByHop(name) => return write!(f, "connection header names {name}"),
            Self::HostMissing => "no host header",
            Self::HostRepeated => "host header given twice",
            Self::HostForeign => "host header names another server",
            Self::TransferEncoding => "request with a body",
            Self::ContentLength => "content-length is not 0",
        })
    }
}

impl std::error::Error for Refusal {}
