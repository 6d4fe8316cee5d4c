//! A plain answer: short, HTTP/1.1, its end told by one Content-Length and beyond doubt. Read and passed on as it came.
//! Whatever is not plain is hyper's to read, from its first byte.

use super::{
    AHEAD, AHEAD_TIME, ANSWER_TIME, Answer, ForwardError, HOP_BY_HOP, Told, Upstream, Words, by_hyper,
    not_heard, send,
};
use crate::line::Line;
use httparse::{EMPTY_HEADER, Header, Status};
use hyper::Method;
use hyper::header::HeaderName;
use imds_ipc::MAX_ANSWER;
use std::io;
use tokio::time::{Instant, timeout, timeout_at};
use zeroize::Zeroizing;

/// Nearly every answer; the rest of a longer one comes by a second read.
const FIRST: usize = 1024;
/// An answer with more is left to hyper.
const MAX_FIELDS: usize = 32;
const CLOSE: &[u8] = b"Connection: close\r\n";
const END: &[u8] = b"\r\n";

/// The service's answer to a request.
pub(crate) enum Forwarded {
    Plain(Plain),
    Other(Answer),
}

/// A whole answer, as it is passed on.
pub(crate) struct Plain {
    pub(crate) status: u16,
    /// Of the body.
    pub(crate) bytes: usize,
    /// All but the end of the head and the body, with room for them.
    head: Zeroizing<Vec<u8>>,
    /// As it was read, and where the body begins there.
    read: Zeroizing<Vec<u8>>,
    body: usize,
}

impl Plain {
    /// For the client. `closes`: its connection ends with this.
    pub(crate) fn passed_on(mut self, closes: bool) -> Zeroizing<Vec<u8>> {
        if closes {
            self.head.extend_from_slice(CLOSE);
        }
        self.head.extend_from_slice(END);
        self.head.extend_from_slice(self.read.get(self.body..).unwrap_or(b""));
        self.head
    }
}

/// Sends a request of ours and waits for its answer.
pub(super) async fn send_plainly(
    words: &Words,
    upstream: Upstream,
    max_body: u64,
) -> Result<Forwarded, ForwardError> {
    if *words.method() == Method::HEAD {
        return Ok(Forwarded::Other(Box::pin(send(words, upstream, max_body)).await?));
    }
    let until = Instant::now() + ANSWER_TIME;
    let Upstream { line, again, home, .. } = upstream;
    let mut read = Zeroizing::new(Vec::with_capacity(FIRST));
    let heard = async {
        line.send(words.bytes()).await?;
        hear(&line, &mut read, Look::lacks_head).await
    };
    let heard = timeout_at(until, heard).await.map_err(|_| ForwardError::TimedOut)?;
    let mut look = heard.map_err(|_| not_heard(again && read.is_empty()))?;
    if matches!(look, Look::NoBody)
        // a body that comes slowly is not held up for longer
        && let Ok(heard) = timeout(AHEAD_TIME, hear(&line, &mut read, Look::lacks_body)).await
    {
        look = heard.map_err(|_| ForwardError::NoAnswer)?;
    }
    match look {
        Look::Excuse if again => Err(ForwardError::Unheard),
        Look::Plain(shape) if u64::try_from(shape.bytes).is_ok_and(|bytes| bytes <= max_body) => {
            if let (true, Some((stock, upstream))) = (shape.stays, home) {
                stock.put(upstream, line);
            }
            let Shape { status, bytes, head, body, stays: _ } = shape;
            Ok(Forwarded::Plain(Plain { status, bytes, head, read, body }))
        }
        Look::NoHead | Look::NoBody | Look::Excuse | Look::Odd | Look::Plain(_) => {
            let told = Told::more(line, read);
            let answer = Box::pin(by_hyper(words.method(), told, false, home, max_body)).await?;
            Ok(Forwarded::Other(answer))
        }
    }
}

/// Reads until it `lacks` no more what it lacks, or the end.
async fn hear(line: &Line, read: &mut Zeroizing<Vec<u8>>, lacks: fn(&Look) -> bool) -> io::Result<Look> {
    loop {
        if read.len() == read.capacity() {
            // not grown in place, which could leave a copy behind
            let mut larger = Zeroizing::new(Vec::with_capacity(MAX_ANSWER));
            larger.extend_from_slice(read);
            *read = larger;
        }
        let count = line.hear(read).await?;
        if count == 0 && read.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let look = Look::at(read);
        if !lacks(&look) {
            return Ok(look);
        }
        if count == 0 || read.len() >= MAX_ANSWER {
            return Ok(Look::Odd);
        }
    }
}

