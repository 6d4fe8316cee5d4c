//! From settings to a running interceptor, step by step, and back. Each step that fails says why and with which exit code.
//! Must not leave capture half up and open: whatever fails after capture is up leaves it closed.

use crate::attribution::{self, Attribution, Loaded, SubordinateUids, TunHook};
use crate::capture::{self, Capture, CaptureError};
use crate::event_loop::{EventLoop, Parts};
use crate::filter::{self, Door, DoorError};
use crate::store::{Kept, Store};
use crate::sys::{self, Missing, PrivilegeError, Signals, SocketOwners, Tun};
use imds_ipc::{Identity, Lack};
use imds_settings::{Accounts, Guard, Mode, Settings, User, exit};
use sd_notify::NotifyState;
use std::fmt;
use std::io;
use std::os::fd::AsFd;

/// Descriptors besides those of connections: the tun, netlink, the door, filterds, dials.
const OTHER_DESCRIPTORS: u64 = 2048;

/// Why interceptor does not run.
#[derive(Debug)]
pub enum StartError {
    Privilege,
    /// The filter's user is not in the account database.
    NoFilterUser(String),
    /// filterd would run as root.
    FilterIsRoot(String),
    Accounts(String),
    Door(DoorError),
    Capture(CaptureError),
    GivingUp(PrivilegeError),
    Os(&'static str, io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Privilege => f.write_str(
                "needs root, or CAP_NET_ADMIN, to make a tun device, routes and policies; start it as root",
            ),
            Self::NoFilterUser(name) => {
                write!(
                    f,
                    "filter.user = {name:?}: no such user; create it, or name another in the configuration"
                )
            }
            Self::FilterIsRoot(name) => {
                write!(f, "filter.user = {name:?}: has uid 0; expected a user without privileges")
            }
            Self::Accounts(error) => f.write_str(error),
            Self::Door(error) => error.fmt(f),
            Self::Capture(error) => error.fmt(f),
            Self::GivingUp(error) => error.fmt(f),
            Self::Os(what, error) => write!(f, "{what}: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

impl StartError {
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Privilege => exit::PERMISSION,
            Self::NoFilterUser(_) | Self::FilterIsRoot(_) => exit::CONFIGURATION,
            Self::Accounts(_) | Self::GivingUp(_) | Self::Os(..) => exit::OS,
            Self::Door(error) => error.exit_code(),
            Self::Capture(error) => error.exit_code(),
        }
    }
}

/// Captures until a signal ends it; closed before it begins to fail, and closed when it ends.
///
/// # Errors
/// See [`StartError`].
pub fn run(settings: &Settings) -> Result<(), StartError> {
    let accounts = Accounts::open();
    let user = filter_user(settings, &accounts)?;
    let (subordinate, warnings) = SubordinateUids::read(&accounts).map_err(StartError::Accounts)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    if !sys::may_capture() {
        return Err(StartError::Privilege);
    }
    bound_descriptors(settings)?;
    let signals = Signals::take().map_err(|error| StartError::Os("taking signals", error))?;
    filter::make_directory(&settings.runtime_dir).map_err(StartError::Door)?;

    let (store, Kept { tun, programs }) = Store::open(settings);
    let (tun_is_kept, records_are_kept) = (tun.is_some(), programs.is_some());
    // before capture: whoever connects from then on is known
    let programs = match programs {
        Some(kept) => attribution::adopt(settings, kept),
        None => attribution::load(settings),
    };
    let (capture, tun) = Capture::up_with(settings, tun).map_err(StartError::Capture)?;
    match prepare(settings, &user, subordinate, programs) {
        Ok((door, attribution)) => {
            if !records_are_kept {
                drop_unwitnessed(&tun);
                store.keep((!tun_is_kept).then_some(tun.as_fd()), &attribution.parts());
            }
            let stays = store.keeps();
            serve(settings, Parts { signals, capture, tun, door, attribution, stays })
        }
        Err(error) => {
            close(capture, tun);
            Err(error)
        }
    }
}

