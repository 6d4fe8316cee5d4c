//! What a client is answered with: a refusal of our own, or the relayed body of upstream's answer.
//! Refusals name no secret and quote nothing of the client's.

use crate::as_service;
use crate::audit::{Entry, Word};
use crate::channel::DialError;
use crate::fetch::NoTtl;
use crate::filter::{Client, Ending};
use crate::forward::{Answer, Flow, ForwardError};
use crate::limits::OverLimit;
use crate::strict::Malformed;
use crate::tokens::{Invalid, NoRandom, OwnError};
use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};
use imds_ipc::DialFailure;
use imds_rules::{Refusal, Why};
use imds_settings::RefuseStatus;
use std::fmt::Display;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// An answer that we write ourselves.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) status: StatusCode,
    pub(crate) word: Word,
    pub(crate) why: String,
    allow: Option<&'static str>,
    retry: bool,
    /// The connection is of no use after this.
    pub(crate) close: bool,
    /// Written as the metadata service would.
    page: Option<fn() -> Response<Bytes>>,
}

impl Refused {
    fn new(status: StatusCode, word: Word, why: impl ToString) -> Self {
        Self { status, word, why: why.to_string(), allow: None, retry: false, close: false, page: None }
    }

    pub(crate) fn denied(why: String) -> Self {
        Self::new(StatusCode::FORBIDDEN, Word::Deny, why)
    }

    /// As the settings want it: another filter's clients may know its status.
    pub(crate) fn instead_of_403(mut self, wanted: RefuseStatus) -> Self {
        if self.status == StatusCode::FORBIDDEN && self.word != Word::Error {
            self.status = status(wanted.number());
        }
        self
    }

