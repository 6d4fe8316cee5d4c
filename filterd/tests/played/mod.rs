//! Plays interceptor and upstream to a real imds-filterd, one step after the other, on one thread.
//! Asserts nothing about what filterd does; waits for events and never for a time.
#![allow(dead_code, unreachable_pub, unused_imports, reason = "each test program uses a part")]

mod ends;

pub use ends::{Client, Upstream, status_of};
use imds_ipc::channel::{ChannelError, receive, send};
use imds_ipc::control::Mode;
use imds_ipc::{
    DialFailure, FILTER_SOCKET, FromFilterd, FromInterceptor, Hello, Identity, MAX_MESSAGE, Piece, Subject,
};

/// An interceptor that can tell everything.
pub const ALL: Identity = Identity { groups: Ok(()), unit: Ok(()), connecting: Ok(()) };

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// A test that waits for longer has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub const ALLOW_ALL: &str = "Allow \"/\"\n";
pub const GET: &str = "GET /latest/meta-data/ HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n";
pub const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

/// A directory that others may enter, gone when dropped.
pub struct Place(pub PathBuf);

impl Place {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("imds-filterd-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self(path)
    }

    pub fn write(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    /// Writes rules and settings; `more` are lines of the settings' `[limits]`.
    pub fn settings(&self, rules: &str, more: &str) -> PathBuf {
        let rules = self.write("imds.conf", rules, 0o644);
        let text = format!(
            "runtime_dir = {:?}\n[filter]\nuser = {:?}\nrules = {rules:?}\n[limits]\n{more}\n",
            self.0,
            filter_user()
        );
        self.write("imds-filterd.toml", &text, 0o644)
    }

    pub fn listen(&self) -> OwnedFd {
        listen_in(&self.0)
    }
}

fn listen_in(directory: &Path) -> OwnedFd {
    let path = directory.join(FILTER_SOCKET);
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .unwrap();
    rustix::net::bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    rustix::net::listen(&socket, 4).unwrap();
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE)).unwrap();
    socket
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// filterd refuses to be root; as anybody else it can only stay who it is.
pub fn filter_user() -> String {
    let uid = rustix::process::geteuid().as_raw();
    if uid == 0 {
        return "nobody".into();
    }
    imds_settings::Accounts::open().user_name(uid).unwrap().expect("a name for our uid")
}

/// The one that cargo built, or where tests/freebsd/run.sh has it on another machine.
pub fn program() -> Command {
    let built = || env!("CARGO_BIN_EXE_imds-filterd").into();
    Command::new(std::env::var_os("IMDS_TEST_FILTERD").unwrap_or_else(built))
}

/// What interceptor begins with.
#[derive(Clone, Copy)]
struct Words {
    hello: Hello,
    identity: Identity,
}

impl Words {
    const OURS: Self = Self { hello: Hello::OURS, identity: ALL };
}

/// A running imds-filterd with its channel to us.
pub struct Filterd {
    pub child: Child,
    pub channel: OwnedFd,
    place: Option<Place>,
    directory: PathBuf,
    listener: OwnedFd,
    upstream: TcpListener,
    lines: Receiver<String>,
    log: Receiver<String>,
    next: u64,
    /// What was said of answers: connection, bytes, end, and whether the connection ends with it.
    pub answers: Vec<(u64, u32, u64, bool)>,
}

impl Filterd {
    pub fn start(rules: &str) -> Self {
        Self::start_with(rules, "")
    }

    pub fn start_with(rules: &str, limits: &str) -> Self {
        Self::spawn(Place::new(), &mut program(), rules, limits)
    }

    pub fn spawn(place: Place, program: &mut Command, rules: &str, limits: &str) -> Self {
        let settings = place.settings(rules, limits);
        Self::spawn_with(place, program, &settings)
    }

    /// With an interceptor of another version.
    pub fn start_saying(hello: Hello) -> Self {
        let place = Place::new();
        let settings = place.settings(ALLOW_ALL, "");
        Self::attach(place, &mut program(), &settings, Words { hello, ..Words::OURS })
    }

    pub fn spawn_with(place: Place, program: &mut Command, settings: &Path) -> Self {
        Self::attach(place, program, settings, Words::OURS)
    }

    pub fn spawn_telling(place: Place, program: &mut Command, settings: &Path, identity: Identity) -> Self {
        Self::attach(place, program, settings, Words { identity, ..Words::OURS })
    }

