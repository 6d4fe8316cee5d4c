//! With `Allow "/"` two users see through a real imds-filterd what they see of imds-mock directly: in IMDSv1, in IMDSv2
//! and in both, whoever gives the tokens. Random sequences of requests; tokens and dates differ, all else is the same.

mod played;

use imds_ipc::{FromFilterd, FromInterceptor};
use played::{ALLOW_ALL, Filterd, PATIENCE, Place, program};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};

const USERS: [u32; 2] = [1000, 1001];
const PATHS: [&str; 12] = [
    "/",
    "/latest",
    "/latest/",
    "/latest/meta-data/",
    "/latest/meta-data/instance-id",
    "/2021-07-15/meta-data/instance-id/",
    "/latest/meta-data/iam/security-credentials/imds-mock-role",
    "/latest/dynamic/instance-identity/document",
    "/latest/meta-data/no-such-thing",
    "/latest/user-data",
    "/latest/api",
    "/latest/api/token",
];

/// A running imds-mock; gone when dropped.
struct Mock(Child, SocketAddr);

impl Mock {
    fn start(arguments: &[&str]) -> Self {
        let path = Path::new(env!("CARGO_BIN_EXE_imds-filterd")).with_file_name("imds-mock");
        let mut command = Command::new(&path);
        command.args(["--listen", "127.0.0.1:0"]).args(arguments).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| {
            panic!("{}: {error}: run `cargo build --workspace --bins` first", path.display())
        });
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening http://").unwrap().parse().unwrap();
        Self(child, address)
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.1).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Which token a request shows.
#[derive(Debug, Clone, Copy)]
enum Token {
    None,
    Empty,
    Garbage,
    /// One that the user, or the other one, was given, if there is any.
    Given {
        others: bool,
        which: usize,
    },
}

#[derive(Debug, Clone)]
enum Step {
    Put { user: usize, ttl: &'static str },
    Read { user: usize, method: &'static str, path: &'static str, token: Token },
}

fn step(others: bool) -> impl Strategy<Value = Step> {
    let ttl = prop::sample::select(vec!["60", "21600", "1000", "0", "21601", "sixty", ""]);
    let given = (any::<bool>(), 0..4usize)
        .prop_map(move |(other, which)| Token::Given { others: other && others, which });
    let token =
        prop_oneof![3 => Just(Token::None), 6 => given, 1 => Just(Token::Empty), 1 => Just(Token::Garbage)];
    let read =
        (0..2usize, prop::sample::select(vec!["GET", "GET", "HEAD"]), prop::sample::select(&PATHS), token);
    prop_oneof![
        1 => (0..2usize, ttl).prop_map(|(user, ttl)| Step::Put { user, ttl }),
        2 => read.prop_map(|(user, method, path, token)| Step::Read { user, method, path, token }),
    ]
}

/// What is the same however it was asked for.
#[derive(Debug, PartialEq)]
struct Answer {
    status: String,
    /// Without date, connection and the token's life, in the order of their names.
    headers: Vec<(String, String)>,
    ttl: Option<u32>,
    body: Vec<u8>,
}

fn split(bytes: &[u8]) -> Answer {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("no end of head");
    let head = std::str::from_utf8(&bytes[..end]).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().to_owned();
    let header = |line: &str| {
        let (name, value) = line.split_once(": ").unwrap();
        (name.to_ascii_lowercase(), value.to_owned())
    };
    let (mut headers, mut ttl) = (Vec::new(), None);
    for (name, value) in lines.map(header) {
        match name.as_str() {
            "connection" => {}
            "date" => headers.push((name, String::new())),
            "x-aws-ec2-metadata-token-ttl-seconds" => ttl = Some(value.parse().unwrap()),
            _ => headers.push((name, value)),
        }
    }
    headers.sort();
    Answer { status, headers, ttl, body: bytes[end + 4..].to_vec() }
}

/// One way to the service, with the tokens that each user got by it.
trait Way {
    fn ask(&mut self, uid: u32, request: &str) -> Vec<u8>;
}

struct Direct<'a>(&'a Mock);

impl Way for Direct<'_> {
    fn ask(&mut self, _uid: u32, request: &str) -> Vec<u8> {
        let mut stream = self.0.connect();
        stream.write_all(request.as_bytes()).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        bytes
    }
}

struct Filtered<'a>(&'a mut Filterd, &'a Mock);

