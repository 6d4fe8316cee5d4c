//! What a well-formed file says but can hardly mean. Changes no verdict.

use crate::diagnostic::{Diagnostic, Severity};
use crate::known;
use crate::language::{GroupName, Parsed, Pattern, Rule, Segment, UserName, Verb};
use crate::lexer::{Fault, Place};
use crate::tree::{Map, Scope, Step, Tree, in_scope};
use std::collections::HashMap;

pub(crate) fn of(parsed: &Parsed) -> Vec<Diagnostic> {
    let mut found: Vec<(u32, Fault, &Rule)> = Vec::new();
    found.extend(parsed.rules.iter().filter_map(|rule| Some((rule.line, unknown_segment(rule)?, rule))));
    found.extend(without_effect(parsed));
    found.sort_by_key(|(line, ..)| *line);
    found.into_iter().map(|(_, fault, rule)| parsed.diagnostic(rule, Severity::Warning, fault)).collect()
}

/// A Deny that names nothing the service has denies nothing: a typing error, or written for the string prefixes of
/// the C program, where `"/a/b"` also covered `/a/bc`. (An Allow with that fault shows itself at the first request.)
fn unknown_segment(rule: &Rule) -> Option<Fault> {
    let [before @ .., Segment::Name(last)] = rule.pattern.0.as_slice() else { return None };
    if rule.verb == Verb::Allow || known::is_known(before, last) {
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

/// Rules that a single later rule covers: same or wider subject (as written), same or wider pattern.
fn without_effect(parsed: &Parsed) -> Vec<(u32, Fault, &Rule)> {
    let mut later = Tree::new();
    let mut keys: Map<Whom<'_>, usize> = Map::default();
    let mut written: HashMap<(Whom<'_>, &Pattern), &Rule> = HashMap::new();
    let mut found = Vec::new();
    for (place, rule) in parsed.rules.iter().enumerate().rev() {
        let whom = whom(rule);
        // a rule about the token is overruled only by another such rule
        let scope = if in_scope(&rule.pattern, Scope::Api) { Scope::Api } else { Scope::All };
        let covering: Vec<usize> = wider(whom).iter().filter_map(|whom| keys.get(whom).copied()).collect();
        let by = later.last(rule.pattern.0.iter().map(Step::from), &covering, scope);
        let over = by.and_then(|by| parsed.rules.get(by)).filter(|over| !leaves_doubt(rule, over));
        if let Some(over) = over {
            let same = written.get(&(whom, &rule.pattern)).filter(|same| same.verb == rule.verb);
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
        later.insert(&rule.pattern, *keys.entry(whom).or_insert(fresh), place);
        written.insert((whom, &rule.pattern), rule);
    }
    found
}

/// Where a client's groups or unit are not known, a Deny by them refuses and an Allow by them does not allow: there the
/// earlier Deny still counts.
fn leaves_doubt(rule: &Rule, over: &Rule) -> bool {
    let uncertain = |rule: &Rule| rule.group.is_some() || rule.unit.is_some();
    rule.verb == Verb::Deny && over.verb == Verb::Allow && uncertain(rule) && uncertain(over)
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
