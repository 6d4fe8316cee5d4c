//! Verdicts: the table of tests/cases, the matcher against the linear reference, its cost, and its explanations.

mod model;
mod table;

use imds_rules::{
    GroupName, Groups, Head, Members, Names, Parsed, Profile, Request, Rules, Severity, Subject, Unit,
    Verdict, Version, decide, explain, parse,
};
use proptest::prelude::*;
use std::time::{Duration, Instant};

fn request(method: &str, path: &str) -> Request {
    request_with(method, path, &[])
}

fn request_with(method: &str, path: &str, headers: &[(&str, &str)]) -> Request {
    let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
    let (method, target) = (method.as_bytes(), path.as_bytes());
    let head = Head { method, target, version: Version::Http10, headers: &headers };
    Request::canonicalise(&head, &Profile::ec2(vec![], 80, vec![])).unwrap()
}

fn get(path: &str) -> Request {
    request("GET", path)
}

fn parsed(text: &str) -> Parsed {
    parse("t.conf", text.as_bytes()).unwrap()
}

fn outcome(verdict: &Verdict) -> String {
    let (word, rule) = match verdict {
        Verdict::Allow(permit) => ("allow", permit.rule()),
        Verdict::Deny(denial) => ("deny", denial.rule()),
    };
    let decided = rule.map_or_else(|| format!("{word} -"), |rule| format!("{word} {}", rule.line));
    match verdict {
        Verdict::Allow(permit) => match permit.translation() {
            Some(rule) => format!("{decided} translate {}", rule.line),
            None => decided,
        },
        Verdict::Deny(_) => decided,
    }
}

/// One case of the table while it is read.
#[derive(Default)]
struct Case {
    text: String,
    names: Names,
}

impl Case {
    fn name(&mut self, words: &[&str]) {
        match words {
            ["user", name, uid @ ..] => {
                self.names.insert_user(name, uid.first().map(|uid| uid.parse().unwrap()))
            }
            ["group", name, numbers @ ..] => {
                let name = name.parse().map_or_else(|_| GroupName::Name((*name).into()), GroupName::Gid);
                let mut numbers = numbers.iter().map(|n| n.parse().unwrap());
                let members = numbers.next().map(|gid| Members { gid, uids: numbers.collect() });
                self.names.insert_group(name, members);
            }
            other => panic!("{other:?}"),
        }
    }

    /// `ask`: `WHO METHOD PATH [| NAME: VALUE]...`
    fn decide(&self, ask: &str) -> String {
        let rules = Rules::new(&parsed(&self.text), &self.names);
        let mut columns = ask.split(" | ");
        let words: Vec<&str> = columns.next().unwrap().split_whitespace().collect();
        let [who, method, path] = words.as_slice() else { panic!("{ask}") };
        let headers: Vec<_> =
            columns.map(|column| column.trim().split_once(':').expect("a header")).collect();
        outcome(&decide(&rules, &subject(who), request_with(method, path, &headers)))
    }
}

/// `UID[+GID...][@UNIT]`; a question mark is what is not known.
fn subject(who: &str) -> Subject {
    let (who, unit) = match who.split_once('@') {
        Some((who, "?")) => (who, Unit::Unknown),
        Some((who, unit)) => (who, Unit::Named(unit.into())),
        None => (who, Unit::None),
    };
    let mut words = who.split('+');
    let uid = words.next().unwrap().parse().unwrap();
    let groups: Vec<&str> = words.filter(|gid| !gid.is_empty()).collect();
    let gids = groups.iter().filter(|gid| **gid != "?").map(|gid| gid.parse().unwrap()).collect();
    let groups = match (who.contains('+'), groups.contains(&"?")) {
        (false, _) => Groups::Database,
        (true, false) => Groups::All(gids),
        (true, true) => Groups::AtLeast(gids),
    };
    Subject { uid, groups, unit }
}

