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

/// Proof that the rules allow this request, or that it is only looked at. Nothing but this file makes one.
#[derive(Debug)]
pub struct Permit {
    request: Request,
    rule: Option<RuleRef>,
    would_deny: Option<Why>,
    translation: Option<RuleRef>,
}

impl Permit {
    #[must_use]
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// The deciding rule.
    #[must_use]
    pub fn rule(&self) -> Option<RuleRef> {
        self.rule.clone()
    }

    /// Why it would be denied were the mode not [`Mode::Audit`].
    #[must_use]
    pub fn would_deny(&self) -> Option<&Why> {
        self.would_deny.as_ref()
    }

    /// The rule by which this request, which has no token, is to be sent with one of ours.
    #[must_use]
    pub fn translation(&self) -> Option<&RuleRef> {
        self.translation.as_ref()
    }
}

/// A request that is not allowed.
#[derive(Debug)]
pub struct Denial {
    request: Request,
    why: Why,
}

impl Denial {
    #[must_use]
    pub fn request(&self) -> &Request {
        &self.request
    }

    #[must_use]
    pub fn why(&self) -> &Why {
        &self.why
    }

    /// The deciding rule; `None` when no rule matched.
    #[must_use]
    pub fn rule(&self) -> Option<RuleRef> {
        self.why.rule().cloned()
    }

    /// It is not known whether the rule is for this client: its groups or its unit were not wholly told.
    #[must_use]
    pub fn in_doubt(&self) -> bool {
        matches!(self.why, Why::InDoubt(_))
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.why.fmt(f)
    }
}

/// Why a request is not allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    Rule(RuleRef),
    /// A Deny that may be for this client, or may not: its groups or its unit were not wholly told.
    InDoubt(RuleRef),
    NoRule,
    /// Nobody can tell who asks.
    Unattributed,
}

impl Why {
    #[must_use]
    pub fn rule(&self) -> Option<&RuleRef> {
        match self {
            Self::Rule(rule) | Self::InDoubt(rule) => Some(rule),
            Self::NoRule | Self::Unattributed => None,
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(rule) => write!(f, "{rule}"),
            Self::InDoubt(rule) => write!(f, "{rule} (not known whether the client is in it)"),
            Self::NoRule => f.write_str("no rule allows it"),
            Self::Unattributed => f.write_str("not known who asks"),
        }
    }
}

/// What becomes of a request that is not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Enforce,
    /// It is permitted, and the permit says why it would be denied.
    Audit,
}

/// The last match wins; no match denies. Nor is allowed what a Deny may be meant for, when it is not known.
pub fn decide(rules: &Rules, subject: &Subject, request: Request) -> Verdict {
    let why = match rules.deciding(subject, &request) {
        None => Why::NoRule,
        Some(Deciding { rule, doubt }) => match (rule.verb, doubt) {
            (Verb::Allow, None) => {
                let rule = Some(rule.rule.clone());
                let translation = rules.translation(subject, &request).map(|rule| rule.rule.clone());
                return Verdict::Allow(Permit { rule, request, would_deny: None, translation });
            }
            (Verb::Allow, Some(doubt)) => Why::InDoubt(doubt.rule.clone()),
            // a Translate never decides; it would not allow
            (Verb::Deny | Verb::Translate, _) => Why::Rule(rule.rule.clone()),
        },
    };
    not_allowed(rules, request, why)
}

/// Of a client whom nobody can tell. Rules are about clients, so none allows it.
pub fn decide_unattributed(rules: &Rules, request: Request) -> Verdict {
    not_allowed(rules, request, Why::Unattributed)
}

fn not_allowed(rules: &Rules, request: Request, why: Why) -> Verdict {
    match rules.mode() {
        Mode::Enforce => Verdict::Deny(Denial { request, why }),
        Mode::Audit => {
            let rule = why.rule().cloned();
            Verdict::Allow(Permit { request, rule, would_deny: Some(why), translation: None })
        }
    }
}
