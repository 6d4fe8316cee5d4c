//! The sockets: accepts, reads one bounded request at a time, records it, asks the service, writes the answer.
//! Decides nothing about an answer's content.

use crate::answer::{After, Answer, Page};
use crate::record::{Record, Recorder};
use crate::request::{Request, head_length};
use crate::service::{Service, is_token_path};
use rustix::net::sockopt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// Twice what any client sends; a head that goes on is somebody filling our memory.
const MAX_HEAD: usize = 16 * 1024;
/// No request of this service needs a body; some clients send a few bytes with a PUT.
const MAX_BODY: u64 = 64 * 1024;
/// At most this many at once; with `MAX_HEAD` it bounds the memory at 256 MiB.
const MAX_CONNECTIONS: usize = 16_384;
/// Waiting for accept(2) while the tasks are busy.
const BACKLOG: u32 = 1_024;
/// After an answer: what the client still sends is read this long, since closing on unread bytes would reset the
/// connection and could take the answer with it.
const LINGER: Duration = Duration::from_secs(1);
/// accept(2) failed, mostly for want of descriptors: try again when some connection has ended.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub struct Options {
    /// How long a client may take over a head; also how long a kept connection may be idle.
    pub head_time: Duration,
    /// Waited before each answer.
    pub delay: Duration,
    /// Keeps connections as HTTP says, where the real service always closes.
    pub keep_alive: bool,
    /// IP TTL (hop limit) of the answers to the token PUT.
    pub hop_limit: u8,
    pub recorder: Option<Recorder>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            head_time: Duration::from_secs(10),
            delay: Duration::ZERO,
            keep_alive: false,
            hop_limit: 1,
            recorder: None,
        }
    }
}

pub struct Server {
    listeners: Vec<TcpListener>,
    shared: Arc<Shared>,
}

struct Shared {
    service: Service,
    options: Options,
    connections: AtomicU64,
    room: Arc<Semaphore>,
}

impl Server {
    /// Listens on every address; port 0 takes a free one. An IPv6 address does not serve IPv4 clients as well.
    ///
    /// # Errors
    /// The address that could not be had, and why.
    pub fn bind(
        addresses: &[SocketAddr],
        service: Service,
        options: Options,
    ) -> Result<Self, (SocketAddr, io::Error)> {
        let listeners = addresses
            .iter()
            .map(|address| listen(*address).map_err(|error| (*address, error)))
            .collect::<Result<_, _>>()?;
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let shared = Arc::new(Shared { service, options, connections: AtomicU64::new(0), room });
        Ok(Self { listeners, shared })
    }

    /// The addresses listened on, in the order given, with the ports that were found.
    ///
    /// # Errors
    /// getsockname(2) failed.
    pub fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.listeners.iter().map(TcpListener::local_addr).collect()
    }

    /// Serves until `stop` is ready; connections still open are then cut.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let mut tasks = JoinSet::new();
        for listener in self.listeners {
            tasks.spawn(accept(listener, Arc::clone(&self.shared)));
        }
        stop.await;
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => {
            let socket = TcpSocket::new_v6()?;
            sockopt::set_ipv6_v6only(&socket, true)?;
            socket
        }
    };
    // or a restart waits for the old connections' TIME-WAIT
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&shared.room).acquire_owned().await else { return };
        let accepted = listener.accept().await;
        while connections.try_join_next().is_some() {}
        let Ok((stream, peer)) = accepted else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let _permit = permit;
            // a client that went away is its own business
            if let Ok(connection) = Connection::new(&shared, stream, peer) {
                let _ = connection.converse().await;
            }
        });
    }
}

/// One connection, from its first byte to its end.
struct Connection<'a> {
    shared: &'a Shared,
    stream: TcpStream,
    peer: SocketAddr,
    local: SocketAddr,
    /// Counted from 1.
    number: u64,
    /// Received and not yet taken for a request.
    buffer: Vec<u8>,
    hops: HopLimit,
}

