//! Starts imds-mock and talks to it with bare sockets. Asserts nothing about answers.
//! Knows no HTTP but where a head ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Far above what anything here takes; a test that reaches it has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running imds-mock; gone when dropped.
pub(crate) struct Mock {
    pub(crate) child: Child,
    pub(crate) addresses: Vec<SocketAddr>,
}

impl Mock {
    /// Listens on a free port of 127.0.0.1 besides whatever `arguments` say.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::start_on(&["127.0.0.1:0"], arguments)
    }

    pub(crate) fn start_on(listen: &[&str], arguments: &[&str]) -> Self {
        Self::start_in(&[], listen, arguments)
    }

    /// With variables in its environment.
    pub(crate) fn start_in(environment: &[(&str, &str)], listen: &[&str], arguments: &[&str]) -> Self {
        let mut command = program();
        command.envs(environment.iter().copied());
        for address in listen {
            command.args(["--listen", address]);
        }
        let mut child = command.args(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = |line: String| line.strip_prefix("listening http://").unwrap().parse().unwrap();
        let addresses = listen.iter().map(|_| address(lines.next().unwrap().unwrap())).collect();
        Self { child, addresses }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.addresses[0]).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends the bytes and reads until the end.
    pub(crate) fn exchange(&self, request: &[u8]) -> Answer {
        let mut stream = self.connect();
        stream.write_all(request).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        Answer::split(bytes)
    }

    pub(crate) fn token(&self, ttl: u64) -> String {
        let request =
            format!("PUT /latest/api/token HTTP/1.1\r\nX-aws-ec2-metadata-token-ttl-seconds: {ttl}\r\n\r\n");
        String::from_utf8(self.exchange(request.as_bytes()).body).unwrap()
    }
}

impl Drop for Mock {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_imds-mock"))
}

pub(crate) struct Answer {
    pub(crate) status: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn split(bytes: Vec<u8>) -> Self {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("no end of head");
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().strip_prefix("HTTP/1.1 ").unwrap().to_owned();
        let header = |line: &str| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.to_owned(), value.to_owned())
        };
        Self { status, headers: lines.map(header).collect(), body: bytes[end + 4..].to_vec() }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// A file in the temporary directory, gone when dropped.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("imds-mock-{}-{name}", std::process::id())))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn text(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
