//! The bytes of a request head as a `Request`. Does no I/O.
//! Deliberately lenient where the real service's strictness is not known (bare LF, doubled slashes, dot segments,
//! percent-encoding): a request that slipped past a filter must be served here, so that a test notices.

use std::fmt;

/// Not a request. Displays what is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    RequestLine,
    Version,
    Target,
    Header,
    /// Two lengths, no number, or a transfer coding.
    Length,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RequestLine => "the first line is not method, target and version",
            Self::Version => "neither HTTP/1.0 nor HTTP/1.1",
            Self::Target => "the target is no path",
            Self::Header => "a header line without a name",
            Self::Length => "the length of the body is not clear",
        })
    }
}

impl std::error::Error for Malformed {}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    /// The path's segments, decoded, without empty and dot ones.
    pub segments: Vec<String>,
    /// HTTP/1.0 or 1.1.
    pub minor: u8,
    /// Names in lower case; values without the blanks around them.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Bytes of body that follow the head.
    pub body_length: u64,
}

/// Where the head at the beginning of `bytes` ends, after its empty line; `None` if it is not all there.
pub(crate) fn head_length(bytes: &[u8]) -> Option<usize> {
    let mut length = 0;
    let mut started = false;
    for line in bytes.split_inclusive(|b| *b == b'\n') {
        length += line.len();
        let blank = matches!(line, b"\n" | b"\r\n");
        if blank && started {
            return Some(length);
        }
        // RFC 9112, 2.2: empty lines before a request are skipped
        started |= !blank;
    }
    None
}

impl Request {
    /// Reads a head: up to the first empty line, whatever follows.
    ///
    /// # Errors
    /// Whatever is not a request of HTTP/1.0 or 1.1.
    pub fn parse(head: &[u8]) -> Result<Self, Malformed> {
        let mut lines = head.split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let first = lines.find(|line| !line.is_empty()).ok_or(Malformed::RequestLine)?;
        let words: Vec<&[u8]> = first.split(|b| *b == b' ').collect();
        let [method, target, version] = words.as_slice() else { return Err(Malformed::RequestLine) };
        let method = std::str::from_utf8(method).map_err(|_| Malformed::RequestLine)?;
        if method.is_empty() {
            return Err(Malformed::RequestLine);
        }
        let minor = match *version {
            b"HTTP/1.0" => 0,
            b"HTTP/1.1" => 1,
            _ => return Err(Malformed::Version),
        };
        let segments = parse_target(target)?;
        let headers =
            lines.take_while(|line| !line.is_empty()).map(parse_header).collect::<Result<Vec<_>, _>>()?;
        let body_length = parse_length(&headers)?;
        Ok(Self { method: method.to_owned(), segments, minor, headers, body_length })
    }

    /// The first header of that name, which is given in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_slice())
    }

    /// Whether the client wants the connection to stay, by what it says and by its version's default.
    pub(crate) fn wants_keep_alive(&self) -> bool {
        match self.header("connection").map(<[u8]>::to_ascii_lowercase).as_deref() {
            Some(b"close") => false,
            Some(b"keep-alive") => true,
            Some(_) | None => self.minor == 1,
        }
    }
}

fn parse_header(line: &[u8]) -> Result<(String, Vec<u8>), Malformed> {
    let colon = line.iter().position(|b| *b == b':').ok_or(Malformed::Header)?;
    let (name, value) = line.split_at_checked(colon).ok_or(Malformed::Header)?;
    let name = std::str::from_utf8(name).map_err(|_| Malformed::Header)?.trim();
    if name.is_empty() {
        return Err(Malformed::Header);
    }
    let value = value.strip_prefix(b":").unwrap_or(value).trim_ascii();
    Ok((name.to_ascii_lowercase(), value.to_vec()))
}

fn parse_length(headers: &[(String, Vec<u8>)]) -> Result<u64, Malformed> {
    if headers.iter().any(|(name, _)| name == "transfer-encoding") {
        return Err(Malformed::Length);
    }
    let mut lengths = headers.iter().filter(|(name, _)| name == "content-length").map(|(_, value)| value);
    let Some(value) = lengths.next() else { return Ok(0) };
    if lengths.any(|other| other != value) || !value.iter().all(u8::is_ascii_digit) {
        return Err(Malformed::Length);
    }
    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).ok_or(Malformed::Length)
}

/// Origin form, or absolute form whatever its authority; the query is dropped.
fn parse_target(target: &[u8]) -> Result<Vec<String>, Malformed> {
    let path = match target.split_at_checked(7) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(b"http://") => {
            rest.iter().position(|b| *b == b'/').and_then(|slash| rest.get(slash..)).unwrap_or(b"/")
        }
        Some(_) | None => target,
    };
    if !path.starts_with(b"/") {
        return Err(Malformed::Target);
    }
    let path = path.split(|b| matches!(b, b'?' | b'#')).next().ok_or(Malformed::Target)?;
    let path = String::from_utf8(percent_decode(path)?).map_err(|_| Malformed::Target)?;
    let mut segments = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            name => segments.push(name.to_owned()),
        }
    }
    Ok(segments)
}

