//! A client's bytes, through the strict reader, the canonicaliser, the verdict and the very code that sends.
//! Holds: what was judged is what is sent; sending that again is judged the same; how the bytes were cut is no matter.

use hyper::header::HeaderValue;
use imds_filterd::forward::{Upstream, forward};
use imds_filterd::strict::{Collected, Collector, Head, Malformed};
use imds_rules::{Method, Names, Permit, Profile, Request, Rules, Subject, Verdict, Version, decide, parse};
use std::os::unix::net::UnixStream;
use tokio::io::AsyncReadExt;

const MAX_HEAD: usize = 4096;
const HOST: &str = "169.254.169.254";
const RULES: &str = "Allow \"/\"\nDeny \"/a\"\nDeny \"/*/meta-data/iam\"\nAllow \"/a/b\"\nDeny \"/b\"\n";

pub fn run(data: &[u8]) {
    let whole = outcomes(data, data.len());
    for size in [1, 7] {
        let cut = outcomes(data, size);
        assert!(cut == whole, "cut into pieces of {size} bytes it is something else");
    }
    for head in whole.iter().filter_map(|outcome| outcome.as_ref().ok()) {
        judged_is_sent(head);
    }
}

/// Every head, and what ended them if anything did.
fn outcomes(bytes: &[u8], size: usize) -> Vec<Result<Head, Malformed>> {
    let mut collector = Collector::new(MAX_HEAD);
    let mut all = Vec::new();
    for piece in bytes.chunks(size.max(1)) {
        collector.room().extend_from_slice(piece);
        loop {
            match collector.next_head() {
                Collected::Incomplete => break,
                Collected::Head(head) => all.push(Ok(head)),
                Collected::Malformed(why) => {
                    all.push(Err(why));
                    return all;
                }
            }
        }
    }
    all
}

fn profile() -> Profile {
    let addresses = [HOST.parse(), "fd00:ec2::254".parse()].into_iter().flatten().collect();
    // EC2 itself knows no query; with one the code for it is reached
    Profile { query_keys: &["key", "alt"], ..Profile::ec2(addresses, 80, vec!["instance-data".into()]) }
}

fn canonical(head: &Head) -> Option<Request> {
    let fields = head.fields().ok()?;
    let (method, target, headers) = (fields.method, fields.target, fields.headers.as_slice());
    let head = imds_rules::Head { method, target, version: fields.version, headers };
    Request::canonicalise(&head, &profile()).ok()
}

fn judge(rules: &Rules, request: Request) -> Verdict {
    decide(rules, &Subject::of_uid(1), request)
}

fn judged_is_sent(head: &Head) {
    let Some(request) = canonical(head) else { return };
    harmless(&request);
    let parsed = parse("fuzz", RULES.as_bytes()).unwrap_or_else(|faults| panic!("{faults:?}"));
    let rules = Rules::new(&parsed, &Names::default());
    let permit = match judge(&rules, request.clone()) {
        Verdict::Allow(permit) => permit,
        Verdict::Deny(_) => return,
    };
    let rule = permit.rule();
    let sent = sent(permit);
    let [Ok(head)] = &outcomes(&sent, sent.len())[..] else {
        panic!("not one request: {}", sent.escape_ascii());
    };
    let Some(again) = canonical(head) else { panic!("refused when sent again: {}", sent.escape_ascii()) };
    assert!(again == request, "another request: {}", sent.escape_ascii());
    match judge(&rules, again) {
        Verdict::Allow(permit) => assert_eq!(permit.rule(), rule),
        Verdict::Deny(denial) => panic!("denied when sent again, by {denial}: {}", sent.escape_ascii()),
    }
    expect_words(head, &request);
}

/// No server reads anything but plain segments in what is sent.
fn harmless(request: &Request) {
    let target = request.upstream_target();
    assert!(target.starts_with('/') && target.bytes().all(|byte| byte.is_ascii_graphic()), "{target}");
    assert!(!target.contains("//") || target.contains('?'), "{target}");
    assert!(!target.contains(['#', '\\', ';']), "{target}");
    let path = request.path();
    for (segment, sent) in request.segments().zip(path.split('/').skip(1)) {
        assert!(!matches!(segment, "" | "." | "..") && !segment.contains(['/', '%', '\\', ';']), "{path}");
        assert!(!segment.chars().any(char::is_control), "{path}");
        let lower = sent.to_ascii_lowercase();
        assert!(["%2f", "%25", "%00", "%5c", "%3b"].iter().all(|bad| !lower.contains(bad)), "{path}");
    }
}

/// The head that was sent has the permit's words, our own headers, and not one more.
fn expect_words(head: &Head, request: &Request) {
    let fields = head.fields().unwrap_or_else(|why| panic!("{why}"));
    assert_eq!(fields.method, request.method().as_str().as_bytes());
    assert_eq!(fields.target, request.upstream_target().as_bytes());
    assert_eq!(fields.version, Version::Http11);
    let ours: [(&str, &[u8]); 3] =
        [("host", HOST.as_bytes()), ("connection", b"close"), ("content-length", b"0")];
    let is_ours = |name: &[u8], value: &[u8]| {
        ours.iter().any(|own| name.eq_ignore_ascii_case(own.0.as_bytes()) && value == own.1)
    };
    let (own, passed): (Vec<_>, Vec<_>) =
        fields.headers.iter().partition(|(name, value)| is_ours(name, value));
    // a length for a PUT; after an answer to HEAD the connection is not kept
    let two = request.asks_for_token() || request.method() == Method::Head;
    assert_eq!(own.len(), if two { 2 } else { 1 });
    assert_eq!(passed.len(), request.upstream_headers().count());
    for ((name, value), (sent_name, sent_value)) in request.upstream_headers().zip(passed) {
        assert!(sent_name.eq_ignore_ascii_case(name.as_bytes()), "another header, or in another order");
        assert_eq!(sent_value.trim_ascii(), value, "{name}");
    }
}

/// What [`forward`] writes for a permit.
fn sent(permit: Permit) -> Vec<u8> {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap_or_else(|error| panic!("{error}"));
    }
    let (theirs, ours) = UnixStream::pair().unwrap_or_else(|error| panic!("{error}"));
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let upstream = Upstream::new(ours.into(), HeaderValue::from_static(HOST));
            let upstream = upstream.unwrap_or_else(|error| panic!("{error}"));
            let (answer, sent) = tokio::join!(forward(&permit, upstream, 1), read_head(theirs));
            assert!(answer.is_err(), "an answer out of nothing");
            sent
        })
    })
}

/// The service: reads to the end of a head and whatever came with it, and hangs up.
async fn read_head(stream: UnixStream) -> Vec<u8> {
    stream.set_nonblocking(true).unwrap_or_else(|error| panic!("{error}"));
    let mut stream = tokio::net::UnixStream::from_std(stream).unwrap_or_else(|error| panic!("{error}"));
    let mut sent = Vec::new();
    while !sent.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        let read = stream.read_buf(&mut sent).await.unwrap_or_else(|error| panic!("{error}"));
        assert_ne!(read, 0, "cut short: {}", sent.escape_ascii());
    }
    sent
}
