//! One captured connection: its exchanges one after the other, then its end.
//! Judges nothing. Tells interceptor before it closes on purpose, and only then.

use crate::answer::AnswerBody;
use crate::channel::Captured;
use crate::exchange::exchange;
use crate::filter::{Client, Ending, Filter, Running};
use crate::strict::{Draining, Slot, StrictIo, Whole};
use crate::subject::subject;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper::{Response, header};
use imds_ipc::FromFilterd;
use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::net::UnixStream;
use tokio::time::timeout;
use zeroize::Zeroizing;

/// After a refusal what the client still sends is read and dropped, so that it sees our answer and not a reset.
const LINGER_TIME: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 * 1024;
/// hyper reads stand-ins only, and writes heads: its least is enough.
const MAX_BUFFER: usize = 8192;

/// Takes a connection from interceptor, or refuses it.
pub(crate) fn take(filter: &Rc<Filter>, captured: Captured) {
    let id = captured.id;
    if let Err(why) = try_take(filter, captured) {
        tracing::warn!("connection {id} not taken: {why}");
        filter.interceptor.say(&FromFilterd::Close { connection: id });
    }
}

fn try_take(filter: &Rc<Filter>, captured: Captured) -> Result<(), &'static str> {
    if filter.open.get() >= filter.settings.connections {
        return Err("too many connections");
    }
    let service = filter.service(captured.upstream, captured.service).ok_or("not to a service of ours")?;
    let stream = stream_of(captured.stream).map_err(|_| "its descriptor is no stream")?;
    let told = captured.subject;
    let uid = told.as_ref().ok().map(|told| told.uid);
    let client = Client {
        id: captured.id,
        process: told.as_ref().ok().and_then(|told| told.process.clone()),
        subject: told.map(|told| subject(told, filter.groups)),
        address: captured.client,
        service,
        over: filter.limits.borrow_mut().open(uid, Instant::now()).err(),
        ending: Cell::new(Ending::Clean),
        used: Cell::new(false),
        end_is_said: Cell::new(false),
    };
    let counted = Counted::new(filter, client);
    tokio::task::spawn_local(serve(counted, stream));
    Ok(())
}

