//! The parser of imds.conf.
//! Holds: what parses, printed and parsed again, gives the same verdicts; a fault lies inside the file.

use imds_rules::{
    GroupName, Groups, Head, Members, Names, Parsed, Profile, Request, RuleRef, Rules, Subject, Unit,
    Verdict, Version, decide, parse,
};
use std::convert::Infallible;

pub fn run(data: &[u8]) {
    match parse("fuzz.conf", data) {
        Ok(parsed) => same_again(&parsed),
        Err(faults) => {
            assert!(!faults.is_empty());
            let lines = data.split(|byte| *byte == b'\n').count();
            for fault in &faults {
                assert!(fault.line >= 1 && usize::try_from(fault.line).is_ok_and(|line| line <= lines));
                assert!(!fault.to_string().contains(|c: char| c.is_control() && c != '\n' && c != '\t'));
            }
        }
    }
}

fn same_again(parsed: &Parsed) {
    let printed = parsed.to_string();
    // blanks that may be left out are printed: a line as long as a line can be grows past the limit
    if printed.lines().any(|line| line.len() > 4096) {
        return;
    }
    let again =
        parse("again.conf", printed.as_bytes()).unwrap_or_else(|faults| panic!("{faults:?}\n{printed}"));
    assert_eq!(again.to_string(), printed);
    assert_eq!(again.len(), parsed.len());
    assert_eq!(again.warnings().len(), parsed.warnings().len(), "{printed}");
    let (before, after) = (rules(parsed), rules(&again));
    for request in requests(&printed) {
        for subject in subjects() {
            let first = decide(&before, &subject, request.clone());
            let second = decide(&after, &subject, request.clone());
            assert_eq!(verdict(&first), verdict(&second), "{subject:?} {request:?}\n{printed}");
        }
    }
}

/// Every account that rules name exists; its number comes from its name.
fn rules(parsed: &Parsed) -> Rules {
    let resolved = Names::resolve(
        parsed,
        |user| Ok::<_, Infallible>(Some(number(user))),
        |group| {
            let gid = match group {
                GroupName::Gid(gid) => *gid,
                GroupName::Name(name) => number(name),
            };
            Ok(Some(Members { gid, uids: [gid % 3, 7].into() }))
        },
    );
    let Ok(resolved) = resolved;
    Rules::new(parsed, &resolved)
}

fn number(name: &str) -> u32 {
    name.bytes().fold(0, |number: u32, byte| number.wrapping_mul(31).wrapping_add(byte.into())) % 5
}

fn subjects() -> impl Iterator<Item = Subject> {
    let groups = [
        Groups::Database,
        Groups::All(vec![0, 1]),
        Groups::All(vec![2]),
        Groups::AtLeast(vec![1]),
        Groups::AtLeast(Vec::new()),
    ];
    let units = [Unit::None, Unit::Unknown, Unit::Named("a.service".into())];
    let uids = [0, 1, 2, 3, 4, 7];
    let both = groups.into_iter().flat_map(move |groups| units.clone().map(|unit| (groups.clone(), unit)));
    both.flat_map(move |(groups, unit)| {
        uids.map(|uid| Subject { uid, groups: groups.clone(), unit: unit.clone() })
    })
}

/// The paths that the rules speak of, each alone and with a segment more; and the token.
fn requests(printed: &str) -> Vec<Request> {
    let mut all = vec![request(b"GET", "/"), request(b"PUT", "/latest/api/token")];
    for path in printed.lines().filter_map(|line| line.split('"').rev().nth(1)).take(32) {
        let path: String = path.chars().map(|c| if c == '*' { 'a' } else { c }).collect();
        all.push(request(b"GET", &encoded(&path)));
        all.push(request(b"GET", &encoded(&format!("{path}/more"))));
        let shorter = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        all.push(request(b"HEAD", &encoded(&format!("/{shorter}"))));
    }
    all.extend([&["User-Agent: a"][..], &["X-aws-ec2-metadata-token: t"]].map(|headers| with("/", headers)));
    all.push(with("/", &asked_for(printed)));
    all.into_iter().flatten().collect()
}

/// Headers that rules ask for, each once, with the first value that one wants.
fn asked_for(printed: &str) -> Vec<String> {
    let mut headers: Vec<String> = Vec::new();
    for line in printed.lines() {
        let mut pieces = line.split('"');
        while let (Some(word), Some(text)) = (pieces.next(), pieces.next()) {
            match word.rsplit(' ').nth(1) {
                Some("agent") => headers.push(format!("user-agent: {text}")),
                Some("header") => headers.push(format!("{text}: 1")),
                _ => {
                    // the value of the header before it, or the path
                    if let Some((name, _)) = headers.last().and_then(|last| last.split_once(": ")) {
                        headers.push(format!("{name}: {text}"));
                    }
                }
            }
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    headers.retain(|header| seen.insert(header.split(':').next().unwrap_or("").to_owned()));
    headers
}

fn encoded(path: &str) -> String {
    path.bytes()
        .map(|byte| match byte {
            b'/' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => char::from(byte).to_string(),
            _ => format!("%{byte:02x}"),
        })
        .collect()
}

fn request(method: &[u8], target: &str) -> Option<Request> {
    judged(method, target, &[])
}

fn with<T: AsRef<str>>(target: &str, headers: &[T]) -> Option<Request> {
    let headers: Vec<(&[u8], &[u8])> = headers
        .iter()
        .filter_map(|header| header.as_ref().split_once(": "))
        .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
        .collect();
    judged(b"GET", target, &headers)
}

fn judged(method: &[u8], target: &str, headers: &[(&[u8], &[u8])]) -> Option<Request> {
    let head = Head { method, target: target.as_bytes(), version: Version::Http10, headers };
    Request::canonicalise(&head, &Profile::ec2(Vec::new(), 80, Vec::new())).ok()
}

/// Allowed or not, and the deciding rule in the one form that it is printed in.
fn verdict(verdict: &Verdict) -> (bool, Option<String>) {
    let (allowed, rule) = match verdict {
        Verdict::Allow(permit) => (true, permit.rule()),
        Verdict::Deny(denial) => (false, denial.rule()),
    };
    (allowed, rule.map(|rule| alone(&rule)))
}

fn alone(rule: &RuleRef) -> String {
    let parsed = parse("rule", rule.text.as_bytes());
    parsed.unwrap_or_else(|faults| panic!("the text of a rule is no rule: {faults:?}")).to_string()
}
