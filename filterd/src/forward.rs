//! One request to upstream and the beginning of its answer. Sends what the permit holds and nothing else.
//! Decides nothing; reads nothing of the client's connection.

use crate::line::Line;
use crate::stock::Stock;
use http_body_util::Empty;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{Builder, Connection, SendRequest};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use imds_ipc::DialFailure;
use imds_rules::{Permit, Secret, TOKEN_HEADER};
use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep, timeout};

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
const HOP_BY_HOP: [HeaderName; 9] = [
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
    way: Way,
    host: HeaderValue,
    /// Where it may go if the service keeps it, and as which upstream's.
    home: Option<(Rc<Stock>, u16)>,
}

enum Way {
    /// Dialled just now.
    Fresh(Line),
    /// It has answered before.
    Kept(Kept),
}

/// A connection whose last answer came wholly, and which the service keeps open.
pub(crate) struct Kept {
    sender: SendRequest<Empty<Bytes>>,
    wire: Wire,
}

impl Kept {
    pub(crate) fn is_quiet(&self) -> bool {
        self.wire.line.is_quiet() && self.sender.is_ready()
    }
}

impl Upstream {
    /// # Errors
    /// When the descriptor is no socket that can be waited for.
    pub fn new(stream: OwnedFd, host: HeaderValue) -> Result<Self, ForwardError> {
        let stream = std::net::TcpStream::from(stream);
        // interceptor is not trusted with this: a socket that blocks would stop every client
        stream.set_nonblocking(true).map_err(|_| ForwardError::Socket)?;
        let stream = TcpStream::from_std(stream).map_err(|_| ForwardError::Socket)?;
        Ok(Self { way: Way::Fresh(Line::new(stream)), host, home: None })
    }

    pub(crate) fn again(kept: Kept, host: HeaderValue) -> Self {
        Self { way: Way::Kept(kept), host, home: None }
    }

    pub(crate) fn returning_to(self, stock: &Rc<Stock>, upstream: u16) -> Self {
        Self { home: Some((Rc::clone(stock), upstream)), ..self }
    }

    /// Until it is connected.
    ///
    /// # Errors
    /// Why it cannot be.
    pub(crate) async fn connected(self, patience: Duration) -> Result<Self, DialFailure> {
        if let Way::Fresh(line) = &self.way {
            let connected = timeout(patience, line.connected()).await;
            connected.map_err(|_| DialFailure::TimedOut)?.map_err(|error| failure(error.kind()))?;
        }
        Ok(self)
    }

    pub(crate) fn host(&self) -> HeaderValue {
        self.host.clone()
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
    let request = request(permit, upstream.host(), None)?;
    send(request, upstream, max_body).await
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
    let request = request(permit, upstream.host(), Some(token))?;
    send(request, upstream, max_body).await
}

/// Sends a request of ours and waits for the head of its answer.
pub(crate) async fn send(
    request: Request<Empty<Bytes>>,
    upstream: Upstream,
    max_body: u64,
) -> Result<Answer, ForwardError> {
    let (Kept { mut sender, mut wire }, again) = match upstream.way {
        Way::Fresh(line) => (shake_hands(line).await?, false),
        Way::Kept(kept) => (kept, true),
    };
    let for_head = request.method() == Method::HEAD;
    let heard_before = wire.line.heard();
    let mut response = pin!(sender.send_request(request));
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
        Err(_) if again && wire.line.heard() == heard_before => return Err(ForwardError::Unheard),
        Err(_) => return Err(ForwardError::NoAnswer),
    };
    let home = upstream.home.filter(|_| !for_head && ends_surely(&response));
    let home = home.map(|(stock, upstream)| Home { stock, upstream, sender });
    answer(response, wire, home, max_body)
}

