//! imds-filterd: arguments, start, exit code.
//! Serves nobody itself: the library does.
#![forbid(unsafe_code)]

use imds_filterd::audit::Output;
use imds_filterd::channel::{Channel, ChannelEnd};
use imds_filterd::control::{self, Control};
use imds_filterd::names::{self, WATCH_NAMES};
use imds_filterd::notices::Notices;
use imds_filterd::sandbox::{self, Missing, SandboxError};
use imds_filterd::start::{self, Loaded};
use imds_filterd::supervise::supervise;
use imds_filterd::{End, Filter, choose, log, say_in_force, serve};
use imds_ipc::FILTER_SOCKET;
use imds_settings::{Accounts, DEFAULT_PATH, Settings, exit};
use lexopt::ValueExt;
use sd_notify::NotifyState;
use std::ffi::OsString;
use std::fmt::Display;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

const HELP: &str = "\
Usage: imds-filterd [--supervise] [--config FILE]

Judges requests to the instance metadata service by the rules of imds.conf and forwards those allowed.
Needs imds-interceptor, which captures them. Audit lines go to standard output, one JSON object a line.

  --config FILE   settings (default /etc/imds-filterd.toml; built-in ones if that does not exist)
  --supervise     stay, and start imds-filterd again at once whenever it dies; where the service manager does not
  --help          this text
  --version       the version
";

/// With the path of this system.
fn help() -> String {
    HELP.replace("/etc/imds-filterd.toml", DEFAULT_PATH)
}

/// interceptor may start after us; it needs a second.
const ATTACH_PATIENCE: Duration = Duration::from_secs(30);

/// A message for the operator and a code of sysexits(3).
struct Failure(u8, String);

fn failure<E: Display>(code: u8) -> impl Fn(E) -> Failure {
    move |error| Failure(code, error.to_string())
}

enum Asked {
    Run(Option<PathBuf>),
    /// Of filterd alone, for itself: see `names`.
    Watch(String),
    Supervise(Option<PathBuf>),
    Print(String),
}

fn main() -> ExitCode {
    let asked = match arguments(std::env::args_os()) {
        Ok(asked) => asked,
        Err(error) => {
            eprintln!("imds-filterd: {error}\n{}", help());
            return ExitCode::from(exit::USAGE);
        }
    };
    match asked {
        Asked::Print(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Asked::Run(config) => end(run(config).map(|()| 0)),
        Asked::Supervise(config) => end(start_again_and_again(config)),
        Asked::Watch(user) => {
            log::start();
            end(names::watch(&user).map(|()| 0).map_err(failure(exit::OS)))
        }
    }
}

fn end(result: Result<u8, Failure>) -> ExitCode {
    match result {
        Ok(code) => ExitCode::from(code),
        Err(Failure(code, message)) => {
            log::say(&format!("imds-filterd: {message}"));
            ExitCode::from(code)
        }
    }
}

fn arguments(args: impl IntoIterator<Item = OsString>) -> Result<Asked, lexopt::Error> {
    let mut parser = lexopt::Parser::from_iter(args);
    let (mut config, mut supervised) = (None, false);
    while let Some(argument) = parser.next()? {
        match argument {
            lexopt::Arg::Long("config") => config = Some(parser.value()?.into()),
            lexopt::Arg::Long("supervise") => supervised = true,
            lexopt::Arg::Long("help") | lexopt::Arg::Short('h') => return Ok(Asked::Print(help())),
            lexopt::Arg::Long("version") | lexopt::Arg::Short('V') => {
                return Ok(Asked::Print(format!("imds-filterd {}\n", env!("CARGO_PKG_VERSION"))));
            }
            lexopt::Arg::Value(word) if word == WATCH_NAMES => {
                return Ok(Asked::Watch(parser.value()?.parse()?));
            }
            other => return Err(other.unexpected()),
        }
    }
    Ok(if supervised { Asked::Supervise(config) } else { Asked::Run(config) })
}

/// The program's path is kept from the start: what lies there later, after an upgrade, is what is to run.
fn start_again_and_again(config: Option<PathBuf>) -> Result<u8, Failure> {
    log::start();
    let program = std::env::current_exe().map_err(failure(exit::OS))?;
    let arguments: Vec<OsString> =
        config.into_iter().flat_map(|path| ["--config".into(), path.into_os_string()]).collect();
    supervise(&program, &arguments).map_err(failure(exit::OS))
}

/// Read, become nobody, attach, lock, serve: in this order.
fn run(config: Option<PathBuf>) -> Result<(), Failure> {
    log::start();
    let settings = Settings::load(config.as_deref()).map_err(failure(exit::CONFIGURATION))?;
    let accounts = Accounts::open();
    let loaded =
        start::load(&settings, &accounts).map_err(|error| Failure(error.exit_code(), error.to_string()))?;
    let output = Output::stdout().map_err(failure(exit::OS))?;
    let notices = Notices::connect().unwrap_or_else(|error| {
        tracing::warn!("the service manager will not be told: {error}");
        Notices::none()
    });
    let missing = become_nobody(&settings, &accounts)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failure(exit::OS))?;
    LocalSet::new().block_on(&runtime, filter(settings, loaded, output, notices, missing))
}

