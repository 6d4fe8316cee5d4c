//! What a client and upstream see of imds-filterd, over its real channel.
//! Does not look at what the rules say beyond allow and deny: that is tested where they are.

mod played;

use imds_ipc::{DialFailure, FromFilterd, FromInterceptor};
use played::{ALLOW_ALL, Filterd, GET, OK, status_of};
use std::io::{Read, Write};

#[test]
fn an_allowed_request_is_rebuilt_forwarded_relayed_and_logged() {
    let mut filterd = Filterd::start("Deny \"/\"\nAllow user root \"/latest\"\n");
    let mut client = filterd.connect(0);
    client.send(
        "GET //latest/%6deta-data/ HTTP/1.1\r\nHost: instance-data\r\nAccept-Encoding: gzip\r\n\
         user-agent: test/1\r\nX-AWS-EC2-Metadata-Token: c2VjcmV0\r\nCookie: a\r\nUpgrade: h2c\r\n\r\n",
    );
    let request = filterd.dial().answer(
        "HTTP/1.1 200 OK\r\nX-Aws-Ec2-Metadata-Token-Ttl-Seconds: 21600\r\nContent-Type: text/plain\r\n\
         ETag: \"1\"\r\naccept-ranges: none\r\nContent-Length: 6\r\nServer: EC2ws\r\nConnection: close\r\n\r\nami-id",
    );
    assert_eq!(
        request,
        "GET /latest/meta-data/ HTTP/1.1\r\nHost: 169.254.169.254\r\nUser-Agent: test/1\r\n\
         X-Aws-Ec2-Metadata-Token: c2VjcmV0\r\n\r\n"
    );
    assert_eq!(
        client.head(),
        "HTTP/1.1 200 OK\r\nX-Aws-Ec2-Metadata-Token-Ttl-Seconds: 21600\r\nContent-Type: text/plain\r\n\
         ETag: \"1\"\r\naccept-ranges: none\r\nContent-Length: 6\r\nServer: EC2ws\r\n\r\n"
    );
    assert_eq!(client.body(6), "ami-id");
    let line = filterd.audit();
    assert_eq!(line["v"], 1);
    assert_eq!(line["verdict"], "allow");
    assert_eq!(line["rule"], 2);
    assert_eq!((line["uid"].as_u64(), line["user"].as_str()), (Some(0), Some("root")));
    assert_eq!((line["method"].as_str(), line["path"].as_str()), (Some("GET"), Some("/latest/meta-data/")));
    assert_eq!((line["status"].as_u64(), line["bytes"].as_u64()), (Some(200), Some(6)));
    assert_eq!((line["client"].as_str(), line["service"].as_str()), (Some("10.0.0.5:40001"), Some("ec2")));
    assert!(line["ms"].is_u64() && line["time"].as_str().unwrap().ends_with('Z'), "{line}");
    assert!(!line.to_string().contains("c2VjcmV0"), "a token is logged: {line}");
}

#[test]
fn a_token_request_goes_out_with_a_length_and_without_a_body() {
    let mut filterd = Filterd::start(ALLOW_ALL);
    let mut client = filterd.connect(1000);
    client.send(
        "PUT /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nContent-Length: 0\r\n\
         X-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n",
    );
    let request = filterd.dial().answer("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nAQA");
    assert_eq!(
        request,
        "PUT /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\n\
         X-Aws-Ec2-Metadata-Token-Ttl-Seconds: 60\r\nContent-Length: 0\r\n\r\n"
    );
    assert_eq!(client.answer(), (200, "AQA".into()));
    assert!(!filterd.audit().to_string().contains("AQA"));
}

#[test]
fn a_denied_request_gets_403_with_the_rule_and_never_a_dial() {
    let mut filterd = Filterd::start("Allow \"/\"\nDeny \"/latest/user-data\"\n");
    let mut client = filterd.connect(1000);
    client.send("GET /latest/user-data/ HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n");
    let head = client.head();
    assert_eq!(status_of(&head), 403);
    assert!(head.contains("Content-Type: text/plain\r\n") && !head.contains("Connection"), "{head}");
    assert_eq!(client.body(36), "imds-filterd: denied by rule line 2\n");
    let line = filterd.audit();
    assert_eq!((line["verdict"].as_str(), line["rule"].as_u64()), (Some("deny"), Some(2)));
    assert_eq!((line["uid"].as_u64(), line["status"].as_u64()), (Some(1000), Some(403)));
    assert!(filterd.hear_now().is_none(), "a denied request must not dial");
}