    pub(crate) fn response(&self) -> Response<AnswerBody> {
        if let Some(page) = self.page {
            return page().map(|bytes| AnswerBody::Ours(Some(bytes)));
        }
        let text = Bytes::from(format!("imds-filterd: {}\n", self.why));
        let mut response = Response::new(AnswerBody::Ours(Some(text)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        if let Some(allow) = self.allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        if self.retry {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

fn status(number: u16) -> StatusCode {
    StatusCode::from_u16(number).unwrap_or(StatusCode::BAD_REQUEST)
}

impl From<Malformed> for Refused {
    fn from(why: Malformed) -> Self {
        Self { close: true, ..Self::new(status(why.status()), Word::Refuse, why) }
    }
}

impl From<Refusal> for Refused {
    fn from(why: Refusal) -> Self {
        Self { close: true, allow: why.allow(), ..Self::new(status(why.status()), Word::Refuse, why) }
    }
}

/// In the words of the answer and of the log.
pub(crate) fn denied(why: &Why, client: &Client) -> String {
    match (why, &client.subject) {
        (Why::Rule(rule) | Why::InDoubt(rule), _) => format!("denied by rule line {}", rule.line),
        (Why::NoRule, _) => "denied: no rule allows it".into(),
        (Why::Unattributed, Err(reason)) => format!("denied: not known who asks: {reason}"),
        (Why::Unattributed, Ok(_)) => "denied: not known who asks".into(),
    }
}

impl From<OverLimit> for Refused {
    fn from(over: OverLimit) -> Self {
        let close = match over {
            OverLimit::Connections => true,
            OverLimit::Requests => false,
        };
        Self { retry: true, close, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, Word::Limit, over) }
    }
}

impl From<DialError> for Refused {
    fn from(error: DialError) -> Self {
        let status = match error {
            DialError::Failed(DialFailure::TimedOut) | DialError::NoAnswer => StatusCode::GATEWAY_TIMEOUT,
            DialError::Failed(DialFailure::TooMany) => {
                let busy = Self::new(StatusCode::SERVICE_UNAVAILABLE, Word::Limit, error);
                return Self { retry: true, ..busy };
            }
            DialError::Failed(
                DialFailure::Refused | DialFailure::Unreachable | DialFailure::UnknownUpstream,
            )
            | DialError::ChannelGone => StatusCode::BAD_GATEWAY,
        };
        Self::new(status, Word::Error, error)
    }
}

impl From<ForwardError> for Refused {
    fn from(error: ForwardError) -> Self {
        let status = match error {
            ForwardError::TimedOut => StatusCode::GATEWAY_TIMEOUT,
            ForwardError::Socket
            | ForwardError::Request
            | ForwardError::NoAnswer
            | ForwardError::Unheard
            | ForwardError::Switching
            | ForwardError::TooLarge => StatusCode::BAD_GATEWAY,
        };
        Self::new(status, Word::Error, error)
    }
}

impl From<Invalid> for Refused {
    fn from(_: Invalid) -> Self {
        let why = "token that is not valid for this user";
        let page: fn() -> _ = as_service::unauthorized;
        Self { close: true, page: Some(page), ..Self::new(StatusCode::UNAUTHORIZED, Word::Refuse, why) }
    }
}

impl From<NoTtl> for Refused {
    fn from(_: NoTtl) -> Self {
        let why = "no life of 1 to 21600 seconds is asked for the token";
        let page: fn() -> _ = as_service::bad_request;
        Self { close: true, page: Some(page), ..Self::new(StatusCode::BAD_REQUEST, Word::Refuse, why) }
    }
}

impl From<NoRandom> for Refused {
    fn from(_: NoRandom) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, Word::Error, "no random numbers")
    }
}

impl From<OwnError> for Refused {
    fn from(error: OwnError) -> Self {
        match error {
            OwnError::Dial(error) => error.into(),
            OwnError::Forward(error) => error.into(),
            // what the service says to who asks for a token: 403 when it is switched off, 503 when it has enough
            OwnError::Refused(status)
                if status.is_client_error() || status == StatusCode::SERVICE_UNAVAILABLE =>
            {
                let retry = status == StatusCode::SERVICE_UNAVAILABLE;
                Self { retry, ..Self::new(status, Word::Error, error) }
            }
            OwnError::Refused(_) | OwnError::NoToken => {
                Self::new(StatusCode::BAD_GATEWAY, Word::Error, error)
            }
        }
    }
}

/// Passes the answer on; its line goes to the audit trail when the last byte of the body is handed over, or when it
/// turns out that it will not be. `max_body`: bytes.
pub(crate) fn relay(answer: Answer, client: Rc<Client>, entry: Entry, max_body: u64) -> Response<AnswerBody> {
    answer.0.map(|flow| {
        let relay = Relay { flow, client, entry, left: max_body, whole: false };
        AnswerBody::Relayed(Box::new(relay))
    })
}

/// Pulled by hyper as fast as the client reads: that is the backpressure.
pub(crate) struct Relay {
    flow: Flow,
    client: Rc<Client>,
    entry: Entry,
    /// Bytes that may still come.
    left: u64,
    whole: bool,
}

impl Relay {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        loop {
            match Pin::new(&mut self.flow).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => return Poll::Ready(Some(self.pass(data))),
                    Err(_trailers) => (), // belong to the connection with upstream
                },
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(self.cut(error))),
                Poll::Ready(None) => {
                    self.whole = true;
                    return Poll::Ready(None);
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn pass(&mut self, data: Bytes) -> io::Result<Frame<Bytes>> {
        let bytes = u64::try_from(data.len()).unwrap_or(u64::MAX);
        let Some(left) = self.left.checked_sub(bytes) else {
            return self.cut("larger than the limit");
        };
        self.left = left;
        self.entry.bytes = self.entry.bytes.saturating_add(bytes);
        Ok(Frame::data(data))
    }

    /// hyper gives the connection up for this; the client sees a reset and not an end.
    fn cut(&mut self, why: impl Display) -> io::Result<Frame<Bytes>> {
        self.entry.why = format!("answer cut: {why}");
        Err(io::Error::other(self.entry.why.clone()))
    }
}

impl Relay {
    /// hyper does not ask again once an announced length is reached.
    fn is_whole(&self) -> bool {
        self.whole || self.flow.is_end_stream()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if !self.is_whole() {
            self.client.ending.set(Ending::Cut);
            if self.entry.why.is_empty() {
                self.entry.why = "answer cut: the client is gone".into();
            }
        }
    }
}

pub(crate) enum AnswerBody {
    Ours(Option<Bytes>),
    Relayed(Box<Relay>),
}

impl AnswerBody {
    /// Whether hyper wants nothing more of it. Of a refusal it takes all or, for HEAD, nothing.
    pub(crate) fn is_whole(&self) -> bool {
        match self {
            Self::Ours(_) => true,
            Self::Relayed(relay) => relay.is_whole(),
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Ours(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Self::Relayed(relay) => relay.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Ours(text) => text.is_none(),
            Self::Relayed(relay) => relay.flow.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Ours(text) => {
                SizeHint::with_exact(text.as_ref().map_or(0, |text| u64::try_from(text.len()).unwrap_or(0)))
            }
            Self::Relayed(relay) => relay.flow.size_hint(),
        }
    }
}
