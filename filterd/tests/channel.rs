//! What imds-filterd takes from interceptor and what it does not, and how it ends.

mod played;
#[allow(dead_code, unreachable_pub, reason = "it is a library's, too")]
#[path = "../../tests/src/stopwatch.rs"]
mod stopwatch;

use imds_ipc::channel::ChannelError;
use imds_ipc::{DialFailure, FromFilterd, FromInterceptor, Hello, Subject};
use played::{ALLOW_ALL, Client, Filterd, GET, OK};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use stopwatch::Stopwatch;

fn pair() -> (UnixStream, UnixStream) {
    UnixStream::pair().unwrap()
}

#[test]
fn a_hostile_interceptor_ends_the_channel_with_75_and_a_reason() {
    type Attack = fn(&mut Filterd);
    let attacks: [(&str, Attack); 8] = [
        ("out of turn", |f| f.say(&FromInterceptor::Hello(Hello::OURS), None)),
        ("number of descriptors", |f| {
            let message = f.connection(1);
            f.say(&message, None);
        }),
        ("number of descriptors", |f| f.say(&FromInterceptor::Dialled { dial: 0 }, None)),
        ("number of descriptors", |f| {
            let why = DialFailure::Refused;
            f.say(&FromInterceptor::DialFailed { dial: 0, why }, Some(pair().0.as_fd()));
        }),
        ("not asked for", |f| {
            let why = DialFailure::Refused;
            f.say(&FromInterceptor::DialFailed { dial: 0, why }, None);
        }),
        ("not asked for", |f| f.say(&FromInterceptor::Dialled { dial: u64::MAX }, Some(pair().0.as_fd()))),
        ("wrong length", |f| imds_ipc::channel::send(&f.channel, &[1; 40], None).unwrap()),
        ("unknown kind", |f| {
            let mut bytes = Vec::new();
            FromFilterd::Close { connection: 1 }.encode(&mut bytes);
            imds_ipc::channel::send(&f.channel, &bytes, None).unwrap();
        }),
    ];
    for (reason, attack) in attacks {
        let mut filterd = Filterd::start(ALLOW_ALL);
        attack(&mut filterd);
        filterd.hear_end();
        let (status, log) = filterd.end();
        assert_eq!(status.code(), Some(75), "{reason}: {log}");
        assert!(log.contains(reason), "{reason}: {log}");
    }
}

#[test]
fn a_hello_of_a_version_we_cannot_talk_to_is_a_clear_error() {
    let mut filterd = Filterd::start(ALLOW_ALL);
    // start() said a good one; a second process gets a bad one
    filterd.terminate();
    assert_eq!(filterd.end().0.code(), Some(0));
    let place = played::Place::new();
    let listener = place.listen();
    let mut child = played::program()
        .arg("--config")
        .arg(place.settings(ALLOW_ALL, ""))
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let channel = played::accept(&listener);
    let mut bytes = Vec::new();
    FromInterceptor::Hello(Hello { minor: 9, oldest_minor: 8 }).encode(&mut bytes);
    imds_ipc::channel::send(&channel, &bytes, None).unwrap();
    let mut log = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut log).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(75));
    assert!(log.contains("version"), "{log}");
}

#[test]
fn a_connection_to_a_service_that_is_not_ours_is_closed_and_the_others_go_on() {
    let mut filterd = Filterd::start(ALLOW_ALL);
    for (service, upstream) in
        [("10.0.0.1:80", 0), ("169.254.169.254:81", 0), ("169.254.169.254:80", 1), ("169.254.169.254:80", 7)]
    {
        let (mut ours, theirs) = pair();
        let message = FromInterceptor::Connection {
            id: 77,
            subject: Ok(Subject::of_uid(0)),
            client: "10.0.0.5:1".parse().unwrap(),
            service: service.parse().unwrap(),
            upstream,
        };
        filterd.say(&message, Some(theirs.as_fd()));
        drop(theirs);
        assert_eq!(filterd.hear(), FromFilterd::Close { connection: 77 }, "{service} {upstream}");
        assert_eq!(std::io::Read::read(&mut ours, &mut [0]).unwrap(), 0);
    }
    let mut client = filterd.connect(0);
    client.send(GET);
    filterd.dial().answer(OK);
    assert_eq!(client.answer().0, 200);
}