impl<'a> Connection<'a> {
    fn new(shared: &'a Shared, stream: TcpStream, peer: SocketAddr) -> io::Result<Self> {
        let number = shared.connections.fetch_add(1, Ordering::Relaxed) + 1;
        let local = stream.local_addr()?;
        stream.set_nodelay(true)?;
        let hops = HopLimit::of(&stream, local)?;
        Ok(Self { shared, stream, peer, local, number, buffer: Vec::new(), hops })
    }

    async fn converse(mut self) -> io::Result<()> {
        loop {
            let limit = self.shared.options.head_time;
            let after = match read_request(&mut self.stream, &mut self.buffer, limit).await? {
                Received::Request(bytes, request) => self.answer(bytes, Some(&request)).await?,
                Received::Malformed(bytes) => self.answer(bytes, None).await?,
                Received::Ended => return self.keep_rest(),
            };
            match after {
                After::KeepAlive => {}
                After::Close => {
                    self.stream.shutdown().await?;
                    drain(&mut self.stream, &mut self.buffer).await;
                    return self.keep_rest();
                }
            }
        }
    }

    async fn answer(&mut self, bytes: Vec<u8>, request: Option<&Request>) -> io::Result<After> {
        let options = &self.shared.options;
        let now = SystemTime::now();
        let answer = match request {
            Some(request) => self.shared.service.answer(request, self.peer.ip(), now),
            None => Answer::Page { page: Page::BadRequest, ttl: None },
        };
        self.keep(Some(answer.status()), bytes)?;
        if !options.delay.is_zero() {
            sleep(options.delay).await;
        }
        let keep = options.keep_alive && request.is_some_and(Request::wants_keep_alive);
        let after = if keep { After::KeepAlive } else { After::Close };
        self.hops.set(&self.stream, hop_limit(options, request))?;
        let head_only = request.is_some_and(|request| request.method == "HEAD");
        self.stream.write_all(&answer.to_bytes(now, after, head_only)).await?;
        Ok(after)
    }

    fn keep_rest(&mut self) -> io::Result<()> {
        let rest = std::mem::take(&mut self.buffer);
        if rest.is_empty() { Ok(()) } else { self.keep(None, rest) }
    }

    /// A record that cannot be written ends the connection without an answer: a test that counts records must not
    /// pass on fewer.
    fn keep(&self, status: Option<u16>, bytes: Vec<u8>) -> io::Result<()> {
        let Some(recorder) = &self.shared.options.recorder else { return Ok(()) };
        let record = Record { connection: self.number, peer: self.peer, local: self.local, status, bytes };
        recorder.write(&record).inspect_err(|error| {
            eprintln!("imds-mock: the record could not be written: {error}");
        })
    }
}

/// Only the answers to the token PUT travel a limited way; `None` is the system's own limit.
fn hop_limit(options: &Options, request: Option<&Request>) -> Option<u8> {
    let of_token = request.is_some_and(|request| request.method == "PUT" && is_token_path(request));
    of_token.then_some(options.hop_limit)
}

/// What came of waiting for a request, with its exact bytes.
enum Received {
    Request(Vec<u8>, Request),
    /// No request, or one above the bounds.
    Malformed(Vec<u8>),
    /// The client ended or was too slow; what there is stays in the buffer.
    Ended,
}

/// Takes the first request off `buffer`, reading more as needed. Whatever follows it stays in the buffer.
async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>, limit: Duration) -> io::Result<Received> {
    let deadline = Instant::now() + limit;
    let length = loop {
        if let Some(length) = head_length(buffer) {
            break length;
        }
        if buffer.len() >= MAX_HEAD {
            return Ok(Received::Malformed(std::mem::take(buffer)));
        }
        if !read_more(stream, buffer, deadline).await? {
            return Ok(Received::Ended);
        }
    };
    let request = match Request::parse(buffer) {
        Ok(request) if length <= MAX_HEAD && request.body_length <= MAX_BODY => request,
        Ok(_) | Err(_) => return Ok(Received::Malformed(std::mem::take(buffer))),
    };
    let total = length.saturating_add(usize::try_from(request.body_length).unwrap_or(usize::MAX));
    while buffer.len() < total {
        if !read_more(stream, buffer, deadline).await? {
            return Ok(Received::Ended);
        }
    }
    let rest = buffer.split_off(total);
    Ok(Received::Request(std::mem::replace(buffer, rest), request))
}

