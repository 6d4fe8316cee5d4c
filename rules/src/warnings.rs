//! What a well-formed file says but can hardly mean. Changes no verdict.

use crate::Method;
use crate::condition::Conditions;
use crate::diagnostic::{Diagnostic, Severity};
use crate::known;
use crate::language::{GroupName, Parsed, Pattern, Rule, Segment, UserName, Verb};
use crate::lexer::{Fault, Place};
use crate::tree::{Map, Scope, Step, Tree, in_scope};
use std::collections::{HashMap, HashSet};

/// Headers whose requests are refused before any rule is asked.
const NEVER_JUDGED: [&str; 3] = ["x-forwarded-for", "forwarded", "transfer-encoding"];
const TOKEN_PATH: [&str; 3] = ["latest", "api", "token"];

pub(crate) fn of(parsed: &Parsed) -> Vec<Diagnostic> {
    let mut found: Vec<(u32, Fault, &Rule)> = Vec::new();
    found.extend(parsed.rules.iter().filter_map(|rule| Some((rule.line, unknown_segment(rule)?, rule))));
    found.extend(parsed.rules.iter().filter_map(|rule| Some((rule.line, vain_condition(rule)?, rule))));
    found.extend(without_effect(parsed, |verb| verb != Verb::Translate));
    found.extend(without_effect(parsed, |verb| verb == Verb::Translate));
    found.sort_by_key(|(line, ..)| *line);
    found.into_iter().map(|(_, fault, rule)| parsed.diagnostic(rule, Severity::Warning, fault)).collect()
}

/// A condition that no request which is judged fulfils, or that hits what it can hardly be meant for.
fn vain_condition(rule: &Rule) -> Option<Fault> {
    let conditions = &rule.conditions;
    let fault = |message: String, expected: &str| Some(Fault::new(rule.conditions_place, message, expected));
    if let Some(name) = conditions.headers.keys().find(|name| NEVER_JUDGED.contains(&&***name)) {
        let message =
            format!("this rule never decides: a request with `{name}` is refused before any rule is asked");
        return fault(message, "expected another header");
    }
    if rule.verb == Verb::Translate
        && (conditions.token == Some(true) || conditions.method == Some(Method::Put))
    {
        let message =
            "this rule translates nothing: only requests without a token are, and not the one for a token";
        return fault(message.into(), "expected neither `token` nor `method PUT`");
    }
    let about_token = rule.pattern.covers(TOKEN_PATH.into_iter()) && in_scope(&rule.pattern, Scope::Api);
    if conditions.method == Some(Method::Put) && !about_token {
        let message = "this rule decides no path: PUT asks for a token, which rules about /latest/api decide";
        return fault(message.into(), "expected a path that begins with \"/latest/api\"");
    }
    if rule.verb == Verb::Deny && conditions.token == Some(false) && about_token {
        let message =
            "this rule denies tokens to those who have none: the request for a token comes without one";
        return fault(message.into(), "expected another path: \"/\" does not deny the token itself");
    }
    None
}

/// A Deny that names nothing the service has denies nothing: a typing error, or written for the string prefixes of
/// the C program, where `"/a/b"` also covered `/a/bc`. (An Allow with that fault shows itself at the first request.)
fn unknown_segment(rule: &Rule) -> Option<Fault> {
    let [before @ .., Segment::Name(last)] = rule.pattern.0.as_slice() else { return None };
    if rule.verb != Verb::Deny || known::is_known(before, last) {
        return None;
    }
    let longer: Vec<String> = known::beginning_with(last).map(|name| format!("`{name}`")).collect();
    let expected = if longer.is_empty() {
        "expected a whole name; this rule may deny nothing".to_owned()
    } else {
        format!("expected a whole name, like {}; this rule may deny nothing", longer.join(", "))
    };
    Some(Fault::new(
        rule.pattern_place,
        format!("`{last}` is no name that the service is known to have"),
        expected,
    ))
}

