//! One captured connection: its exchanges one after the other, then its end.
//! Judges nothing. Tells interceptor before it closes on purpose, and only then.

use crate::answer::AnswerBody;
use crate::channel::{Captured, Given};
use crate::exchange::{Exchanged, exchange, exchange_plainly};
use crate::filter::{Client, Ending, Filter, Running};
use crate::strict::{Ask, Collected, Collector, Draining, First, Opening, Slot, StrictIo, Way, Whole};
use crate::subject::subject;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper::{Response, header};
use imds_ipc::{FromFilterd, Piece};
use imds_rules::Version;
use rustix::net::{SocketType, sockopt};
use std::cell::{Cell, OnceCell};
use std::io::{self, IoSlice};
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
    let told = captured.subject;
    let uid = told.as_ref().ok().map(|told| told.uid);
    let (begin, place) = match captured.given {
        Given::Stream(stream) => {
            let stream = stream_of(stream).map_err(|_| "its descriptor is no stream")?;
            (Begin::Stream(Rc::new(stream)), None)
        }
        Given::Asked { place, bytes } => (Begin::Asked(bytes), Some(place)),
    };
    let mut limits = filter.limits.borrow_mut();
    // interceptor counts those that are there; asks are counted here, too, since a client that asked may be gone
    let opened = limits.open(uid, Instant::now());
    let over = opened.and_then(|()| place.map_or(Ok(()), |place| limits.place(place))).err();
    drop(limits);
    let client = Client {
        id: captured.id,
        process: told.as_ref().ok().and_then(|told| told.process.clone()),
        subject: told.map(|told| subject(told, filter.groups)),
        address: captured.client,
        service,
        over,
        ending: Cell::new(Ending::Clean),
        used: Cell::new(false),
        end_is_said: Cell::new(false),
        answered: Cell::new(false),
    };
    tokio::task::spawn_local(serve(Counted::new(filter, client), begin));
    Ok(())
}

/// What a connection begins with here.
enum Begin {
    Stream(Rc<UnixStream>),
    /// Bytes asked in a message.
    Asked(Zeroizing<Vec<u8>>),
}

/// interceptor is not trusted to have made it so that it does not block, nor to have sent a socket: kqueue would wait for
/// what never becomes readable, such as /dev/null.
fn stream_of(descriptor: OwnedFd) -> io::Result<UnixStream> {
    if sockopt::socket_type(&descriptor)? != SocketType::STREAM {
        return Err(io::ErrorKind::InvalidInput.into());
    }
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
    /// The limits have counted it already.
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
        if std::thread::panicking() && !self.client.answered.get() {
            filter.interceptor.say(&FromFilterd::Reset { connection: self.client.id });
        }
    }
}

async fn serve(counted: Counted, begin: Begin) {
    let stream = Rc::new(OnceCell::new());
    // a panic drops this first: what it says must be heard before the stream ends
    let counted = counted;
    let (filter, client) = (&counted.filter, &counted.client);
    let id = client.id;
    // in a box, since an ask that is answered plainly has no need of its room
    match begin {
        Begin::Stream(given) => {
            let _ = stream.set(Rc::clone(&given)); // empty so far
            let io = Io {
                way: Way::Stream(given),
                first: First::Ahead,
                collector: Collector::new(max_head(filter)),
            };
            Box::pin(exchanges(filter, client, io, None)).await;
        }
        Begin::Asked(bytes) => {
            let mut collector = Collector::fed(bytes, max_head(filter));
            if let Some((first, made)) = answer_plainly(filter, client, &mut collector).await {
                let asked =
                    Asked { filter: Rc::clone(filter), client: Rc::clone(client), kept: Rc::clone(&stream) };
                let io = Io { way: Way::Asked(Box::new(asked)), first, collector };
                Box::pin(exchanges(filter, client, io, made)).await;
            }
        }
    }
    match client.ending.get() {
        _ if client.answered.get() => (),
        // what is not answered is the next filterd's
        Ending::HandedBack => (),
        // the client is to see a reset and not an end
        Ending::Cut => filter.interceptor.say(&FromFilterd::Reset { connection: id }),
        Ending::Clean | Ending::Refused if client.end_is_said.get() => (),
        Ending::Clean | Ending::Refused => filter.interceptor.say(&FromFilterd::Close { connection: id }),
    }
    // an end that interceptor sees first would be a death to it, and the answer lost
    filter.interceptor.said().await;
    if client.ending.get() == Ending::Refused
        && let Some(stream) = stream.get()
    {
        Box::pin(linger(stream)).await;
    }
}

