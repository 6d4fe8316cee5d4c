//! Random rules and requests over small alphabets, and a reference that decides in one simple loop.
//! Shares no code with the matcher.

use imds_rules::{
    GroupName, Groups, Head, Members, Names, Profile, Request, Rules, Subject, Unit, Verdict, Version,
    decide, parse,
};
use proptest::prelude::*;

/// One rule; users are u0 to u3 with that uid, groups g0 to g3 with that gid. u3 and g3 are unknown.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) verb: &'static str,
    pub(crate) user: Option<u32>,
    pub(crate) group: Option<u32>,
    pub(crate) unit: Option<u32>,
    pub(crate) conditions: Vec<Condition>,
    pub(crate) pattern: Vec<&'static str>,
}

/// As a rule asks it of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    Method(&'static str),
    Agent(&'static str),
    Header(&'static str, Option<&'static str>),
    Token(bool),
}

#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) put: bool,
    pub(crate) uid: u32,
    pub(crate) groups: Option<Vec<u32>>,
    /// Whether `groups` are all.
    pub(crate) all_groups: bool,
    /// 9: none; `None`: not known.
    pub(crate) unit: Option<u32>,
    pub(crate) path: Vec<&'static str>,
    pub(crate) head: bool,
    pub(crate) headers: Vec<(&'static str, &'static str)>,
}

const NOBODY: u32 = 3;
/// The members of each group by the account database.
const MEMBERS: [&[u32]; 3] = [&[0, 1], &[1, 2], &[]];

pub(crate) fn line() -> impl Strategy<Value = Line> {
    let segment = prop::sample::select(vec!["a", "b", "*", "*", "latest", "api", "token"]);
    (
        prop::sample::select(vec!["Allow", "Deny", "Allow", "Deny", "Translate"]),
        prop::option::weighted(0.4, 0..4u32),
        prop::option::weighted(0.4, 0..4u32),
        prop::option::weighted(0.3, 0..3u32),
        prop_oneof![
            3 => prop::collection::vec(segment, 0..5),
            1 => prop::sample::select(vec![
                vec!["latest", "api"], vec!["*", "api"], vec!["*", "*"], vec!["latest", "api", "token"],
                vec!["latest", "*", "token"], vec!["*", "api", "*"], vec!["latest"],
            ]),
        ],
        conditions(),
    )
        .prop_map(|(verb, user, group, unit, pattern, conditions)| Line {
            verb,
            user,
            group,
            unit,
            conditions,
            pattern,
        })
}

/// Mostly none or one; never two of a kind but for headers.
fn conditions() -> impl Strategy<Value = Vec<Condition>> {
    let some = |strategy| prop::option::weighted(0.15, strategy);
    (
        some(prop::sample::select(vec!["GET", "HEAD", "PUT"]).prop_map(Condition::Method).boxed()),
        some(prop::sample::select(vec!["a", "ab", "b"]).prop_map(Condition::Agent).boxed()),
        some(prop::option::of(prop::sample::select(VALUES)).prop_map(|v| Condition::Header("A", v)).boxed()),
        some(prop::option::of(prop::sample::select(VALUES)).prop_map(|v| Condition::Header("B", v)).boxed()),
        some(any::<bool>().prop_map(Condition::Token).boxed()),
    )
        .prop_map(|(a, b, c, d, e)| [a, b, c, d, e].into_iter().flatten().collect())
}

const VALUES: &[&str] = &["1", "2", ""];
const TOKEN: &str = "X-aws-ec2-metadata-token";

/// Only `A` and `B` may be given twice.
fn headers() -> impl Strategy<Value = Vec<(&'static str, &'static str)>> {
    (
        prop::option::of(prop::sample::select(vec![
            ("User-Agent", "abc"),
            ("user-agent", "b"),
            ("User-Agent", ""),
        ])),
        prop::option::of(prop::sample::select(vec![(TOKEN, "t"), (TOKEN, "")])),
        prop::collection::vec(
            (prop::sample::select(vec!["A", "a", "B"]), prop::sample::select(VALUES)),
            0..3,
        ),
    )
        .prop_map(|(agent, token, others)| agent.into_iter().chain(token).chain(others).collect())
}