/// Gives the host its direct route back.
///
/// # Errors
/// See [`StartError`].
pub fn release(settings: &Settings) -> Result<(), StartError> {
    if !sys::may_capture() {
        return Err(StartError::Privilege);
    }
    filter::make_directory(&settings.runtime_dir).map_err(StartError::Door)?;
    capture::release(settings).map_err(StartError::Capture)
}

/// What must not exist before capture is ours.
fn prepare(
    settings: &Settings,
    user: &User,
    subordinate: SubordinateUids,
    programs: Result<Loaded, Lack>,
) -> Result<(Door, Attribution), StartError> {
    let door = Door::open(settings, user).map_err(StartError::Door)?;
    let owners = SocketOwners::open(&settings.capture.device)
        .map_err(|error| StartError::Os("asking the kernel who owns sockets (sock_diag)", error))?;
    let witness = programs.and_then(|programs| programs.watch_tun(owners.device(), TunHook::Best));
    let attribution = Attribution::new(owners, subordinate, witness);
    Ok((door, attribution))
}

/// Packets that were in the tun before the program on it was, so that nobody knows who sent them. Their senders repeat
/// them.
fn drop_unwitnessed(tun: &Tun) {
    /// Longer than a tun's queue.
    const MOST: usize = 1024;
    let mut packet = [0; 65_536];
    for _ in 0..MOST {
        if tun.read(&mut packet).is_err() {
            break;
        }
    }
}

fn wholly(identity: Identity) -> &'static str {
    match identity {
        Identity { groups: Ok(()) | Err(Lack::Configured), unit: Ok(()), connecting: Ok(()) } => "full",
        Identity { .. } => "partial",
    }
}

fn serve(settings: &Settings, parts: Parts) -> Result<(), StartError> {
    let identity = wholly(parts.attribution.identity());
    if (settings.filter.mode, settings.capture.guard) == (Mode::Audit, Guard::Xfrm) {
        tracing::warn!(
            "AUDIT: packets of containers are refused all the same: the kernel asks the policies of guard = \"xfrm\" \
             for them, too; guard = \"nftables\" lets them alone and counts them"
        );
    }
    let event_loop =
        EventLoop::new(settings, parts).map_err(|error| StartError::Os("making the event queue", error))?;
    // all that needs more power is open by now; before the first packet is read and the first filterd heard
    let missing =
        sys::give_up(&settings.runtime_dir, settings.filter.sandbox).map_err(StartError::GivingUp)?;
    if !missing.is_empty() {
        let missing: Vec<String> = missing.iter().map(Missing::to_string).collect();
        tracing::warn!("sandbox: {}", missing.join("; "));
    }
    tracing::info!("capture is up, identity: {identity}; waiting for imds-filterd");
    notify(NotifyState::Ready);
    let ended = event_loop.run();
    notify(NotifyState::Stopping);
    ended.map_err(|error| StartError::Os("serving", error))?;
    tracing::info!(
        "stopped; the metadata service stays closed until imds-interceptor runs again or `release`"
    );
    Ok(())
}

/// A service manager that cannot be told is no reason not to serve.
fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!("telling the service manager: {error}");
    }
}

fn close(capture: Capture, tun: Tun) {
    if let Err(error) = capture.down() {
        tracing::error!("{error}");
    }
    drop(tun);
}

fn filter_user(settings: &Settings, accounts: &Accounts) -> Result<User, StartError> {
    let name = &settings.filter.user;
    match accounts.user(name) {
        Ok(Some(user)) if user.uid == 0 => Err(StartError::FilterIsRoot(name.clone())),
        Ok(Some(user)) => Ok(user),
        Ok(None) => Err(StartError::NoFilterUser(name.clone())),
        Err(error) => Err(StartError::Accounts(error.to_string())),
    }
}

/// A connection takes one descriptor, and a second while it is handed over.
fn bound_descriptors(settings: &Settings) -> Result<(), StartError> {
    let wanted = u64::from(settings.limits.connections) + OTHER_DESCRIPTORS;
    match sys::bound(wanted) {
        Ok(true) => {}
        Ok(false) => tracing::warn!(
            "limits.connections needs {wanted} descriptors, and the limit cannot be raised as far"
        ),
        Err(error) => return Err(StartError::Os("bounding descriptors", error)),
    }
    Ok(())
}