fn percent_decode(path: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut bytes = path.iter().copied();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || {
            let digit = char::from(bytes.next()?).to_digit(16)?;
            u8::try_from(digit).ok()
        };
        let (high, low) = (digit().ok_or(Malformed::Target)?, digit().ok_or(Malformed::Target)?);
        decoded.push(high << 4 | low);
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FULL: &[u8] =
        b"GET /latest/meta-data/ HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token:  abc \r\n\r\n";

    #[test]
    fn a_head_ends_at_its_empty_line_and_no_truncation_of_it_does() {
        assert_eq!(head_length(FULL), Some(FULL.len()));
        assert_eq!(head_length(&[FULL, b"GET / HTTP/1.1\r\n\r\n"].concat()), Some(FULL.len()));
        for cut in 0..FULL.len() {
            assert_eq!(head_length(FULL.get(..cut).unwrap()), None, "{cut}");
        }
        assert_eq!(head_length(b"GET / HTTP/1.0\n\nrest"), Some(16));
        assert_eq!(head_length(b"\r\n\r\nGET / HTTP/1.0\r\n\r\n"), Some(22));
    }

    #[test]
    fn header_names_ignore_case_and_blanks_before_the_colon() {
        let request = Request::parse(b"GET / HTTP/1.0\r\nX-FORWARDED-for : 1.2.3.4\r\n\r\n").unwrap();
        assert_eq!(request.header("x-forwarded-for"), Some(b"1.2.3.4".as_slice()));
        let request = Request::parse(FULL).unwrap();
        assert_eq!(request.header("x-aws-ec2-metadata-token"), Some(b"abc".as_slice()));
        assert_eq!((request.minor, request.method.as_str()), (1, "GET"));
    }

    #[test]
    fn every_spelling_of_a_path_is_the_same_path() {
        for target in [
            "/latest/meta-data",
            "/latest/meta-data/",
            "//latest//meta-data",
            "/latest/./meta-data",
            "/x/../latest/meta-data",
            "/../latest/meta-data",
            "/latest/meta%2ddata",
            "/latest%2Fmeta-data",
            "/%6Catest/meta-data?recursive=true",
            "http://example.com/latest/meta-data",
        ] {
            let head = format!("GET {target} HTTP/1.1\r\n\r\n");
            let request = Request::parse(head.as_bytes()).unwrap();
            assert_eq!(request.segments, ["latest", "meta-data"], "{target}");
        }
        assert!(Request::parse(b"GET http://example.com HTTP/1.1\r\n\r\n").unwrap().segments.is_empty());
    }

    #[test]
    fn what_is_no_request_is_refused_with_its_reason() {
        let cases = [
            ("", Malformed::RequestLine),
            ("GET /\r\n\r\n", Malformed::RequestLine),
            ("GET  / HTTP/1.1\r\n\r\n", Malformed::RequestLine),
            (" / HTTP/1.1\r\n\r\n", Malformed::RequestLine),
            ("GET / HTTP/2.0\r\n\r\n", Malformed::Version),
            ("GET / http/1.1\r\n\r\n", Malformed::Version),
            ("GET latest HTTP/1.1\r\n\r\n", Malformed::Target),
            ("OPTIONS * HTTP/1.1\r\n\r\n", Malformed::Target),
            ("GET /%zz HTTP/1.1\r\n\r\n", Malformed::Target),
            ("GET /%2 HTTP/1.1\r\n\r\n", Malformed::Target),
            ("GET /%ff HTTP/1.1\r\n\r\n", Malformed::Target),
            ("GET / HTTP/1.1\r\nnonsense\r\n\r\n", Malformed::Header),
            ("GET / HTTP/1.1\r\n: x\r\n\r\n", Malformed::Header),
            ("PUT / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", Malformed::Length),
            ("PUT / HTTP/1.1\r\nContent-Length: +1\r\n\r\n", Malformed::Length),
            ("PUT / HTTP/1.1\r\nContent-Length:\r\n\r\n", Malformed::Length),
            ("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", Malformed::Length),
        ];
        for (head, why) in cases {
            assert_eq!(Request::parse(head.as_bytes()), Err(why), "{head:?}");
        }
    }

    #[test]
    fn a_connection_stays_as_its_version_says_unless_the_client_says_otherwise() {
        let cases = [
            ("HTTP/1.1\r\n\r\n", true),
            ("HTTP/1.0\r\n\r\n", false),
            ("HTTP/1.1\r\nConnection: Close\r\n\r\n", false),
            ("HTTP/1.0\r\nconnection: keep-alive\r\n\r\n", true),
        ];
        for (rest, stays) in cases {
            let request = Request::parse(format!("GET / {rest}").as_bytes()).unwrap();
            assert_eq!(request.wants_keep_alive(), stays, "{rest:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0..FULL.len(), byte: u8) {
            let _ = Request::parse(&bytes);
            let _ = head_length(&bytes);
            let mut damaged = FULL.to_vec();
            if let Some(place) = damaged.get_mut(cut) {
                *place = byte;
            }
            let _ = Request::parse(&damaged);
        }
    }
}
