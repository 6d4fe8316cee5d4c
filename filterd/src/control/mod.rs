//! The control socket: the operator's asks, one after the other. Serves root, and whoever started us.
//! Decides nothing about clients; opens nothing: the socket was bound before the sandbox.

mod socket;

pub use socket::{Bound, Control, ControlError};

use crate::filter::Filter;
use imds_ipc::control::{Ask, Reply, rest_of};
use std::io;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

/// For one ask and its reply: imdsctl has everything ready when it connects. So long may one caller keep the others
/// waiting.
const ASK_TIME: Duration = Duration::from_secs(5);
/// After a failed accept: most likely all descriptors are in use.
const RETRY_TIME: Duration = Duration::from_millis(100);

/// Until we are to end.
pub async fn serve(filter: Rc<Filter>, control: Control) {
    tokio::select! {
        () = filter.drain.begun() => (),
        () = answer_all(&filter, &control) => (),
    }
}

async fn answer_all(filter: &Rc<Filter>, control: &Control) {
    loop {
        let stream = match control.caller().await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!("control socket: {error}");
                sleep(RETRY_TIME).await;
                continue;
            }
        };
        match timeout(ASK_TIME, answer(filter, stream)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("control socket: {error}"),
            Err(_) => tracing::warn!("control socket: a caller took too long"),
        }
    }
}

async fn answer(filter: &Rc<Filter>, mut stream: UnixStream) -> io::Result<()> {
    let Some(frame) = read_frame(&mut stream).await? else { return Ok(()) };
    let reply = match Ask::decode(&frame) {
        Ok(ask) => reply(filter, ask).await,
        Err(error) => Reply::Refused(format!("imds-filterd was sent {error}")),
    };
    write_frame(&mut stream, |bytes| reply.encode(bytes)).await
}

async fn reply(filter: &Rc<Filter>, ask: Ask) -> Reply {
    match ask {
        Ask::Reload(set) => match filter.reload(set).await {
            Ok(reply) => reply,
            Err(why) => {
                tracing::warn!("reload refused, the rules in force stay: {why}");
                Reply::Refused(why)
            }
        },
        Ask::Status => Reply::Is(Box::new(filter.status())),
        Ask::Watch { .. } => Reply::Refused("imds-filterd is not asked this".into()),
    }
}

/// `None` when the other end closed before it began.
pub(crate) async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let mut header = [0; 8];
    match stream.read_exact(&mut header).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    };
    let rest = rest_of(header).map_err(io::Error::other)?;
    let mut frame = header.to_vec();
    // grows with what comes, not with what was announced
    let read = stream.take(u64::try_from(rest).unwrap_or(u64::MAX)).read_to_end(&mut frame).await?;
    if read == rest { Ok(Some(frame)) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

pub(crate) async fn write_frame(
    stream: &mut (impl AsyncWrite + Unpin),
    encode: impl FnOnce(&mut Vec<u8>),
) -> io::Result<()> {
    let mut frame = Vec::new();
    encode(&mut frame);
    stream.write_all(&frame).await
}