pub(crate) fn ask() -> impl Strategy<Value = Ask> {
    let segment = prop::sample::select(vec!["a", "b", "c", "latest", "api", "token"]);
    (
        prop::bool::weighted(0.3),
        0..5u32,
        prop::option::of(prop::collection::vec(0..5u32, 0..4)),
        any::<bool>(),
        prop::option::of(prop_oneof![0..4u32, Just(9)]),
        prop::collection::vec(segment, 0..6),
        any::<bool>(),
        headers(),
    )
        .prop_map(|(put, uid, groups, all_groups, unit, path, head, headers)| {
            let path = if put { vec!["latest", "api", "token"] } else { path };
            Ask { put, uid, groups, all_groups, unit, path, head, headers }
        })
}

pub(crate) fn text(lines: &[Line]) -> String {
    let mut text = String::new();
    for line in lines {
        text.push_str(line.verb);
        line.user.iter().for_each(|user| text.push_str(&format!(" user u{user}")));
        line.group.iter().for_each(|group| text.push_str(&format!(" group g{group}")));
        line.unit.iter().for_each(|unit| text.push_str(&format!(" unit s{unit}.service")));
        for condition in &line.conditions {
            text.push_str(&match condition {
                Condition::Method(method) => format!(" method {method}"),
                Condition::Agent(agent) => format!(" agent \"{agent}\""),
                Condition::Header(name, None) => format!(" header \"{name}\""),
                Condition::Header(name, Some(value)) => format!(" header \"{name}\" \"{value}\""),
                Condition::Token(true) => " token".into(),
                Condition::Token(false) => " no-token".into(),
            });
        }
        text.push_str(&format!(" \"/{}\"\n", line.pattern.join("/")));
    }
    text
}

/// Allowed, the deciding line, and the line that translates.
pub(crate) type Outcome = (bool, Option<u32>, Option<u32>);

/// The library's verdict.
pub(crate) fn fast(lines: &[Line], ask: &Ask) -> Outcome {
    let parsed = parse("t.conf", text(lines).as_bytes()).unwrap();
    let number = |name: &str| name.get(1..).and_then(|n| n.parse().ok()).filter(|n| *n != NOBODY);
    let names = Names::resolve(
        &parsed,
        |user| Ok::<_, ()>(number(user)),
        |group| match group {
            GroupName::Gid(_) => Err(()),
            GroupName::Name(name) => Ok(number(name).map(|gid| {
                let uids = MEMBERS[usize::try_from(gid).unwrap()].iter().copied().collect();
                Members { gid, uids }
            })),
        },
    )
    .unwrap();
    let rules = Rules::new(&parsed, &names);
    let groups = match (ask.groups.clone(), ask.all_groups) {
        (None, _) => Groups::Database,
        (Some(gids), true) => Groups::All(gids),
        (Some(gids), false) => Groups::AtLeast(gids),
    };
    let unit = match ask.unit {
        None => Unit::Unknown,
        Some(9) => Unit::None,
        Some(unit) => Unit::Named(format!("s{unit}.service")),
    };
    let subject = Subject { uid: ask.uid, groups, unit };
    match decide(&rules, &subject, request(ask)) {
        Verdict::Allow(permit) => {
            (true, permit.rule().map(|rule| rule.line), permit.translation().map(|rule| rule.line))
        }
        Verdict::Deny(denial) => (false, denial.rule().map(|rule| rule.line), None),
    }
}

fn request(ask: &Ask) -> Request {
    let target = format!("/{}", ask.path.join("/"));
    let headers: Vec<_> =
        ask.headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
    let (method, target) = (method(ask).as_bytes(), target.as_bytes());
    let head = Head { method, target, version: Version::Http10, headers: &headers };
    Request::canonicalise(&head, &Profile::ec2(vec![], 80, vec![])).unwrap()
}

fn method(ask: &Ask) -> &'static str {
    match (ask.put, ask.head) {
        (true, _) => "PUT",
        (false, true) => "HEAD",
        (false, false) => "GET",
    }
}