async fn shake_hands(line: Line) -> Result<Kept, ForwardError> {
    let handshake = Builder::new()
        .preserve_header_case(true)
        .title_case_headers(true)
        .max_buf_size(MAX_BUFFER)
        .handshake(TokioIo::new(line.clone()))
        .await;
    let (sender, connection) = handshake.map_err(|_| ForwardError::NoAnswer)?;
    Ok(Kept { sender, wire: Wire { connection: Box::pin(connection), line, ended: false } })
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

fn request(
    permit: &Permit,
    host: HeaderValue,
    ours: Option<&Secret>,
) -> Result<Request<Empty<Bytes>>, ForwardError> {
    let judged = permit.request();
    let method = match judged.method() {
        imds_rules::Method::Get => Method::GET,
        imds_rules::Method::Head => Method::HEAD,
        imds_rules::Method::Put => Method::PUT,
    };
    let mut request =
        Request::builder().method(method).uri(judged.upstream_target()).header(header::HOST, host);
    for (name, value) in judged.upstream_headers() {
        if ours.is_none() || !name.eq_ignore_ascii_case(TOKEN_HEADER) {
            request = request.header(name, unseen(value)?);
        }
    }
    if let Some(token) = ours {
        request = request.header(TOKEN_HEADER, unseen(token.bytes())?);
    }
    if judged.method() == imds_rules::Method::Put {
        request = request.header(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    // after an answer to HEAD the connection is not kept, see below
    if judged.method() == imds_rules::Method::Head {
        request = request.header(header::CONNECTION, HeaderValue::from_static("close"));
    }
    request.body(Empty::new()).map_err(|_| ForwardError::Request)
}

/// A value that hyper does not show either; what it sends it from is its own copy, which nobody wipes.
fn unseen(secret: &[u8]) -> Result<HeaderValue, ForwardError> {
    let mut value = HeaderValue::from_bytes(secret).map_err(|_| ForwardError::Request)?;
    value.set_sensitive(true);
    Ok(value)
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
    let wire = Some(wire);
    let mut response = response.map(|body| Flow { ahead: VecDeque::new(), body, wire, home, patience: None });
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

/// hyper's half of the work on an upstream connection; makes progress only when polled, and needs no task of its own.
struct Wire {
    connection: Pin<Box<Connection<TokioIo<Line>, Empty<Bytes>>>>,
    line: Line,
    ended: bool,
}

impl Wire {
    /// Errors reach the answer or its body by themselves.
    fn poll(&mut self, cx: &mut Context<'_>) {
        if !self.ended {
            self.ended = self.connection.as_mut().poll(cx).is_ready();
        }
    }
}

/// Why the body of an answer is not whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FlowError {
    Ended,
    Stalled,
}

impl fmt::Display for FlowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ended => "upstream ended too early",
            Self::Stalled => "upstream stalled",
        })
    }
}

impl std::error::Error for FlowError {}

/// Where a connection goes if its answer comes wholly.
struct Home {
    stock: Rc<Stock>,
    upstream: u16,
    sender: SendRequest<Empty<Bytes>>,
}

/// The body of an answer. Dropping it drops the upstream connection, unless that is of further use.
pub(crate) struct Flow {
    /// Read, and not passed on yet.
    ahead: VecDeque<Result<Frame<Bytes>, FlowError>>,
    body: Incoming,
    /// Until it is dropped.
    wire: Option<Wire>,
    home: Option<Home>,
    /// Runs while upstream keeps us waiting.
    patience: Option<Pin<Box<Sleep>>>,
}

impl Flow {
    /// Until the body has ended, one way or the other.
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.body.is_end_stream() {
            let Some(frame) = ready!(self.poll_next(cx)) else { break };
            let ended = frame.is_err();
            self.ahead.push_back(frame);
            if ended {
                break;
            }
        }
        Poll::Ready(())
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, FlowError>>> {
        if let Some(wire) = &mut self.wire {
            wire.poll(cx);
        }
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.patience = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(|_| FlowError::Ended)));
        }
        let timer = self.patience.get_or_insert_with(|| Box::pin(sleep(STALL_TIME)));
        timer.as_mut().poll(cx).map(|()| Some(Err(FlowError::Stalled)))
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        let (Some(mut wire), Some(Home { stock, upstream, sender })) = (self.wire.take(), self.home.take())
        else {
            return;
        };
        if !self.body.is_end_stream() {
            return;
        }
        // hyper looks whether anything came behind the answer, and ends what is not as it should be
        wire.poll(&mut Context::from_waker(Waker::noop()));
        if !wire.ended && sender.is_ready() {
            stock.put(upstream, Kept { sender, wire });
        }
    }
}

impl Body for Flow {
    type Data = Bytes;
    type Error = FlowError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, FlowError>>> {
        match self.ahead.pop_front() {
            Some(frame) => Poll::Ready(Some(frame)),
            None => self.poll_next(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ahead.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let ahead = self.ahead.iter().flatten().filter_map(Frame::data_ref).map(Bytes::len).sum::<usize>();
        let ahead = u64::try_from(ahead).unwrap_or(u64::MAX);
        let rest = self.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(ahead));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(ahead));
        }
        hint
    }
}

#[cfg(test)]
mod tests;
