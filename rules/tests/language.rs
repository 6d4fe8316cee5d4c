//! imds.conf as text: the table of tests/cases, many faults at once, bounds, warnings, and what holds for any bytes.
//! Decides no request, but for showing that a warning speaks the truth.

mod model;
mod table;

use imds_rules::{Diagnostic, Severity, parse};
use model::{Ask, Line};
use proptest::prelude::*;
use table::{rows, unescape};

fn errors(text: &[u8]) -> Vec<Diagnostic> {
    parse("t.conf", text).map_or_else(|faults| faults, |_| Vec::new())
}

fn warnings(text: &str) -> Vec<Diagnostic> {
    parse("t.conf", text.as_bytes()).unwrap().warnings()
}

#[test]
fn every_row_of_the_table_of_rules_holds() {
    for (line, row) in rows("rules.txt") {
        let (source, wanted) = row.rsplit_once(" => ").expect("line and outcome");
        let source = unescape(source);
        match (parse("t.conf", &source), wanted.trim()) {
            (Ok(parsed), "nothing") => assert!(parsed.is_empty(), "line {line}: {row}"),
            (Ok(parsed), "ok") => {
                assert_eq!((parsed.len(), parsed.warnings()), (1, vec![]), "line {line}: {row}");
            }
            (Ok(parsed), wanted) => assert_said(line, &parsed.warnings(), wanted, Severity::Warning),
            (Err(faults), wanted) => assert_said(line, &faults, wanted, Severity::Error),
        }
    }
}

fn assert_said(line: usize, said: &[Diagnostic], wanted: &str, severity: Severity) {
    let [said] = said else { panic!("line {line}: said {said:?}, wanted {wanted}") };
    let mut words = wanted.splitn(3, ' ');
    let kind = if said.severity == Severity::Error { "error" } else { "warning" };
    assert_eq!((words.next(), said.severity), (Some(kind), severity), "line {line}: {said}");
    assert_eq!(words.next(), Some(said.column.to_string().as_str()), "line {line}: {said}");
    assert!(said.to_string().contains(words.next().unwrap()), "line {line}: wanted {wanted}, said {said}");
}

#[test]
fn every_faulty_line_is_reported_with_its_caret() {
    let said = errors(b"Allow \"/\"\r\nAllow usr root \"/\"\r\n\r\n\tDeny user \"/x\"\nDeny \"/\xff\"");
    let said: Vec<String> = said.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "t.conf:2:7: error: unknown word `usr`\n    Allow usr root \"/\"\n          ^^^ expected `user`, `group`, `unit`, `method`, `agent`, `header`, `token`, `no-token` or a quoted path",
            "t.conf:4:12: error: no name before the path\n    \tDeny user \"/x\"\n    \t          ^^^^ expected a user name or uid",
            "t.conf:5:8: error: byte that is not UTF-8\n    Deny \"/\u{fffd}\"\n           ^ expected UTF-8 text",
        ]
    );
}

#[test]
fn no_control_character_of_a_file_reaches_the_terminal() {
    let said = errors(b"Allow \x1b]0;x\x07 \"/\"\n")[0].to_string();
    assert!(!said.chars().any(|c| c.is_control() && c != '\n'), "{said:?}");
}

#[test]
fn a_long_line_is_shown_around_the_fault_only() {
    let said = errors(format!("Allow {} usr \"/\"", " ".repeat(2000)).as_bytes())[0].to_string();
    assert!(said.lines().all(|line| line.len() < 250), "{said}");
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[1].find("usr"), lines[2].find("^^^"), "{said}");
}

#[test]
fn lines_files_and_faults_are_bounded() {
    let long = format!("Allow \"/{}\"", "a".repeat(5000));
    assert!(errors(long.as_bytes())[0].to_string().contains("expected at most 4096"));
    assert!(errors(&vec![b'\n'; (4 << 20) + 1])[0].to_string().contains("expected at most 4194304"));
    assert!(errors(&vec![b'\n'; 4 << 20]).is_empty());
    let deep = format!("Allow \"{}\"", "/a".repeat(65));
    assert!(errors(deep.as_bytes())[0].to_string().contains("expected at most 64"));
    assert!(errors(format!("Allow \"{}\"", "/*".repeat(64)).as_bytes()).is_empty());
    let faults = errors("x\n".repeat(100_000).as_bytes());
    assert_eq!(faults.len(), 101);
    assert!(faults[100].to_string().contains("too many faults"), "{}", faults[100]);
}

/// The bound that keeps a verdict's cost from growing with the rules.
#[test]
fn a_file_has_at_most_256_arrangements_of_stars() {
    let rules = |count: u32| -> String {
        (0..count)
            .map(|bits| {
                let segments = (0..9).map(|at| if bits >> at & 1 == 1 { "/*" } else { "/a" });
                format!("Allow \"{}\"\n", segments.collect::<String>())
            })
            .collect()
    };
    assert_eq!(errors(rules(256).as_bytes()), []);
    let faults = errors(rules(257).as_bytes());
    assert_eq!(faults.len(), 1);
    assert_eq!((faults[0].line, faults[0].column), (257, 7));
}

