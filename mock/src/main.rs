//! imds-mock: the command line of the imitated metadata service.
//! Serves nothing itself: that is the library's work.
#![forbid(unsafe_code)]

mod arguments;
mod layers;
mod notice_arguments;

use arguments::Arguments;
use clap::CommandFactory;
use imds_mock::{Instance, Notices, Options, Profile, Recorder, Server, Service, Tree, TreeError};
use layers::Fault;
use serde_json::{Map, Value};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};
use tokio::signal::unix::{SignalKind, signal};

/// Exit codes of sysexits(3).
mod exit {
    pub(crate) const USAGE: u8 = 64;
    pub(crate) const NO_INPUT: u8 = 66;
    pub(crate) const SOFTWARE: u8 = 70;
    pub(crate) const OS: u8 = 71;
    pub(crate) const CANNOT_CREATE: u8 = 73;
    pub(crate) const PERMISSION: u8 = 77;
    pub(crate) const CONFIGURATION: u8 = 78;
}

/// A message and an exit code.
struct Failure(u8, String);

fn main() -> ExitCode {
    let outcome = match layers::read() {
        Ok((arguments, overrides)) => run(&arguments, overrides),
        Err(Fault::Usage(error)) => {
            // nothing can be done about a closed terminal
            let _ = error.print();
            return if error.use_stderr() { exit::USAGE.into() } else { ExitCode::SUCCESS };
        }
        Err(Fault::File(failure)) => Err(failure),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(code, message)) => {
            eprintln!("imds-mock: {message}");
            code.into()
        }
    }
}

fn run(arguments: &Arguments, overrides: Map<String, Value>) -> Result<(), Failure> {
    if let Some(shell) = arguments.completions {
        clap_complete::generate(shell, &mut Arguments::command(), "imds-mock", &mut std::io::stdout());
        return Ok(());
    }
    raise_descriptor_limit();
    let profile = Profile {
        token_required: arguments.imdsv2_only,
        role: (!arguments.no_role).then(|| arguments.role.clone()),
        credential_life: Duration::from_secs(arguments.credential_life),
    };
    let notices = arguments.notices.notices();
    let tree = tree(arguments, overrides, &notices)?;
    let service = Service::new(tree, profile, SystemTime::now()).with_notices(notices);
    let options = Options {
        head_time: Duration::from_millis(arguments.head_time),
        delay: Duration::from_millis(arguments.delay),
        keep_alive: arguments.keep_alive,
        hop_limit: arguments.hop_limit,
        recorder: arguments.record.as_deref().map(recorder).transpose()?,
    };
    let system = |what: &str, error: std::io::Error| Failure(exit::OS, format!("{what}: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| system("cannot wait for events", error))?;
    runtime.block_on(async {
        let server = Server::bind(&arguments.listen, service, options).map_err(|(address, error)| {
            let denied = error.kind() == std::io::ErrorKind::PermissionDenied;
            let code = if denied { exit::PERMISSION } else { exit::OS };
            Failure(code, format!("cannot listen on {address}: {error}"))
        })?;
        let mut terminate =
            signal(SignalKind::terminate()).map_err(|error| system("cannot await SIGTERM", error))?;
        let mut interrupt =
            signal(SignalKind::interrupt()).map_err(|error| system("cannot await SIGINT", error))?;
        announce(&server).map_err(|error| system("cannot say that it is ready", error))?;
        let stop = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        server.run(stop).await;
        Ok(())
    })
}

/// What is served: the built-in instance, over it the file's tables, over them what the options say.
fn tree(arguments: &Arguments, overrides: Map<String, Value>, notices: &Notices) -> Result<Tree, Failure> {
    // from here on the file may be to blame, if there is one
    let (code, place) = match &arguments.config_file {
        Some(path) => (exit::CONFIGURATION, format!("{}: ", path.display())),
        None => (exit::USAGE, String::new()),
    };
    let wrong = |error: TreeError| Failure(code, format!("{place}{error}"));
    let mut instance = Instance::built_in().map_err(|error| Failure(exit::SOFTWARE, error.to_string()))?;
    instance.lay(overrides);
    for (path, value) in &arguments.set {
        instance.set(path, value).map_err(wrong)?;
    }
    for path in &arguments.remove {
        instance.remove(path);
    }
    let mut tree = instance.tree().map_err(wrong)?;
    notices.fit(&tree).map_err(wrong)?;
    if let Some(text) = &arguments.user_data_text {
        tree.set_user_data(text.clone().into());
    }
    if let Some(path) = &arguments.user_data {
        let bytes = std::fs::read(path)
            .map_err(|error| Failure(exit::NO_INPUT, format!("{}: {error}", path.display())))?;
        tree.set_user_data(bytes);
    }
    for (path, bytes) in &arguments.body_size {
        // not all the same byte, or a hole or a doubled block in a relayed answer would go unnoticed
        let body = (0..=9_999_999_u32).cycle().flat_map(|n| format!("{n:07}\n").into_bytes()).take(*bytes);
        tree.set_body(path, body.collect()).map_err(|error| Failure(exit::USAGE, error.to_string()))?;
    }
    Ok(tree)
}

fn recorder(path: &Path) -> Result<Recorder, Failure> {
    Recorder::create(path)
        .map_err(|error| Failure(exit::CANNOT_CREATE, format!("{}: {error}", path.display())))
}

/// Says where it listens, on stdout and to the service manager if there is one.
fn announce(server: &Server) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for address in server.addresses()? {
        writeln!(out, "listening http://{address}")?;
    }
    out.flush()?;
    sd_notify::notify(&[sd_notify::NotifyState::Ready])
}

/// Many slow clients need many descriptors. Where it cannot be raised, the present limit does.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