type Whom<'a> = (Option<&'a UserName>, Option<&'a GroupName>, Option<&'a str>);

/// Whom and what a rule is for, as written.
type Meant<'a> = (Whom<'a>, &'a Conditions);

/// Rules that a single later rule covers: same or wider subject and conditions (as written), same or wider pattern.
fn without_effect(parsed: &Parsed, among: fn(Verb) -> bool) -> Vec<(u32, Fault, &Rule)> {
    let mut later = Tree::new();
    let mut keys: Map<Meant<'_>, usize> = Map::default();
    let mut sets: HashSet<&Conditions> = HashSet::new();
    let mut written: HashMap<(Meant<'_>, &Pattern), &Rule> = HashMap::new();
    let mut found = Vec::new();
    for (place, rule) in parsed.rules.iter().enumerate().rev().filter(|(_, rule)| among(rule.verb)) {
        let meant = (whom(rule), &rule.conditions);
        // a rule about the token is overruled only by another such rule
        let scope = if in_scope(&rule.pattern, Scope::Api) { Scope::Api } else { Scope::All };
        let implied: Vec<&Conditions> =
            sets.iter().copied().filter(|set| rule.conditions.imply(set)).collect();
        let wider = wider(meant.0);
        let wider = wider.iter().flat_map(|whom| implied.iter().map(move |conditions| (*whom, *conditions)));
        let covering: Vec<usize> = wider.filter_map(|meant| keys.get(&meant).copied()).collect();
        let by = later.last(rule.pattern.0.iter().map(Step::from), &covering, scope);
        let over = by.and_then(|by| parsed.rules.get(by)).filter(|over| !leaves_doubt(rule, over));
        if let Some(over) = over {
            let same = written.get(&(meant, &rule.pattern)).filter(|same| same.verb == rule.verb);
            let message = match same {
                Some(same) => format!("line {} says the same again", same.line),
                // an Allow still counts for the token: whoever may read something may have one
                None if rule.verb == Verb::Allow && over.verb == Verb::Deny => {
                    format!("this rule allows no path: line {} covers it (`{}`)", over.line, over.text)
                }
                None => format!("this rule never decides: line {} covers it (`{}`)", over.line, over.text),
            };
            let width = rule.text.chars().count();
            let column = 1 + rule.source.chars().take_while(|c| c.is_whitespace()).count();
            found.push((
                rule.line,
                Fault::new(Place { column, width }, message, "the last match wins"),
                rule,
            ));
        }
        let fresh = keys.len();
        later.insert(&rule.pattern, *keys.entry(meant).or_insert(fresh), place);
        sets.insert(&rule.conditions);
        written.insert((meant, &rule.pattern), rule);
    }
    found
}

/// Where a client's groups or unit are not known, a Deny by them refuses and an Allow by them does not allow: there the
/// earlier Deny still counts. It also does for a header that came with several values.
fn leaves_doubt(rule: &Rule, over: &Rule) -> bool {
    let uncertain = |rule: &Rule| rule.group.is_some() || rule.unit.is_some();
    let unclear = (uncertain(rule) && uncertain(over)) || over.conditions.name_a_value();
    rule.verb == Verb::Deny && over.verb == Verb::Allow && unclear
}

fn whom(rule: &Rule) -> Whom<'_> {
    (
        rule.user.as_ref().map(|(user, _)| user),
        rule.group.as_ref().map(|(group, _)| group),
        rule.unit.as_ref().map(|(unit, _)| &**unit),
    )
}

/// Whoever `whom` names is also meant by these.
fn wider<'a>((user, group, unit): Whom<'a>) -> [Whom<'a>; 8] {
    [
        (None, None, None),
        (user, None, None),
        (None, group, None),
        (user, group, None),
        (None, None, unit),
        (user, None, unit),
        (None, group, unit),
        (user, group, unit),
    ]
}
