//! Connections that the service keeps open: used again, for whomever, and given up when anything is odd.

mod played;

use imds_ipc::FromFilterd;
use played::{ALLOW_ALL, Client, Filterd, GET, OK, PATIENCE, Upstream, wait_readable};
use std::io::{Read, Write};
use std::time::Instant;

const KEPT: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nkept";

fn serve(upstream: &mut Upstream, answer: &str) -> String {
    let request = upstream.request();
    upstream.0.write_all(answer.as_bytes()).unwrap();
    request
}

#[test]
fn a_connection_that_the_service_keeps_serves_one_request_after_the_other_whoevers_they_are() {
    let mut filterd = Filterd::start(ALLOW_ALL);
    let (mut alice, mut bob) = (filterd.connect(1000), filterd.connect(1001));
    alice.send(GET);
    let mut upstream = filterd.dial();
    assert!(!serve(&mut upstream, KEPT).contains("Connection"));
    assert_eq!(alice.answer(), (200, "kept".into()));
    for _ in 0..3 {
        bob.send(GET.replace("/latest", "/b"));
        assert!(serve(&mut upstream, KEPT).starts_with("GET /b/"));
        assert_eq!(bob.answer(), (200, "kept".into()));
        alice.send(GET);
        assert!(serve(&mut upstream, KEPT).starts_with("GET /latest/"));
        assert_eq!(alice.answer(), (200, "kept".into()));
    }
    // while one waits for its answer, the other has a connection of its own
    alice.send(GET);
    upstream.request();
    bob.send(GET);
    filterd.dial().answer(OK);
    assert_eq!(bob.answer(), (200, "ok".into()));
    upstream.0.write_all(KEPT.as_bytes()).unwrap();
    assert_eq!(alice.answer(), (200, "kept".into()));
}

#[test]
fn after_an_answer_whose_end_is_not_beyond_doubt_the_connection_is_not_used_again() {
    let mut filterd = Filterd::start(ALLOW_ALL);
    let ok = |rest: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{rest}");
    for (method, answer, body) in [
        ("GET", ok("Connection: close\r\n\r\nok"), 2),
        ("GET", ok("Connection: x, close\r\n\r\nok"), 2),
        ("GET", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok".into(), 2),
        ("GET", ok("\r\nokHTTP/1.1 200 OK\r\n"), 2),
        ("GET", ok("Content-Length: 2\r\n\r\nok"), 2),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok".into(), 2),
        ("GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".into(), 0),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n".into(), 0),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\nok".into(), 0),
        ("HEAD", ok("\r\n"), 0),
        ("GET", format!("HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{}HTTP", "x".repeat(5000)), 5000),
    ] {
        let request = GET.replace("GET", method);
        let mut client = filterd.connect(1000);
        client.send(&request);
        let mut upstream = filterd.dial();
        serve(&mut upstream, &answer);
        client.head();
        client.body(body);
        let connection = client.id;
        drop(client);
        assert_eq!(filterd.hear(), FromFilterd::Close { connection });
        expect_not_used_again(&mut filterd, upstream, &answer);

        let id = filterd.ask(1000, 1, &request);
        let mut upstream = filterd.dial();
        serve(&mut upstream, &answer);
        match filterd.hear() {
            FromFilterd::Answer { .. } => (),
            FromFilterd::Open { .. } => {
                let mut client = filterd.opened(id);
                client.head();
                client.body(body);
                drop(client);
                assert_eq!(filterd.hear(), FromFilterd::Close { connection: id });
            }
            other => panic!("{other:?}"),
        }
        expect_not_used_again(&mut filterd, upstream, &answer);
    }
}

#[track_caller]
fn expect_not_used_again(filterd: &mut Filterd, mut upstream: Upstream, answer: &str) {
    // another is dialled for the next request, and gone before the one after that
    let id = filterd.ask(1000, 1, GET);
    filterd.dial().answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
    assert!(filterd.hear_answer(id).0.ends_with("ok"));
    // ours is ended, and not only left alone
    assert_eq!(upstream.0.read(&mut [0]).unwrap_or(0), 0, "{answer}");
}