#[test]
fn more_connections_than_the_limit_are_closed_and_descriptors_that_are_no_sockets_too() {
    let mut filterd = Filterd::start_with(ALLOW_ALL, "connections = 2");
    let kept: Vec<Client> = (0..2).map(|uid| filterd.connect(uid)).collect();
    let mut third = filterd.connect(3);
    assert_eq!(filterd.hear(), FromFilterd::Close { connection: third.id });
    assert_eq!(third.rest(), "");
    drop(kept);
    for _ in 0..2 {
        assert!(matches!(filterd.hear(), FromFilterd::Close { .. }));
    }
    let file = std::fs::File::open("/dev/null").unwrap();
    let message = filterd.connection(1);
    filterd.say(&message, Some(file.as_fd()));
    assert!(matches!(filterd.hear(), FromFilterd::Close { .. }));
}

#[test]
fn an_upstream_that_is_no_socket_is_a_502() {
    let mut filterd = Filterd::start(ALLOW_ALL);
    let mut client = filterd.connect(0);
    client.send(GET);
    let dial = filterd.hear_dial();
    let file = std::fs::File::open("/dev/null").unwrap();
    filterd.say(&FromInterceptor::Dialled { dial }, Some(file.as_fd()));
    assert_eq!(client.answer().0, 502);
}

/// Hears on until filterd says that it leaves.
fn hear_leaving(filterd: &mut Filterd) {
    while filterd.hear() != FromFilterd::Leaving {}
}

#[test]
fn a_stop_hands_connections_back_between_requests_finishes_what_is_under_way_and_exits_with_0() {
    let mut filterd = Filterd::start(ALLOW_ALL);
    let mut idle = filterd.connect(1);
    idle.send(GET);
    filterd.dial().answer(OK);
    assert_eq!(idle.answer().0, 200);
    idle.send("GET /not/yet/all/of/it HT");
    let mut unused = filterd.connect(2);
    let mut busy = filterd.connect(3);
    busy.send(GET.to_owned() + GET);
    let upstream = filterd.dial();
    filterd.terminate();
    // while that is waited for, others are served as ever
    let mut new = filterd.connect(4);
    new.send(GET);
    filterd.dial().answer(OK);
    assert_eq!(new.answer().0, 200);
    assert!(filterd.hear_now().is_none(), "it leaves although an exchange is under way");
    upstream.answer(OK);
    hear_leaving(&mut filterd);
    let answer = busy.rest();
    assert!(answer.ends_with("\r\n\r\nok") && !answer.contains("Connection"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 1, "the second request is the next filterd's");
    for client in [&mut idle, &mut unused, &mut new] {
        assert_eq!(client.rest(), "");
    }
    filterd.hear_end();
    let (status, log) = filterd.end();
    assert_eq!(status.code(), Some(0), "{log}");
}

#[test]
fn a_stop_does_not_wait_for_requests_that_came_later_and_they_are_the_next_filterds() {
    let mut filterd = Filterd::start(ALLOW_ALL);
    let mut busy = filterd.connect(1);
    busy.send(GET);
    let upstream = filterd.dial();
    filterd.terminate();
    let mut late = filterd.connect(2);
    late.send(GET);
    let _never_answered = filterd.dial();
    upstream.answer(OK);
    hear_leaving(&mut filterd);
    assert!(busy.rest().ends_with("ok"));
    let start = Stopwatch::start();
    assert_eq!(late.rest(), "", "not a byte, so that it can be asked again");
    filterd.hear_end();
    assert!(start.elapsed() < std::time::Duration::from_millis(700), "clients wait meanwhile");
    assert_eq!(filterd.end().0.code(), Some(0));
}

#[test]
fn a_hang_up_is_told_of_and_ends_nothing() {
    let mut filterd = Filterd::start(ALLOW_ALL);
    filterd.signal(rustix::process::Signal::HUP);
    let mut client = filterd.connect(1);
    client.send(GET);
    filterd.dial().answer(OK);
    assert_eq!(client.answer().0, 200);
    filterd.terminate();
    hear_leaving(&mut filterd);
    let (status, log) = filterd.end();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("imdsctl reload"), "{log}");
}

