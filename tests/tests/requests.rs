//! Raw requests over the whole path, in one lab a test: the table of tests/cases/requests.txt, and random mutations.
//! Each test starts itself again in a lab; what it sends there goes over real TCP.

#[path = "raw/mod.rs"]
mod raw;
#[path = "raw/table.rs"]
mod table;

use imds_tests::Lab;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestError, TestRunner};
use raw::{Answer, Client, Lines, V4, V6, recorded_bytes, status};
use std::path::Path;
use table::{Outcome, Row};

const RULES: &str =
    "Allow \"/\"\nDeny \"/*/meta-data/iam/security-credentials\"\nDeny \"/latest/user-data\"\n";
/// What is tested here is no limit.
const NO_RATE: &str = "[limits]\nrequests_per_second = 0\n";
/// So many are shown: a test that waits in vain for each row would not end in time to tell.
const MAX_FAILURES: usize = 4;
/// Rows up to this length are sent byte by byte, too.
const SHORT: usize = 1000;
const NEXT: &[u8] =
    b"GET /latest/meta-data/instance-id HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n\r\n";
const NEXT_BODY: &str = "i-0123456789abcdef0";
/// Stands in values that no log may show.
const SECRET: &str = "secret";

/// Runs `inside` in a lab: by this very program, started there again for the test of that name.
fn in_a_lab(test: &str, inside: impl FnOnce()) {
    if std::env::var_os("LAB").is_some() {
        return inside();
    }
    let program = std::env::current_exe().unwrap();
    let program = Path::new("/run/lab/bin/deps").join(program.file_name().unwrap());
    let program = program.to_str().unwrap();
    let lab = Lab::new().rules(RULES).config(NO_RATE);
    let said = lab.run(&[program, "--exact", test, "--nocapture"]).expect_success();
    assert!(said.contains("1 passed"), "{said}");
}

/// The two logs, read as they grow.
struct Logs {
    record: Lines,
    audit: Lines,
}

impl Logs {
    fn open() -> Self {
        Self { record: Lines::of("LAB_RECORD"), audit: Lines::of("LAB_AUDIT") }
    }

    fn expect_no_secret(&self) {
        let audit = std::fs::read_to_string(std::env::var_os("LAB_AUDIT").unwrap()).unwrap();
        assert!(!audit.contains(SECRET), "a secret is logged");
    }
}

#[test]
fn every_row_of_the_table_of_requests_holds_on_the_whole_path() {
    in_a_lab("every_row_of_the_table_of_requests_holds_on_the_whole_path", || {
        let rows = table::rows(include_str!("../cases/requests.txt"));
        assert!(rows.len() >= 80, "{} rows", rows.len());
        let mut logs = Logs::open();
        let mut failures = Vec::new();
        for row in &rows {
            if failures.len() > MAX_FAILURES {
                break;
            }
            let mut ways = vec![("at once", V4, usize::MAX), ("over IPv6", V6, usize::MAX)];
            if row.bytes.len() <= SHORT {
                ways.push(("byte by byte", V4, 1));
            }
            for (way, address, size) in ways {
                if let Err(why) = hold(row, address, size, &mut logs) {
                    failures.push(format!("{}\n    {way}: {why}", row.name));
                    // what came late belongs to this row, not to the next
                    let _ = (logs.record.take(), logs.audit.take());
                }
            }
        }
        assert!(failures.is_empty(), "{} failures or more\n{}", failures.len(), failures.join("\n"));
        assert_eq!(logs.audit.take(), Ok(vec![]), "audit lines that no request explains");
        assert_eq!(logs.record.take(), Ok(vec![]), "requests that nobody sent");
        logs.expect_no_secret();
    });
}