#[test]
fn a_kept_connection_that_the_service_ended_costs_no_request() {
    let mut filterd = Filterd::start(ALLOW_ALL);
    let mut client = filterd.connect(1000);
    let put = "PUT /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\n\
               X-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n";
    for request in [GET, put] {
        // before the next request; and when that one is there, with nothing or with an excuse
        for last in [None, Some(""), Some("HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")] {
            client.send(request);
            let mut upstream = filterd.dial();
            serve(&mut upstream, KEPT);
            assert_eq!(client.answer(), (200, "kept".into()));
            if let Some(last) = last {
                client.send(request);
                serve(&mut upstream, last);
                drop(upstream);
            } else {
                drop(upstream);
                client.send(request);
            }
            filterd.dial().answer(OK);
            assert_eq!(client.answer(), (200, "ok".into()), "{last:?}");
        }
    }
    // the same for who asks in a message
    let id = filterd.ask(1000, 1, GET);
    let mut upstream = filterd.dial();
    serve(&mut upstream, KEPT);
    assert!(filterd.hear_answer(id).0.ends_with("kept"));
    for last in ["", "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"] {
        filterd.ask_again(id, 1000, 1, GET);
        serve(&mut upstream, last);
        drop(upstream);
        upstream = filterd.dial();
        serve(&mut upstream, KEPT);
        assert!(filterd.hear_answer(id).0.ends_with("kept"), "{last}");
    }
    filterd.ask_again(id, 1000, 1, GET);
    serve(&mut upstream, "HTTP/1.1 408");
    drop(upstream);
    assert!(filterd.hear_answer(id).0.starts_with("HTTP/1.1 502 "));
    // a part of an answer is no such end
    client.send(GET);
    let mut upstream = filterd.dial();
    serve(&mut upstream, KEPT);
    client.answer();
    client.send(GET);
    serve(&mut upstream, "HTTP/1.1 200");
    drop(upstream);
    assert_eq!(client.answer().0, 502);
    assert!(filterd.hear_now().is_none());
}

#[test]
fn what_came_unasked_on_a_kept_connection_is_nobodys_answer() {
    let mut filterd = Filterd::start(ALLOW_ALL);
    let mut client = filterd.connect(1000);
    client.send(GET);
    let (mut upstream, theirs) = filterd.dial_watched();
    serve(&mut upstream, KEPT);
    assert_eq!(client.answer(), (200, "kept".into()));
    upstream.0.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong").unwrap();
    // what comes after the next request has gone looks like its answer
    wait_readable(&theirs);
    client.send(GET);
    filterd.dial().answer(OK);
    assert_eq!(client.answer(), (200, "ok".into()));
}

/// Forty clients served at the same time, each by a connection that the service keeps.
fn serve_forty(filterd: &mut Filterd) -> (Vec<Client>, Vec<Upstream>) {
    let mut clients: Vec<_> = (0..40).map(|_| filterd.connect(1000)).collect();
    let mut upstreams = Vec::new();
    for client in &mut clients {
        client.send(GET);
        upstreams.push(filterd.dial());
    }
    for (upstream, client) in upstreams.iter_mut().zip(&mut clients) {
        serve(upstream, KEPT);
        assert_eq!(client.answer(), (200, "kept".into()));
    }
    (clients, upstreams)
}

#[test]
fn kept_connections_are_few() {
    let mut filterd = Filterd::start(ALLOW_ALL);
    let (mut clients, _upstreams) = serve_forty(&mut filterd);
    for client in &mut clients {
        client.send(GET);
    }
    for _ in 0..40 - 32 {
        filterd.dial().answer(OK);
    }
}

#[test]
fn kept_connections_are_gone_soon_and_not_at_once() {
    let mut filterd = Filterd::start(ALLOW_ALL);
    let begun = Instant::now();
    let (_clients, mut upstreams) = serve_forty(&mut filterd);
    let (kept, surplus) = upstreams.split_at_mut(32);
    for upstream in surplus {
        assert_eq!(upstream.0.read(&mut [0]).unwrap(), 0);
    }
    for upstream in kept.iter_mut() {
        upstream.0.set_nonblocking(true).unwrap();
        let open = upstream.0.read(&mut [0]).is_err() || begun.elapsed().as_secs() >= 2;
        upstream.0.set_nonblocking(false).unwrap();
        assert!(open, "32 are kept");
    }
    for upstream in kept {
        assert_eq!(upstream.0.read(&mut [0]).unwrap(), 0);
    }
    assert!(begun.elapsed() < PATIENCE / 2, "{:?}", begun.elapsed());
}
