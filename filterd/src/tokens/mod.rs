//! IMDSv2 tokens: those of clients, where filterd gives them itself, and its own of the service.
//! Decides who may have one as little as what it opens: that is the rules' business.

mod bound;
mod keys;
mod own;

pub(crate) use own::{Own, OwnError, ask};

use crate::channel::Channel;
use crate::sys::seconds_since_boot;
use bound::{Claim, NONCE};
use imds_ipc::FromFilterd;
use imds_rules::Request;
use imds_settings::TokenSource;
use keys::Keys;
use std::cell::RefCell;
use zeroize::Zeroizing;

/// Seconds: six hours.
pub(crate) const MAX_TTL: u64 = 21_600;

/// No user's uid: -1 means "no change" to setreuid(2).
const NOBODY: u32 = u32::MAX;

/// A token of another user, an expired one, or none of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Invalid;

/// There are no random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoRandom;

pub(crate) struct Tokens {
    source: TokenSource,
    keys: RefCell<Option<Keys>>,
    /// By upstream.
    own: Vec<Own>,
}

impl Tokens {
    pub(crate) fn new(source: TokenSource, upstreams: usize) -> Self {
        let own = std::iter::repeat_with(Own::default).take(upstreams).collect();
        Self { source, keys: RefCell::default(), own }
    }

    pub(crate) fn are_bound(&self) -> bool {
        match self.source {
            TokenSource::Bound => true,
            TokenSource::Forward => false,
        }
    }

    /// Of this upstream; there is one for each.
    pub(crate) fn own(&self, upstream: u16) -> Option<&Own> {
        self.own.get(usize::from(upstream))
    }

    /// What is left of the life of a token of ours that a user shows, in seconds. `None` if there is none to judge: none
    /// is shown, this is the ask for one, or the service is to say.
    ///
    /// # Errors
    /// When it opens nothing.
    pub(crate) fn judge(
        &self,
        uid: Option<u32>,
        request: &Request,
        interceptor: &Channel,
    ) -> Result<Option<u32>, Invalid> {
        // where tokens are given the service asks for none, whatever the method
        if !self.are_bound() || request.is_at_token_path() {
            return Ok(None);
        }
        let Some(token) = request.token() else { return Ok(None) };
        self.take_kept(interceptor);
        let keys = self.keys.borrow();
        let keys = keys.as_ref().ok_or(Invalid)?;
        let claim = bound::read(token, |number| keys.find(number)).ok_or(Invalid)?;
        left(claim, uid, seconds_since_boot()).map(Some)
    }

    /// A new token for this user, or for whom nobody can tell: that one opens for nobody who can be told. `ttl`:
    /// seconds.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub(crate) fn issue(
        &self,
        uid: Option<u32>,
        ttl: u32,
        interceptor: &Channel,
    ) -> Result<Zeroizing<Vec<u8>>, NoRandom> {
        self.take_kept(interceptor);
        let now = u32::try_from(seconds_since_boot()).unwrap_or(u32::MAX);
        let (secret, nonce) = (random()?, random::<NONCE>()?);
        let mut slot = self.keys.borrow_mut();
        let keys = match slot.take() {
            Some(keys) if !keys.are_old(now) => slot.insert(keys),
            old => {
                let keys = match old {
                    Some(keys) => keys.next(secret, now),
                    None => Keys::new(secret, now),
                };
                if let Some(blob) = keys.to_blob() {
                    interceptor.say(&FromFilterd::Keep(blob));
                }
                slot.insert(keys)
            }
        };
        Ok(bound::make(
            keys.current(),
            Claim { uid: uid.unwrap_or(NOBODY), expiry: now.saturating_add(ttl) },
            *nonce,
        ))
    }

    /// The keys of the filterd before, if there was one and interceptor is still the same.
    fn take_kept(&self, interceptor: &Channel) {
        if let Some(blob) = interceptor.take_kept() {
            let mut keys = self.keys.borrow_mut();
            *keys = Keys::from_blob(&blob).or_else(|| keys.take());
        }
    }
}

/// Seconds that a token still lives, for its user. Of whom nobody can tell, the rules say whether he gets anything.
fn left(claim: Claim, uid: Option<u32>, now: u64) -> Result<u32, Invalid> {
    let left = u64::from(claim.expiry).saturating_sub(now);
    if uid.is_some_and(|uid| uid != claim.uid) || left == 0 {
        return Err(Invalid);
    }
    u32::try_from(left).map_err(|_| Invalid)
}

fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, NoRandom> {
    let mut bytes = Zeroizing::new([0; N]);
    getrandom::fill(&mut *bytes).map_err(|_| NoRandom)?;
    Ok(bytes)
}

/// A token's life as its header gives it: digits alone, 1 to 21600 seconds.
pub(crate) fn parse_ttl(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok().filter(|seconds| (1..=MAX_TTL).contains(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_opens_until_it_expires_and_for_its_user_only() {
        let claim = Claim { uid: 1000, expiry: 160 };
        assert_eq!(left(claim, Some(1000), 100), Ok(60));
        assert_eq!(left(claim, Some(1000), 159), Ok(1));
        assert_eq!(left(claim, Some(1000), 160), Err(Invalid));
        assert_eq!(left(claim, Some(1000), u64::MAX), Err(Invalid));
        assert_eq!(left(claim, Some(1001), 100), Err(Invalid));
        assert_eq!(left(claim, Some(0), 100), Err(Invalid));
        assert_eq!(left(claim, None, 100), Ok(60));
        assert_eq!(left(Claim { uid: NOBODY, ..claim }, Some(1000), 100), Err(Invalid));
    }

    #[test]
    fn a_life_is_one_second_to_six_hours_in_digits() {
        for (text, life) in [("1", Some(1)), ("60", Some(60)), ("21600", Some(21_600)), ("00060", Some(60))] {
            assert_eq!(parse_ttl(text.as_bytes()), life);
        }
        for text in ["", "0", "21601", "-1", "+1", "1.0", " 1", "sixty", "99999999999999999999999"] {
            assert_eq!(parse_ttl(text.as_bytes()), None, "{text}");
        }
    }
}
