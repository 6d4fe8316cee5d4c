//! Audit mode: what is not allowed is permitted, and the permit says so. Nothing else changes.

use imds_rules::{
    Head, Mode, Names, Profile, Request, Rules, Subject, Verdict, Version, Why, decide, decide_unattributed,
    parse,
};

fn rules(mode: Mode) -> Rules {
    let parsed = parse("t.conf", b"Allow user 5 \"/\"\nDeny \"/a\"\n").unwrap();
    Rules::new(&parsed, &Names::default()).with_mode(mode)
}

fn get(path: &str) -> Request {
    let head = Head { method: b"GET", target: path.as_bytes(), version: Version::Http10, headers: &[] };
    Request::canonicalise(&head, &Profile::ec2(vec!["169.254.169.254".parse().unwrap()], 80, vec![])).unwrap()
}

/// Whether it is permitted, and why it is or would be denied.
fn told(verdict: &Verdict) -> (bool, Option<String>) {
    match verdict {
        Verdict::Allow(permit) => (true, permit.would_deny().map(Why::to_string)),
        Verdict::Deny(denial) => (false, Some(denial.to_string())),
    }
}

#[test]
fn what_a_rule_or_the_lack_of_one_denies_is_permitted_and_says_so() {
    for (uid, path, denied) in
        [(5, "/b", None), (5, "/a", Some("line 2: Deny \"/a\"")), (6, "/b", Some("no rule allows it"))]
    {
        let subject = Subject::of_uid(uid);
        let denied = denied.map(str::to_owned);
        let enforced = told(&decide(&rules(Mode::Enforce), &subject, get(path)));
        assert_eq!(enforced, (denied.is_none(), denied.clone()), "{uid} {path}");
        let audited = told(&decide(&rules(Mode::Audit), &subject, get(path)));
        assert_eq!(audited, (true, denied), "{uid} {path}");
    }
}

#[test]
fn a_client_whom_nobody_can_tell_is_allowed_nothing() {
    let why = Some("not known who asks".to_owned());
    assert_eq!(told(&decide_unattributed(&rules(Mode::Enforce), get("/b"))), (false, why.clone()));
    assert_eq!(told(&decide_unattributed(&rules(Mode::Audit), get("/b"))), (true, why));
}

#[test]
fn rules_enforce_unless_told_otherwise() {
    let parsed = parse("t.conf", b"").unwrap();
    assert_eq!(Rules::new(&parsed, &Names::default()).mode(), Mode::Enforce);
}