#[test]
fn a_connection_is_kept_and_pipelined_requests_are_answered_in_order_one_at_a_time() {
    let mut filterd = Filterd::start(ALLOW_ALL);
    let mut client = filterd.connect(1000);
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n");
    client.send(get("/a") + &get("/b") + &get("/c"));
    for path in ["/a", "/b", "/c"] {
        let mut upstream = filterd.dial();
        assert!(filterd.hear_now().is_none(), "one exchange at a time");
        assert!(upstream.request().starts_with(&format!("GET {path} HTTP/1.1\r\n")));
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{path}");
        upstream.0.write_all(answer.as_bytes()).unwrap();
        assert_eq!(client.answer(), (200, path.into()));
    }
    client.send(get("/d"));
    filterd.dial().answer(OK);
    assert_eq!(client.answer(), (200, "ok".into()));
}

#[test]
fn closing_is_announced_on_the_channel_before_the_client_sees_it() {
    let mut filterd = Filterd::start(ALLOW_ALL);
    let closing = "GET / HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n\r\n";
    for (request, version) in [(closing, "HTTP/1.1"), ("GET / HTTP/1.0\r\n\r\n", "HTTP/1.0")] {
        let mut client = filterd.connect(1000);
        client.send(request);
        filterd.dial().answer(OK);
        let answer = client.rest();
        let head = format!("{version} 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
        assert_eq!(answer, head);
        assert_eq!(filterd.hear_now(), Some(FromFilterd::Close { connection: client.id }));
    }
}

#[test]
fn a_client_that_ends_its_side_is_still_answered() {
    let mut filterd = Filterd::start(ALLOW_ALL);
    let mut client = filterd.connect(1000);
    client.send(GET);
    client.stream.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    filterd.dial().answer(OK);
    assert_eq!(client.answer(), (200, "ok".into()));
    assert_eq!(client.rest(), "");
    assert_eq!(filterd.hear_now(), Some(FromFilterd::Close { connection: client.id }));
}

#[test]
fn malformed_heads_are_answered_logged_and_closed() {
    let mut filterd = Filterd::start(ALLOW_ALL);
    let host = "Host: 169.254.169.254\r\n";
    let cases = [
        (format!("GET / HTTP/1.1\n{host}\r\n"), 400),
        ("GET /\r\n".into(), 400),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), 400),
        ("\r\n".into(), 400),
        (format!("GET / HTTP/1.1\r\n{host}A: b\r\n c\r\n\r\n"), 400),
        (format!("GET / HTTP/1.1\r\n{host}Content-Length: 5\r\n\r\nhello"), 400),
        (format!("GET / HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400),
        (format!("GET /latest/../x HTTP/1.1\r\n{host}\r\n"), 400),
        ("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n".into(), 400),
        (format!("GET / HTTP/1.1\r\n{host}X-Forwarded-For : 1.2.3.4\r\n\r\n"), 403),
        (format!("GET / HTTP/1.1\r\n{host}forwarded: for=1.2.3.4\r\n\r\n"), 403),
        (format!("POST / HTTP/1.1\r\n{host}\r\n"), 405),
        (format!("GET / HTTP/1.1\r\n{host}A: {}\r\n\r\n", "x".repeat(20_000)), 431),
    ];
    for (request, status) in cases {
        let mut client = filterd.connect(1000);
        client.send(&request);
        let answer = client.rest();
        let shown = request.get(..60).unwrap_or(&request);
        assert_eq!(status_of(&answer), status, "{shown:?}: {answer}");
        assert!(answer.contains("\r\nConnection: close\r\n"), "{shown:?}: {answer}");
        assert!(answer.contains("\r\n\r\nimds-filterd: "), "{shown:?}: {answer}");
        assert_eq!(answer.contains("\r\nAllow: GET, HEAD, PUT\r\n"), status == 405, "{answer}");
        let line = filterd.audit();
        assert_eq!(
            (line["verdict"].as_str(), line["status"].as_u64()),
            (Some("refuse"), Some(status.into()))
        );
        assert_eq!(filterd.hear(), FromFilterd::Close { connection: client.id });
    }
    assert!(filterd.audit_now().is_none());
}

#[test]
fn a_head_cut_short_is_refused_and_nothing_behind_a_refused_head_is_served() {
    let mut filterd = Filterd::start(ALLOW_ALL);
    let mut client = filterd.connect(1000);
    client.send("GET / HTT");
    client.stream.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(status_of(&client.rest()), 400);
    assert_eq!(filterd.audit()["why"], "request head cut short");
    assert_eq!(filterd.hear(), FromFilterd::Close { connection: client.id });
    let mut client = filterd.connect(1000);
    let smuggled = "GET / HTTP/1.1\r\nHost: 169.254.169.254\r\nContent-Length: 66\r\n\r\n";
    client.send(smuggled.to_owned() + GET);
    assert_eq!(client.rest().matches("HTTP/1.1 ").count(), 1);
    assert_eq!(filterd.hear(), FromFilterd::Close { connection: client.id });
    assert_eq!(filterd.audit()["status"], 400);
    assert!(filterd.audit_now().is_none() && filterd.hear_now().is_none());
}

#[test]
fn a_refused_client_may_go_on_sending_for_a_while_and_sees_the_answer_and_no_reset() {
    let mut filterd = Filterd::start(ALLOW_ALL);
    let mut client = filterd.connect(1000);
    client.send("PUT /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nContent-Length: 9000\r\n\r\n");
    assert_eq!(status_of(&client.rest()), 400);
    client.send([b'x'; 9000]); // fails if the other end is closed
    client.stream.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(filterd.hear(), FromFilterd::Close { connection: client.id });
}

#[test]
fn what_a_refused_client_sent_is_escaped_in_the_log_and_its_query_left_out() {
    let mut filterd = Filterd::start(ALLOW_ALL);
    let mut client = filterd.connect(1000);
    client.send("G\"T /a\\%00<\u{7f}".split('\u{7f}').next().unwrap());
    client.send("?token=secret HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n");
    client.stream.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    let _ = client.rest();
    let line = filterd.audit().to_string();
    assert!(!line.contains("secret"), "{line}");
    let mut client = filterd.connect(1000);
    client.send("GET /a\\%1b<script>?token=secret HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n");
    let _ = client.rest();
    let line = filterd.audit();
    assert_eq!(line["path"], "/a\\%1b<script>");
    assert_eq!(line["status"], 400);
    let mut client = filterd.connect(1000);
    client.send(format!("GET /..{} HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n", "\"".repeat(10_000)));
    let _ = client.rest();
    let path = filterd.audit()["path"].as_str().unwrap().to_owned();
    assert!(path.len() < 1000 && path.ends_with("..."), "{path}");
}

#[test]
fn of_a_long_path_the_log_has_the_beginning_whatever_the_verdict() {
    let mut filterd = Filterd::start("Allow \"/\"\nDeny \"/secret\"\n");
    let mut client = filterd.connect(1000);
    let long = format!("/secret/{}", "a".repeat(10_000));
    client.send(format!("GET {long} HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n"));
    assert_eq!(client.answer().0, 403);
    assert_eq!(filterd.audit()["path"], format!("{}...", &long[..512]));
    let whole = &long[..512];
    client.send(format!("GET {whole} HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n"));
    assert_eq!(client.answer().0, 403);
    assert_eq!(filterd.audit()["path"], whole);
}

#[test]
fn an_answer_to_head_has_the_headers_and_no_body() {
    let mut filterd = Filterd::start("Allow \"/\"\nDeny \"/secret\"\n");
    let mut client = filterd.connect(1000);
    client.send("HEAD /a HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n");
    filterd.dial().answer("HTTP/1.1 200 OK\r\nContent-Length: 1234\r\nConnection: close\r\n\r\n");
    assert_eq!(client.head(), "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n");
    client.send("HEAD /secret HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n\r\n");
    let answer = client.rest();
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.ends_with("\r\n\r\n"), "{answer}");
    assert_eq!(filterd.audit()["bytes"], 0);
    assert_eq!(filterd.audit()["bytes"], 0);
}