#[test]
fn a_dismissed_filterd_finishes_what_is_under_way_and_exits_with_0() {
    let mut filterd = Filterd::start(ALLOW_ALL);
    let mut idle = filterd.connect(1);
    let mut busy = filterd.connect(2);
    busy.send(GET);
    let upstream = filterd.dial();
    filterd.say(&FromInterceptor::Drain, None);
    assert_eq!(filterd.hear(), FromFilterd::Leaving);
    assert_eq!(idle.rest(), "");
    upstream.answer(OK);
    assert!(busy.rest().ends_with("ok"));
    filterd.hear_end();
    assert_eq!(filterd.end().0.code(), Some(0));
}

#[test]
fn interceptor_is_told_of_each_answer_before_its_last_byte_which_bytes_it_answers_and_where_it_ends() {
    let mut filterd = Filterd::start("Allow \"/\"\nDeny \"/denied\"\n");
    let mut client = filterd.connect(1);
    let denied = "GET /denied HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n";
    let head = "HEAD /a HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n";
    let last = "GET /b HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n\r\n";
    client.send([GET, denied, head, last].concat());
    filterd.dial().answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n");
    filterd.dial().answer("HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n");
    filterd.dial().answer(OK);
    let written = client.rest();
    let starts = written.match_indices("HTTP/1.1 ").map(|(start, _)| start).skip(1);
    let ends: Vec<u64> = starts.chain([written.len()]).map(|end| u64::try_from(end).unwrap()).collect();
    assert_eq!(filterd.hear(), FromFilterd::Close { connection: client.id });
    let length = |head: &str| u32::try_from(head.len()).unwrap();
    assert_eq!(
        filterd.answers,
        [
            (client.id, length(GET), ends[0], false),
            (client.id, length(denied), ends[1], false),
            (client.id, length(head), ends[2], false),
            (client.id, length(last), ends[3], true),
        ]
    );
    assert!(filterd.hear_now().is_none(), "a Close besides");
}