fn hold(row: &Row, address: &str, size: usize, logs: &mut Logs) -> Result<(), String> {
    let mut client = Client::connect(address)?;
    client.send(&row.bytes, size);
    if row.ends {
        client.end();
    }
    let mut outcomes = row.outcomes.clone();
    for outcome in &row.outcomes {
        let answer = client.answer(row.bytes.starts_with(b"HEAD "))?.ok_or("closed without an answer")?;
        compare_answer(&answer, outcome, row.bytes.starts_with(b"HEAD "))?;
    }
    if !row.closes && !row.ends {
        client.send(NEXT, size);
        let answer = client.answer(false)?.ok_or("closed after an answer that closes nothing")?;
        same("the next answer", &answer, &Answer { status: 200, body: NEXT_BODY.into() })?;
        let line = b"GET /latest/meta-data/instance-id".to_vec();
        outcomes.push(Outcome::Forwarded { status: 200, lines: vec![line] });
    }
    if let Some(answer) = client.answer(false)? {
        return Err(format!("one answer more: {answer:?}"));
    }
    compare_logs(&outcomes, address, logs)
}

fn compare_answer(answer: &Answer, outcome: &Outcome, without_body: bool) -> Result<(), String> {
    same("status", &answer.status, &outcome.status())?;
    match outcome {
        Outcome::Ours { why, .. } if !without_body => {
            same("body", &answer.body, &format!("imds-filterd: {why}\n"))
        }
        Outcome::Ours { .. } | Outcome::Forwarded { .. } => Ok(()),
    }
}

/// One audit line for each answer, and on connections of their own exactly the requests that were allowed.
fn compare_logs(outcomes: &[Outcome], address: &str, logs: &mut Logs) -> Result<(), String> {
    let audit = logs.audit.take_when(outcomes.len())?;
    same("audit lines", &audit.len(), &outcomes.len())?;
    for (line, outcome) in audit.iter().zip(outcomes) {
        same("audited status", &status(line), &outcome.status())?;
        let why = match outcome {
            Outcome::Ours { why, .. } => why.as_str(),
            Outcome::Forwarded { .. } => "",
        };
        same("audited reason", &line["why"].as_str().unwrap_or("none"), &why)?;
    }
    let host = if address == V6 { format!("[{V6}]") } else { V4.to_owned() };
    let wanted: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.upstream(&host)).collect();
    let record = logs.record.take()?;
    let reached: Vec<_> = record.iter().map(recorded_bytes).collect();
    let shown =
        |all: &[Vec<u8>]| all.iter().map(|bytes| bytes.escape_ascii().to_string()).collect::<Vec<_>>();
    same("what reached the service", &shown(&reached), &shown(&wanted))?;
    let mut connections: Vec<_> = record.iter().map(|record| record["connection"].as_u64()).collect();
    connections.dedup();
    same("connections to the service", &connections.len(), &wanted.len())
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, got: &T, wanted: &T) -> Result<(), String> {
    if got == wanted {
        Ok(())
    } else {
        Err(format!("{what}:\n      got    {got:?}\n      wanted {wanted:?}"))
    }
}

const MUTATIONS: u32 = 400;
/// Milliseconds for making a failing request shorter; each attempt may wait in vain for an answer.
const SHRINKING: u32 = 30_000;

const VALID: [&str; 6] = [
    "GET /latest/meta-data/instance-id HTTP/1.1\r\nHost: 169.254.169.254\r\nUser-Agent: a\r\n\r\n",
    "GET /latest/user-data HTTP/1.1\r\nHost: 169.254.169.254\r\nAccept: */*\r\n\r\n",
    "GET http://169.254.169.254/latest/ HTTP/1.1\r\nHost: instance-data\r\nConnection: close\r\n\r\n",
    "GET /latest/meta-data/iam/info HTTP/1.0\r\nContent-Length: 0\r\n\r\n",
    "PUT /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n",
    "GET /latest/%6deta-data/ HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\nGET / HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n",
];

