//! The request target: which server, which path, which query; each in one canonical form.
//! Total: anything with two readings is a refusal. Knows neither methods nor headers.

use crate::percent::{Place, decode, encode};
use crate::{Profile, Refusal};

/// A judged target.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// Decoded segments, each after a slash; empty for the root. No segment holds a slash.
    pub(crate) decoded: String,
    /// The path and query that are sent: the encoding of what was judged, and nothing else.
    pub(crate) encoded: String,
}

impl Target {
    pub(crate) fn judge(raw: &[u8], profile: &Profile) -> Result<Self, Refusal> {
        if raw.contains(&b'#') {
            return Err(Refusal::Fragment);
        }
        let (path, query) = split_once(origin_form(raw, profile)?, b'?');
        let (decoded, mut encoded) = judge_path(path)?;
        if let Some(query) = query {
            append_query(query, profile, &mut encoded)?;
        }
        Ok(Self { decoded, encoded })
    }

    pub(crate) fn segments(&self) -> impl Iterator<Item = &str> {
        self.decoded.split('/').skip(1)
    }
}

/// RFC 9112 section 3.2. An absolute form is accepted only from the service's own name; `*` and `host:port` never are.
fn origin_form<'a>(raw: &'a [u8], profile: &Profile) -> Result<&'a [u8], Refusal> {
    if raw.first() == Some(&b'/') {
        return Ok(raw);
    }
    let rest = match raw.split_at_checked("http://".len()) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(b"http://") => rest,
        Some(_) | None => return Err(Refusal::TargetForm),
    };
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(end).ok_or(Refusal::TargetForm)?;
    if profile.serves(authority) { Ok(path) } else { Err(Refusal::Authority) }
}

/// Decoded and encoded path. Empty segments are dropped: servers differ on `//`. A trailing slash is sent as it was
/// asked for, since servers differ on that too, but no rule sees it.
fn judge_path(raw: &[u8]) -> Result<(String, String), Refusal> {
    let (mut decoded, mut encoded) = (String::new(), String::new());
    for piece in raw.split(|byte| *byte == b'/').filter(|piece| !piece.is_empty()) {
        let segment = decode(piece, Place::Path)?;
        if matches!(segment.as_str(), "." | "..") {
            return Err(Refusal::DotSegment);
        }
        decoded.push('/');
        decoded.push_str(&segment);
        encoded.push('/');
        encode(&segment, Place::Path, &mut encoded);
    }
    if encoded.is_empty() || raw.last() == Some(&b'/') {
        encoded.push('/');
    }
    Ok((decoded, encoded))
}

fn append_query(raw: &[u8], profile: &Profile, out: &mut String) -> Result<(), Refusal> {
    if raw.is_empty() {
        return Ok(());
    }
    let mut seen: Vec<String> = Vec::new();
    for pair in raw.split(|byte| *byte == b'&') {
        let (key, value) = split_once(pair, b'=');
        let key = decode(key, Place::Query)?;
        if !profile.query_keys.contains(&key.as_str()) {
            return Err(Refusal::QueryKey);
        }
        if seen.contains(&key) {
            return Err(Refusal::QueryRepeated);
        }
        out.push(if seen.is_empty() { '?' } else { '&' });
        encode(&key, Place::Query, out);
        if let Some(value) = value {
            out.push('=');
            encode(&decode(value, Place::Query)?, Place::Query, out);
        }
        seen.push(key);
    }
    Ok(())
}

fn split_once(bytes: &[u8], at: u8) -> (&[u8], Option<&[u8]>) {
    let mut parts = bytes.splitn(2, |byte| *byte == at);
    (parts.next().unwrap_or(bytes), parts.next())
}
