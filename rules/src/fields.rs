//! The header fields of a request: which are refused, which go upstream, which only rules may look at.
//! Total. Passes on nothing that the profile does not list, and nothing given twice.

use crate::secret::Secret;
use crate::{Head, Profile, Refusal, Version};

/// A header for upstream: the profile's spelling of the name, the client's value without blanks around it.
pub(crate) type Field = (&'static str, Secret);

type Raw<'a> = (&'a [u8], &'a [u8]);

/// The fields of a request that was not refused.
#[derive(Clone)]
pub(crate) struct Fields {
    pub(crate) passed_on: Vec<Field>,
    others: Others,
}

impl Fields {
    /// The values of the header of that name, which is given in small letters, in order of arrival.
    pub(crate) fn values(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        let listed = self.passed_on.iter().filter(move |(known, _)| known.eq_ignore_ascii_case(name));
        listed.map(|(_, value)| value.bytes()).chain(self.others.values(name))
    }
}

/// What the profile does not list: a line each, `name:value`, in one piece of memory. Names have no colon in them and
/// values no line end, or the request would have been refused.
#[derive(Clone)]
struct Others(Secret);

impl Others {
    fn of(headers: &[Raw<'_>], profile: &Profile) -> Self {
        let others = || headers.iter().filter(|(name, _)| listed(name, profile).is_none());
        let room = others().map(|(name, value)| name.len() + value.trim_ascii().len() + 2).sum();
        let mut lines = Vec::with_capacity(room);
        for (name, value) in others() {
            lines.extend(name.iter().map(u8::to_ascii_lowercase));
            lines.push(b':');
            lines.extend_from_slice(value.trim_ascii());
            lines.push(b'\n');
        }
        Self(Secret::owned(lines))
    }

    fn values<'a>(&'a self, wanted: &str) -> impl Iterator<Item = &'a [u8]> {
        let lines = self.0.bytes().split(|byte| *byte == b'\n');
        lines.filter_map(move |line| line.strip_prefix(wanted.as_bytes())?.strip_prefix(b":"))
    }
}

pub(crate) fn judge(head: &Head<'_>, profile: &Profile) -> Result<Fields, Refusal> {
    let headers = head.headers;
    // first: the real service looks for these before anything else, and a sloppy proxy is why they are looked for
    if headers.iter().any(|(name, _)| is_forwarding(name)) {
        return Err(Refusal::Forwarded);
    }
    headers.iter().try_for_each(check_syntax)?;
    check_framing(headers)?;
    check_host(head, profile)?;
    check_hop_by_hop(headers, profile)?;
    Ok(Fields { passed_on: passed_on(headers, profile)?, others: Others::of(headers, profile) })
}

/// Blanks around the name do not hide it: some servers strip them before they look.
fn is_forwarding(name: &[u8]) -> bool {
    let name = name.trim_ascii();
    name.eq_ignore_ascii_case(b"x-forwarded-for") || name.eq_ignore_ascii_case(b"forwarded")
}

/// RFC 9110 sections 5.1 and 5.5.
fn check_syntax((name, value): &Raw<'_>) -> Result<(), Refusal> {
    if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
        return Err(Refusal::HeaderName);
    }
    if value.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
        return Err(Refusal::HeaderValue);
    }
    Ok(())
}

pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn values<'a>(headers: &'a [Raw<'a>], wanted: &str) -> impl Iterator<Item = &'a [u8]> {
    headers
        .iter()
        .filter(move |(name, _)| name.eq_ignore_ascii_case(wanted.as_bytes()))
        .map(|(_, value)| value.trim_ascii())
}

/// No method that we forward has a body; two opinions on where a request ends are two requests (smuggling).
fn check_framing(headers: &[Raw<'_>]) -> Result<(), Refusal> {
    if values(headers, "transfer-encoding").next().is_some() {
        return Err(Refusal::TransferEncoding);
    }
    let mut lengths = values(headers, "content-length");
    match (lengths.next(), lengths.next()) {
        (None, _) | (Some(b"0"), None) => Ok(()),
        (Some(_), _) => Err(Refusal::ContentLength),
    }
}

/// RFC 9112 section 3.2; the real service works without, but only HTTP/1.0 clients may leave it out.
fn check_host(head: &Head<'_>, profile: &Profile) -> Result<(), Refusal> {
    let mut hosts = values(head.headers, "host");
    match (hosts.next(), hosts.next(), head.version) {
        (_, Some(_), _) => Err(Refusal::HostRepeated),
        (Some(host), None, _) if profile.serves(host) => Ok(()),
        (Some(_), None, _) => Err(Refusal::HostForeign),
        (None, None, Version::Http10) => Ok(()),
        (None, None, Version::Http11) => Err(Refusal::HostMissing),
    }
}

/// RFC 9110 section 7.6.1 has a proxy drop what `Connection` names; a client that asks us to drop its own token means
/// two readers to see two requests.
fn check_hop_by_hop(headers: &[Raw<'_>], profile: &Profile) -> Result<(), Refusal> {
    for option in values(headers, "connection").flat_map(|value| value.split(|byte| *byte == b',')) {
        let option = option.trim_ascii();
        if let Some(name) =
            profile.request_headers.iter().find(|name| option.eq_ignore_ascii_case(name.as_bytes()))
        {
            return Err(Refusal::HeaderHopByHop(name));
        }
    }
    Ok(())
}

/// The profile's spelling of a header that is passed on.
fn listed(name: &[u8], profile: &Profile) -> Option<&'static str> {
    profile.request_headers.iter().find(|known| name.eq_ignore_ascii_case(known.as_bytes())).copied()
}

fn passed_on(headers: &[Raw<'_>], profile: &Profile) -> Result<Vec<Field>, Refusal> {
    let mut fields: Vec<Field> = Vec::new();
    for (name, value) in headers {
        let Some(known) = listed(name, profile) else { continue };
        if fields.iter().any(|(earlier, _)| *earlier == known) {
            return Err(Refusal::HeaderRepeated(known));
        }
        fields.push((known, Secret::new(value.trim_ascii())));
    }
    Ok(fields)
}