/// interceptor is not trusted to have made it so that it does not block.
fn stream_of(descriptor: OwnedFd) -> io::Result<UnixStream> {
    let stream = std::os::unix::net::UnixStream::from(descriptor);
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// A connection as the limits count it, also when its task ends in a panic.
struct Counted {
    filter: Rc<Filter>,
    client: Rc<Client>,
}

impl Counted {
    fn new(filter: &Rc<Filter>, client: Client) -> Self {
        filter.open.set(filter.open.get().saturating_add(1));
        Self { filter: Rc::clone(filter), client: Rc::new(client) }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let filter = &self.filter;
        filter.open.set(filter.open.get().saturating_sub(1));
        filter.limits.borrow_mut().close(self.client.uid());
        if self.client.used.get() {
            filter.drain.leave();
        }
        if std::thread::panicking() {
            filter.interceptor.say(&FromFilterd::Reset { connection: self.client.id });
        }
    }
}

async fn serve(counted: Counted, stream: UnixStream) {
    let stream = Rc::new(stream);
    // a panic drops this first: what it says must be heard before the stream ends
    let counted = counted;
    let (filter, client) = (&counted.filter, &counted.client);
    let id = client.id;
    exchanges(filter, client, &stream).await;
    match client.ending.get() {
        // what is not answered is the next filterd's
        Ending::HandedBack => (),
        // the client is to see a reset and not an end
        Ending::Cut => filter.interceptor.say(&FromFilterd::Reset { connection: id }),
        Ending::Clean | Ending::Refused if client.end_is_said.get() => (),
        Ending::Clean | Ending::Refused => filter.interceptor.say(&FromFilterd::Close { connection: id }),
    }
    // an end that interceptor sees first would be a death to it, and the answer lost
    filter.interceptor.said().await;
    if client.ending.get() == Ending::Refused {
        linger(&stream).await;
    }
}

async fn exchanges(filter: &Rc<Filter>, client: &Rc<Client>, stream: &Rc<UnixStream>) {
    let slot = Rc::new(Slot::default());
    let max_head = usize::try_from(filter.settings.head_bytes).unwrap_or(usize::MAX);
    let announce = announce(Rc::clone(filter), Rc::clone(client));
    let io = StrictIo::new(
        Rc::clone(stream),
        Rc::clone(&slot),
        max_head,
        filter.settings.idle(),
        Box::new(announce),
    );
    let heads = Rc::clone(&slot);
    let service = service_fn(|_stand_in| {
        let (head, heads) = (heads.take(), Rc::clone(&heads));
        let (filter, client) = (Rc::clone(filter), Rc::clone(client));
        async move {
            let head = head.ok_or_else(|| io::Error::other("an exchange without a head"))?;
            if !client.used.replace(true) {
                filter.drain.enter();
            }
            let running = Running::new(&filter);
            let answer = exchange(filter, client, head).await;
            Ok::<_, io::Error>(watched(answer, heads, running))
        }
    });
    let mut builder = Builder::new();
    builder
        .half_close(true)
        .preserve_header_case(true)
        .title_case_headers(true)
        .auto_date_header(false)
        .header_read_timeout(None)
        .max_buf_size(MAX_BUFFER);
    let mut connection = pin!(builder.serve_connection(io, service));
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = filter.drain.begun() => {
            slot.draining.set(match (filter.interceptor.replays(), client.used.get()) {
                (true, _) => Draining::HandsBack,
                (false, true) => Draining::Ends,
                (false, false) => Draining::No,
            });
            connection.as_mut().await
        }
    };
    if let Err(error) = ended {
        client.ending.set(Ending::Cut);
        tracing::debug!("connection {}: {error}", client.id);
    } else if slot.handed_back.get() && client.ending.get() == Ending::Clean {
        client.ending.set(Ending::HandedBack);
    }
}

/// Tells interceptor which of the client's bytes are answered.
fn announce(filter: Rc<Filter>, client: Rc<Client>) -> impl Fn(Whole, u64) {
    move |whole, end| {
        let interceptor = &filter.interceptor;
        // a head has a bound far below
        let bytes = u32::try_from(whole.bytes).unwrap_or(u32::MAX);
        interceptor.say(&FromFilterd::Answered { connection: client.id, bytes, end, closes: whole.closes });
        client.end_is_said.set(whole.closes && interceptor.replays());
    }
}

fn watched(answer: Response<AnswerBody>, slot: Rc<Slot>, running: Running) -> Response<Watched> {
    let closes = answer.headers().get(header::CONNECTION).is_some_and(|value| value == "close");
    answer.map(|body| Watched { body, slot, closes, _running: running })
}

/// The body of an answer, and what is to be known when hyper has all of it: then it drops this.
struct Watched {
    body: AnswerBody,
    slot: Rc<Slot>,
    closes: bool,
    _running: Running,
}

impl Drop for Watched {
    fn drop(&mut self) {
        if self.body.is_whole() {
            self.slot.answer_is_whole(self.closes);
        }
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Ends our side, then reads until the client ends its own, or enough.
async fn linger(stream: &UnixStream) {
    let ended = rustix::net::shutdown(stream, rustix::net::Shutdown::Write);
    let rest = async {
        let mut buffer = Zeroizing::new([0; 4096]);
        let mut left = LINGER_BYTES;
        while left > 0 && stream.readable().await.is_ok() {
            match stream.try_read(buffer.as_mut_slice()) {
                Ok(0) => return,
                Ok(read) => left = left.saturating_sub(read),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => (),
                Err(_) => return,
            }
        }
    };
    if ended.is_ok() {
        let _ = timeout(LINGER_TIME, rest).await; // either way the descriptor closes now
    }
}
