//! The program as its users meet it: addresses, records, slow and rude clients, signals, exit codes.
//! What a single answer looks like is the table's (answers.rs).

mod mock;

use imds_mock::read_records;
use mock::{Answer, Mock, Scratch, program};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

const INSTANCE_ID: &[u8] = b"GET /latest/meta-data/instance-id HTTP/1.1\r\n\r\n";

#[test]
fn it_listens_on_every_address_given_v4_and_v6() {
    let mock = Mock::start_on(&["127.0.0.1:0", "[::1]:0", "127.0.0.1:0"], &[]);
    assert_eq!(mock.addresses.len(), 3);
    assert!(mock.addresses[1].is_ipv6());
    for address in mock.addresses.clone() {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.write_all(INSTANCE_ID).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        assert_eq!(Answer::split(bytes).body, b"i-0123456789abcdef0");
    }
}

#[test]
fn a_token_really_expires() {
    let mock = Mock::start(&["--imdsv2-only"]);
    let begin = Instant::now(); // its second begins when it is given, and not when we have it
    let token = mock.token(1);
    let request = format!("GET /latest/meta-data/mac HTTP/1.1\r\nX-aws-ec2-metadata-token: {token}\r\n\r\n");
    let mut seen = 0;
    while mock.exchange(request.as_bytes()).status == "200 OK" {
        seen += 1;
        assert!(begin.elapsed() < Duration::from_secs(10), "still valid");
    }
    assert!(seen > 0, "never valid");
    assert!(begin.elapsed() > Duration::from_millis(990), "expired after {:?}", begin.elapsed());
}

#[test]
fn the_record_holds_the_exact_bytes_before_the_answer_is_there() {
    let file = Scratch::new("record");
    let mock = Mock::start(&["--record", file.text()]);
    let odd =
        b"GET //latest/./meta-data/%69nstance-id?x=\xff HTTP/1.0\nX-ODD :  \x01\xfe \nHost: a\r\n\n".to_vec();
    let with_body = b"PUT /latest/api/token HTTP/1.1\r\nContent-Length: 3\r\n\r\na\0b".to_vec();
    let malformed = b"nonsense\r\n\r\n".to_vec();
    let mut peers = Vec::new();
    for request in [&odd, &with_body, &malformed] {
        let mut stream = mock.connect();
        peers.push(stream.local_addr().unwrap());
        stream.write_all(request).unwrap();
        let mut first = [0];
        stream.read_exact(&mut first).unwrap();
        assert_eq!(read_records(file.path()).unwrap().last().unwrap().bytes, *request);
    }
    let records = read_records(file.path()).unwrap();
    let kept: Vec<_> = records.iter().map(|r| (r.connection, r.peer, r.local, r.status)).collect();
    let local = mock.addresses[0];
    let wanted =
        [(1, peers[0], local, Some(200)), (2, peers[1], local, Some(400)), (3, peers[2], local, Some(400))];
    assert_eq!(kept, wanted);
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(file.path()).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn bytes_after_a_request_are_recorded_and_not_answered() {
    let file = Scratch::new("excess");
    let mock = Mock::start(&["--record", file.text()]);
    let mut stream = mock.connect();
    stream.write_all(&[INSTANCE_ID, b"GET /latest/user-data HTTP/1.1\r\n\r\n"].concat()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    assert!(bytes.ends_with(b"\r\n\r\ni-0123456789abcdef0"));
    assert_eq!(mock.exchange(INSTANCE_ID).status, "200 OK");
    // the second line is written when the first connection is over, which its client cannot see
    let records = wait_for(|| read_records(file.path()).ok().filter(|records| records.len() == 3));
    let excess: Vec<_> = records.iter().filter(|record| record.status.is_none()).collect();
    assert_eq!(excess.len(), 1);
    assert_eq!(excess[0].bytes, b"GET /latest/user-data HTTP/1.1\r\n\r\n");
}

#[test]
fn a_request_cut_short_is_recorded_without_a_status() {
    let file = Scratch::new("cut");
    let mock = Mock::start(&["--record", file.text()]);
    let mut stream = mock.connect();
    stream.write_all(b"GET /latest/meta").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    assert!(bytes.is_empty());
    let records = read_records(file.path()).unwrap();
    assert_eq!(
        (records.len(), records[0].status, records[0].bytes.as_slice()),
        (1, None, &b"GET /latest/meta"[..])
    );
}

#[test]
fn a_slow_client_is_cut_off_and_holds_nobody_up() {
    let mock = Mock::start(&["--head-time", "300"]);
    let mut slow: Vec<_> = (0..50).map(|_| mock.connect()).collect();
    for stream in &mut slow {
        stream.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    }
    assert_eq!(mock.exchange(INSTANCE_ID).status, "200 OK");
    for stream in &mut slow {
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }
}

#[test]
fn a_head_without_end_is_refused_at_16_kib() {
    let mock = Mock::start(&[]);
    let mut stream = mock.connect();
    stream.write_all(b"GET / HTTP/1.1\r\nX: ").unwrap();
    stream.write_all(&vec![b'x'; 20 * 1024]).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    assert_eq!(Answer::split(bytes).status, "400 Bad Request");
    let good = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(15 * 1024));
    assert_eq!(mock.exchange(good.as_bytes()).status, "200 OK");
}

#[test]
fn a_large_answer_arrives_whole_and_is_not_all_the_same() {
    let mock = Mock::start(&["--body-size", "/latest/meta-data/big=1048576"]);
    let body = mock.exchange(b"GET /latest/meta-data/big HTTP/1.0\r\n\r\n").body;
    assert_eq!(body.len(), 1 << 20);
    let lines: Vec<&[u8]> = body.split(|b| *b == b'\n').collect();
    assert!(lines.iter().take(131_072).enumerate().all(|(n, line)| *line == format!("{n:07}").as_bytes()));
}

#[test]
fn connections_are_kept_only_when_asked_for() {
    let mock = Mock::start(&["--keep-alive"]);
    let mut stream = mock.connect();
    for _ in 0..3 {
        stream.write_all(INSTANCE_ID).unwrap();
        let answer = Answer::split(read_until(&mut stream, b"i-0123456789abcdef0"));
        assert_eq!(answer.header("Connection"), Some("keep-alive"));
    }
    // pipelined, the last one asks for the end
    let last = b"GET /latest/meta-data/mac HTTP/1.1\r\nConnection: close\r\n\r\n";
    stream.write_all(&[INSTANCE_ID, last].concat()).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 2);
    assert!(text.contains("Connection: close") && text.ends_with("02:00:5e:00:53:01"));
    // every row of the table, besides, shows that the default is to close
}

