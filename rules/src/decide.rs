//! Decides. Sees a subject and a canonical request; does no I/O. The only place where a permit is made.

use crate::language::Verb;
use crate::request::Request;
use crate::rules::{Compiled, RuleRef, Rules, Subject};
use std::fmt;

/// Both sides own the request: what was judged is what is sent or logged.
#[derive(Debug)]
#[must_use]
pub enum Verdict {
    Allow(Permit),
    Deny(Denial),
}

/// Proof that the rules allow this request. Nothing but [`decide`] makes one.
#[derive(Debug)]
pub struct Permit {
    request: Request,
    rule: RuleRef,
}

impl Permit {
    #[must_use]
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// The deciding rule.
    #[must_use]
    pub fn rule(&self) -> Option<RuleRef> {
        Some(self.rule.clone())
    }
}

/// Why a request is not allowed.
#[derive(Debug)]
pub struct Denial {
    request: Request,
    rule: Option<RuleRef>,
}

impl Denial {
    #[must_use]
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// The deciding rule; `None` when no rule matched.
    #[must_use]
    pub fn rule(&self) -> Option<RuleRef> {
        self.rule.clone()
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.rule {
            Some(rule) => write!(f, "{rule}"),
            None => f.write_str("no rule allows it"),
        }
    }
}

/// The last match wins; no match denies.
pub fn decide(rules: &Rules, subject: &Subject, request: Request) -> Verdict {
    let deciding = if request.asks_for_token() {
        rules.last_for_token(subject, &request)
    } else {
        rules.last_match(subject, &request)
    };
    match deciding {
        Some(Compiled { verb: Verb::Allow, rule, .. }) => {
            Verdict::Allow(Permit { request, rule: rule.clone() })
        }
        Some(Compiled { verb: Verb::Deny, rule, .. }) => {
            Verdict::Deny(Denial { request, rule: Some(rule.clone()) })
        }
        None => Verdict::Deny(Denial { request, rule: None }),
    }
}
