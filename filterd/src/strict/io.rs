//! What hyper reads from and writes to instead of the client's socket: hyper never sees a byte of the client's.
//! For each head it gets a stand-in that says only what framing the answer needs; the head itself goes to the slot.

use super::collector::{Collected, Collector};
use super::head::{Head, Malformed};
use hyper::rt::{Read, ReadBufCursor, Write};
use imds_ipc::MAX_ANSWER;
use imds_rules::Version;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::{Instant, Sleep};

/// A head begun is complete within this, or refused.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// A client that takes no byte of its answer for this long is let go.
const WRITE_TIME: Duration = Duration::from_secs(10);

/// The usual stand-in.
const GET_HTTP_1_1: &[u8] = b"GET / HTTP/1.1\r\n\r\n";

/// What is done with a connection while we drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Draining {
    No,
    /// No further head is wanted once the bytes at hand are served.
    Ends,
    /// No further head is wanted: what of the client's bytes is not answered is the next filterd's.
    HandsBack,
}

/// An answer that hyper has been given to the last byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Whole {
    /// Of the head that it answers.
    pub(crate) bytes: usize,
    /// The connection ends with it.
    pub(crate) closes: bool,
}

/// Where a head waits for its exchange. Between the reader and the exchanges of one connection.
pub(crate) struct Slot {
    head: RefCell<Option<Result<Head, Malformed>>>,
    /// The length of the head that is being answered.
    asked: Cell<usize>,
    whole: Cell<Option<Whole>>,
    pub(crate) draining: Cell<Draining>,
    /// The reader ended because of [`Draining::HandsBack`].
    pub(crate) handed_back: Cell<bool>,
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            head: RefCell::default(),
            asked: Cell::new(0),
            whole: Cell::new(None),
            draining: Cell::new(Draining::No),
            handed_back: Cell::new(false),
        }
    }
}

impl Slot {
    /// To be called when hyper has all of the answer: what it writes next ends with the answer's last byte.
    pub(crate) fn answer_is_whole(&self, closes: bool) {
        self.whole.set(Some(Whole { bytes: self.asked.take(), closes }));
    }

    pub(crate) fn take(&self) -> Option<Result<Head, Malformed>> {
        self.head.borrow_mut().take()
    }
}

