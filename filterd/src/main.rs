//! imds-filterd: arguments, start, exit code.
//! Serves nobody itself: the library does.
#![forbid(unsafe_code)]

use imds_filterd::audit::{Audit, Output};
use imds_filterd::channel::Channel;
use imds_filterd::start::{self, Loaded};
use imds_filterd::{End, Filter, sandbox, serve, subject};
use imds_ipc::{FILTER_SOCKET, Identity, Lack};
use imds_settings::{Accounts, Settings, exit};
use std::ffi::OsString;
use std::fmt::Display;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

const HELP: &str = "\
Usage: imds-filterd [--config FILE]

Judges requests to the instance metadata service by the rules of imds.conf and forwards those allowed.
Needs imds-interceptor, which captures them. Audit lines go to standard output, one JSON object a line.

  --config FILE   settings (default /etc/imds-filterd.toml; built-in ones if that does not exist)
  --help          this text
  --version       the version
";

/// interceptor may start after us; it needs a second.
const ATTACH_PATIENCE: Duration = Duration::from_secs(30);

/// A message for the operator and a code of sysexits(3).
struct Failure(u8, String);

fn failure<E: Display>(code: u8) -> impl Fn(E) -> Failure {
    move |error| Failure(code, error.to_string())
}

enum Asked {
    Run(Option<PathBuf>),
    Print(String),
}

fn main() -> ExitCode {
    let asked = match arguments(std::env::args_os()) {
        Ok(asked) => asked,
        Err(error) => {
            eprintln!("imds-filterd: {error}\n{HELP}");
            return ExitCode::from(exit::USAGE);
        }
    };
    match asked {
        Asked::Print(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Asked::Run(config) => match run(config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(Failure(code, message)) => {
                eprintln!("imds-filterd: {message}");
                ExitCode::from(code)
            }
        },
    }
}

fn arguments(args: impl IntoIterator<Item = OsString>) -> Result<Asked, lexopt::Error> {
    let mut parser = lexopt::Parser::from_iter(args);
    let mut config = None;
    while let Some(argument) = parser.next()? {
        match argument {
            lexopt::Arg::Long("config") => config = Some(parser.value()?.into()),
            lexopt::Arg::Long("help") | lexopt::Arg::Short('h') => return Ok(Asked::Print(HELP.into())),
            lexopt::Arg::Long("version") | lexopt::Arg::Short('V') => {
                return Ok(Asked::Print(format!("imds-filterd {}\n", env!("CARGO_PKG_VERSION"))));
            }
            other => return Err(other.unexpected()),
        }
    }
    Ok(Asked::Run(config))
}

/// Read, give up, attach, serve: in this order.
fn run(config: Option<PathBuf>) -> Result<(), Failure> {
    log_to_stderr();
    let settings = Settings::load(config.as_deref()).map_err(failure(exit::CONFIGURATION))?;
    let accounts = Accounts::open();
    let loaded = start::load(&settings.filter.rules, &accounts)
        .map_err(|error| Failure(error.exit_code(), error.to_string()))?;
    let output = Output::stdout().map_err(failure(exit::OS))?;
    give_up(&settings, &accounts)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failure(exit::OS))?;
    LocalSet::new().block_on(&runtime, filter(settings, loaded, output))
}

fn give_up(settings: &Settings, accounts: &Accounts) -> Result<(), Failure> {
    let name = &settings.filter.user;
    let coded = |error: sandbox::SandboxError| Failure(error.exit_code(), error.to_string());
    let user = sandbox::user(accounts, name).map_err(coded)?;
    if let Err(error) = sandbox::make_room(settings.limits.connections) {
        tracing::warn!("{error}");
    }
    sandbox::enter(name, &user).map_err(coded)
}

async fn filter(settings: Settings, loaded: Loaded, output: Output) -> Result<(), Failure> {
    let mut terminated = signal(SignalKind::terminate()).map_err(failure(exit::OS))?;
    let mut interrupted = signal(SignalKind::interrupt()).map_err(failure(exit::OS))?;
    let mut stop = std::pin::pin!(async {
        tokio::select! {
            _ = terminated.recv() => (),
            _ = interrupted.recv() => (),
        }
    });
    let socket = settings.runtime_dir.join(FILTER_SOCKET);
    let interceptor = tokio::select! {
        attached = Channel::attach(&socket, ATTACH_PATIENCE) => attached
            .map_err(|end| Failure(exit::TEMPORARY, format!("{}: {end}", socket.display())))?,
        () = stop.as_mut() => return Ok(()),
    };
    // an interceptor says what it can tell before its first word else
    let identity = interceptor.identity().unwrap_or(Identity::partial(Lack::Refused));
    let needs = subject::needs(&loaded.rules, settings.filter.groups, identity).map_err(|error| {
        Failure(exit::CONFIGURATION, format!("{}: {error}", settings.filter.rules.display()))
    })?;
    interceptor.need(needs);
    let rules = loaded.rules.len();
    let audit = Audit::new(output, loaded.user_names);
    let filter =
        Filter::new(&settings, loaded.rules, audit, interceptor).map_err(failure(exit::CONFIGURATION))?;
    tracing::info!("attached to interceptor, {rules} rules in force");
    notify(sd_notify::NotifyState::Ready);
    let end = serve(Rc::new(filter), stop).await;
    notify(sd_notify::NotifyState::Stopping);
    match end {
        End::Stopped => Ok(()),
        // the service manager starts us again, and the next one attaches anew
        End::Channel(why) => Err(Failure(exit::TEMPORARY, format!("channel to interceptor: {why}"))),
    }
}

fn notify(state: sd_notify::NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!("service manager not told: {error}");
    }
}

/// journald adds the time itself.
fn log_to_stderr() {
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).with_target(false);
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        log.without_time().init();
    } else {
        log.init();
    }
}