/// What the bytes so far are.
enum Look {
    NoHead,
    NoBody,
    /// Some servers say so when they end an idle connection, whether or not a request is on its way.
    Excuse,
    Plain(Shape),
    /// Not plain.
    Odd,
}

struct Shape {
    status: u16,
    bytes: usize,
    head: Zeroizing<Vec<u8>>,
    /// Where it begins.
    body: usize,
    /// The service keeps the connection.
    stays: bool,
}

impl Look {
    fn lacks_head(&self) -> bool {
        matches!(self, Self::NoHead)
    }

    fn lacks_body(&self) -> bool {
        matches!(self, Self::NoHead | Self::NoBody)
    }

    fn at(read: &[u8]) -> Self {
        let mut fields = [EMPTY_HEADER; MAX_FIELDS];
        let mut response = httparse::Response::new(&mut fields);
        let body = match response.parse(read) {
            Ok(Status::Complete(length)) => length,
            Ok(Status::Partial) => return Self::NoHead,
            Err(_) => return Self::Odd,
        };
        let (Some(1), Some(status)) = (response.version, response.code) else { return Self::Odd };
        match status {
            408 => return Self::Excuse,
            // neither of these has a body, whatever it says
            204 | 304 => return Self::Odd,
            200..=599 => {}
            _ => return Self::Odd,
        }
        let Some(framing) = Framing::of(response.headers) else { return Self::Odd };
        let Some(end) = body.checked_add(framing.length) else { return Self::Odd };
        if u64::try_from(framing.length).map_or(true, |length| length > AHEAD) || read.len() > end {
            return Self::Odd;
        }
        if read.len() < end {
            return Self::NoBody;
        }
        let head = head(status, response.reason.unwrap_or(""), response.headers, framing.length);
        if head.len() + CLOSE.len() + END.len() + framing.length > MAX_ANSWER {
            return Self::Odd;
        }
        Self::Plain(Shape { status, bytes: framing.length, head, body, stays: framing.stays })
    }
}

/// How an answer ends, and its connection.
struct Framing {
    length: usize,
    stays: bool,
}

impl Framing {
    /// Only if nobody can take another byte for the answer's end than we do.
    fn of(headers: &[Header<'_>]) -> Option<Self> {
        let (mut length, mut connection) = (None, None);
        for header in headers {
            let once = match header.name {
                name if name.eq_ignore_ascii_case("content-length") => &mut length,
                name if name.eq_ignore_ascii_case("connection") => &mut connection,
                name if name.eq_ignore_ascii_case("transfer-encoding") => return None,
                _ => continue,
            };
            if once.replace(header.value).is_some() {
                return None;
            }
        }
        let stays = match connection {
            None => true,
            Some(option) if option.eq_ignore_ascii_case(b"keep-alive") => true,
            Some(option) if option.eq_ignore_ascii_case(b"close") => false,
            Some(_) => return None,
        };
        let length = length.filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
        Some(Self { length: std::str::from_utf8(length).ok()?.parse().ok()?, stays })
    }
}

/// The status line and the headers that are the answer's own, in their order and spelling.
fn head(status: u16, reason: &str, headers: &[Header<'_>], body: usize) -> Zeroizing<Vec<u8>> {
    let own = |header: &&Header<'_>| {
        let connections = |name: &HeaderName| name.as_str().eq_ignore_ascii_case(header.name);
        // named by `Connection: close`, should there be such a header
        !HOP_BY_HOP.iter().any(connections) && !header.name.eq_ignore_ascii_case("close")
    };
    let line = format!("HTTP/1.1 {status:03} {reason}\r\n");
    let own = || headers.iter().filter(own);
    let around = ": \r\n".len();
    let length = own().fold(line.len(), |sum, header| sum + header.name.len() + header.value.len() + around);
    let mut head = Zeroizing::new(Vec::with_capacity(length + CLOSE.len() + END.len() + body));
    head.extend_from_slice(line.as_bytes());
    for Header { name, value } in own() {
        for piece in [name.as_bytes(), b": ", value, b"\r\n"] {
            head.extend_from_slice(piece);
        }
    }
    head
}