/// What became of a client's first bytes before hyper came in.
pub(crate) enum First {
    /// They came, or come, and are looked at in their turn.
    Ahead,
    Collected(Collected),
    /// A head of so many bytes, of HTTP/1.1 and not HEAD's, that is answered.
    Answered(usize),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Waiting {
    /// For the first byte of a head.
    Idle,
    /// For the rest of one.
    Head,
}

/// Is told of a whole answer, and how many bytes will have been written at its end, before those are written.
pub(crate) type Announce = Box<dyn Fn(Whole, u64)>;

/// What is asked once, in a message, and is answered in one or else needs a stream.
pub(crate) trait Ask {
    /// The whole answer. `closes`: the connection ends with it.
    fn answer(&self, closes: bool, pieces: &[IoSlice<'_>]);
    /// A stream for what cannot be answered so, and for all that follows; `None` if the client has gone.
    fn open(&self) -> Opening;
}

pub(crate) type Opening = Pin<Box<dyn Future<Output = Option<Rc<UnixStream>>>>>;

/// How the client's bytes come and ours go.
pub(crate) enum Way {
    Stream(Rc<UnixStream>),
    Asked(Box<dyn Ask>),
    Opening(Opening),
    /// In one message; nothing follows.
    Answered,
}

pub(crate) struct StrictIo {
    way: Way,
    slot: Rc<Slot>,
    first: First,
    collector: Collector,
    idle_time: Duration,
    /// What is left of the stand-in that hyper is being given.
    stand_in: &'static [u8],
    /// Nothing follows: end of file, a refusal, or a time-out.
    finished: bool,
    waiting: Option<Waiting>,
    /// Bytes written to the client.
    written: u64,
    announce: Announce,
    read_timer: Option<Pin<Box<Sleep>>>,
    write_timer: Option<Pin<Box<Sleep>>>,
}

impl StrictIo {
    pub(crate) fn new(
        way: Way,
        slot: Rc<Slot>,
        first: First,
        collector: Collector,
        idle_time: Duration,
        announce: Announce,
    ) -> Self {
        Self {
            way,
            slot,
            first,
            collector,
            idle_time,
            stand_in: b"",
            finished: false,
            waiting: None,
            written: 0,
            announce,
            read_timer: None,
            write_timer: None,
        }
    }

    /// The next stand-in, or an empty one for the end.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&'static [u8]>> {
        loop {
            if self.finished {
                return Poll::Ready(Ok(b""));
            }
            // what was asked once is answered once
            if self.slot.draining.get() == Draining::HandsBack && matches!(self.way, Way::Stream(_)) {
                self.finished = true;
                self.slot.handed_back.set(true);
                continue;
            }
            let collected = match std::mem::replace(&mut self.first, First::Ahead) {
                First::Ahead => self.collector.next_head(),
                First::Collected(collected) => collected,
                First::Answered(length) => {
                    self.slot.asked.set(length);
                    return Poll::Ready(Ok(GET_HTTP_1_1));
                }
            };
            match collected {
                Collected::Head(head) => return Poll::Ready(Ok(self.hand_over(head))),
                Collected::Malformed(why) => return Poll::Ready(Ok(self.refuse(why))),
                Collected::Incomplete => (),
            }
            match self.poll_bytes(cx)? {
                Poll::Ready(0) => return Poll::Ready(Ok(self.end_of_file())),
                Poll::Ready(_) => (),
                Poll::Pending if self.slot.draining.get() == Draining::Ends && self.collector.is_empty() => {
                    self.finished = true
                }
                Poll::Pending => return self.poll_patience(cx).map(Ok),
            }
        }
    }

    /// What was asked becomes a stream.
    fn poll_stream(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Rc<UnixStream>>> {
        loop {
            match &mut self.way {
                Way::Stream(stream) => return Poll::Ready(Ok(Rc::clone(stream))),
                Way::Asked(ask) => self.way = Way::Opening(ask.open()),
                Way::Opening(opening) => match ready!(opening.as_mut().poll(cx)) {
                    Some(stream) => self.way = Way::Stream(stream),
                    None => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                },
                Way::Answered => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let stream = ready!(self.poll_stream(cx))?;
        loop {
            ready!(stream.poll_read_ready(cx))?;
            match stream.try_read_buf(self.collector.room()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
                other => return Poll::Ready(other),
            }
        }
    }

    /// Nothing to read now: how long we wait depends on whether a head is begun.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<&'static [u8]> {
        let (waiting, limit) = match self.collector.is_empty() {
            true => (Waiting::Idle, self.idle_time),
            false => (Waiting::Head, HEAD_TIME),
        };
        let timer = self.read_timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        if self.waiting != Some(waiting) {
            self.waiting = Some(waiting);
            timer.as_mut().reset(Instant::now() + limit);
        }
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(match waiting {
            Waiting::Idle => {
                self.finished = true;
                b""
            }
            Waiting::Head => self.refuse(Malformed::TooSlow),
        })
    }

    fn end_of_file(&mut self) -> &'static [u8] {
        if self.collector.is_empty() {
            self.finished = true;
            b""
        } else {
            self.refuse(Malformed::CutShort)
        }
    }

    fn hand_over(&mut self, head: Head) -> &'static [u8] {
        self.waiting = None;
        let stand_in: &[u8] = match (head.is_for_head_only(), head.version()) {
            (false, Version::Http11) => GET_HTTP_1_1,
            (false, Version::Http10) => b"GET / HTTP/1.0\r\n\r\n",
            (true, Version::Http11) => b"HEAD / HTTP/1.1\r\n\r\n",
            (true, Version::Http10) => b"HEAD / HTTP/1.0\r\n\r\n",
        };
        self.slot.asked.set(head.length());
        *self.slot.head.borrow_mut() = Some(Ok(head));
        stand_in
    }

    fn refuse(&mut self, why: Malformed) -> &'static [u8] {
        self.finished = true;
        *self.slot.head.borrow_mut() = Some(Err(why));
        GET_HTTP_1_1
    }

    /// Whether all of an answer could go in one message, and went.
    fn answers_ask(&mut self, bytes: &[IoSlice<'_>]) -> Option<usize> {
        let (Way::Asked(ask), Some(whole)) = (&self.way, self.slot.whole.get()) else { return None };
        // hyper offers all it has
        let length = bytes.iter().map(|piece| piece.len()).sum();
        if length > MAX_ANSWER || !(whole.closes || self.collector.is_empty()) {
            return None;
        }
        ask.answer(whole.closes, bytes);
        self.way = Way::Answered;
        self.finished = true;
        Some(length)
    }

    fn poll_write_any(&mut self, cx: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if let Some(written) = self.answers_ask(bytes) {
            return Poll::Ready(Ok(written));
        }
        let stream = ready!(self.poll_stream(cx))?;
        if let Some(whole) = self.slot.whole.take() {
            // hyper offers all it has
            (self.announce)(whole, bytes.iter().fold(self.written, |end, piece| plus(end, piece.len())));
        }
        loop {
            if stream.poll_write_ready(cx)?.is_pending() {
                let timer = self.write_timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITE_TIME)));
                ready!(timer.as_mut().poll(cx));
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            match stream.try_write_vectored(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
                other => {
                    self.write_timer = None;
                    self.written = plus(self.written, other.as_ref().map_or(0, |written| *written));
                    return Poll::Ready(other);
                }
            }
        }
    }
}

