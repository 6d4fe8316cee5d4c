//! `imdsctl diff`: which recorded requests a file of rules would judge otherwise than they were judged. Asks the rules;
//! changes nothing.
//!
//! A line tells user, unit, method, path and whether a token came. Groups are those of the account database now, and
//! other headers are not known.

use crate::lines::{Line, Source, printable};
use crate::{Fault, check, load};
use imds_rules::{
    Groups, Head, Names, Profile, Request, Rules, Subject, Unit, Verdict, Version, Why, decide,
    decide_unattributed,
};
use imds_settings::{Accounts, Settings};
use std::collections::HashMap;
use std::fmt::Write;
use std::path::Path;

/// A request as far as a line tells it, and how it was judged.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Recorded {
    who: String,
    uid: Option<u32>,
    unit: Option<String>,
    method: String,
    path: String,
    token: bool,
    allowed: bool,
    rule: Option<u64>,
}

/// The text, and whether anything differs.
pub(crate) fn run(file: &Path, log: Option<&Path>, settings: &Settings) -> Result<(String, bool), Fault> {
    let parsed = load::rules(file)?;
    load::warn(&parsed.warnings());
    let names: Names = check::names(&parsed, &Accounts::open(), true)?;
    let rules = Rules::new(&parsed, &names);
    let mut counts: HashMap<Recorded, u64> = HashMap::new();
    let mut source = Source::open(log, false)?;
    while let Some((line, _)) = source.next()? {
        if let Some(recorded) = recorded(line) {
            let count = counts.entry(recorded).or_insert(0);
            *count = count.saturating_add(1);
        }
    }
    let requests: u64 = counts.values().sum();
    let profile = profile(settings);
    let mut differing: Vec<(Recorded, u64, String)> = counts
        .into_iter()
        .filter_map(|(recorded, count)| Some((differs(&rules, &profile, &recorded)?, recorded, count)))
        .map(|(now, recorded, count)| (recorded, count, now))
        .collect();
    differing.sort_by(|(a, more, _), (b, fewer, _)| fewer.cmp(more).then_with(|| a.cmp(b)));
    Ok((shown(&differing, requests), !differing.is_empty()))
}

/// Only what rules decided: malformed requests and limits are as they are.
fn recorded(line: Line) -> Option<Recorded> {
    let allowed = match line.verdict.as_str() {
        "allow" => true,
        "deny" | "would-deny" => false,
        _ => return None,
    };
    let who = line.who();
    let Line { uid, unit, method, path, rule, token, .. } = line;
    Some(Recorded { who, uid, unit, method, path, token: token == Some(true), allowed, rule })
}

fn profile(settings: &Settings) -> Profile {
    match settings.services.first() {
        Some(service) => Profile::ec2(service.addresses.clone(), service.port, service.hosts.clone()),
        None => Profile::ec2(Vec::new(), 80, Vec::new()),
    }
}

/// How these rules judge it, if otherwise.
fn differs(rules: &Rules, profile: &Profile, recorded: &Recorded) -> Option<String> {
    // which one makes no difference to rules
    let token: (&[u8], &[u8]) = (b"X-aws-ec2-metadata-token", b"token");
    let headers: Vec<_> = recorded.token.then_some(token).into_iter().collect();
    let head = Head {
        method: recorded.method.as_bytes(),
        target: recorded.path.as_bytes(),
        version: Version::Http10,
        headers: &headers,
    };
    let request = Request::canonicalise(&head, profile).ok()?;
    let verdict = match recorded.uid {
        None => decide_unattributed(rules, request),
        Some(uid) => {
            let unit = recorded.unit.clone().map_or(Unit::None, Unit::Named);
            decide(rules, &Subject { uid, groups: Groups::Database, unit }, request)
        }
    };
    match verdict {
        Verdict::Allow(permit) if !recorded.allowed => {
            Some(permit.rule().map_or("allow".into(), |rule| format!("allow, {rule}")))
        }
        Verdict::Deny(denial) if recorded.allowed => Some(format!("deny, {}", reason(denial.why()))),
        Verdict::Allow(_) | Verdict::Deny(_) => None,
    }
}

fn reason(why: &Why) -> String {
    why.to_string()
}

fn shown(differing: &[(Recorded, u64, String)], requests: u64) -> String {
    let sum: u64 = differing.iter().map(|(_, count, _)| *count).sum();
    let mut out = format!("{sum} of {requests} requests would be judged otherwise\n");
    for (recorded, count, now) in differing {
        let unit = recorded.unit.as_deref().map_or(String::new(), |unit| format!(" ({})", printable(unit)));
        let before = if recorded.allowed { "allow" } else { "deny" };
        let line = recorded.rule.map_or(String::new(), |line| format!(" by line {line}"));
        let (who, method, path) = (&recorded.who, printable(&recorded.method), printable(&recorded.path));
        // writing to a String cannot fail
        let _ = writeln!(out, "{count:>8}  {who}{unit} {method} {path}: {before}{line} -> {now}");
    }
    out
}