#[test]
fn a_large_answer_is_announced_with_its_end_and_not_with_its_beginning() {
    let mut filterd = Filterd::start(ALLOW_ALL);
    let mut client = filterd.connect(1);
    client.send(GET);
    let mut upstream = filterd.dial();
    upstream.request();
    std::io::Write::write_all(&mut upstream.0, b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n").unwrap();
    let head = client.head();
    assert!(filterd.hear_exactly().is_none());
    std::io::Write::write_all(&mut upstream.0, &[b'x'; 100_000]).unwrap();
    client.body(100_000);
    let end = u64::try_from(head.len() + 100_000).unwrap();
    let bytes = u32::try_from(GET.len()).unwrap();
    let told = FromFilterd::Answered { connection: client.id, bytes, end, closes: false };
    assert_eq!(filterd.hear_exactly(), Some(told));
}

#[test]
fn an_interceptor_of_the_previous_minor_hears_nothing_that_it_does_not_know_and_loses_no_request() {
    let mut filterd = Filterd::start_saying(Hello { minor: 0, oldest_minor: 0 });
    let mut idle = filterd.connect(1);
    idle.send(GET);
    filterd.dial().answer(OK);
    assert_eq!(idle.answer().0, 200);
    let mut waiting = filterd.connect(2);
    let mut busy = filterd.connect(3);
    busy.send(GET);
    let upstream = filterd.dial();
    filterd.terminate();
    assert_eq!(idle.rest(), "");
    assert_eq!(filterd.hear_exactly(), Some(FromFilterd::Close { connection: idle.id }));
    // not yet begun, but sent before the end
    waiting.send(GET);
    let second = filterd.dial();
    upstream.answer(OK);
    assert!(busy.rest().contains("\r\nConnection: close\r\n\r\nok"));
    assert_eq!(filterd.hear_exactly(), Some(FromFilterd::Close { connection: busy.id }));
    second.answer(OK);
    assert!(waiting.rest().ends_with("ok"));
    let (status, log) = filterd.end();
    assert_eq!(status.code(), Some(0), "{log}");
}

#[test]
fn when_interceptor_is_gone_answers_under_way_are_finished_and_the_exit_code_is_75() {
    let mut filterd = Filterd::start(ALLOW_ALL);
    let mut served = filterd.connect(1);
    served.send(GET);
    let mut upstream = filterd.dial();
    let mut dialling = filterd.connect(2);
    dialling.send(GET);
    filterd.hear_dial();
    upstream.request();
    let (_ours, gone) = pair();
    filterd.channel = gone.into();
    assert_eq!(dialling.answer().0, 502);
    std::io::Write::write_all(&mut upstream.0, OK.as_bytes()).unwrap();
    assert!(served.rest().ends_with("ok"));
    let (status, log) = filterd.end();
    assert_eq!(status.code(), Some(75), "{log}");
    assert!(log.contains("closed the channel"), "{log}");
}

#[test]
fn no_connection_ends_before_interceptor_could_hear_that_it_is_meant() {
    let mut filterd = Filterd::start("Deny \"/\"\n");
    // more than a channel holds that nobody reads
    let mut clients: Vec<Client> = (0..600)
        .map(|uid| {
            let mut client = filterd.connect(uid);
            client.send("GET / HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n\r\n");
            assert_eq!(client.answer().0, 403);
            client
        })
        .collect();
    let pid = rustix::process::Pid::from_child(&filterd.child);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let stopped = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::UNTRACED).unwrap();
    assert!(stopped.is_some_and(|(_, status)| status.stopped()));
    let mut announced = std::collections::HashSet::new();
    while let Some(message) = filterd.hear_now() {
        let FromFilterd::Close { connection } = message else { panic!("{message:?}") };
        announced.insert(connection);
    }
    for client in &mut clients {
        let stream = client.stream.get_ref();
        stream.set_nonblocking(true).unwrap();
        let ended = matches!(std::io::Read::read(&mut &*stream, &mut [0]), Ok(0));
        assert!(
            !ended || announced.contains(&client.id),
            "{} ended, {} announced",
            client.id,
            announced.len()
        );
    }
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    while announced.len() < clients.len() {
        let FromFilterd::Close { connection } = filterd.hear() else { panic!("something else") };
        announced.insert(connection);
    }
    for client in &mut clients {
        client.stream.get_ref().set_nonblocking(false).unwrap();
        assert_eq!(client.rest(), "");
    }
}

#[test]
fn an_interceptor_that_never_reads_ends_the_channel_with_75() {
    // each connection is one whose client has gone, so each is answered with a Close that nobody reads
    let mut filterd = Filterd::start(ALLOW_ALL);
    let (ours, theirs) = pair();
    drop(ours);
    let mut bytes = Vec::new();
    let ended = (0..100_000).any(|_| {
        filterd.connection(1).encode(&mut bytes);
        match imds_ipc::channel::send(&filterd.channel, &bytes, Some(theirs.as_fd())) {
            Ok(()) => false,
            Err(ChannelError::WouldBlock) => {
                // filterd is busy with those before
                played::wait_writable(&filterd.channel);
                false
            }
            Err(end) => end == ChannelError::Closed,
        }
    });
    assert!(ended, "it goes on, whatever it cannot say");
    let (status, log) = filterd.end();
    assert_eq!(status.code(), Some(75), "{log}");
    assert!(log.contains("does not read"), "{log}");
}
