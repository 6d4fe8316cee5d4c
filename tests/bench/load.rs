//! A bounded load: so many clients at once, so many requests in all.
//! Knows nothing of who answers.

use crate::http::Connection;
use std::io;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const GET: &[u8] =
    b"GET /latest/meta-data/instance-id HTTP/1.1\r\nHost: 169.254.169.254\r\nUser-Agent: bench/1\r\n\
    Accept: */*\r\nConnection: close\r\n\r\n";
/// The service closes after its answer, whatever it is asked: see upstream.conf.
const GET_CLOSED: &[u8] = b"GET /latest/dynamic/instance-id HTTP/1.1\r\nHost: 169.254.169.254\r\n\
    User-Agent: bench/1\r\nAccept: */*\r\nConnection: close\r\n\r\n";
const GET_KEEPING: &[u8] = b"GET /latest/meta-data/instance-id HTTP/1.1\r\nHost: 169.254.169.254\r\n\
    User-Agent: bench/1\r\nAccept: */*\r\n\r\n";
const PUT: &[u8] =
    b"PUT /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nUser-Agent: bench/1\r\nAccept: */*\r\n\
    X-aws-ec2-metadata-token-ttl-seconds: 21600\r\nConnection: close\r\n\r\n";

/// What one request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// A connection of its own.
    New,
    /// The same, and the service keeps no connection open, nor one of a proxy's.
    Closed,
    /// The next on the client's one connection.
    Keep,
    /// IMDSv2: a PUT for a token and a GET with it, each on a connection of its own.
    Pair,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::New => "new connection",
            Self::Closed => "new, service closes",
            Self::Keep => "keep-alive",
            Self::Pair => "IMDSv2 pair",
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) kind: Kind,
    pub(crate) clients: usize,
    pub(crate) requests: usize,
    /// Requests begun each second, evenly by all clients together; without it each client goes on at once.
    pub(crate) pace: Option<u32>,
}

pub(crate) struct Outcome {
    pub(crate) elapsed: Duration,
    /// From before connect(2), or when that was due, to the last byte of the answer, sorted; the connection's end comes
    /// after that.
    pub(crate) latencies: Vec<Duration>,
    pub(crate) failed: usize,
    pub(crate) first_error: Option<io::Error>,
}

/// Runs to the end; what fails is counted and not tried again.
pub(crate) fn run(load: &Load) -> Outcome {
    let next = AtomicUsize::new(0);
    let line = Barrier::new(load.clients + 1);
    let (begun, shares) = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..load.clients).map(|_| scope.spawn(|| client(load, &next, &line))).collect();
        line.wait();
        let begun = Instant::now();
        let shares: Vec<_> = clients.into_iter().filter_map(|client| client.join().ok()).collect();
        (begun, shares)
    });
    let elapsed = begun.elapsed();
    let mut latencies = Vec::with_capacity(load.requests);
    let mut first_error = None;
    for share in shares {
        latencies.extend(share.latencies);
        first_error = first_error.or(share.first_error);
    }
    latencies.sort_unstable();
    let failed = load.requests.saturating_sub(latencies.len());
    Outcome { elapsed, latencies, failed, first_error }
}

/// What one client did.
#[derive(Default)]
struct Share {
    latencies: Vec<Duration>,
    first_error: Option<io::Error>,
}

fn client(load: &Load, next: &AtomicUsize, line: &Barrier) -> Share {
    let mut share = Share::default();
    let kept = (load.kind == Kind::Keep).then(Connection::open).transpose();
    line.wait();
    let mut kept = match kept {
        Ok(kept) => kept,
        Err(error) => return Share { first_error: Some(error), ..share },
    };
    let started = Instant::now();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= load.requests {
            return share;
        }
        let late = load.pace.map_or(Duration::ZERO, |pace| wait_until(started + due(number, pace)));
        let done = match &mut kept {
            Some(connection) => keep(connection),
            None if load.kind == Kind::Pair => pair(),
            None if load.kind == Kind::Closed => new(GET_CLOSED),
            None => new(GET),
        };
        match done {
            Ok(latency) => share.latencies.push(late + latency),
            Err(error) => {
                share.first_error.get_or_insert(error);
            }
        }
    }
}

fn due(number: usize, pace: u32) -> Duration {
    Duration::from_secs(1).saturating_mul(u32::try_from(number).unwrap_or(u32::MAX)) / pace
}

/// Returns how late it is. That is part of the latency: who waited for a busy machine has waited.
#[expect(clippy::disallowed_methods, reason = "the pace of a load is a matter of time")]
fn wait_until(due: Instant) -> Duration {
    std::thread::sleep(due.saturating_duration_since(Instant::now()));
    due.elapsed()
}

fn keep(connection: &mut Connection) -> io::Result<Duration> {
    let begun = Instant::now();
    connection.ask(GET_KEEPING)?;
    Ok(begun.elapsed())
}

fn new(request: &[u8]) -> io::Result<Duration> {
    let begun = Instant::now();
    let mut connection = Connection::open()?;
    connection.ask(request)?;
    let latency = begun.elapsed();
    connection.end()?;
    Ok(latency)
}

fn pair() -> io::Result<Duration> {
    let begun = Instant::now();
    let mut connection = Connection::open()?;
    let token = connection.ask(PUT)?;
    let mut get =
        b"GET /latest/meta-data/instance-id HTTP/1.1\r\nHost: 169.254.169.254\r\nUser-Agent: bench/1\r\n\
        Accept: */*\r\nX-aws-ec2-metadata-token: "
            .to_vec();
    get.extend_from_slice(token);
    get.extend_from_slice(b"\r\nConnection: close\r\n\r\n");
    connection.end()?;
    let mut connection = Connection::open()?;
    connection.ask(&get)?;
    let latency = begun.elapsed();
    connection.end()?;
    Ok(latency)
}

/// Connections that have been used once and stay open and idle until dropped.
///
/// # Errors
/// The first that could not be had.
pub(crate) fn idle_connections(wanted: usize) -> io::Result<Vec<Connection>> {
    let mut open = Vec::with_capacity(wanted);
    for _ in 0..wanted {
        let mut connection = Connection::open()?;
        connection.ask(GET_KEEPING)?;
        open.push(connection);
    }
    Ok(open)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_spreads_requests_evenly_over_time() {
        assert_eq!(due(0, 2000), Duration::ZERO);
        assert_eq!(due(1, 2000), Duration::from_micros(500));
        assert_eq!(due(5000, 2000), Duration::from_millis(2500));
    }
}