    fn attach(place: Place, program: &mut Command, settings: &Path, words: Words) -> Self {
        let directory = place.0.clone();
        let listener = place.listen();
        let mut filterd = Self::attached(directory, listener, program, settings, words);
        filterd.place = Some(place);
        filterd
    }

    /// With the same files.
    pub fn beside(other: &Self) -> Self {
        let directory = other.directory.clone();
        let settings = directory.join("imds-filterd.toml");
        let _ = std::fs::remove_file(directory.join(FILTER_SOCKET));
        let listener = listen_in(&directory);
        Self::attached(directory, listener, &mut program(), &settings, Words::OURS)
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn attached(
        directory: PathBuf,
        listener: OwnedFd,
        program: &mut Command,
        settings: &Path,
        words: Words,
    ) -> Self {
        let mut child = program
            .arg("--config")
            .arg(settings)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        let log = lines_of(child.stderr.take().unwrap());
        let channel = accept(&listener);
        sockopt::set_socket_timeout(&channel, sockopt::Timeout::Recv, Some(PATIENCE)).unwrap();
        let upstream = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let answers = Vec::new();
        let place = None;
        let mut filterd =
            Self { child, channel, place, directory, listener, upstream, lines, log, next: 1, answers };
        assert_eq!(filterd.hear(), FromFilterd::Hello(Hello::OURS));
        filterd.say(&FromInterceptor::Hello(words.hello), None);
        filterd.say(&FromInterceptor::Identity(words.identity), None);
        if words.hello.minor >= FromFilterd::Mode(Mode::Enforce).since() {
            assert!(matches!(filterd.hear(), FromFilterd::Mode(_)));
        }
        assert!(matches!(filterd.hear(), FromFilterd::Needs(_)));
        if words.hello.minor >= FromFilterd::Sync.since() {
            assert_eq!(filterd.hear(), FromFilterd::Sync);
            filterd.say(&FromInterceptor::Synced, None);
        }
        filterd
    }

    pub fn say(&self, message: &FromInterceptor, descriptor: Option<BorrowedFd<'_>>) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        send(&self.channel, &bytes, descriptor).unwrap();
    }

    /// The next message, waited for; as [`Self::hear_now`].
    pub fn hear(&mut self) -> FromFilterd {
        loop {
            wait_readable(&self.channel);
            if let Some(message) = self.hear_now() {
                return message;
            }
        }
    }

    /// The next message, if it is already there. What is said of answers is passed over; if the connection ends with
    /// one, that is heard as a Close.
    pub fn hear_now(&mut self) -> Option<FromFilterd> {
        loop {
            let message = self.hear_exactly()?;
            let FromFilterd::Answered { connection, bytes, end, closes } = message else {
                return Some(message);
            };
            self.answers.push((connection, bytes, end, closes));
            if closes {
                return Some(FromFilterd::Close { connection });
            }
        }
    }

    pub fn hear_exactly(&mut self) -> Option<FromFilterd> {
        let mut buffer = [0; MAX_MESSAGE];
        match receive(&self.channel, &mut buffer) {
            Ok(bytes) => Some(FromFilterd::decode(bytes).unwrap()),
            Err(ChannelError::WouldBlock) => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// What has to come from filterd now is no message, but the end; what is said of answers is passed over.
    pub fn hear_end(&self) {
        loop {
            wait_readable(&self.channel);
            match receive(&self.channel, &mut [0; MAX_MESSAGE]).map(FromFilterd::decode) {
                Ok(Ok(FromFilterd::Answered { .. })) => (),
                end => return assert_eq!(end, Err(ChannelError::Closed)),
            }
        }
    }

    pub fn connection(&mut self, uid: u32) -> FromInterceptor {
        let id = self.next;
        self.next += 1;
        FromInterceptor::Connection {
            id,
            subject: Ok(Subject::of_uid(uid)),
            client: "10.0.0.5:40001".parse().unwrap(),
            service: "169.254.169.254:80".parse().unwrap(),
            upstream: 0,
        }
    }

    pub fn connect(&mut self, uid: u32) -> Client {
        let id = self.next;
        let message = self.connection(uid);
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.say(&message, Some(theirs.as_fd()));
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        ours.set_write_timeout(Some(PATIENCE)).unwrap();
        Client { stream: BufReader::new(ours), id }
    }

    /// Asks in a message; which connection.
    pub fn ask(&mut self, uid: u32, place: u32, bytes: &str) -> u64 {
        let id = self.next;
        self.next += 1;
        self.ask_again(id, uid, place, bytes);
        id
    }

    pub fn ask_again(&self, id: u64, uid: u32, place: u32, bytes: &str) {
        let message = FromInterceptor::Asked {
            id,
            subject: Ok(Subject::of_uid(uid)),
            client: "10.0.0.5:40001".parse().unwrap(),
            service: "169.254.169.254:80".parse().unwrap(),
            upstream: 0,
            place,
            bytes: Piece::of(bytes.as_bytes()),
        };
        self.say(&message, None);
    }

    /// The answer that has to come now, and whether the connection ends with it.
    pub fn hear_answer(&mut self, id: u64) -> (String, bool) {
        match self.hear() {
            FromFilterd::Answer { connection, closes, bytes } if connection == id => {
                (String::from_utf8(bytes.bytes().to_vec()).unwrap(), closes)
            }
            other => panic!("{other:?}"),
        }
    }

    /// Opens the connection that filterd has to ask for now.
    pub fn open(&mut self, id: u64) -> Client {
        assert_eq!(self.hear(), FromFilterd::Open { connection: id });
        self.opened(id)
    }

    /// What filterd has asked to be opened.
    pub fn opened(&self, id: u64) -> Client {
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.say(&FromInterceptor::Opened { id }, Some(theirs.as_fd()));
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        ours.set_write_timeout(Some(PATIENCE)).unwrap();
        Client { stream: BufReader::new(ours), id }
    }

    pub fn hear_dial(&mut self) -> u64 {
        match self.hear() {
            FromFilterd::Dial { dial, upstream: 0 } => dial,
            other => panic!("{other:?}"),
        }
    }

    /// Answers the dial that has to come now with a connection to ourselves.
    pub fn dial(&mut self) -> Upstream {
        self.dial_watched().0
    }

    /// The same, and filterd's end too: to be seen what has come on it.
    pub fn dial_watched(&mut self) -> (Upstream, OwnedFd) {
        let dial = self.hear_dial();
        let theirs = TcpStream::connect(self.upstream.local_addr().unwrap()).unwrap();
        let (ours, _) = self.upstream.accept().unwrap();
        self.say(&FromInterceptor::Dialled { dial }, Some(theirs.as_fd()));
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        ours.set_write_timeout(Some(PATIENCE)).unwrap();
        (Upstream(ours), theirs.into())
    }

    pub fn fail_dial(&mut self, why: DialFailure) {
        let dial = self.hear_dial();
        self.say(&FromInterceptor::DialFailed { dial, why }, None);
    }

    /// The next audit line, waited for.
    pub fn audit(&self) -> Value {
        let line = self.lines.recv_timeout(PATIENCE).expect("an audit line");
        serde_json::from_str(&line).unwrap()
    }

    /// Whether an audit line is there that nobody asked for.
    pub fn audit_now(&self) -> Option<String> {
        self.lines.try_recv().ok()
    }

    /// Waits until filterd ends; the rest of its log.
    pub fn end(&mut self) -> (ExitStatus, String) {
        let mut log = String::new();
        // the log ends when the process does
        loop {
            match self.log.recv_timeout(PATIENCE) {
                Ok(line) => log.push_str(&line),
                Err(RecvTimeoutError::Disconnected) => return (self.child.wait().unwrap(), log),
                Err(RecvTimeoutError::Timeout) => panic!("filterd does not end: {log}"),
            }
        }
    }

    pub fn terminate(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Filterd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines_of(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (lines, received) = channel();
    std::thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        loop {
            let mut line = String::new();
            if pipe.read_line(&mut line).unwrap_or(0) == 0 || lines.send(line).is_err() {
                return;
            }
        }
    });
    received
}

/// A child that ends interrupts the call.
pub fn accept(listener: &OwnedFd) -> OwnedFd {
    rustix::io::retry_on_intr(|| rustix::net::accept(listener)).expect("filterd attaches")
}

pub fn wait_readable(socket: &OwnedFd) {
    wait(socket, rustix::event::PollFlags::IN);
}

/// For room, or for the end.
pub fn wait_writable(socket: &OwnedFd) {
    wait(socket, rustix::event::PollFlags::OUT);
}

fn wait(socket: &OwnedFd, event: rustix::event::PollFlags) {
    let mut asked = [rustix::event::PollFd::new(socket, event)];
    let patience = rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 };
    let ready = rustix::io::retry_on_intr(|| rustix::event::poll(&mut asked, Some(&patience)));
    assert_eq!(ready, Ok(1), "filterd says nothing");
}