const PIECES: [&[u8]; 40] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b"/",
    b"//",
    b"/./",
    b"/../",
    b"%2e",
    b"%2f",
    b"%25",
    b"%00",
    b"%",
    b"%c0%af",
    b"\\",
    b";",
    b"?",
    b"#",
    b"@",
    b"\x0b",
    b"\xa0",
    b"\xff",
    b"http://",
    b"evil.example",
    b"HTTP/1.1",
    b"HTTP/1.0",
    b"\r\n ",
    b"\r\n\r\n",
    b"user-data",
    b"\r\nX-Forwarded-For : a",
    b"\r\nHost: b",
    b"\r\nContent-Length: 5",
    b"\r\nTransfer-Encoding: chunked",
    b"\r\nConnection: close",
    b"GET /latest/user-data HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n",
    b"GET ",
    b"0\r\n\r\n",
];

/// A piece put over `gone` bytes at a place, which is given in thousandths.
#[derive(Debug, Clone)]
struct Mutation {
    place: usize,
    gone: usize,
    piece: Vec<u8>,
}

impl Mutation {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let begin = bytes.len() * self.place / 1000;
        let end = bytes.len().min(begin + self.gone);
        bytes.splice(begin..end, self.piece.iter().copied());
    }
}

fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => prop::sample::select(PIECES.to_vec()).prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(any::<u8>(), 0..3),
    ];
    let gone = prop_oneof![3 => Just(0_usize), 2 => 1_usize..4, 1 => 4_usize..40];
    let mutation =
        (0_usize..=1000, gone, piece).prop_map(|(place, gone, piece)| Mutation { place, gone, piece });
    (prop::sample::select(VALID.to_vec()), prop::collection::vec(mutation, 0..4)).prop_map(
        |(valid, mutations)| {
            let mut bytes = valid.as_bytes().to_vec();
            mutations.iter().for_each(|mutation| mutation.apply(&mut bytes));
            bytes
        },
    )
}

#[test]
fn whatever_is_sent_the_service_sees_canonical_requests_and_each_has_its_answer_and_its_line() {
    in_a_lab(
        "whatever_is_sent_the_service_sees_canonical_requests_and_each_has_its_answer_and_its_line",
        || {
            let logs = std::cell::RefCell::new(Logs::open());
            let reached = std::cell::Cell::new(0);
            let config = Config {
                cases: MUTATIONS,
                failure_persistence: None,
                max_shrink_time: SHRINKING,
                ..Config::default()
            };
            let tried = TestRunner::new(config).run(&mutated(), |bytes| {
                let seen = expect_order(&bytes, &mut logs.borrow_mut()).map_err(TestCaseError::fail)?;
                reached.set(reached.get() + seen);
                Ok(())
            });
            match tried {
                Ok(()) => (),
                Err(TestError::Fail(why, bytes)) => panic!("{}\n{why}", bytes.escape_ascii()),
                Err(TestError::Abort(why)) => panic!("{why}"),
            }
            let mut logs = logs.into_inner();
            assert_eq!(logs.audit.take(), Ok(vec![]), "audit lines that no request explains");
            assert_eq!(logs.record.take(), Ok(vec![]), "requests that nobody sent");
            assert!(reached.get() > MUTATIONS as usize / 20, "only {} reached the service", reached.get());
        },
    );
}

