//! Raw bytes to the captured service, and what came of them: answers, the service's record, the audit log.
//! For programs that run in a lab as root; judges nothing.

use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// A test that waits for longer has failed.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often to look at a file that grows.
const LOOK_EVERY: Duration = Duration::from_millis(1);
pub(crate) const V4: &str = "169.254.169.254";
pub(crate) const V6: &str = "fd00:ec2::254";

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// A connection of a client.
pub(crate) struct Client(BufReader<TcpStream>);

impl Client {
    pub(crate) fn connect(address: &str) -> Result<Self, String> {
        let address: IpAddr = address.parse().map_err(|error| format!("{address}: {error}"))?;
        let stream = TcpStream::connect_timeout(&SocketAddr::new(address, 80), PATIENCE);
        let stream = stream.map_err(|error| format!("connect: {error}"))?;
        let set = stream
            .set_nodelay(true)
            .and(stream.set_read_timeout(Some(PATIENCE)))
            .and(stream.set_write_timeout(Some(PATIENCE)));
        set.map_err(|error| error.to_string())?;
        Ok(Self(BufReader::new(stream)))
    }

    /// In pieces of `size` bytes. A service that has refused may close while there is more to send.
    pub(crate) fn send(&mut self, bytes: &[u8], size: usize) {
        for piece in bytes.chunks(size.max(1)) {
            if self.0.get_mut().write_all(piece).is_err() {
                return;
            }
        }
    }

    pub(crate) fn end(&self) {
        let _ = self.0.get_ref().shutdown(Shutdown::Write); // it may be gone
    }

    /// The next answer; `None` at the end of the connection.
    pub(crate) fn answer(&mut self, without_body: bool) -> Result<Option<Answer>, String> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            match self.0.read_line(&mut head) {
                Ok(0) if head.is_empty() => return Ok(None),
                Ok(0) => return Err(format!("an answer cut short: {head:?}")),
                Ok(_) => (),
                Err(error) => return Err(format!("no answer: {error}; so far {head:?}")),
            }
        }
        let status = head.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok());
        let status = status.ok_or_else(|| format!("not an answer: {head:?}"))?;
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok());
        let length = length.ok_or_else(|| format!("an answer without a length: {head:?}"))?;
        let mut body = vec![0; if without_body { 0 } else { length }];
        self.0.read_exact(&mut body).map_err(|error| format!("a body cut short: {error}"))?;
        Ok(Some(Answer { status, body: String::from_utf8_lossy(&body).into_owned() }))
    }
}

/// A file of one JSON object a line, which grows while it is read.
pub(crate) struct Lines {
    file: BufReader<File>,
    /// The beginning of a line whose end is not written yet.
    begun: String,
}

impl Lines {
    /// By the lab's variable that names the file.
    pub(crate) fn of(variable: &str) -> Self {
        let path = std::env::var_os(variable).unwrap_or_else(|| panic!("no {variable}: not in a lab"));
        let file = File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self { file: BufReader::new(file), begun: String::new() }
    }

    /// All since the last call.
    pub(crate) fn take(&mut self) -> Result<Vec<Value>, String> {
        let mut new = Vec::new();
        while self.file.read_line(&mut self.begun).map_err(|error| error.to_string())? > 0 {
            if self.begun.ends_with('\n') {
                let line = serde_json::from_str(&self.begun);
                new.push(line.map_err(|error| format!("{:?}: {error}", self.begun))?);
                self.begun.clear();
            }
        }
        Ok(new)
    }

    /// All since the last call, as soon as there are so many: an audit line may come after its answer.
    pub(crate) fn take_when(&mut self, count: usize) -> Result<Vec<Value>, String> {
        let limit = Instant::now() + PATIENCE;
        let mut new = self.take()?;
        while new.len() < count && Instant::now() < limit {
            pause();
            new.extend(self.take()?);
        }
        Ok(new)
    }
}

#[expect(clippy::disallowed_methods, reason = "between two looks at what sends no event")]
fn pause() {
    std::thread::sleep(LOOK_EVERY);
}

/// The exact bytes of one line of the service's record: one character, U+0000 to U+00FF, for each.
pub(crate) fn recorded_bytes(record: &Value) -> Vec<u8> {
    let text = record["bytes"].as_str().unwrap_or("");
    text.chars().map(|c| u8::try_from(c).expect("a byte")).collect()
}

pub(crate) fn status(line: &Value) -> u16 {
    line["status"].as_u64().and_then(|status| status.try_into().ok()).unwrap_or(0)
}
