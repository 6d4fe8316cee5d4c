//! imds-mock: the command line of the imitated metadata service.
//! Serves nothing itself: that is the library's work.
#![forbid(unsafe_code)]

use clap::{CommandFactory, Parser};
use imds_mock::{Options, Profile, Recorder, Server, Service, Tree};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};
use tokio::signal::unix::{SignalKind, signal};

/// Largest body that `--body-size` makes: it is held in memory.
const MAX_BODY: usize = 256 << 20;

/// Exit codes of sysexits(3).
mod exit {
    pub(crate) const USAGE: u8 = 64;
    pub(crate) const NO_INPUT: u8 = 66;
    pub(crate) const SOFTWARE: u8 = 70;
    pub(crate) const OS: u8 = 71;
    pub(crate) const CANNOT_CREATE: u8 = 73;
    pub(crate) const PERMISSION: u8 = 77;
}

/// Imitates the EC2 instance metadata service: same answers, same headers in the same order, made-up secrets.
///
/// Prints a line "listening http://ADDRESS:PORT" for each address once all of them accept connections, tells the
/// service manager that it is ready, and ends on SIGTERM or SIGINT. The secrets it serves are new at each start and
/// contain the words "Mock" and "NotReal".
///
/// Example, for an SDK or the AWS command line:
///   imds-mock --listen 127.0.0.1:1338 &
///   AWS_EC2_METADATA_SERVICE_ENDPOINT=http://127.0.0.1:1338/ aws configure list
#[derive(Parser)]
#[command(name = "imds-mock", version, verbatim_doc_comment)]
struct Arguments {
    /// Address and port to listen on, [ADDRESS]:PORT for IPv6; port 0 takes a free one. May be given several times
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:1338")]
    listen: Vec<SocketAddr>,

    /// Answer 401 to whoever sends no token
    #[arg(long)]
    imdsv2_only: bool,

    /// Name of the instance's role
    #[arg(long, value_name = "NAME", default_value = "imds-mock-role", value_parser = role_name)]
    role: String,

    /// The instance has no role: 404 for everything below iam
    #[arg(long, conflicts_with = "role")]
    no_role: bool,

    /// Life of a set of credentials; a new set is served from half of it on
    #[arg(long, value_name = "SECONDS", default_value_t = 21_600, value_parser = clap::value_parser!(u64).range(2..=129_600))]
    credential_life: u64,

    /// Serve this file as user-data; without it there is none
    #[arg(long, value_name = "FILE")]
    user_data: Option<PathBuf>,

    /// Serve BYTES bytes at PATH, which is below the version: meta-data/big=1048576. May be given several times
    #[arg(long, value_name = "PATH=BYTES", value_parser = sized_body)]
    body_size: Vec<(String, usize)>,

    /// Keep what is received, byte for byte and with its tokens, one JSON object a line:
    /// {"connection":1,"peer":"ADDRESS:PORT","local":"ADDRESS:PORT","status":200,"bytes":"GET / HTTP/1.1\r\n\r\n"}
    /// where each character of "bytes" is one byte (Latin-1) and "status" is null for what got no answer.
    /// A line is written before the answer is sent. The file is emptied first and readable by its owner only
    #[arg(long, value_name = "FILE", verbatim_doc_comment)]
    record: Option<PathBuf>,

    /// Wait before each answer
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 0)]
    delay: u64,

    /// Keep connections open as HTTP says; the real service always closes
    #[arg(long)]
    keep_alive: bool,

    /// IP TTL of the answers to the token PUT
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    hop_limit: u8,

    /// How long a client may take over a request, or leave a kept connection idle
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    head_time: u64,

    /// Print this shell's completions for imds-mock and end
    #[arg(long, value_name = "SHELL")]
    completions: Option<clap_complete::Shell>,
}

/// A message and an exit code.
struct Failure(u8, String);

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // nothing can be done about a closed terminal
            let _ = error.print();
            return if error.use_stderr() { exit::USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    if let Some(shell) = arguments.completions {
        clap_complete::generate(shell, &mut Arguments::command(), "imds-mock", &mut std::io::stdout());
        return ExitCode::SUCCESS;
    }
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(code, message)) => {
            eprintln!("imds-mock: {message}");
            code.into()
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Failure> {
    raise_descriptor_limit();
    let profile = Profile {
        token_required: arguments.imdsv2_only,
        role: (!arguments.no_role).then(|| arguments.role.clone()),
        credential_life: Duration::from_secs(arguments.credential_life),
    };
    let service = Service::new(tree(&arguments)?, profile, SystemTime::now());
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

fn tree(arguments: &Arguments) -> Result<Tree, Failure> {
    let mut tree = Tree::built_in().map_err(|error| Failure(exit::SOFTWARE, error.to_string()))?;
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

/// What IAM allows in a role's name.
fn role_name(text: &str) -> Result<String, String> {
    let good = (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+=,.@_-".contains(&b));
    if good { Ok(text.into()) } else { Err("expected 1 to 64 letters, digits or +=,.@_-".into()) }
}

fn sized_body(text: &str) -> Result<(String, usize), String> {
    let (path, bytes) = text.rsplit_once('=').ok_or("expected PATH=BYTES")?;
    let bytes = bytes.parse().ok().filter(|bytes| *bytes <= MAX_BODY);
    let bytes = bytes.ok_or_else(|| format!("expected at most {MAX_BODY} bytes"))?;
    Ok((path.trim_start_matches("/latest").into(), bytes))
}
