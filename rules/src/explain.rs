//! Why a verdict is what it is, for people. The verdict itself is `decide`'s; looks at every rule, so never on the
//! way of a request.

use crate::decide::{Verdict, decide};
use crate::request::Request;
use crate::rules::{RuleRef, Rules};
use crate::subject::Subject;

#[derive(Debug)]
pub struct Explanation {
    pub verdict: Verdict,
    /// The deciding rule; `None` when no rule matched.
    pub rule: Option<RuleRef>,
    pub reason: &'static str,
    /// The other rules that match subject, path and conditions, in the order of the file.
    pub others: Vec<RuleRef>,
    /// The rule by which an allowed request is sent with a token of ours.
    pub translation: Option<RuleRef>,
}

#[must_use]
pub fn explain(rules: &Rules, subject: &Subject, request: Request) -> Explanation {
    let matching: Vec<RuleRef> =
        rules.all_matches(subject, &request).into_iter().map(|rule| rule.rule.clone()).collect();
    let token = request.asks_for_token();
    let verdict = decide(rules, subject, request);
    let rule = match &verdict {
        Verdict::Allow(permit) => permit.rule(),
        Verdict::Deny(denial) => denial.rule(),
    };
    let in_doubt = matches!(&verdict, Verdict::Deny(denial) if denial.in_doubt());
    let reason = match (&rule, token) {
        (Some(_), _) if in_doubt => "its groups or its unit are not wholly known, so this rule may be for it",
        (None, false) => "no rule matches this user, path and request",
        (None, true) => "no rule about /latest/api matches, and no Allow rule is for this user",
        (Some(_), false) => "it is the last rule that matches this user, path and request",
        (Some(rule), true) if about_api(rules, rule) => {
            "it is the last rule about /latest/api that matches this user: such rules decide tokens"
        }
        (Some(_), true) => "whoever may read something may have a token; no rule about /latest/api matches",
    };
    let others = matching.into_iter().filter(|other| Some(other) != rule.as_ref()).collect();
    let translation = match &verdict {
        Verdict::Allow(permit) => permit.translation().cloned(),
        Verdict::Deny(_) => None,
    };
    Explanation { verdict, rule, reason, others, translation }
}

fn about_api(rules: &Rules, rule: &RuleRef) -> bool {
    rules
        .compiled
        .iter()
        .any(|each| each.rule == *rule && crate::tree::in_scope(&each.pattern, crate::tree::Scope::Api))
}
