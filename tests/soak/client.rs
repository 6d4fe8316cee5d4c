//! Clients that ask at a steady pace, each request once, as an SDK does; and what became of the requests.
//! Must not try again: whatever is not a whole and right answer is a failure.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Longer than any answer here takes; a lost one is a failure and not a hang.
const PATIENCE: Duration = Duration::from_secs(5);
const PATH: &str = "/latest/meta-data/instance-id";
const BODY: &[u8] = b"i-0123456789abcdef0";
/// One request in so many is for a token.
const TOKEN_EVERY: u32 = 8;

/// What clients did.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// Of answered requests, in microseconds: from before connect(2), where there was one, to the last byte.
    pub(crate) latencies: Vec<u64>,
    pub(crate) failures: Vec<Failure>,
}

#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) after: Duration,
    pub(crate) what: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "failed after {:.3} s: {}", self.after.as_secs_f64(), self.what)
    }
}

impl Done {
    fn note(&mut self, begun: Instant, result: io::Result<()>) {
        match result {
            Ok(()) => self.latencies.push(begun.elapsed().as_micros().try_into().unwrap_or(u64::MAX)),
            Err(error) => {
                self.failures.push(Failure { after: begun.elapsed(), what: error.to_string() });
            }
        }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.latencies.extend(other.latencies);
        self.failures.extend(other.failures);
    }

    /// As a process tells another.
    pub(crate) fn print(&self) {
        for latency in &self.latencies {
            println!("{latency}");
        }
        for failure in &self.failures {
            println!("{} {}", failure.after.as_micros(), failure.what);
        }
    }

    pub(crate) fn parse(text: &str) -> Self {
        let mut done = Self::default();
        for line in text.lines() {
            let (micros, what) = line.split_once(' ').unwrap_or((line, ""));
            match micros.parse() {
                Ok(latency) if what.is_empty() => done.latencies.push(latency),
                Ok(micros) => done
                    .failures
                    .push(Failure { after: Duration::from_micros(micros), what: what.to_owned() }),
                Err(_) => done.failures.push(Failure { after: Duration::ZERO, what: line.to_owned() }),
            }
        }
        done
    }
}

/// One client until `stop`, and until it has asked `least` times: a request each `pace`, on connections of their own or all
/// on one. Every other client speaks IPv6.
pub(crate) fn ask_on(number: u32, keeps: bool, pace: Duration, least: u32, stop: &AtomicBool) -> Done {
    let mut done = Done::default();
    let mut kept: Option<TcpStream> = None;
    let mut due = Instant::now() + pace * number / 8;
    for n in 0_u32.. {
        wait_until(due);
        if n >= least && stop.load(Ordering::Relaxed) {
            break;
        }
        // late clients do not make up for it: that would be a burst
        due = (due + pace).max(Instant::now());
        let begun = Instant::now();
        let token = n % TOKEN_EVERY == number % TOKEN_EVERY;
        let result = kept.take().map_or_else(|| open(number), Ok).and_then(|mut stream| {
            ask(&mut stream, token, keeps)?;
            kept = keeps.then_some(stream);
            Ok(())
        });
        done.note(begun, result);
    }
    done
}

fn open(number: u32) -> io::Result<TcpStream> {
    let ip: IpAddr = if number.is_multiple_of(2) {
        [169, 254, 169, 254].into()
    } else {
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254].into()
    };
    let stream = TcpStream::connect_timeout(&SocketAddr::new(ip, 80), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn ask(stream: &mut TcpStream, token: bool, keeps: bool) -> io::Result<()> {
    let (method, path) = if token { ("PUT", "/latest/api/token") } else { ("GET", PATH) };
    let ttl = if token { "X-aws-ec2-metadata-token-ttl-seconds: 60\r\n" } else { "" };
    let end = if keeps { "" } else { "Connection: close\r\n" };
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: 169.254.169.254\r\nUser-Agent: soak/1\r\n{ttl}{end}\r\n");
    stream.write_all(request.as_bytes())?;
    let body = answer(stream, keeps)?;
    let right = if token { body.len() > 20 } else { body == BODY };
    if right { Ok(()) } else { Err(io::Error::other("another body")) }
}

/// The body of a 200; then the end, unless the connection is kept.
fn answer(stream: &mut TcpStream, keeps: bool) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 2048];
    let whole = |bytes: &[u8]| -> io::Result<Option<usize>> {
        let text = String::from_utf8_lossy(bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { return Ok(None) };
        if !head.starts_with("HTTP/1.1 200 ") {
            return Err(io::Error::other(format!("answered {head:?}")));
        }
        let length =
            head.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.parse::<usize>().ok());
        let length = length.ok_or_else(|| io::Error::other("an answer without a length"))?;
        Ok((body.len() >= length).then_some(head.len() + 4))
    };
    let start = loop {
        match stream.read(&mut buffer)? {
            0 => return Err(io::Error::other(format!("the end after {} bytes", bytes.len()))),
            read => bytes.extend_from_slice(buffer.get(..read).unwrap_or(&[])),
        }
        if let Some(start) = whole(&bytes)? {
            break start;
        }
    };
    if !keeps && stream.read(&mut buffer)? != 0 {
        return Err(io::Error::other("bytes behind the answer"));
    }
    Ok(bytes.split_off(start))
}

#[expect(clippy::disallowed_methods, reason = "the pace is what is wanted")]
pub(crate) fn wait_until(due: Instant) {
    std::thread::sleep(due.saturating_duration_since(Instant::now()));
}