/// The other bound of a verdict's cost.
#[test]
fn a_file_has_at_most_64_sets_of_conditions() {
    let rules = |count: u32| -> String {
        (0..count)
            .map(|n| format!("Deny user a agent \"a{}\" \"/\"\nAllow agent \"a{}\" \"/\"\n", n % 64, n))
            .collect()
    };
    assert_eq!(errors(rules(64).as_bytes()), []);
    let faults = errors(rules(65).as_bytes());
    assert_eq!(faults.len(), 1);
    assert_eq!((faults[0].line, faults[0].column), (130, 7));
    assert!(faults[0].to_string().contains("more than 64 different sets"), "{}", faults[0]);
}

#[test]
fn a_rule_that_a_later_one_covers_is_warned_of() {
    let cases: [(&str, &[(u32, &str)]); 31] = [
        ("Allow user a \"/x\"\nDeny \"/\"", &[(1, "allows no path: line 2 covers it (`Deny \"/\"`)")]),
        ("Deny user a \"/latest\"\nAllow \"/\"", &[(1, "never decides: line 2")]),
        ("Allow \"/a/b\"\nAllow \"/a\"", &[(1, "never decides: line 2")]),
        ("Allow \"/a\"\nAllow \"/a/\" # again", &[(1, "line 2 says the same again")]),
        ("Allow \"/a\"\nAllow \"/b\"\nAllow \"/a\"", &[(1, "line 3 says the same again")]),
        ("Allow \"/*/b\"\nAllow \"/a/b\"", &[]),
        ("Allow \"/a/b\"\nAllow \"/*/b\"", &[(1, "line 2")]),
        ("Allow \"/*/b\"\nDeny \"/*\"", &[(1, "line 2")]),
        ("Allow user a group g \"/\"\nDeny group g \"/\"", &[(1, "line 2")]),
        ("Allow user a group g \"/\"\nDeny user a \"/\"", &[(1, "line 2")]),
        ("Allow group g \"/\"\nDeny user a group g \"/\"", &[]),
        ("Allow user a \"/\"\nDeny user b \"/\"", &[]),
        ("Allow \"/\"\nAllow user root \"/\"", &[]),
        // where groups are not known, that Deny refuses and that Allow does not allow
        ("Deny group a \"/latest\"\nAllow group a \"/\"", &[]),
        // rules about the token are overruled by such rules only
        ("Deny \"/latest/api\"\nAllow \"/\"", &[]),
        ("Deny \"/latest/api/token\"\nAllow \"/*/api\"", &[(1, "line 2")]),
        // fewer conditions are wider
        ("Allow agent \"a\" \"/\"\nDeny \"/\"", &[(1, "line 2")]),
        ("Allow \"/\"\nDeny agent \"a\" \"/\"", &[]),
        ("Allow agent \"ab\" \"/\"\nDeny agent \"a\" \"/\"", &[(1, "line 2")]),
        ("Allow agent \"a\" \"/\"\nDeny agent \"ab\" \"/\"", &[]),
        ("Allow method GET token \"/\"\nDeny token \"/\"", &[(1, "line 2")]),
        ("Allow token \"/\"\nDeny no-token \"/\"", &[]),
        ("Allow header \"A\" \"1\" \"/\"\nDeny header \"a\" \"/\"", &[(1, "line 2")]),
        ("Allow header \"A\" \"/\"\nDeny header \"A\" \"1\" \"/\"", &[]),
        (
            "Allow header \"A\" \"1\" \"/\"\nAllow header \"A\" \"1\" \"/\"",
            &[(1, "line 2 says the same again")],
        ),
        ("Allow header \"A\" \"1\" \"/\"\nDeny header \"A\" \"1\" \"/\"", &[(1, "line 2")]),
        // a Translate is overruled by none but its like
        ("Allow \"/\"\nTranslate \"/\"", &[]),
        ("Translate \"/\"\nDeny \"/\"", &[]),
        ("Translate user a \"/latest\"\nTranslate \"/\"", &[(1, "line 2")]),
        ("Translate \"/\"\nTranslate user a \"/latest\"", &[]),
        // of two values that Deny takes any, that Allow wants all
        ("Deny header \"A\" \"1\" \"/\"\nAllow header \"A\" \"1\" \"/\"", &[]),
    ];
    for (text, wanted) in cases {
        let said = warnings(text);
        assert_eq!(said.len(), wanted.len(), "{text}: {said:?}");
        for (said, (line, words)) in said.iter().zip(wanted) {
            assert_eq!(said.line, *line, "{text}");
            assert!(said.to_string().contains(words), "{text}: {said}");
        }
    }
}

