//! The watcher: a process of its own, without privileges, that asks the account database again when it changes. Reads
//! files, sends tables; knows no rules and no client.

use super::sys::Changes;
use crate::sandbox::{self, SandboxError};
use imds_ipc::control::{Ask, Reply, Shown, rest_of};
use imds_rules::{GroupName, Members, Names};
use imds_settings::{AccountError, Accounts, User};
use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

/// What the kernel shows for a group that it cannot name: no file is given to it.
const NO_GROUP: u32 = 65_534;

/// Why it ended.
#[derive(Debug)]
pub enum WatchError {
    Sandbox(SandboxError),
    Os(io::Error),
}

impl fmt::Display for WatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sandbox(error) => error.fmt(f),
            Self::Os(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for WatchError {}

impl From<io::Error> for WatchError {
    fn from(error: io::Error) -> Self {
        Self::Os(error)
    }
}

/// What was asked, and the last word about it.
struct Told {
    generation: u64,
    names: Names,
    shown: Option<Shown>,
}

/// Becomes `name`, and serves the filterd at standard input until that ends.
///
/// # Errors
/// See [`WatchError`].
pub fn watch(name: &str) -> Result<(), WatchError> {
    let filterd = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let user = sandbox::user(&Accounts::open(), name).map_err(WatchError::Sandbox)?;
    // interceptor's door is open to the filter's group, and this is no filterd, whatever a name service may make of it
    let user = User { gid: NO_GROUP, ..user };
    // what is missing is missing in filterd too, which says so
    sandbox::enter(name, &user).map_err(WatchError::Sandbox)?;
    sandbox::lock_watcher();
    Ok(serve(&filterd)?)
}

fn serve(filterd: &UnixStream) -> io::Result<()> {
    let mut changes = Changes::open()?;
    let mut told: Option<Told> = None;
    let mut unsettled = false;
    loop {
        if changes.wait(filterd, unsettled)? {
            let Some(asked) = read_ask(filterd)? else { return Ok(()) };
            told = Some(asked);
        }
        if let Some(told) = &mut told {
            // before the look, or a change between the two would be missed
            changes.renew();
            unsettled = match look_again(told, filterd)? {
                Ok(()) => told.names.has_unknown(),
                Err(error) => {
                    tracing::warn!("{error}");
                    true
                }
            };
        }
    }
}

fn read_ask(mut filterd: &UnixStream) -> io::Result<Option<Told>> {
    let mut header = [0; 8];
    match filterd.read_exact(&mut header) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let mut frame = header.to_vec();
    let rest = rest_of(header).map_err(io::Error::other)?;
    filterd.take(u64::try_from(rest).unwrap_or(u64::MAX)).read_to_end(&mut frame)?;
    match Ask::decode(&frame).map_err(io::Error::other)? {
        Ask::Watch { generation, names } => {
            let names = Names::decode(&names).ok_or_else(|| io::Error::other("filterd sent no table"))?;
            Ok(Some(Told { generation, names, shown: None }))
        }
        Ask::Reload(_) | Ask::Status => Err(io::Error::other("filterd asked something else")),
    }
}

/// Tells only what is new.
fn look_again(told: &mut Told, mut filterd: &UnixStream) -> io::Result<Result<(), AccountError>> {
    let accounts = Accounts::open();
    let names = match told.names.resolve_again(|name| user(&accounts, name), |name| group(&accounts, name)) {
        Ok(names) => names,
        Err(error) => return Ok(Err(error)),
    };
    let shown = shown(&names, &accounts);
    if names != told.names || told.shown.as_ref().is_some_and(|before| *before != shown) {
        let mut frame = Vec::new();
        let generation = told.generation;
        Reply::Names { generation, names: names.encode(), shown: shown.clone() }.encode(&mut frame);
        filterd.write_all(&frame)?;
    }
    told.names = names;
    told.shown = Some(shown);
    Ok(Ok(()))
}

pub(crate) fn user(accounts: &Accounts, name: &str) -> Result<Option<u32>, AccountError> {
    Ok(accounts.user(name)?.map(|user| user.uid))
}

pub(crate) fn group(accounts: &Accounts, name: &GroupName) -> Result<Option<Members>, AccountError> {
    let group = match name {
        GroupName::Name(name) => accounts.group(name)?,
        GroupName::Gid(gid) => Some(accounts.group_of_gid(*gid)?),
    };
    Ok(group.map(|group| Members { gid: group.gid, uids: group.members }))
}

/// The first name of a uid counts, and the local ones before those that only the rules name.
pub(crate) fn shown(names: &Names, accounts: &Accounts) -> Shown {
    let mut table = std::collections::BTreeMap::new();
    let local = accounts.local_users().map(|(name, user)| (name, user.uid));
    let named = names.users().filter_map(|(name, uid)| Some((name, uid?)));
    for (name, uid) in local.chain(named) {
        table.entry(uid).or_insert_with(|| name.to_owned());
    }
    table.into_iter().collect()
}
