//! What the names in the rules stand for, while they serve: filterd can read no file any more, so a process that it
//! leaves behind at the start watches the account database and tells it. Judges nobody.

mod sys;
mod watcher;

pub use watcher::{WatchError, watch};
pub(crate) use watcher::{group, shown, user};

use crate::control::{read_frame, write_frame};
use crate::filter::Filter;
use imds_ipc::control::{Ask, Reply};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::rc::Rc;

/// The hidden argument that makes the program the watcher.
pub const WATCH_NAMES: &str = "watch-names";

/// Starts the watcher, which becomes `user`, and returns our end of the way to it. It ends when that is closed.
///
/// # Errors
/// When it cannot be started.
pub fn start(user: &str) -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    Command::new(std::env::current_exe()?)
        .args([WATCH_NAMES, user])
        .stdin(OwnedFd::from(theirs))
        // audit lines are filterd's, and so is the service manager
        .stdout(Stdio::null())
        .env_remove("NOTIFY_SOCKET")
        .spawn()?;
    ours.set_nonblocking(true)?;
    Ok(ours)
}

/// Asks the watcher for the names of the rules in force, again whenever these change, and takes what it tells. Ends
/// with the watcher.
pub async fn follow(filter: Rc<Filter>, watcher: UnixStream) {
    filter.names_watched.set(true);
    let ended = match tokio::net::UnixStream::from_std(watcher) {
        Ok(mut stream) => {
            let (mut from, mut to) = stream.split();
            tokio::select! {
                () = filter.drain.begun() => return,
                ended = ask(&filter, &mut to) => ended,
                ended = take(&filter, &mut from) => ended,
            }
        }
        Err(error) => Err(error),
    };
    filter.names_watched.set(false);
    let why = ended.err().map_or("it ended".into(), |error| error.to_string());
    tracing::warn!("users and groups are resolved at a reload only: the watcher of names is gone: {why}");
}

async fn ask(filter: &Filter, to: &mut tokio::net::unix::WriteHalf<'_>) -> io::Result<()> {
    loop {
        let (generation, names) = filter.names();
        write_frame(to, |bytes| Ask::Watch { generation, names }.encode(bytes)).await?;
        filter.reloaded.notified().await;
    }
}

async fn take(filter: &Filter, from: &mut tokio::net::unix::ReadHalf<'_>) -> io::Result<()> {
    while let Some(frame) = read_frame(from).await? {
        match Reply::decode(&frame).map_err(io::Error::other)? {
            Reply::Names { generation, names, shown } => filter.rename(generation, names, shown),
            Reply::InForce(_) | Reply::Unconfirmed(_) | Reply::Refused(_) | Reply::Is(_) => {
                return Err(io::Error::other("it said something else"));
            }
        }
    }
    Ok(())
}