/// How many requests reached the service.
fn expect_order(bytes: &[u8], logs: &mut Logs) -> Result<usize, String> {
    let mut client = Client::connect(V4)?;
    client.send(bytes, usize::MAX);
    client.end();
    let mut answered = Vec::new();
    while let Some(answer) = client.answer(false)? {
        answered.push(answer.status);
    }
    let audit = logs.audit.take_when(answered.len())?;
    let record = logs.record.take()?;
    same("audited statuses", &audit.iter().map(status).collect::<Vec<_>>(), &answered)?;
    let allowed: Vec<_> = audit.iter().filter(|line| line["verdict"] == "allow").collect();
    let of = |lines: &[&serde_json::Value]| lines.iter().map(|line| status(line)).collect::<Vec<_>>();
    same("recorded statuses", &of(&record.iter().collect::<Vec<_>>()), &of(&allowed))?;
    let not_allowed = audit.iter().filter(|line| line["verdict"] != "allow");
    if let Some(line) = not_allowed.into_iter().find(|line| status(line) < 400) {
        return Err(format!("neither allowed nor refused: {line}"));
    }
    for (record, line) in record.iter().zip(allowed) {
        let bytes = recorded_bytes(record);
        let head = canonical(&bytes).ok_or_else(|| format!("not canonical: {}", bytes.escape_ascii()))?;
        let audited =
            format!("{} {}", line["method"].as_str().unwrap_or(""), line["path"].as_str().unwrap_or(""));
        same("method and path", &head, &audited)?;
        if head.trim_end_matches('/').starts_with("GET /latest/user-data/") || head == "GET /latest/user-data"
        {
            return Err(format!("a denied path reached the service: {head}"));
        }
    }
    Ok(record.len())
}

/// Method and target, if these are bytes that have one reading. Written without a look at how ours are made.
fn canonical(bytes: &[u8]) -> Option<String> {
    // above ASCII: allowed in values only (RFC 9110 section 5.5)
    let text: String = bytes.iter().copied().map(char::from).collect();
    let mut lines: Vec<&str> = text.strip_suffix("\r\n\r\n")?.split("\r\n").collect();
    let head = lines.remove(0);
    let (method, target) = head.strip_suffix(" HTTP/1.1")?.split_once(' ')?;
    let method_ok = match method {
        "GET" => true,
        "HEAD" => lines.pop_if(|line| *line == "Connection: close").is_some(),
        "PUT" => {
            lines.pop_if(|line| *line == "Content-Length: 0")?;
            target.trim_end_matches('/') == "/latest/api/token"
        }
        _ => false,
    };
    let host_ok = !lines.is_empty() && lines.remove(0) == "Host: 169.254.169.254";
    let plain = text.chars().all(|c| !c.is_ascii_control() || "\r\n\t".contains(c));
    let one_line = !lines.iter().any(|line| line.contains(['\r', '\n']));
    let good =
        method_ok && host_ok && plain && one_line && target_has_one_reading(target) && listed_once(&lines);
    good.then(|| format!("{method} {target}"))
}

fn target_has_one_reading(target: &str) -> bool {
    let lower = target.to_ascii_lowercase();
    target.starts_with('/')
        && !target.contains("//")
        && target.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"#;<>?[\\]^`{|}".contains(&byte))
        && target.split('/').all(|segment| segment != "." && segment != "..")
        && ["%0", "%1", "%25", "%2e", "%2f", "%3b", "%5c", "%7f"].iter().all(|escape| !lower.contains(escape))
        && target.split('%').skip(1).all(is_needed_escape)
}

/// Two capital hexadecimal digits, of a byte that could not stand for itself.
fn is_needed_escape(text: &str) -> bool {
    let digits = text.get(..2).filter(|digits| !digits.contains(|c: char| c.is_lowercase() || c == '+'));
    let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
    byte.is_some_and(|byte| !byte.is_ascii_alphanumeric() && !b"-._~".contains(&byte))
}

/// Whether each is a field that EC2 knows, and none is there twice.
fn listed_once(fields: &[&str]) -> bool {
    let known = ["User-Agent", "Accept", "X-Aws-Ec2-Metadata-Token", "X-Aws-Ec2-Metadata-Token-Ttl-Seconds"];
    let names: Vec<_> = fields.iter().map(|field| field.split_once(": ").map(|(name, _)| name)).collect();
    let times = |wanted: &str| names.iter().filter(|name| **name == Some(wanted)).count();
    known.iter().all(|name| times(name) <= 1)
        && known.iter().map(|name| times(name)).sum::<usize>() == names.len()
}