#[test]
fn answers_without_a_length_reach_new_clients_in_chunks_and_old_ones_up_to_the_end() {
    let mut filterd = Filterd::start(ALLOW_ALL);
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 99\r\nTrailer: T\r\n\r\n\
                   3\r\nabc\r\n2\r\nde\r\n0\r\nT: x\r\n\r\n";
    let until_end = "HTTP/1.0 200 OK\r\nKeep-Alive: 5\r\nX-Hop: 1\r\nConnection: x-hop\r\n\r\nabcde";
    for answer in [chunked, until_end] {
        let mut client = filterd.connect(1000);
        client.send(GET);
        filterd.dial().answer(answer);
        assert_eq!(client.head(), "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        client.stream.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
        let pieces: String =
            client.rest().split("\r\n").filter(|piece| piece.starts_with(char::is_alphabetic)).collect();
        assert_eq!(pieces, "abcde");
        assert_eq!(filterd.hear(), FromFilterd::Close { connection: client.id });
        let mut client = filterd.connect(1000);
        client.send("GET / HTTP/1.0\r\n\r\n");
        filterd.dial().answer(answer);
        assert_eq!(client.rest(), "HTTP/1.0 200 OK\r\nConnection: close\r\n\r\nabcde");
        assert_eq!(filterd.hear(), FromFilterd::Close { connection: client.id });
    }
}

#[test]
fn trouble_upstream_has_its_status_and_the_client_may_try_again() {
    let mut filterd = Filterd::start(ALLOW_ALL);
    let mut client = filterd.connect(1000);
    for (why, status) in [
        (DialFailure::Refused, 502),
        (DialFailure::Unreachable, 502),
        (DialFailure::UnknownUpstream, 502),
        (DialFailure::TimedOut, 504),
        (DialFailure::TooMany, 503),
    ] {
        client.send(GET);
        filterd.fail_dial(why);
        let head = client.head();
        assert_eq!(status_of(&head), status, "{why:?}");
        assert_eq!(head.contains("\r\nRetry-After: 1\r\n"), status == 503, "{head}");
        let length: usize =
            head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap().parse().unwrap();
        client.body(length);
        let line = filterd.audit();
        assert_eq!(line["status"], status);
        assert_eq!(line["verdict"], if status == 503 { "limit" } else { "error" });
        assert_eq!(line["rule"], 1);
    }
    for answer in [
        "",
        "HTTP/1.1 200",
        "nonsense\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nContent-Length: 4194305\r\n\r\n",
    ] {
        client.send(GET);
        filterd.dial().answer(answer);
        assert_eq!(client.answer().0, 502, "{answer:?}");
        assert_eq!(filterd.audit()["verdict"], "error");
    }
    client.send(GET);
    filterd.dial().answer("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.answer(), (404, String::new()));
}

#[test]
fn a_dial_that_is_never_answered_gives_504_and_a_late_answer_harms_nobody() {
    let mut filterd = Filterd::start_with(ALLOW_ALL, "dial_milliseconds = 400"); // the second is answered in time
    let mut client = filterd.connect(1000);
    client.send(GET);
    let dial = filterd.hear_dial();
    assert_eq!(client.answer().0, 504);
    filterd.say(&FromInterceptor::DialFailed { dial, why: DialFailure::TimedOut }, None);
    client.send(GET);
    filterd.dial().answer(OK);
    assert_eq!(client.answer(), (200, "ok".into()));
}

#[test]
fn an_answer_that_ends_early_or_grows_too_large_is_cut_and_the_client_is_to_see_a_reset() {
    let mut filterd = Filterd::start_with(ALLOW_ALL, "answer_bytes = 1000");
    let short = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc".to_owned();
    let endless = "HTTP/1.1 200 OK\r\n\r\n".to_owned() + &"x".repeat(1001);
    for (answer, why) in
        [(short, "answer cut: upstream ended too early"), (endless, "answer cut: larger than the limit")]
    {
        let mut client = filterd.connect(1000);
        client.send(GET);
        filterd.dial().answer(answer);
        let _ = client.rest();
        assert_eq!(filterd.hear(), FromFilterd::Reset { connection: client.id });
        assert!(filterd.answers.is_empty(), "a cut answer must not look like a whole one");
        assert_eq!(filterd.audit()["why"], why);
    }
    let exact = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n".to_owned() + &"x".repeat(1000);
    let mut client = filterd.connect(1000);
    client.send(GET);
    filterd.dial().answer(exact);
    assert_eq!(client.answer().1.len(), 1000);
}

#[test]
fn a_large_answer_streams_with_backpressure_and_a_client_that_leaves_frees_upstream() {
    let mut filterd = Filterd::start(ALLOW_ALL);
    let large = 4 * 1024 * 1024;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {large}\r\nConnection: close\r\n\r\n");
    let mut client = filterd.connect(1000);
    client.send(GET);
    let mut upstream = filterd.dial();
    upstream.request();
    let mut writer = upstream.0.try_clone().unwrap();
    let written = std::thread::spawn(move || {
        writer.write_all(head.as_bytes()).unwrap();
        writer.write_all(&vec![b'x'; large])
    });
    client.head();
    assert!(client.body(large).bytes().all(|byte| byte == b'x'));
    written.join().unwrap().unwrap();
    assert_eq!(filterd.audit()["bytes"], large);

    let mut client = filterd.connect(1000);
    client.send(GET);
    let mut upstream = filterd.dial();
    upstream.request();
    upstream.0.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4000000\r\n\r\nabc").unwrap();
    client.head();
    drop(client);
    // filterd notices when it writes, and then lets upstream go: our writes fail or our read ends
    while upstream.0.write_all(&[b'x'; 4096]).is_ok() {}
    assert_eq!(filterd.audit()["why"], "answer cut: the client is gone");
    let _ = upstream.0.read(&mut [0]);
}

#[test]
fn over_the_connection_limit_each_request_gets_503_and_others_are_served() {
    let mut filterd = Filterd::start_with(ALLOW_ALL, "connections_per_uid = 2");
    let mut first = filterd.connect(1000);
    let _second = filterd.connect(1000);
    let mut third = filterd.connect(1000);
    third.send(GET);
    let answer = third.rest();
    assert_eq!(status_of(&answer), 503);
    assert!(
        answer.contains("\r\nRetry-After: 1\r\n") && answer.contains("\r\nConnection: close\r\n"),
        "{answer}"
    );
    let line = filterd.audit();
    assert_eq!(
        (line["verdict"].as_str(), line["path"].as_str()),
        (Some("limit"), Some("/latest/meta-data/"))
    );
    assert_eq!(filterd.hear(), FromFilterd::Close { connection: third.id });
    let mut other = filterd.connect(1001);
    for client in [&mut first, &mut other] {
        client.send(GET);
        filterd.dial().answer(OK);
        assert_eq!(client.answer(), (200, "ok".into()));
    }
    let id = first.id;
    drop(first);
    assert_eq!(filterd.hear(), FromFilterd::Close { connection: id });
    let mut fourth = filterd.connect(1000);
    fourth.send(GET);
    filterd.dial().answer(OK);
    assert_eq!(fourth.answer().0, 200, "a closed connection makes room");
}

#[test]
fn over_the_request_limit_there_is_a_503_for_that_user_only_and_the_connection_stays() {
    let mut filterd = Filterd::start_with("Deny \"/\"\n", "requests_per_second = 1\nrequest_burst = 3");
    let mut client = filterd.connect(1000);
    let mut other = filterd.connect(1001);
    let mut statuses = Vec::new();
    for _ in 0..5 {
        client.send(GET);
        statuses.push(client.answer().0);
    }
    assert_eq!(statuses, [403, 403, 403, 503, 503]);
    other.send(GET);
    assert_eq!(other.answer().0, 403);
}

#[test]
fn an_idle_connection_is_closed_in_time_and_on_purpose() {
    let mut filterd = Filterd::start_with(ALLOW_ALL, "idle_seconds = 1");
    let mut client = filterd.connect(1000);
    assert_eq!(client.rest(), "");
    assert_eq!(filterd.hear_now(), Some(FromFilterd::Close { connection: client.id }));
    assert!(filterd.audit_now().is_none());
}
