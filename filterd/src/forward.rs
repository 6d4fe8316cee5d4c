//! One request to upstream and the beginning of its answer. Sends what the permit holds and nothing else.
//! Decides nothing; reads nothing of the client's connection.

mod flow;
mod plain;
mod words;

use crate::line::{Line, Told};
use crate::stock::Stock;
use flow::{Home, Wire};
use http_body_util::Empty;
use hyper::body::{Body, Bytes, Incoming};
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use imds_ipc::DialFailure;
use imds_rules::{Permit, Secret};
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

pub(crate) use flow::Flow;
pub(crate) use plain::{Forwarded, Plain};
pub(crate) use words::Words;

/// The service answers in milliseconds; clients give up after one or a few seconds.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// A service that sends nothing for so long in the middle of an answer is given up.
const STALL_TIME: Duration = Duration::from_secs(10);
/// Of an answer's head, and of its body held at a time. hyper's least is 8 KiB; a real head has 300 bytes.
const MAX_BUFFER: usize = 16 * 1024;

/// A small answer is read to its end before its first byte goes to the client, so that it goes at once: in the middle of
/// an answer the client could not be given to another filterd. As much as the socket to interceptor holds.
const AHEAD: u64 = 4 * 1024;
/// One that comes slowly is not held up for longer.
const AHEAD_TIME: Duration = Duration::from_millis(100);

/// Headers that belong to one connection and not to the answer (RFC 9110 section 7.6.1).
static HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// A connection to the service for one request.
pub struct Upstream {
    line: Line,
    /// It has answered before.
    again: bool,
    host: HeaderValue,
    /// Where it may go if the service keeps it, and as which upstream's.
    home: Option<(Rc<Stock>, u16)>,
}

impl Upstream {
    /// # Errors
    /// When the descriptor is no socket that can be waited for.
    pub fn new(stream: OwnedFd, host: HeaderValue) -> Result<Self, ForwardError> {
        let stream = std::net::TcpStream::from(stream);
        // interceptor is not trusted with this: a socket that blocks would stop every client
        stream.set_nonblocking(true).map_err(|_| ForwardError::Socket)?;
        let stream = TcpStream::from_std(stream).map_err(|_| ForwardError::Socket)?;
        Ok(Self { line: Line::new(stream), again: false, host, home: None })
    }

    pub(crate) fn again(line: Line, host: HeaderValue) -> Self {
        Self { line, again: true, host, home: None }
    }

    pub(crate) fn returning_to(self, stock: &Rc<Stock>, upstream: u16) -> Self {
        Self { home: Some((Rc::clone(stock), upstream)), ..self }
    }

    /// Until it is connected.
    ///
    /// # Errors
    /// Why it cannot be.
    pub(crate) async fn connected(self, patience: Duration) -> Result<Self, DialFailure> {
        let connected = timeout(patience, self.line.connected()).await;
        connected.map_err(|_| DialFailure::TimedOut)?.map_err(|error| failure(error.kind()))?;
        Ok(self)
    }

    pub(crate) fn host(&self) -> &HeaderValue {
        &self.host
    }
}

/// As interceptor says it, where it waits itself.
fn failure(kind: io::ErrorKind) -> DialFailure {
    match kind {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => DialFailure::Refused,
        io::ErrorKind::TimedOut => DialFailure::TimedOut,
        // no route, no permission
        _ => DialFailure::Unreachable,
    }
}

/// Why an allowed request got no answer from upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardError {
    /// What interceptor passed is no connection.
    Socket,
    /// The request cannot be put into words; the rules let nothing through that cannot.
    Request,
    /// Closed early, or not HTTP.
    NoAnswer,
    /// Not a byte: the service had ended the connection that it kept. The request may go by a fresh one.
    Unheard,
    TimedOut,
    /// It wants to speak another protocol.
    Switching,
    TooLarge,
}

impl fmt::Display for ForwardError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Socket => "interceptor passed no usable connection",
            Self::Request => "the request cannot be sent",
            Self::NoAnswer | Self::Unheard => "the metadata service gave no valid answer",
            Self::TimedOut => "the metadata service took too long",
            Self::Switching => "the metadata service wants another protocol",
            Self::TooLarge => "the answer is larger than the limit",
        })
    }
}

impl std::error::Error for ForwardError {}

/// An answer of upstream: a head that may be passed on as it is, and a body still to come.
pub struct Answer(pub(crate) Response<Flow>);

impl Answer {
    /// Reads the rest of a small answer.
    pub(crate) async fn read_ahead(&mut self) {
        let flow = self.0.body_mut();
        if flow.size_hint().exact().is_some_and(|length| length <= AHEAD) {
            let _ = timeout(AHEAD_TIME, poll_fn(|cx| flow.poll_ahead(cx))).await; // what is missing comes later
        }
    }
}

/// Sends the permitted request. `max_body`: bytes; an answer that announces more is refused here. The permit by reference:
/// what was [`ForwardError::Unheard`] is sent again by a fresh connection, each of which is for one request.
///
/// # Errors
/// When no answer comes that can be passed on.
pub async fn forward(permit: &Permit, upstream: Upstream, max_body: u64) -> Result<Answer, ForwardError> {
    let words = Words::of(permit, upstream.host(), None)?;
    send(&words, upstream, max_body).await
}

/// As [`forward`], for whom a plain answer is of use.
///
/// # Errors
/// As [`forward`].
pub(crate) async fn forward_plainly(
    permit: &Permit,
    upstream: Upstream,
    max_body: u64,
) -> Result<Forwarded, ForwardError> {
    let words = Words::of(permit, upstream.host(), None)?;
    plain::send_plainly(&words, upstream, max_body).await
}