fn max_head(filter: &Filter) -> usize {
    usize::try_from(filter.settings.head_bytes).unwrap_or(usize::MAX)
}

/// An answer that is made, and what says that it is not given yet.
type Made = (Response<AnswerBody>, Running);

/// Answers what is asked if it is one head and the answer is a plain one; else returns what there is so far.
async fn answer_plainly(
    filter: &Rc<Filter>,
    client: &Rc<Client>,
    collector: &mut Collector,
) -> Option<(First, Option<Made>)> {
    let head = match collector.next_head() {
        Collected::Head(head)
            if collector.is_empty() && !head.is_for_head_only() && head.version() == Version::Http11 =>
        {
            head
        }
        other => return Some((First::Collected(other), None)),
    };
    let length = head.length();
    let running = run(filter, client);
    match exchange_plainly(Rc::clone(filter), Rc::clone(client), head).await {
        Exchanged::Whole { bytes, closes } => {
            answer(filter, client, closes, bytes);
            None
        }
        Exchanged::Response(response) => Some((First::Answered(length), Some((response, running)))),
    }
}

/// An exchange begins.
fn run(filter: &Rc<Filter>, client: &Client) -> Running {
    if !client.used.replace(true) {
        filter.drain.enter();
    }
    Running::new(filter)
}

fn answer(filter: &Filter, client: &Client, closes: bool, bytes: Zeroizing<Vec<u8>>) {
    let (connection, bytes) = (client.id, Piece::from(bytes));
    filter.interceptor.say(&FromFilterd::Answer { connection, closes, bytes });
    client.answered.set(true);
}

/// What hyper reads from and writes to.
struct Io {
    way: Way,
    first: First,
    collector: Collector,
}

/// `made`: the answer to the first head, if there is one already.
async fn exchanges(filter: &Rc<Filter>, client: &Rc<Client>, io: Io, made: Option<Made>) {
    let slot = Rc::new(Slot::default());
    let announce = Box::new(announce(Rc::clone(filter), Rc::clone(client)));
    let Io { way, first, collector } = io;
    let io = StrictIo::new(way, Rc::clone(&slot), first, collector, filter.settings.idle(), announce);
    let heads = Rc::clone(&slot);
    let made = Cell::new(made);
    let service = service_fn(|_stand_in| {
        let (made, head, heads) = (made.take(), heads.take(), Rc::clone(&heads));
        let (filter, client) = (Rc::clone(filter), Rc::clone(client));
        async move {
            if let Some((answer, running)) = made {
                return Ok(watched(answer, heads, running));
            }
            let head = head.ok_or_else(|| io::Error::other("an exchange without a head"))?;
            let running = run(&filter, &client);
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

/// The stream of a connection, once it has one.
type Kept = Rc<OnceCell<Rc<UnixStream>>>;

/// A connection that interceptor keeps and asked us about.
struct Asked {
    filter: Rc<Filter>,
    client: Rc<Client>,
    kept: Kept,
}

impl Ask for Asked {
    fn answer(&self, closes: bool, pieces: &[IoSlice<'_>]) {
        let mut bytes = Zeroizing::new(Vec::with_capacity(pieces.iter().map(|piece| piece.len()).sum()));
        for piece in pieces {
            bytes.extend_from_slice(piece);
        }
        answer(&self.filter, &self.client, closes, bytes);
    }

    fn open(&self) -> Opening {
        let (filter, id, kept) = (Rc::clone(&self.filter), self.client.id, Rc::clone(&self.kept));
        Box::pin(async move {
            let stream = Rc::new(stream_of(filter.interceptor.open(id).await?).ok()?);
            let _ = kept.set(Rc::clone(&stream)); // it is opened once
            Some(stream)
        })
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
        // not in the future itself, which every request has
        let mut buffer = Zeroizing::new(vec![0; 4096]);
        let mut left = LINGER_BYTES;
        while left > 0 && stream.readable().await.is_ok() {
            match stream.try_read(&mut buffer) {
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