fn plus(bytes: u64, more: usize) -> u64 {
    bytes.saturating_add(u64::try_from(more).unwrap_or(u64::MAX))
}

impl Read for StrictIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.stand_in.is_empty() {
            self.stand_in = ready!(self.poll_head(cx))?;
        }
        let now = self.stand_in.len().min(buffer.remaining());
        let (now, later) = self.stand_in.split_at_checked(now).unwrap_or((self.stand_in, b""));
        buffer.put_slice(now);
        self.stand_in = later;
        Poll::Ready(Ok(()))
    }
}

impl Write for StrictIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_any(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_any(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// The socket is closed by the connection's task, after interceptor has been told that it is on purpose.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::io::Write as _;

    const IDLE: Duration = Duration::from_secs(60);

    /// Runs on a clock that jumps to the next timer whenever there is nothing to do.
    fn on_a_paused_clock(test: impl Future<Output = ()>) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().start_paused(true).build().unwrap().block_on(test);
    }

    fn pair() -> (StrictIo, std::os::unix::net::UnixStream, Rc<Slot>) {
        let (ours, client) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let ours = UnixStream::from_std(ours).unwrap();
        let slot = Rc::new(Slot::default());
        let announce = Box::new(|_, _| ());
        let way = Way::Stream(Rc::new(ours));
        let collector = Collector::new(4096);
        (StrictIo::new(way, Rc::clone(&slot), First::Ahead, collector, IDLE, announce), client, slot)
    }

    /// What hyper reads, at most `room` bytes.
    async fn read(io: &mut StrictIo, room: usize) -> String {
        let mut space = vec![0; room];
        let mut buffer = hyper::rt::ReadBuf::new(&mut space);
        poll_fn(|cx| Pin::new(&mut *io).poll_read(cx, buffer.unfilled())).await.unwrap();
        String::from_utf8(buffer.filled().to_vec()).unwrap()
    }

    #[test]
    fn hyper_reads_a_stand_in_for_each_head_and_no_byte_of_the_client() {
        on_a_paused_clock(async {
            let (mut io, mut client, slot) = pair();
            client.write_all(b"PUT /x?secret HTTP/1.1\r\nA: b\r\n\r\nHEAD /y HTTP/1.0\r\n\r\n").unwrap();
            assert_eq!(read(&mut io, 5).await, "GET /");
            assert_eq!(read(&mut io, 100).await, " HTTP/1.1\r\n\r\n");
            assert_eq!(slot.take().unwrap().unwrap().fields().unwrap().target, b"/x?secret");
            assert_eq!(read(&mut io, 100).await, "HEAD / HTTP/1.0\r\n\r\n");
            assert_eq!(slot.take().unwrap().unwrap().fields().unwrap().target, b"/y");
            drop(client);
            assert_eq!(read(&mut io, 100).await, "");
        });
    }

    #[test]
    fn a_head_begun_and_never_ended_is_refused_in_time_however_it_trickles() {
        on_a_paused_clock(async {
            let (mut io, mut client, slot) = pair();
            let begun = Instant::now();
            let trickle = async {
                for byte in b"GET / HTTP/1.1\r\nA: b\r\n" {
                    client.write_all(&[*byte]).unwrap();
                    tokio::time::sleep(Duration::from_secs(3)).await;
                }
            };
            tokio::select! {
                text = read(&mut io, 100) => assert_eq!(text, "GET / HTTP/1.1\r\n\r\n"),
                () = trickle => panic!("still waiting"),
            }
            assert_eq!(slot.take(), Some(Err(Malformed::TooSlow)));
            assert_eq!(begun.elapsed().as_secs(), HEAD_TIME.as_secs());
            assert_eq!(read(&mut io, 100).await, "", "nothing follows a refusal");
        });
    }

    #[test]
    fn a_client_that_sends_nothing_is_idle_and_sees_the_end_without_an_answer() {
        on_a_paused_clock(async {
            let (mut io, _client, slot) = pair();
            let begun = Instant::now();
            assert_eq!(read(&mut io, 100).await, "");
            assert_eq!(begun.elapsed().as_secs(), IDLE.as_secs());
            assert_eq!(slot.take(), None);
        });
    }

    #[test]
    fn a_client_that_never_reads_is_let_go_in_time() {
        on_a_paused_clock(async {
            let (mut io, _client, _) = pair();
            let begun = Instant::now();
            let error = loop {
                match poll_fn(|cx| Pin::new(&mut io).poll_write(cx, &[0; 65536])).await {
                    Ok(_) => (),
                    Err(error) => break error,
                }
            };
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert_eq!(begun.elapsed().as_secs(), WRITE_TIME.as_secs());
        });
    }
}
