//! The short way of an answer, without hyper: a client cannot tell it from the other, nor can the service.

mod played;

use imds_ipc::FromFilterd;
use played::{ALLOW_ALL, Filterd, GET, status_of};
use serde_json::Value;
use std::io::{Read, Write};

const CLOSING: &str = "GET /a HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n\r\n";

/// Answers that an HTTP/1.1 server may give to a GET, most of which no metadata service does.
fn answers() -> Vec<String> {
    let ok = |headers: &str, body: &str| format!("HTTP/1.1 200 OK\r\n{headers}\r\n{body}");
    let two = |headers: &str| ok(&format!("Content-Length: 2\r\n{headers}"), "ok");
    let mut all = vec![
        two(""),
        two("Connection: keep-alive\r\nKeep-Alive: timeout=5\r\n"),
        two("Connection: close\r\n"),
        two("Connection: Close\r\nClose: 1\r\nX: 1\r\n"),
        two("Connection: x, keep-alive\r\nX: 1\r\nY: 1\r\n"),
        two("Connection: x\r\nConnection: keep-alive\r\nX: 1\r\n"),
        two(
            "ETag: \"a\"\r\nserver: EC2ws\r\nX-aws-ec2-METADATA-token-ttl-seconds: 21600\r\nLast-Modified: x\r\n",
        ),
        two("Set: 1\r\nOther: 2\r\n"),
        two("Upgrade: h2c\r\nProxy-Connection: x\r\nTE: x\r\nTrailer: x\r\nProxy-Authenticate: x\r\n"),
        two("Spaces:   around   \r\nEmpty:\r\nTab:\tx\r\nLatin: \u{e9}\r\n"),
        two("Content-Length: 2\r\n"),
        two("X-Control: \u{1}\r\n"),
        two(" Folded: 1\r\n"),
        two("No colon\r\n"),
        two("Blank : 1\r\n"),
        two("\r\nok"),
        ok("Content-Length: +2\r\n", "ok"),
        ok("Content-Length: 0x2\r\n", "ok"),
        ok("Content-Length:\r\n", "ok"),
        ok("Content-Length: 2, 2\r\n", "ok"),
        ok("Content-Length: 99999999999999999999\r\n", "ok"),
        ok("Content-Length: 02\r\n", "ok"),
        ok("Content-Length: 3\r\n", "ok"),
        ok("Content-Length: 1\r\n", "ok"),
        ok("Content-Length: 0\r\n", ""),
        ok("", "until the end"),
        ok("Transfer-Encoding: chunked\r\n", "2\r\nok\r\n0\r\n\r\n"),
        ok("Transfer-Encoding: chunked\r\nContent-Length: 2\r\n", "2\r\nok\r\n0\r\n\r\n"),
        ok("Transfer-Encoding: gzip\r\nContent-Length: 2\r\n", "ok"),
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok".into(),
        "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok".into(),
        "HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok".into(),
        "HTTP/1.1 404 Nothing Here\r\nContent-Length: 2\r\n\r\nno".into(),
        "HTTP/1.1 204 No Content\r\n\r\n".into(),
        "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok".into(),
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n".into(),
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\nok".into(),
        "HTTP/1.1 408 Request Timeout\r\nContent-Length: 2\r\n\r\nno".into(),
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".into(),
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n".into(),
        "HTTP/1.1 600 Odd\r\nContent-Length: 2\r\n\r\nok".into(),
        "HTTP/1.1 999 Odd\r\nContent-Length: 2\r\n\r\nok".into(),
        "HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok".into(),
        "HTTP/1.1 200 OK\nContent-Length: 2\n\nok".into(),
        "SSH-2.0-OpenSSH\r\n".into(),
        "HTTP/1.1 200 O".into(),
        String::new(),
    ];
    // from a head of one read to one that no reader has room for; a body of a message, a longer one, one of many reads
    for length in [900, 1100, 5000, 20_000] {
        all.push(two(&format!("X-Long: {}\r\n", "x".repeat(length))));
        all.push(ok(&format!("Content-Length: {length}\r\n"), &"x".repeat(length)));
    }
    all.push(two(&(0..40).map(|number| format!("X-{number}: {number}\r\n")).collect::<String>()));
    all.push(ok("Content-Length: 100\r\nETag: x\r\n", &"x".repeat(60)));
    all
}