#[test]
fn every_row_of_the_table_of_verdicts_holds() {
    let mut case = Case::default();
    for (line, row) in table::rows("decide.txt") {
        let words: Vec<&str> = row.split_whitespace().collect();
        match words.as_slice() {
            ["==", ..] => case = Case::default(),
            ["|", ..] => case.text.push_str(&format!("{}\n", row.trim_start_matches("| "))),
            ["user" | "group", ..] => case.name(&words),
            _ => {
                let (ask, wanted) = row.split_once(" -> ").unwrap_or_else(|| panic!("line {line}: {row}"));
                assert_eq!(case.decide(ask), wanted.trim(), "line {line}: {row}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_tree_decides_like_the_linear_reference(
        lines in prop::collection::vec(model::line(), 0..12),
        asks in prop::collection::vec(model::ask(), 8),
    ) {
        for ask in asks {
            prop_assert_eq!(model::fast(&lines, &ask), model::linear(&lines, &ask), "{:?}", ask);
        }
    }
}

#[test]
fn a_verdict_owns_its_request_and_names_its_rule() {
    let rules = Rules::new(&parsed("Allow \"/a\"  # why\nDeny \"/a/b\"\n"), &Names::default());
    let subject = Subject::of_uid(1);
    let Verdict::Allow(permit) = decide(&rules, &subject, get("/a/")) else { panic!() };
    assert_eq!(permit.request().path(), "/a/");
    assert_eq!(permit.rule().unwrap().to_string(), "line 1: Allow \"/a\"");
    let Verdict::Deny(denial) = decide(&rules, &subject, get("/a/b")) else { panic!() };
    assert_eq!((denial.request().path(), denial.to_string()), ("/a/b", "line 2: Deny \"/a/b\"".to_owned()));
    let Verdict::Deny(denial) = decide(&rules, &subject, get("/b")) else { panic!() };
    assert_eq!(denial.to_string(), "no rule allows it");
}

#[test]
fn unknown_names_are_listed_with_their_lines_and_places() {
    let text = "Allow \"/\"\nAllow user ghost group 7 \"/\"\nDeny user 5 group ghosts \"/\"\n";
    let parsed = parsed(text);
    let names = Names::resolve(&parsed, |_| Ok::<_, ()>(None), |_| Ok(None)).unwrap();
    let rules = Rules::new(&parsed, &names);
    let said: Vec<String> = rules.unresolved().iter().map(ToString::to_string).collect();
    assert_eq!(said, ["line 2: unknown user `ghost`", "line 3: unknown group `ghosts`"]);
    assert_eq!(rules.len(), 3);
    let said: Vec<_> =
        parsed.unknown_names(&names, Severity::Error).iter().map(|said| (said.line, said.column)).collect();
    assert_eq!(said, [(2, 12), (3, 19)]);
}

#[test]
fn a_database_that_cannot_be_asked_is_not_one_without_the_name() {
    let parsed = parsed("Allow user app \"/\"\n");
    assert_eq!(Names::resolve(&parsed, |_| Err("down"), |_| Ok(None)), Err("down"));
}

#[test]
fn an_explanation_names_the_deciding_rule_the_reason_and_the_others() {
    let text = "Allow \"/\"\nDeny \"/a\"\nAllow user 5 \"/a/b\"\nDeny user 6 \"/\"\nDeny \"/latest/api\"\n";
    let rules = Rules::new(&parsed(text), &Names::default());
    let told = |uid, request| {
        let told = explain(&rules, &Subject::of_uid(uid), request);
        let others: Vec<u32> = told.others.iter().map(|rule| rule.line).collect();
        (outcome(&told.verdict), others, told.reason)
    };
    let (verdict, others, reason) = told(5, get("/a/b/c"));
    assert_eq!((verdict.as_str(), others), ("allow 3", vec![1, 2]));
    assert!(reason.contains("last rule"));
    let (verdict, others, _) = told(6, get("/x"));
    assert_eq!((verdict.as_str(), others), ("deny 4", vec![1]));
    let (verdict, others, reason) = told(5, request("PUT", "/latest/api/token"));
    assert_eq!((verdict.as_str(), others), ("deny 5", vec![1]));
    assert!(reason.contains("/latest/api"), "{reason}");
    let nothing = Rules::new(&parsed(""), &Names::default());
    let told = explain(&nothing, &Subject::of_uid(5), get("/"));
    assert_eq!(
        (told.rule, told.others, told.reason),
        (None, vec![], "no rule matches this user, path and request")
    );
}

/// `count` rules, 10 of which are the same for every count: two about the path asked about, eight about others.
fn rules_of(count: usize) -> (Duration, Rules) {
    let others = (0..count.saturating_sub(10)).map(|n| match n % 3 {
        0 => format!("Allow user {n} \"/*/meta-data/x{n}\"\n"),
        1 => format!("Deny group {n} agent \"agent{}/\" \"/latest/meta-data\"\n", n % 8),
        _ => format!("Deny user {n} \"/\"\n"),
    });
    let fixed = (0..8).map(|n| format!("Deny agent \"agent{n}/\" \"/*/dynamic/y{n}\"\n"));
    let text: String = others
        .chain(fixed)
        .chain(["Deny \"/latest/meta-data/iam\"\n", "Allow \"/*/meta-data/iam\"\n"].map(str::to_owned))
        .collect();
    let begun = Instant::now();
    let rules = Rules::new(&parsed(&text), &Names::default());
    (begun.elapsed(), rules)
}

/// What a verdict costs by each, measured in turns, since other programs come and go.
fn costs(rules: [&Rules; 2]) -> [Duration; 2] {
    let subject = Subject { groups: Groups::All(vec![1_000_000, 1_000_001]), ..Subject::of_uid(1_000_000) };
    let one_run = |rules| {
        let path = "/latest/meta-data/iam/security-credentials/role";
        let headers = [("Host", "169.254.169.254"), ("User-Agent", "agent7/1.0"), ("Accept", "*/*")];
        let profile = Profile::ec2(vec!["169.254.169.254".parse().unwrap()], 80, vec![]);
        let headers = headers.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let head =
            Head { method: b"GET", target: path.as_bytes(), version: Version::Http11, headers: &headers };
        let requests = vec![Request::canonicalise(&head, &profile).unwrap(); 500];
        let begun = Instant::now();
        for request in requests {
            assert!(matches!(decide(rules, &subject, request), Verdict::Allow(_)));
        }
        begun.elapsed()
    };
    let runs: Vec<[Duration; 2]> = (0..20).map(|_| rules.map(one_run)).collect();
    let least = |which: usize| runs.iter().map(|run| run[which]).min().unwrap() / 500;
    [least(0), least(1)]
}

#[test]
fn ten_thousand_rules_cost_what_ten_do() {
    let ((_, ten), (loading, many)) = (rules_of(10), rules_of(10_000));
    assert_eq!((ten.len(), many.len()), (10, 10_000));
    let [few, all] = costs([&ten, &many]);
    println!("loading 10,000 rules: {loading:?}; a verdict by 10: {few:?}, by 10,000: {all:?}");
    // looking at each rule would cost 1000 times as much; the rest is the machine's noise
    assert!(all < few * 3, "10 rules: {few:?}, 10,000 rules: {all:?}");
}
