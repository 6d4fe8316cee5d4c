//! The command line of imds-mock. Does nothing: `layers` completes it from environment and file, `main` obeys it.
//! Options for notices are in `notice_arguments`.

use crate::notice_arguments::NoticeArguments;
use clap::Parser;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Largest body that `--body-size` makes: it is held in memory.
const MAX_BODY: usize = 256 << 20;

/// Imitates the EC2 instance metadata service: same answers, same headers in the same order, made-up secrets.
///
/// Prints a line "listening http://ADDRESS:PORT" for each address once all of them accept connections, tells the
/// service manager that it is ready, and ends on SIGTERM or SIGINT. The secrets it serves are new at each start and
/// contain the words "Mock" and "NotReal".
///
/// Every option may also stand in the environment, IMDS_MOCK_SPOT_ACTION for --spot-action, and in the file of
/// --config-file; the command line comes first, then the environment, then the file. For variables of
/// amazon-ec2-metadata-mock AEMM_ does for IMDS_MOCK_.
///
/// Example, for an SDK or the AWS command line:
///   imds-mock --listen 127.0.0.1:1338 &
///   AWS_EC2_METADATA_SERVICE_ENDPOINT=http://127.0.0.1:1338/ aws configure list
#[derive(Parser)]
#[command(name = "imds-mock", version, verbatim_doc_comment)]
pub(crate) struct Arguments {
    /// Address and port to listen on, [ADDRESS]:PORT for IPv6; port 0 takes a free one. May be given several times
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:1338")]
    pub(crate) listen: Vec<SocketAddr>,

    /// Answer 401 to whoever sends no token
    #[arg(long, visible_alias = "imdsv2")]
    pub(crate) imdsv2_only: bool,

    /// Name of the instance's role
    #[arg(long, value_name = "NAME", default_value = "imds-mock-role", value_parser = role_name)]
    pub(crate) role: String,

    /// The instance has no role: 404 for everything below iam
    #[arg(long, conflicts_with = "role")]
    pub(crate) no_role: bool,

    /// Life of a set of credentials; a new set is served from half of it on
    #[arg(long, value_name = "SECONDS", default_value_t = 21_600, value_parser = clap::value_parser!(u64).range(2..=129_600))]
    pub(crate) credential_life: u64,

    /// Serve this file as user-data; without it there is none
    #[arg(long, value_name = "FILE")]
    pub(crate) user_data: Option<PathBuf>,

    /// Serve this text as user-data
    #[arg(long, value_name = "TEXT", conflicts_with = "user_data")]
    pub(crate) user_data_text: Option<String>,

    /// Options and values of the instance, JSON or TOML; see imds-mock(1)
    #[arg(long, value_name = "FILE")]
    pub(crate) config_file: Option<PathBuf>,

    /// Serve VALUE at PATH, which is below the version: meta-data/instance-id=i-0. May be given several times
    #[arg(long, value_name = "PATH=VALUE", value_parser = path_and_value)]
    pub(crate) set: Vec<(String, String)>,

    /// Serve nothing at PATH, which is below the version: meta-data/tags. May be given several times
    #[arg(long, value_name = "PATH", value_parser = below_version)]
    pub(crate) remove: Vec<String>,

    /// Serve BYTES bytes at PATH, which is below the version: meta-data/big=1048576. May be given several times
    #[arg(long, value_name = "PATH=BYTES", value_parser = sized_body)]
    pub(crate) body_size: Vec<(String, usize)>,

    /// Keep what is received, byte for byte and with its tokens, one JSON object a line:
    /// {"connection":1,"peer":"ADDRESS:PORT","local":"ADDRESS:PORT","status":200,"bytes":"GET / HTTP/1.1\r\n\r\n"}
    /// where each character of "bytes" is one byte (Latin-1) and "status" is null for what got no answer.
    /// A line is written before the answer is sent. The file is emptied first and readable by its owner only
    #[arg(long, value_name = "FILE", verbatim_doc_comment)]
    pub(crate) record: Option<PathBuf>,

    /// Wait before each answer
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 0)]
    pub(crate) delay: u64,

    /// Keep connections open as HTTP says; the real service always closes
    #[arg(long)]
    pub(crate) keep_alive: bool,

    /// IP TTL of the answers to the token PUT
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    pub(crate) hop_limit: u8,

    /// How long a client may take over a request, or leave a kept connection idle
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) head_time: u64,

    /// Print this shell's completions for imds-mock and end
    #[arg(long, value_name = "SHELL")]
    pub(crate) completions: Option<clap_complete::Shell>,

    #[command(flatten)]
    pub(crate) notices: NoticeArguments,
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
    Ok((without_version(path).into(), bytes))
}

fn path_and_value(text: &str) -> Result<(String, String), String> {
    let (path, value) = text.split_once('=').ok_or("expected PATH=VALUE")?;
    Ok((without_version(path).into(), value.into()))
}

fn below_version(text: &str) -> Result<String, String> {
    Ok(without_version(text).into())
}

fn without_version(path: &str) -> &str {
    path.trim_start_matches("/latest")
}