fn unsafe_to_run(error: SandboxError) -> Failure {
    Failure(error.exit_code(), error.to_string())
}

fn become_nobody(settings: &Settings, accounts: &Accounts) -> Result<Vec<Missing>, Failure> {
    let name = &settings.filter.user;
    let user = sandbox::user(accounts, name).map_err(unsafe_to_run)?;
    let room = sandbox::bound(settings).map_err(unsafe_to_run)?;
    let network = sandbox::enter(name, &user).map_err(unsafe_to_run)?;
    Ok(room.into_iter().chain(network).collect())
}

/// The sandbox is whole before a byte from outside is read.
async fn attach(settings: &Settings, mut missing: Vec<Missing>) -> Result<Channel, Failure> {
    let socket = settings.runtime_dir.join(FILTER_SOCKET);
    let gone = |end: ChannelEnd| Failure(exit::TEMPORARY, format!("{}: {end}", socket.display()));
    let interceptor = Channel::connect(&socket, ATTACH_PATIENCE).await.map_err(gone)?;
    missing.extend(sandbox::lock(settings.filter.sandbox).map_err(unsafe_to_run)?);
    if !missing.is_empty() {
        let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
        tracing::warn!("sandbox: {}", missing.join("; "));
    }
    interceptor.greet().await.map_err(gone)?;
    Ok(interceptor)
}

async fn filter(
    settings: Settings,
    loaded: Loaded,
    output: Output,
    notices: Notices,
    missing: Vec<Missing>,
) -> Result<(), Failure> {
    let mut terminated = signal(SignalKind::terminate()).map_err(failure(exit::OS))?;
    let mut interrupted = signal(SignalKind::interrupt()).map_err(failure(exit::OS))?;
    let mut hung_up = signal(SignalKind::hangup()).map_err(failure(exit::OS))?;
    tokio::task::spawn_local(async move {
        while hung_up.recv().await.is_some() {
            // it can read no file any more
            tracing::warn!("SIGHUP changes nothing here: `imdsctl reload` puts changed rules in force");
        }
    });
    let mut stop = std::pin::pin!(async {
        tokio::select! {
            _ = terminated.recv() => (),
            _ = interrupted.recv() => (),
        }
    });
    let interceptor = tokio::select! {
        attached = attach(&settings, missing) => attached?,
        () = stop.as_mut() => return Ok(()),
    };
    let Loaded { in_force, spare, accepted, control, watcher } = loaded;
    let chosen = choose(&settings, &interceptor, in_force, spare, accepted);
    let in_force = chosen.map_err(failure(exit::CONFIGURATION))?;
    let told = in_force.told();
    let filter =
        Filter::new(&settings, in_force, output, interceptor).map_err(failure(exit::CONFIGURATION))?;
    let filter = Rc::new(filter);
    if let Some(control) = control {
        let control = Control::listen(control).map_err(failure(exit::OS))?;
        tokio::task::spawn_local(control::serve(Rc::clone(&filter), control));
    }
    if let Some(watcher) = watcher {
        tokio::task::spawn_local(names::follow(Rc::clone(&filter), watcher));
    }
    tracing::info!("attached to interceptor");
    say_in_force(&told);
    let end = serve(filter, stop, notices.tell_ready()).await;
    notices.tell(&NotifyState::Stopping);
    match end {
        End::Stopped | End::Dismissed => Ok(()),
        // the service manager starts us again, and the next one attaches anew
        End::Channel(why) => Err(Failure(exit::TEMPORARY, format!("channel to interceptor: {why}"))),
    }
}