#[test]
fn each_name_is_needed_once() {
    let text =
        "Allow user b \"/\"\nDeny user a group g \"/\"\nAllow user 5 group 6 \"/\"\nAllow user b \"/x\"\n";
    let parsed = parse("t.conf", text.as_bytes()).unwrap();
    let needed: Vec<String> = parsed.names_needed().map(|name| name.to_string()).collect();
    assert_eq!(needed, ["user `a`", "user `b`", "group `6`", "group `g`"]);
}

#[test]
fn ten_thousand_rules_are_parsed_and_looked_over_at_once() {
    let text: String = (0..10_000).map(|n| format!("Allow user {n} \"/*/meta-data/x{n}\"\n")).collect();
    let begun = std::time::Instant::now();
    let parsed = parse("t.conf", text.as_bytes()).unwrap();
    assert_eq!((parsed.len(), parsed.warnings()), (10_000, vec![]));
    // milliseconds in a release build; a comparison of each rule with each takes minutes here
    assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
}

fn near_rules() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        6 => prop::sample::select(vec![
            "Allow", "Deny", "Translate", " ", " ", "user", "group", "root", "\"/\"", "\"", "/a", "*", "#", "\n", "\r\n", "\t", "5",
            "unit", "é", "header", "agent", "method", "GET", "token", "no-token", "\u{feff}", "%",
        ])
        .prop_map(|piece| piece.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..3),
    ];
    prop::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_give_rules_or_faults_that_lie_in_the_file(text in near_rules()) {
        match parse("t.conf", &text) {
            Ok(parsed) => parsed.warnings().iter().for_each(|said| assert!(!said.to_string().is_empty())),
            Err(faults) => {
                prop_assert!(!faults.is_empty());
                let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
                for fault in faults {
                    let line = lines[usize::try_from(fault.line).unwrap() - 1];
                    prop_assert!(fault.column >= 1 && fault.column <= line.len() + 1, "{fault}");
                    prop_assert!(fault.to_string().contains("expected"), "{fault}");
                }
            }
        }
    }

    #[test]
    fn every_beginning_of_a_file_is_parsed_without_a_panic(lines in prop::collection::vec(model::line(), 1..6)) {
        let text = model::text(&lines);
        for end in 0..text.len() {
            let _ = parse("t.conf", &text.as_bytes()[..end]);
        }
    }

    /// A warning "never decides" is true: without that rule every verdict on a path is the same.
    #[test]
    fn a_rule_warned_of_can_go(lines in prop::collection::vec(model::line(), 1..8), asks in prop::collection::vec(model::ask(), 12)) {
        let covered: Vec<u32> = warnings(&model::text(&lines))
            .iter()
            .filter(|said| !said.message.contains("is no name") && !said.message.contains("comes without one"))
            .map(|said| said.line)
            .collect();
        for line in covered {
            let at = usize::try_from(line).unwrap() - 1;
            let rest: Vec<Line> =
                lines.iter().enumerate().filter(|(n, _)| *n != at).map(|(_, line)| line.clone()).collect();
            for ask in asks.iter().filter(|ask: &&Ask| !ask.put || lines[at].verb == "Deny") {
                let verdict = |lines: &[Line]| {
                    let (allowed, _, translation) = model::fast(lines, ask);
                    (allowed, translation.is_some())
                };
                prop_assert_eq!(verdict(&lines), verdict(&rest), "{:?} without line {}", ask, line);
            }
        }
    }
}

#[test]
fn a_printed_file_is_the_same_rules_in_one_form() {
    for (given, printed) in [
        ("# nothing\n\n", ""),
        (" Allow\t\"//latest///meta-data//\"# why", "Allow \"/latest/meta-data\"\n"),
        ("Allow \"\u{2f}\"\r\nDeny \"/*\"", "Allow \"/\"\nDeny \"/*\"\n"),
        (
            "Deny group \"domain users\" user \"svc\" \"/a b/\u{e9}\"",
            "Deny user svc group \"domain users\" \"/a b/\u{e9}\"\n",
        ),
        ("Allow user \"#1\" group 007 \"/\"", "Allow user \"#1\" group 7 \"/\"\n"),
        ("Deny unit \"a@b.service\" user 1 \"/\"", "Deny user 1 unit a@b.service \"/\"\n"),
        (
            "Allow no-token header \"B\" header \"A\" \"/x\" agent \"a b\" method GET user 1 \"/\"",
            "Allow user 1 method GET agent \"a b\" header \"a\" \"/x\" header \"b\" no-token \"/\"\n",
        ),
        ("Deny header \"A\" \"/\" # \"", "Deny header \"a\" \"/\"\n"),
        // a word may begin with a slash, a quoted name may not
        ("Allow user /a\"/\"", "Allow user /a \"/\"\n"),
    ] {
        assert_eq!(parse("t", given.as_bytes()).unwrap().to_string(), printed, "{given:?}");
        assert_eq!(parse("t", printed.as_bytes()).unwrap().to_string(), printed);
    }
}
