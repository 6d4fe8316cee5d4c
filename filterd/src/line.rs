//! The socket of an upstream connection. Counts what came, so that a kept connection which had ended can be told from one
//! that answered badly.
//! Looks at no byte; no poll of it waits.

use rustix::io::Errno;
use rustix::net::RecvFlags;
use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

/// Offered to one read: what a small answer has, and a fair piece of a large one.
const PIECE: usize = 8192;

/// One socket; each copy is the same.
#[derive(Clone)]
pub(crate) struct Line {
    stream: Rc<TcpStream>,
    heard: Rc<Cell<u64>>,
}

impl Line {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream: Rc::new(stream), heard: Rc::default() }
    }

    /// Until a socket that is being connected is, or cannot be.
    ///
    /// # Errors
    /// Why it cannot.
    pub(crate) async fn connected(&self) -> io::Result<()> {
        self.stream.writable().await?;
        self.stream.take_error()?.map_or(Ok(()), Err)
    }

    /// How many bytes have come.
    pub(crate) fn heard(&self) -> u64 {
        self.heard.get()
    }

    /// Open, and nothing to read.
    pub(crate) fn is_quiet(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let got = rustix::net::recv(&*self.stream, &mut [0_u8; 1][..], flags);
        got.is_err_and(|errno| errno == Errno::AGAIN)
    }

    /// Until all are on their way.
    ///
    /// # Errors
    /// When it has ended.
    pub(crate) async fn send(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let sent = poll_fn(|cx| self.poll_send(cx, bytes)).await?;
            bytes = bytes.get(sent..).unwrap_or(b"");
        }
        Ok(())
    }

    fn poll_send(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            match self.stream.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
                sent => return Poll::Ready(sent),
            }
        }
    }

    /// What comes next, into the room that `bytes` has; 0 at the end.
    ///
    /// # Errors
    /// When it was broken off.
    pub(crate) async fn hear(&self, bytes: &mut Vec<u8>) -> io::Result<usize> {
        let room = bytes.capacity() - bytes.len();
        poll_fn(|cx| self.poll_hear(cx, room, |stream| stream.try_read_buf(bytes))).await
    }

    fn poll_hear(
        &self,
        cx: &mut Context<'_>,
        room: usize,
        mut hear: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            match hear(&self.stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
                Err(error) => return Poll::Ready(Err(error)),
                Ok(count) => {
                    if count < room {
                        // a short read emptied it, and what comes later is an event of its own: no read to be told so
                        let emptied = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
                        let _ = self.stream.try_io(Interest::READABLE, emptied);
                    }
                    let more = u64::try_from(count).unwrap_or(u64::MAX);
                    self.heard.set(self.heard.get().saturating_add(more));
                    return Poll::Ready(Ok(count));
                }
            }
        }
    }
}

/// A line on which the request was sent before hyper came to read the answer: it reads first what was heard already, and
/// no byte that it writes leaves.
pub(crate) struct Told {
    line: Line,
    heard: Zeroizing<Vec<u8>>,
    /// Bytes of `heard` that hyper has.
    read: usize,
    /// hyper takes what comes before its own request for nobody's answer: it reads when it has written.
    written: bool,
    reader: Option<Waker>,
}

impl Told {
    pub(crate) fn nothing(line: Line) -> Self {
        Self::more(line, Zeroizing::default())
    }

    pub(crate) fn more(line: Line, heard: Zeroizing<Vec<u8>>) -> Self {
        Self { line, heard, read: 0, written: false, reader: None }
    }

    pub(crate) fn line(&self) -> &Line {
        &self.line
    }
}

impl AsyncRead for Told {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.written {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let room = buffer.remaining().min(PIECE);
        let ahead = self.heard.get(self.read..).unwrap_or(b"");
        if !ahead.is_empty() {
            let (now, _) = ahead.split_at_checked(room).unwrap_or((ahead, b""));
            buffer.put_slice(now);
            self.read += now.len();
            return Poll::Ready(Ok(()));
        }
        let hear = |stream: &TcpStream| stream.try_read(buffer.initialize_unfilled_to(room));
        let count = ready!(self.line.poll_hear(cx, room, hear))?;
        buffer.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Told {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.written = true;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Closing it, which is next, says the same to the service.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
