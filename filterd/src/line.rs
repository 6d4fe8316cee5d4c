//! The socket of an upstream connection, as hyper reads and writes it. Counts what came, so that a kept connection which
//! had ended can be told from one that answered badly.
//! Must not wait in any call.

use rustix::io::Errno;
use rustix::net::RecvFlags;
use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

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
}

impl AsyncRead for Line {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            let room = buffer.remaining().min(PIECE);
            match self.stream.try_read(buffer.initialize_unfilled_to(room)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
                Err(error) => return Poll::Ready(Err(error)),
                Ok(count) => {
                    if count < room {
                        // a short read emptied it, and what comes later is an event of its own: no read to be told so
                        let _ = self
                            .stream
                            .try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
                    }
                    buffer.advance(count);
                    let count = u64::try_from(count).unwrap_or(u64::MAX);
                    self.heard.set(self.heard.get().saturating_add(count));
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl Line {
    fn poll_send(
        &self,
        cx: &mut Context<'_>,
        send: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            match send(&self.stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
                sent => return Poll::Ready(sent),
            }
        }
    }
}

impl AsyncWrite for Line {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, |stream| stream.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, |stream| stream.try_write_vectored(pieces))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Closing it, which is next, says the same to the service.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