/// False at the end of the stream and when the time is up.
async fn read_more(stream: &mut TcpStream, buffer: &mut Vec<u8>, deadline: Instant) -> io::Result<bool> {
    match timeout_at(deadline, stream.read_buf(buffer)).await {
        Ok(count) => Ok(count? > 0),
        Err(_) => Ok(false),
    }
}

/// Reads on until the client ends, bounded in time and, by `MAX_BODY`, in bytes.
async fn drain(stream: &mut TcpStream, buffer: &mut Vec<u8>) {
    let room = usize::try_from(MAX_BODY).unwrap_or(usize::MAX);
    let reading =
        async { while buffer.len() < room && stream.read_buf(buffer).await.is_ok_and(|count| count > 0) {} };
    let _ = timeout(LINGER, reading).await;
}

/// The TTL or hop limit that a connection's packets leave with.
struct HopLimit {
    v6: bool,
    usual: u8,
    current: u8,
}

impl HopLimit {
    fn of(stream: &TcpStream, local: SocketAddr) -> io::Result<Self> {
        let v6 = local.is_ipv6();
        let usual = if v6 {
            sockopt::ipv6_unicast_hops(stream)?
        } else {
            u8::try_from(sockopt::ip_ttl(stream)?).unwrap_or(u8::MAX)
        };
        Ok(Self { v6, usual, current: usual })
    }

    /// `None` goes back to the value that the connection began with.
    fn set(&mut self, stream: &TcpStream, wanted: Option<u8>) -> io::Result<()> {
        let wanted = wanted.unwrap_or(self.usual);
        if wanted != self.current {
            if self.v6 {
                sockopt::set_ipv6_unicast_hops(stream, Some(wanted))?;
            } else {
                sockopt::set_ip_ttl(stream, wanted.into())?;
            }
            self.current = wanted;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_answer_to_the_token_put_has_the_hop_limit() {
        let options = Options { hop_limit: 3, ..Options::default() };
        let limit = |head: &str| hop_limit(&options, Some(&Request::parse(head.as_bytes()).unwrap()));
        assert_eq!(limit("PUT /latest/api/token HTTP/1.1\r\n\r\n"), Some(3));
        assert_eq!(limit("GET /latest/api/token HTTP/1.1\r\n\r\n"), None);
        assert_eq!(limit("PUT /latest/meta-data HTTP/1.1\r\n\r\n"), None);
        assert_eq!(limit("GET /latest/meta-data/mac HTTP/1.1\r\n\r\n"), None);
        assert_eq!(hop_limit(&options, None), None);
    }

    /// Or `--listen 0.0.0.0:80 --listen [::]:80` would find its own port taken.
    #[tokio::test]
    async fn an_ipv6_address_leaves_the_port_free_for_ipv4() {
        let listener = listen("[::]:0".parse().unwrap()).unwrap();
        assert!(sockopt::ipv6_v6only(&listener).unwrap());
    }

    #[tokio::test]
    async fn a_hop_limit_is_set_and_taken_back_in_both_families() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = listen(address.parse().unwrap()).unwrap();
            let local = listener.local_addr().unwrap();
            let stream = TcpStream::connect(local).await.unwrap();
            let read = || HopLimit::of(&stream, local).unwrap().usual;
            let mut hops = HopLimit::of(&stream, local).unwrap();
            let usual = read();
            hops.set(&stream, Some(3)).unwrap();
            assert_eq!(read(), 3);
            hops.set(&stream, None).unwrap();
            assert_eq!(read(), usual);
        }
    }
}
