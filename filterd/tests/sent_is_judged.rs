//! What was judged is what is sent: random requests through a real imds-filterd, byte for byte.
//! The same property of the rules alone is in rules/tests/canonical.rs.

mod played;

use imds_ipc::{FromFilterd, FromInterceptor};
use played::{Filterd, OK, Upstream};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestError, TestRunner};
use serde_json::Value;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;

const RULES: &str = "Allow \"/\"\nDeny \"/*/user-data\"\nAllow \"/latest/a\"\nDeny \"/latest/a/b\"\n";
/// 500 cases are more than a burst.
const UNLIMITED: &str = "requests_per_second = 0";

/// What became of the first head in some bytes.
#[derive(Debug, PartialEq)]
struct Judged {
    /// The request that upstream got.
    sent: Option<String>,
    verdict: Value,
    rule: Value,
    method: Value,
    path: Value,
}

/// Plays the service for one dial; the request as it arrived.
fn serve(filterd: &Filterd, dial: u64) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    filterd.say(&FromInterceptor::Dialled { dial }, Some(theirs.as_fd()));
    Upstream(listener.accept().unwrap().0).answer(OK)
}

/// Sends bytes on a connection of their own, ends it, and answers what comes upstream.
fn judge(filterd: &mut Filterd, bytes: &[u8]) -> Vec<Judged> {
    let mut client = filterd.connect(0);
    client.send(bytes);
    client.stream.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    let mut sent = Vec::new();
    loop {
        match filterd.hear() {
            FromFilterd::Dial { dial, .. } => sent.push(serve(filterd, dial)),
            FromFilterd::Close { connection } => {
                assert_eq!(connection, client.id);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    let answers = client.rest().matches("HTTP/1.").count();
    let mut sent = sent.into_iter();
    let lines: Vec<Value> = (0..answers).map(|_| filterd.audit()).collect();
    let judged = lines.into_iter().map(|mut line| Judged {
        sent: if line["verdict"] == "allow" { Some(sent.next().expect("a request sent")) } else { None },
        verdict: line["verdict"].take(),
        rule: line["rule"].take(),
        method: line["method"].take(),
        path: line["path"].take(),
    });
    let judged: Vec<_> = judged.collect();
    assert_eq!(sent.next(), None, "sent without a verdict");
    judged
}

fn requests() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        "/",
        "/",
        "/latest",
        "/a",
        "/b",
        "/user-data",
        "%61",
        "%2D",
        "-",
        "user",
        "%2e",
        "%2f",
        "%3f",
        "%25",
        ".",
        "..",
        ";",
        "?",
        "%c3%a9",
        "%7e",
        "*",
        "=",
        "&",
        "+",
        "%20",
        "@",
        ":",
    ]);
    let target = prop::collection::vec(piece, 0..7).prop_map(|pieces| format!("/{}", pieces.concat()));
    let field = prop::sample::select(vec![
        "User-Agent: a\tb ",
        "user-agent:",
        "User-Agent: \u{e9}",
        "ACCEPT:*/*",
        "x-AWS-ec2-metadata-TOKEN: c2VjcmV0",
        "X-aws-ec2-metadata-token-ttl-seconds: 60",
        "Cookie: a",
        "Connection: close",
        "Connection: Accept",
        "Content-Length: 0",
        "Content-Length: 1",
        "X-Forwarded-For : a",
        "Host: b",
        "X-A: Host: b",
        "Upgrade: h2c",
    ]);
    let head = (
        prop::sample::select(vec!["GET", "GET", "GET", "GET", "PUT", "put"]),
        prop_oneof![6 => target, 1 => Just("/latest/api/token".to_owned())],
        prop::collection::vec(field, 0..4),
    );
    let head = head.prop_map(|(method, target, fields)| {
        let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
        format!("{method} {target} HTTP/1.1\r\nHost: instance-data\r\n{fields}\r\n")
    });
    prop::collection::vec(head, 1..3).prop_map(|heads| heads.concat().into_bytes())
}

#[test]
fn what_was_judged_is_what_is_sent_and_sent_again_it_is_judged_the_same() {
    let filterd = std::cell::RefCell::new(Filterd::start_with(RULES, UNLIMITED));
    let again = std::cell::Cell::new(0);
    let config = Config { cases: 500, failure_persistence: None, ..Config::default() };
    let tried = TestRunner::new(config).run(&requests(), |bytes| {
        let mut filterd = filterd.borrow_mut();
        for first in judge(&mut filterd, &bytes) {
            let Some(sent) = first.sent.clone() else { continue };
            let line = format!(
                "{} {} HTTP/1.1\r\nHost: 169.254.169.254\r\n",
                first.method.as_str().unwrap(),
                first.path.as_str().unwrap()
            );
            prop_assert!(sent.starts_with(&line), "{sent:?}");
            let second = judge(&mut filterd, sent.as_bytes());
            prop_assert_eq!(second, vec![first]);
            again.set(again.get() + 1);
        }
        Ok(())
    });
    match tried {
        Ok(()) => (),
        Err(TestError::Fail(why, bytes)) => panic!("{}\n{why}", bytes.escape_ascii()),
        Err(TestError::Abort(why)) => panic!("{why}"),
    }
    assert!(again.get() >= 100, "only {} were sent", again.get());
}