/// What the design says, in the plainest way.
#[allow(dead_code)] // not every test compares
pub(crate) fn linear(lines: &[Line], ask: &Ask) -> Outcome {
    let about_api = |line: &Line| {
        let begins = |version| line.pattern.starts_with(&[version, "api"]);
        begins("latest") || begins("*")
    };
    let (mut last, mut allowing, mut doubt) = (None, None, None);
    let verdicts = (1..).zip(lines).filter(|(_, line)| line.verb != "Translate");
    for (number, line) in verdicts {
        let counts =
            covers(&line.pattern, &ask.path) && (!ask.put || about_api(line)) && conditions_hold(line, ask);
        match holds(line, ask) {
            Some(false) => {}
            Some(true) => {
                if line.verb == "Allow" {
                    allowing = Some(number);
                }
                if counts {
                    last = Some((line.verb == "Allow", number));
                    doubt = None;
                }
            }
            None if line.verb == "Deny" && counts => doubt = Some(number),
            None => {}
        }
    }
    let decided = match (last, ask.put) {
        (Some((allow, number)), _) => (allow, Some(number)),
        (None, true) => (allowing.is_some(), allowing),
        (None, false) => (false, None),
    };
    match (decided, doubt) {
        ((true, _), Some(number)) => (false, Some(number), None),
        ((true, number), None) => (true, number, translation(lines, ask)),
        ((false, number), _) => (false, number, None),
    }
}

#[allow(dead_code)] // as above
fn translation(lines: &[Line], ask: &Ask) -> Option<u32> {
    let tokenless = !ask.put && !ask.headers.contains(&(TOKEN, "t"));
    let matches = |line: &Line| {
        let meant = covers(&line.pattern, &ask.path) && conditions_hold(line, ask);
        line.verb == "Translate" && holds(line, ask) == Some(true) && meant
    };
    let all = (1..).zip(lines).filter(|(_, line)| tokenless && matches(line));
    all.last().map(|(number, _)| number)
}

fn conditions_hold(line: &Line, ask: &Ask) -> bool {
    let values = |name: &str| -> Vec<&str> {
        let given = ask.headers.iter().filter(|(given, _)| given.eq_ignore_ascii_case(name));
        given.map(|(_, value)| *value).collect()
    };
    line.conditions.iter().all(|condition| match condition {
        Condition::Method(wanted) => *wanted == method(ask),
        Condition::Agent(agent) => values("user-agent").iter().any(|value| value.starts_with(agent)),
        Condition::Token(wanted) => *wanted == values(TOKEN).contains(&"t"),
        Condition::Header(name, None) => !values(name).is_empty(),
        Condition::Header(name, Some(wanted)) if line.verb == "Deny" => values(name).contains(wanted),
        Condition::Header(name, Some(wanted)) => {
            !values(name).is_empty() && values(name).iter().all(|value| value == wanted)
        }
    })
}

/// `None`: it cannot be told.
fn holds(line: &Line, ask: &Ask) -> Option<bool> {
    let user = line.user.is_none_or(|uid| uid != NOBODY && uid == ask.uid);
    let group = match (line.group, &ask.groups) {
        (None, _) => Some(true),
        (Some(NOBODY), _) => Some(false),
        (Some(gid), None) => {
            Some(MEMBERS.iter().zip(0..).any(|(uids, number)| number == gid && uids.contains(&ask.uid)))
        }
        (Some(gid), Some(groups)) if groups.contains(&gid) => Some(true),
        (Some(_), Some(_)) if ask.all_groups => Some(false),
        (Some(_), Some(_)) => None,
    };
    let unit = match (line.unit, ask.unit) {
        (None, _) => Some(true),
        (Some(_), None) => None,
        (Some(unit), Some(is)) => Some(unit == is),
    };
    match (user, group, unit) {
        (false, ..) | (_, Some(false), _) | (.., Some(false)) => Some(false),
        (true, Some(true), Some(true)) => Some(true),
        (true, ..) => None,
    }
}

fn covers(pattern: &[&str], path: &[&str]) -> bool {
    pattern.len() <= path.len()
        && pattern.iter().zip(path).all(|(segment, given)| *segment == "*" || segment == given)
}