/// What the service was asked, what the client saw and the audit trail says.
#[derive(Debug, PartialEq)]
struct Seen {
    sent: String,
    /// The lines of the head, which hyper does not always leave in their order.
    head: Vec<String>,
    body: String,
    told: [Value; 5],
}

/// Once by a message, or else by a stream. The service answers and ends.
fn seen(filterd: &mut Filterd, by_message: bool, answer: &str) -> Seen {
    let (id, mut client) = if by_message {
        (filterd.ask(1000, 1, CLOSING), None)
    } else {
        let mut client = filterd.connect(1000);
        client.send(CLOSING);
        (client.id, Some(client))
    };
    let mut upstream = filterd.dial();
    let sent = upstream.request();
    // Latin-1, as headers are
    let bytes: Vec<u8> = answer.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
    let service = std::thread::spawn(move || upstream.0.write_all(&bytes));
    let mut got = Vec::new();
    loop {
        match filterd.hear() {
            FromFilterd::Answer { connection, closes, bytes } => {
                assert!(client.is_none() && connection == id && closes);
                got = bytes.bytes().to_vec();
                break;
            }
            FromFilterd::Open { connection } => {
                assert!(client.is_none() && connection == id);
                client = Some(filterd.opened(id));
            }
            FromFilterd::Close { connection } | FromFilterd::Reset { connection } => {
                assert_eq!(connection, id);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    if let Some(mut client) = client {
        client.stream.read_to_end(&mut got).unwrap();
    }
    let _ = service.join().unwrap(); // it may be refused before its last byte
    // a character for each byte
    let got: String = got.into_iter().map(char::from).collect();
    let (head, body) = got.split_once("\r\n\r\n").unwrap_or((&got, ""));
    let mut head: Vec<_> = head.lines().map(str::to_owned).collect();
    head.sort();
    let line = filterd.audit();
    Seen {
        sent,
        head,
        body: body.to_owned(),
        told: ["verdict", "status", "bytes", "why", "path"].map(|name| line[name].clone()),
    }
}

#[test]
fn every_answer_is_the_same_by_a_message_and_by_a_stream() {
    let mut filterd = Filterd::start_with(ALLOW_ALL, "requests_per_second = 0");
    for answer in answers() {
        let by_stream = seen(&mut filterd, false, &answer);
        let by_message = seen(&mut filterd, true, &answer);
        assert_eq!(by_message, by_stream, "{answer}");
    }
}

#[test]
fn an_answer_is_passed_on_in_the_order_and_spelling_of_the_service() {
    let mut filterd = Filterd::start(ALLOW_ALL);
    let id = filterd.ask(1000, 1, GET);
    filterd.dial().answer(
        "HTTP/1.1 200 Fine\r\nETag: \"a\"\r\nX-a: 1\r\nserver: EC2ws\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\n\
         X-A: 2\r\nContent-Length: 2\r\nContent-type: text/plain\r\n\r\nok",
    );
    let passed = "HTTP/1.1 200 Fine\r\nETag: \"a\"\r\nX-a: 1\r\nserver: EC2ws\r\nX-A: 2\r\nContent-Length: 2\r\n\
                  Content-type: text/plain\r\n\r\nok";
    assert_eq!(filterd.hear_answer(id), (passed.into(), false));
}

#[test]
fn an_answer_over_the_limit_is_refused_also_where_it_is_plain() {
    let mut filterd = Filterd::start_with(ALLOW_ALL, "answer_bytes = 1000");
    for (length, status) in [(1000, 200), (1001, 502)] {
        let id = filterd.ask(1000, 1, GET);
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{}", "x".repeat(length));
        filterd.dial().answer(answer);
        assert_eq!(status_of(&filterd.hear_answer(id).0), status);
    }
}
