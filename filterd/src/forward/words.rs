//! A request as upstream reads it, and the only place where one is written.
//! Writes what the permit holds and our own framing, and nothing else.

use super::ForwardError;
use hyper::Method;
use hyper::header::HeaderValue;
use imds_rules::{Permit, Secret, TOKEN_HEADER};
use zeroize::Zeroizing;

/// The bytes of one request, and what of it its answer depends on. Tokens are in it: it is wiped when dropped.
pub(crate) struct Words {
    bytes: Zeroizing<Vec<u8>>,
    method: Method,
}

impl Words {
    /// What is permitted; with `ours` in the place of the client's token.
    ///
    /// # Errors
    /// For a value that no header can have. The rules let none through.
    pub(super) fn of(
        permit: &Permit,
        host: &HeaderValue,
        ours: Option<&Secret>,
    ) -> Result<Self, ForwardError> {
        let judged = permit.request();
        let method = match judged.method() {
            imds_rules::Method::Get => Method::GET,
            imds_rules::Method::Head => Method::HEAD,
            imds_rules::Method::Put => Method::PUT,
        };
        let passed = judged.upstream_headers();
        let passed = passed.filter(|(name, _)| ours.is_none() || !name.eq_ignore_ascii_case(TOKEN_HEADER));
        let ours = ours.map(|token| (TOKEN_HEADER, token.bytes()));
        let framing: Option<(_, &[u8])> = match judged.method() {
            imds_rules::Method::Get => None,
            imds_rules::Method::Put => Some(("content-length", b"0")),
            // after an answer to HEAD the connection is not kept, see `ends_surely`
            imds_rules::Method::Head => Some(("connection", b"close")),
        };
        let headers: Vec<_> = passed.chain(ours).chain(framing).collect();
        Self::write(method, judged.upstream_target(), host, &headers)
    }

    /// Asks for a token of `ttl` seconds for ourselves.
    ///
    /// # Errors
    /// As [`Words::of`].
    pub(crate) fn for_token(host: &HeaderValue, header: &str, ttl: u64) -> Result<Self, ForwardError> {
        let ttl = ttl.to_string();
        let headers: [(_, &[u8]); 2] = [(header, ttl.as_bytes()), ("content-length", b"0")];
        Self::write(Method::PUT, "/latest/api/token", host, &headers)
    }

    fn write(
        method: Method,
        target: &str,
        host: &HeaderValue,
        headers: &[(&str, &[u8])],
    ) -> Result<Self, ForwardError> {
        let first = [method.as_str(), " ", target, " HTTP/1.1\r\nHost: "];
        let around = ": \r\n".len();
        let length = first.iter().map(|piece| piece.len()).sum::<usize>() + host.len() + 2 * "\r\n".len();
        let length =
            headers.iter().fold(length, |sum, (name, value)| sum + name.len() + value.len() + around);
        // of its full size at once: what grows leaves a copy behind
        let mut bytes = Zeroizing::new(Vec::with_capacity(length));
        if !target.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ForwardError::Request);
        }
        first.iter().for_each(|piece| bytes.extend_from_slice(piece.as_bytes()));
        bytes.extend_from_slice(host.as_bytes());
        bytes.extend_from_slice(b"\r\n");
        for (name, value) in headers {
            put_header(&mut bytes, name, value)?;
        }
        bytes.extend_from_slice(b"\r\n");
        Ok(Self { bytes, method })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn method(&self) -> &Method {
        &self.method
    }
}

/// Each part of the name with a capital, as clients of these services write it.
fn put_header(bytes: &mut Vec<u8>, name: &str, value: &[u8]) -> Result<(), ForwardError> {
    // RFC 9110 section 5.5
    if value.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
        return Err(ForwardError::Request);
    }
    let mut before = b'-';
    for byte in name.bytes() {
        bytes.push(if before == b'-' { byte.to_ascii_uppercase() } else { byte.to_ascii_lowercase() });
        before = byte;
    }
    bytes.extend_from_slice(b": ");
    bytes.extend_from_slice(value);
    bytes.extend_from_slice(b"\r\n");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_would_end_a_line_or_a_target_is_written() {
        let host = HeaderValue::from_static("h");
        let write = |target, value| Words::write(Method::GET, target, &host, &[("x-a", value)]);
        let said = write("/a?b", b"c d\te\xff").unwrap();
        assert_eq!(said.bytes(), b"GET /a?b HTTP/1.1\r\nHost: h\r\nX-A: c d\te\xff\r\n\r\n");
        for value in ["a\r\nb: c", "a\nb", "a\rb", "a\0b", "a\x7fb"] {
            assert!(write("/", value.as_bytes()).is_err(), "{value:?}");
        }
        for target in ["/a b", "/a\r\n", "/a\nb", "/a\0", "/\u{e9}"] {
            assert!(write(target, b"").is_err(), "{target:?}");
        }
    }
}
