//! Requests that come, and answers that go, in messages of the channel.
//! Does not look at what an answer says beyond what tells it from another.

mod played;

use imds_ipc::{DialFailure, FromFilterd, FromInterceptor, Hello, MAX_ANSWER};
use played::{ALLOW_ALL, Filterd, GET, OK, status_of};
use std::io::Write;

const CLOSING: &str = "GET /a HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n\r\n";

#[test]
fn what_is_asked_in_a_message_is_answered_in_one_and_that_is_all() {
    let mut filterd = Filterd::start("Allow \"/\"\nDeny \"/no\"\n");
    let id = filterd.ask(1000, 1, GET);
    filterd.dial().answer(OK);
    assert_eq!(filterd.hear_answer(id), ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".into(), false));
    let line = filterd.audit();
    assert_eq!((line["verdict"].as_str(), line["uid"].as_u64()), (Some("allow"), Some(1000)));
    // the same connection again, then its end
    filterd.ask_again(id, 1000, 1, CLOSING);
    filterd.dial().answer(OK);
    let closing = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
    assert_eq!(filterd.hear_answer(id), (closing.into(), true));
    let denied = filterd.ask(1000, 1, &GET.replace("/latest", "/no"));
    let (answer, closes) = filterd.hear_answer(denied);
    assert_eq!((status_of(&answer), closes), (403, false));
    let malformed = filterd.ask(1000, 1, "GET /latest HTTP/1.1\r\n\r\nand more");
    let (answer, closes) = filterd.hear_answer(malformed);
    assert_eq!((status_of(&answer), closes), (400, true));
    let head_only = filterd.ask(1000, 1, &GET.replace("GET", "HEAD"));
    filterd.dial().answer("HTTP/1.1 200 OK\r\nContent-Length: 1234\r\nConnection: close\r\n\r\n");
    let (answer, _) = filterd.hear_answer(head_only);
    assert_eq!(answer, "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n");
    assert!(filterd.hear_now().is_none());
}

#[test]
fn half_a_head_or_more_than_one_is_opened_and_goes_on_by_its_stream() {
    let mut filterd = Filterd::start(ALLOW_ALL);
    let (begin, end) = GET.split_at(20);
    let id = filterd.ask(1000, 1, begin);
    let mut client = filterd.open(id);
    client.send(end);
    filterd.dial().answer(OK);
    assert_eq!(client.answer(), (200, "ok".into()));
    let bytes = u32::try_from(GET.len()).unwrap();
    let told = FromFilterd::Answered { connection: id, bytes, end: 40, closes: false };
    assert_eq!(filterd.hear_exactly(), Some(told));

    let id = filterd.ask(1000, 1, &[GET, CLOSING].concat());
    filterd.dial().answer(OK);
    let mut client = filterd.open(id);
    assert_eq!(client.answer(), (200, "ok".into()));
    filterd.dial().answer(OK);
    assert!(client.rest().ends_with("Connection: close\r\n\r\nok"));
    assert_eq!(filterd.hear_now(), Some(FromFilterd::Close { connection: id }));
}

#[test]
fn an_answer_that_is_long_or_slow_goes_by_a_stream() {
    let mut filterd = Filterd::start(ALLOW_ALL);
    for length in [MAX_ANSWER, 300_000] {
        let id = filterd.ask(1000, 1, GET);
        let body = "x".repeat(length);
        let answer =
            format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
        let upstream = filterd.dial();
        let service = std::thread::spawn(move || upstream.answer(answer));
        let mut client = filterd.open(id);
        assert_eq!(client.answer(), (200, body));
        service.join().unwrap();
        drop(client);
        assert_eq!(filterd.hear(), FromFilterd::Close { connection: id });
    }
    let id = filterd.ask(1000, 1, GET);
    let mut upstream = filterd.dial();
    upstream.request();
    upstream.0.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no").unwrap();
    let mut client = filterd.open(id);
    client.head();
    assert_eq!(client.body(1), "o");
    upstream.0.write_all(b"k").unwrap();
    assert_eq!(client.body(1), "k");
}

#[test]
fn the_place_that_interceptor_tells_counts_for_the_limit_of_a_uid() {
    let mut filterd = Filterd::start_with(ALLOW_ALL, "connections_per_uid = 2");
    for (place, expected) in [(3, 503), (2, 200)] {
        let id = filterd.ask(1000, place, GET);
        if expected == 200 {
            filterd.dial().answer(OK);
        }
        let (answer, closes) = filterd.hear_answer(id);
        assert_eq!((status_of(&answer), closes), (expected, expected == 503));
    }
}

#[test]
fn who_asks_and_goes_has_no_more_asks_under_way_than_connections() {
    let mut filterd = Filterd::start_with(ALLOW_ALL, "connections_per_uid = 2");
    // each the first as interceptor counts: the clients of those before it have gone
    let under_way = [(); 2].map(|()| (filterd.ask(1000, 1, GET), filterd.hear_dial()));
    let surplus = filterd.ask(1000, 1, GET);
    assert_eq!(status_of(&filterd.hear_answer(surplus).0), 503);
    let another = filterd.ask(1001, 1, GET);
    filterd.dial().answer(OK);
    assert_eq!(status_of(&filterd.hear_answer(another).0), 200);
    for (id, dial) in under_way {
        filterd.say(&FromInterceptor::DialFailed { dial, why: DialFailure::Refused }, None);
        assert_eq!(status_of(&filterd.hear_answer(id).0), 502);
    }
    let next = filterd.ask(1000, 1, GET);
    filterd.dial().answer(OK);
    assert_eq!(status_of(&filterd.hear_answer(next).0), 200);
}

#[test]
fn a_client_that_has_gone_costs_nothing_and_what_was_not_asked_for_ends_the_channel() {
    let mut filterd = Filterd::start(ALLOW_ALL);
    let id = filterd.ask(1000, 1, "GET /half");
    assert_eq!(filterd.hear(), FromFilterd::Open { connection: id });
    filterd.say(&FromInterceptor::Gone { id }, None);
    assert!(matches!(filterd.hear(), FromFilterd::Close { .. } | FromFilterd::Reset { .. }));
    filterd.say(&FromInterceptor::Gone { id }, None);
    let (status, log) = filterd.end();
    assert_eq!(status.code(), Some(75), "{log}");
    assert!(log.contains("opened a connection that was not asked for"), "{log}");
}

#[test]
fn an_interceptor_of_the_previous_minor_asks_nothing_in_messages() {
    let mut filterd = Filterd::start_saying(Hello::PREVIOUS);
    filterd.ask(1000, 1, GET);
    let (status, log) = filterd.end();
    assert_eq!(status.code(), Some(75), "{log}");
    assert!(log.contains("out of turn"), "{log}");
}

#[test]
fn an_ask_under_way_when_filterd_is_to_end_is_answered_first() {
    let mut filterd = Filterd::start(ALLOW_ALL);
    let running = filterd.ask(1000, 1, GET);
    let upstream = filterd.dial();
    filterd.terminate();
    upstream.answer(OK);
    assert_eq!(filterd.hear_answer(running).0.matches("200 OK").count(), 1);
    assert_eq!(filterd.hear(), FromFilterd::Leaving);
    let (status, log) = filterd.end();
    assert_eq!(status.code(), Some(0), "{log}");
}

// interceptor passes sockets that are being connected on Linux alone; so 127.0.0.9 need not be had elsewhere
#[cfg(target_os = "linux")]
mod connecting {
    use super::played::{PATIENCE, Upstream};
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::os::fd::{AsFd, OwnedFd};
    use std::time::Instant;

    #[test]
    fn a_socket_that_is_still_being_connected_is_waited_for_and_fails_as_a_dial_does() {
        let mut filterd = Filterd::start_with(ALLOW_ALL, "dial_milliseconds = 3000");
        for (listens, status) in [(true, 200), (false, 502)] {
            let (listener, socket) = connecting();
            let id = filterd.ask(1000, 1, GET);
            let dial = filterd.hear_dial();
            filterd.say(&FromInterceptor::Dialling { dial }, Some(socket.as_fd()));
            drop(socket);
            if listens {
                // with those before it accepted there is room, and its SYN comes again after a second
                while let Ok((stream, _)) = listener.accept() {
                    if stream.peer_addr().is_ok_and(|peer| peer.ip().to_string() == "127.0.0.9") {
                        Upstream(stream).answer(OK);
                        break;
                    }
                }
            } else {
                drop(listener);
            }
            assert_eq!(status_of(&filterd.hear_answer(id).0), status);
            let why = filterd.audit()["why"].as_str().map(str::to_owned);
            assert_eq!(why.is_some_and(|why| why.contains("refused the connection")), !listens);
        }
        let mut impatient = Filterd::start_with(ALLOW_ALL, "dial_milliseconds = 50");
        let (_listener, socket) = connecting();
        let begun = Instant::now();
        let id = impatient.ask(1000, 1, GET);
        let dial = impatient.hear_dial();
        impatient.say(&FromInterceptor::Dialling { dial }, Some(socket.as_fd()));
        assert_eq!(status_of(&impatient.hear_answer(id).0), 504);
        assert!(begun.elapsed() < PATIENCE / 5, "{:?}", begun.elapsed());
    }

    /// A listener that has no room, and a socket of 127.0.0.9 that connects to it.
    fn connecting() -> (TcpListener, OwnedFd) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let to = listener.local_addr().unwrap();
        let _first = TcpStream::connect(to).unwrap();
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap();
        bind(&socket, &"127.0.0.9:0".parse::<SocketAddr>().unwrap()).unwrap();
        assert_eq!(connect(&socket, &to), Err(rustix::io::Errno::INPROGRESS));
        (listener, socket)
    }
}
