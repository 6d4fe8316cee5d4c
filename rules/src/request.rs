//! The canonical request: built here from a head, judged by the rules, and sent upstream as it is.
//! Sends no byte that was not judged; shows no header value.

use crate::fields::{self, Fields};
use crate::target::Target;
use crate::{Head, Method, Profile, Refusal};
use std::fmt;

/// The header of IMDSv2 tokens, in small letters.
pub const TOKEN_HEADER: &str = "x-aws-ec2-metadata-token";

/// A request with one reading. Made by [`Request::canonicalise`] only.
#[derive(Clone)]
pub struct Request {
    method: Method,
    target: Target,
    fields: Fields,
}

/// Equal is what is sent as the same bytes: headers that only rules look at do not count.
impl PartialEq for Request {
    fn eq(&self, other: &Self) -> bool {
        self.method == other.method
            && self.target == other.target
            && self.fields.passed_on == other.fields.passed_on
    }
}

impl Eq for Request {}

impl fmt::Debug for Request {
    /// Header values are tokens, a query may hold anything: neither is shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method.as_str(), self.path())
    }
}

impl Request {
    /// # Errors
    /// A [`Refusal`] for whatever is malformed, ambiguous, or of no use to the service.
    pub fn canonicalise(head: &Head<'_>, profile: &Profile) -> Result<Self, Refusal> {
        let method = judge_method(head.method)?;
        let target = Target::judge(head.target, profile)?;
        let fields = fields::judge(head, profile)?;
        let request = Self { method, target, fields };
        request.check_put()?;
        Ok(request)
    }

    #[must_use]
    pub fn method(&self) -> Method {
        self.method
    }

    /// The canonical path for the log: ASCII, percent-encoded, without the query.
    #[must_use]
    pub fn path(&self) -> &str {
        let target = self.upstream_target();
        target.split_once('?').map_or(target, |(path, _)| path)
    }

    /// Decoded segments; a trailing slash adds none.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.target.segments()
    }

    /// Path and query as they are sent.
    #[must_use]
    pub fn upstream_target(&self) -> &str {
        &self.target.encoded
    }

    /// The headers to send, in order of arrival. `Host` and `Connection` are the sender's business.
    pub fn upstream_headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.fields.passed_on.iter().map(|(name, value)| (*name, value.bytes()))
    }

    /// The values that rules see of a header, whose name is given in small letters: also of one that is not sent.
    pub(crate) fn values(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.fields.values(name)
    }

    /// The IMDSv2 token that comes with it, whatever it is worth.
    #[must_use]
    pub fn token(&self) -> Option<&[u8]> {
        self.values(TOKEN_HEADER).next()
    }

    /// Whether an IMDSv2 token comes with it. An empty one is none.
    #[must_use]
    pub fn has_token(&self) -> bool {
        self.token().is_some_and(|token| !token.is_empty())
    }

    /// The life that is asked for a token, unjudged.
    #[must_use]
    pub fn token_ttl(&self) -> Option<&[u8]> {
        self.values("x-aws-ec2-metadata-token-ttl-seconds").next()
    }

    /// Whether this is the PUT that begins IMDSv2.
    #[must_use]
    pub fn asks_for_token(&self) -> bool {
        self.method == Method::Put
    }

    /// Whether this is the path at which tokens are given, whatever the method.
    #[must_use]
    pub fn is_at_token_path(&self) -> bool {
        self.segments().eq(["latest", "api", "token"])
    }

    /// A PUT is the ask for a token or nothing; what follows relies on it.
    fn check_put(&self) -> Result<(), Refusal> {
        if self.method != Method::Put || self.is_at_token_path() {
            return Ok(());
        }
        let elsewhere = self.segments().skip(1).eq(["api", "token"]);
        Err(if elsewhere { Refusal::DatedToken } else { Refusal::PutPath })
    }
}

/// Methods are case-sensitive (RFC 9110 section 9.1).
fn judge_method(raw: &[u8]) -> Result<Method, Refusal> {
    Method::ALL.into_iter().find(|method| method.as_str().as_bytes() == raw).ok_or(Refusal::Method)
}