impl Way for Filtered<'_> {
    fn ask(&mut self, uid: u32, request: &str) -> Vec<u8> {
        let mut client = self.0.connect(uid);
        client.send(request);
        loop {
            match self.0.hear() {
                FromFilterd::Dial { dial, .. } => {
                    let upstream = self.1.connect();
                    self.0.say(&FromInterceptor::Dialled { dial }, Some(upstream.as_fd()));
                }
                FromFilterd::Keep(_) => {}
                FromFilterd::Close { connection } => {
                    assert_eq!(connection, client.id);
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        let line = self.0.audit();
        assert!(line["verdict"] == "allow" || line["verdict"] == "refuse", "{line}");
        client.rest().into_bytes()
    }
}

fn walk(steps: &[Step], way: &mut impl Way) -> Vec<Answer> {
    let mut tokens: [Vec<String>; 2] = Default::default();
    let mut answers = Vec::new();
    for step in steps {
        let (user, request) = match *step {
            Step::Put { user, ttl } => {
                let ttl = format!("X-aws-ec2-metadata-token-ttl-seconds: {ttl}\r\n");
                (user, request("PUT", "/latest/api/token", &ttl))
            }
            Step::Read { user, method, path, token } => {
                let shown = match token {
                    Token::None => None,
                    Token::Empty => Some(String::new()),
                    Token::Garbage => Some("AQAEAgarbage==".to_owned()),
                    Token::Given { others, which } => {
                        let of = &tokens[if others { 1 - user } else { user }];
                        of.get(which % of.len().max(1)).cloned()
                    }
                };
                let header = shown.map(|token| format!("X-aws-ec2-metadata-token: {token}\r\n"));
                (user, request(method, path, header.as_deref().unwrap_or("")))
            }
        };
        let mut answer = split(&way.ask(USERS[user], &request));
        if matches!(step, Step::Put { .. }) && answer.status.contains("200") {
            assert_eq!(answer.body.len(), 56);
            tokens[user].push(String::from_utf8(std::mem::take(&mut answer.body)).unwrap());
        }
        answers.push(answer);
    }
    answers
}

fn request(method: &str, path: &str, headers: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n{headers}\r\n")
}

fn assert_same(one: &Answer, other: &Answer) {
    let plain = |answer: &Answer| (answer.status.clone(), answer.headers.clone(), answer.body.clone());
    assert_eq!(plain(one), plain(other));
    match (one.ttl, other.ttl) {
        // seconds pass between the two
        (Some(one), Some(other)) => assert!(one.abs_diff(other) <= 10, "{one} {other}"),
        (one, other) => assert_eq!(one, other),
    }
}

fn compare(mock: &[&str], tokens: &str) {
    let mock = Mock::start(mock);
    let place = Place::new();
    let path = place.settings(ALLOW_ALL, "requests_per_second = 0");
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replace("[limits]", &format!("tokens = {tokens:?}\n[limits]"));
    let path = place.write("imds-filterd.toml", &text, 0o644);
    let filterd = std::cell::RefCell::new(Filterd::spawn_with(place, &mut program(), &path));
    let seen = std::cell::RefCell::new(std::collections::BTreeSet::new());
    let config = Config { cases: 40, failure_persistence: None, ..Config::default() };
    let steps = prop::collection::vec(step(tokens == "forward"), 1..14);
    let tried = TestRunner::new(config).run(&steps, |steps| {
        let direct = walk(&steps, &mut Direct(&mock));
        let filtered = walk(&steps, &mut Filtered(&mut filterd.borrow_mut(), &mock));
        for ((direct, filtered), step) in direct.iter().zip(&filtered).zip(&steps) {
            println!("{step:?}");
            assert_same(direct, filtered);
            seen.borrow_mut().insert(direct.status.clone());
        }
        Ok(())
    });
    tried.unwrap_or_else(|error| panic!("{error}"));
    for status in ["200", "400", "401", "404", "405"] {
        assert!(seen.borrow().iter().any(|seen| seen.contains(status)), "no {status} was seen");
    }
}

#[test]
fn where_tokens_are_optional_and_the_service_gives_them() {
    compare(&[], "forward");
}

#[test]
fn where_tokens_are_required_and_the_service_gives_them() {
    compare(&["--imdsv2-only"], "forward");
}

#[test]
fn where_tokens_are_optional_and_ours() {
    compare(&[], "bound");
}

#[test]
fn where_tokens_are_required_and_ours() {
    compare(&["--imdsv2-only"], "bound");
}
