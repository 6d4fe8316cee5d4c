//! Decides. Sees a subject and a canonical request; does no I/O. The only place where a permit is made.

use crate::language::Verb;
use crate::request::Request;
use crate::rules::{Deciding, RuleRef, Rules};
use crate::subject::Subject;
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
    in_doubt: bool,
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

    /// It is not known whether the rule is for this client: its groups or its unit were not wholly told.
    #[must_use]
    pub fn in_doubt(&self) -> bool {
        self.in_doubt
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.rule {
            Some(rule) if self.in_doubt => write!(f, "{rule} (not known whether the client is in it)"),
            Some(rule) => write!(f, "{rule}"),
            None => f.write_str("no rule allows it"),
        }
    }
}

/// The last match wins; no match denies. Nor is allowed what a Deny may be meant for, when it is not known.
pub fn decide(rules: &Rules, subject: &Subject, request: Request) -> Verdict {
    let (rule, in_doubt) = match rules.deciding(subject, &request) {
        None => (None, false),
        Some(Deciding { rule, doubt }) => match (rule.verb, doubt) {
            (Verb::Allow, None) => {
                return Verdict::Allow(Permit { rule: rule.rule.clone(), request });
            }
            (Verb::Allow, Some(doubt)) => (Some(doubt.rule.clone()), true),
            (Verb::Deny, _) => (Some(rule.rule.clone()), false),
        },
    };
    Verdict::Deny(Denial { request, rule, in_doubt })
}