/// As [`forward`], but with our token in place of the client's: what the service refuses because of our token is sent
/// again with another one.
///
/// # Errors
/// As [`forward`].
pub(crate) async fn forward_with(
    permit: &Permit,
    token: &Secret,
    upstream: Upstream,
    max_body: u64,
) -> Result<Answer, ForwardError> {
    let words = Words::of(permit, upstream.host(), Some(token))?;
    send(&words, upstream, max_body).await
}

/// Sends a request of ours and waits for the head of its answer.
pub(crate) async fn send(words: &Words, upstream: Upstream, max_body: u64) -> Result<Answer, ForwardError> {
    let Upstream { line, again, home, .. } = upstream;
    let sent = timeout(ANSWER_TIME, line.send(words.bytes())).await.map_err(|_| ForwardError::TimedOut)?;
    sent.map_err(|_| not_heard(again))?;
    by_hyper(words.method(), Told::nothing(line), again, home, max_body).await
}

fn not_heard(kept: bool) -> ForwardError {
    if kept { ForwardError::Unheard } else { ForwardError::NoAnswer }
}

/// hyper reads the answer to a request that is sent already. It gets a stand-in, of which no byte leaves, that says only
/// what framing the answer has.
async fn by_hyper(
    method: &Method,
    told: Told,
    again: bool,
    home: Option<(Rc<Stock>, u16)>,
    max_body: u64,
) -> Result<Answer, ForwardError> {
    let stand_in = Request::builder().method(method).uri("/").body(Empty::new());
    let stand_in = stand_in.map_err(|_| ForwardError::Request)?;
    let heard_before = told.line().heard();
    let (mut sender, mut wire) = Box::pin(shake_hands(told)).await?;
    let mut response = pin!(sender.send_request(stand_in));
    let answered = poll_fn(|cx| {
        wire.poll(cx);
        response.as_mut().poll(cx)
    });
    let response = timeout(ANSWER_TIME, answered).await.map_err(|_| ForwardError::TimedOut)?;
    let response = match response {
        // some servers say so when they end an idle connection, whether or not a request is on its way
        Ok(response) if again && response.status() == StatusCode::REQUEST_TIMEOUT => {
            return Err(ForwardError::Unheard);
        }
        Ok(response) => response,
        Err(_) => return Err(not_heard(again && wire.line().heard() == heard_before)),
    };
    let home = home.filter(|_| method != Method::HEAD && ends_surely(&response));
    let home = home.map(|(stock, upstream)| Home { stock, upstream, sender });
    answer(response, wire, home, max_body)
}

async fn shake_hands(told: Told) -> Result<(SendRequest<Empty<Bytes>>, Wire), ForwardError> {
    let line = told.line().clone();
    let handshake = Builder::new()
        .preserve_header_case(true)
        .max_buf_size(MAX_BUFFER)
        .handshake(TokioIo::new(told))
        .await;
    let (sender, connection) = handshake.map_err(|_| ForwardError::NoAnswer)?;
    Ok((sender, Wire::new(connection, line)))
}

/// Whether nobody can take another byte for this answer's end than we do: only then another's answer may follow it.
fn ends_surely(response: &Response<Incoming>) -> bool {
    let headers = response.headers();
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let one_length = match (lengths.next(), lengths.next()) {
        // and no list of it
        (Some(length), None) => length.as_bytes().iter().all(u8::is_ascii_digit),
        (Some(_), Some(_)) | (None, _) => false,
    };
    let mut connection = headers.get_all(header::CONNECTION).iter();
    let stays = match (connection.next(), connection.next()) {
        (None, _) => true,
        (Some(option), None) => option.as_bytes().eq_ignore_ascii_case(b"keep-alive"),
        (Some(_), Some(_)) => false,
    };
    let has_body = match response.status() {
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => false,
        status => !status.is_informational(),
    };
    response.version() == Version::HTTP_11
        && one_length
        && stays
        && has_body
        && !headers.contains_key(header::TRANSFER_ENCODING)
        && response.body().size_hint().exact().is_some()
}

fn answer(
    response: Response<Incoming>,
    wire: Wire,
    home: Option<Home>,
    max_body: u64,
) -> Result<Answer, ForwardError> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(ForwardError::Switching);
    }
    if response.body().size_hint().lower() > max_body {
        return Err(ForwardError::TooLarge);
    }
    // the extensions stay: hyper keeps the spelling of the header names and the reason phrase there
    let mut response = response.map(|body| Flow::new(body, wire, home));
    *response.version_mut() = Version::HTTP_11;
    *response.headers_mut() = end_to_end(response.headers());
    Ok(Answer(response))
}

/// The headers that are the answer's own, in their order.
fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let chunked = headers.contains_key(header::TRANSFER_ENCODING);
    let mut kept = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        // RFC 9112 section 6.3: beside Transfer-Encoding a Content-Length says nothing, and must not be passed on
        let misleading = chunked && *name == header::CONTENT_LENGTH;
        if !misleading && !HOP_BY_HOP.contains(name) && !is_named_by_connection(headers, name) {
            kept.append(name, value.clone());
        }
    }
    kept
}

fn is_named_by_connection(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.get_all(header::CONNECTION).iter().any(|value| {
        value
            .as_bytes()
            .split(|byte| *byte == b',')
            .any(|option| option.trim_ascii().eq_ignore_ascii_case(name.as_str().as_bytes()))
    })
}

#[cfg(test)]
mod tests;