#[test]
fn many_ask_at_once_and_a_delay_delays_each_of_them_only_once() {
    let mock = Mock::start(&["--delay", "200"]);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| assert_eq!(mock.exchange(INSTANCE_ID).status, "200 OK"));
        }
    });
    assert!(begin.elapsed() >= Duration::from_millis(200));
    assert!(begin.elapsed() < Duration::from_millis(2_000), "{:?}", begin.elapsed());
}

#[test]
fn two_starts_have_different_secrets_and_the_roles_are_not_the_instances() {
    let path = |path: &str| format!("GET /latest/meta-data/{path} HTTP/1.1\r\n\r\n").into_bytes();
    let (one, two) = (Mock::start(&["--role", "app"]), Mock::start(&["--role", "app"]));
    let role = path("iam/security-credentials/app");
    let instance = path("identity-credentials/ec2/security-credentials/ec2-instance");
    let first = one.exchange(&role).body;
    assert!(String::from_utf8_lossy(&first).contains("MockSecretNotReal/"));
    assert_eq!(first, one.exchange(&role).body);
    assert_ne!(first, two.exchange(&role).body);
    assert_ne!(first, one.exchange(&instance).body);
}

#[test]
fn the_service_manager_is_told_when_it_listens() {
    let socket = Scratch::new("notify");
    let receiver = UnixDatagram::bind(socket.path()).unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut child =
        program().args(["--listen", "127.0.0.1:0"]).env("NOTIFY_SOCKET", socket.path()).spawn().unwrap();
    let mut bytes = [0; 64];
    let received = receiver.recv(&mut bytes);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(bytes[..received.unwrap()].trim_ascii(), b"READY=1");
}

#[test]
fn sigterm_ends_it_with_success_even_with_a_connection_open() {
    let mut mock = Mock::start(&[]);
    let _open = mock.connect();
    let pid = rustix::process::Pid::from_child(&mock.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(wait_for(|| mock.child.try_wait().unwrap()).success());
}

#[test]
fn what_is_wrong_is_said_with_the_exit_code_of_sysexits() {
    let taken = Mock::start(&[]);
    let taken = taken.addresses[0].to_string();
    let cases: [(&[&str], i32, &str); 9] = [
        (&["--colour"], 64, "--colour"),
        (&["--listen", "localhost"], 64, "localhost"),
        (&["--role", "a b"], 64, "a b"),
        (&["--role", "a", "--no-role"], 64, "--no-role"),
        (&["--hop-limit", "0"], 64, "hop-limit"),
        (&["--body-size", "meta-data/mac/x=5"], 64, "meta-data/mac/x"),
        (&["--user-data", "/nonexistent/file"], 66, "/nonexistent/file"),
        (&["--listen", &taken], 71, &taken),
        (&["--record", "/nonexistent/file"], 73, "/nonexistent/file"),
    ];
    for (arguments, code, word) in cases {
        let output = program().args(arguments).output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
        assert!(message.contains(word), "{arguments:?}: {message}");
    }
    let help = program().arg("--help").output().unwrap();
    assert!(help.status.success());
    assert!(String::from_utf8(help.stdout).unwrap().contains("AWS_EC2_METADATA_SERVICE_ENDPOINT"));
}

/// For what happens soon but tells nobody; the limit is only ever reached by a failure.
fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < Duration::from_secs(10), "never happened");
        std::thread::yield_now();
    }
}

fn read_until(stream: &mut impl Read, end: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end) {
        let mut one = [0];
        stream.read_exact(&mut one).unwrap();
        bytes.extend(one);
    }
    bytes
}
