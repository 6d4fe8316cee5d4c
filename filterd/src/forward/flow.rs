//! The body of an answer that hyper reads.
//! Waits no longer than a limit for any byte; must not give a connection back of which any doubt is left.

use super::STALL_TIME;
use crate::line::{Line, Told};
use crate::stock::Stock;
use http_body_util::Empty;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{Connection, SendRequest};
use hyper_util::rt::TokioIo;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use tokio::time::{Sleep, sleep};

/// hyper's half of the work on an upstream connection; makes progress only when polled, and needs no task of its own.
pub(super) struct Wire {
    connection: Pin<Box<Connection<TokioIo<Told>, Empty<Bytes>>>>,
    line: Line,
    ended: bool,
}

impl Wire {
    pub(super) fn new(connection: Connection<TokioIo<Told>, Empty<Bytes>>, line: Line) -> Self {
        Self { connection: Box::pin(connection), line, ended: false }
    }

    pub(super) fn line(&self) -> &Line {
        &self.line
    }

    /// Errors reach the answer or its body by themselves.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) {
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
pub(super) struct Home {
    pub(super) stock: Rc<Stock>,
    pub(super) upstream: u16,
    pub(super) sender: SendRequest<Empty<Bytes>>,
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
    pub(super) fn new(body: Incoming, wire: Wire, home: Option<Home>) -> Self {
        Self { ahead: VecDeque::new(), body, wire: Some(wire), home, patience: None }
    }

    /// Until the body has ended, one way or the other.
    pub(super) fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<()> {
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
            stock.put(upstream, wire.line);
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
