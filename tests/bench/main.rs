//! imds-bench: imds-filterd beside nginx and beside nothing, measured in one run in a lab; as root, touching nothing of the
//! machine. Only reads its command line, starts itself in a lab and shows what came of it.

#![forbid(unsafe_code)]

mod changed;
mod crowd;
mod http;
mod idle;
mod load;
mod markdown;
mod part;
mod plot;
mod plots;
mod process;
mod report;
mod rounds;
mod sink;
mod table;
mod traffic;
mod variant;
mod verdict;

use clap::Parser;
use load::{Kind, Load};
use part::Part;
use report::Report;
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

/// Far above what five rounds take.
const LIMIT_SECONDS: &str = "900";

/// Measures imds-filterd beside nginx (a reverse proxy behind an nftables REDIRECT) and beside a direct connection.
///
/// Writes a table to standard output and the numbers to a file.
#[derive(Debug, Parser)]
#[command(name = "imds-bench", version)]
struct Arguments {
    /// Set by itself in its lab: measure, and print the report as JSON
    #[arg(long, hide = true)]
    inside: bool,
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// The nginx to measure against, which is also the metadata service for all
    #[arg(long, value_name = "PROGRAM", default_value = "nginx")]
    nginx: OsString,
    /// In a lab, measure nothing but this load on whatever is there, for profiles
    #[arg(long, value_name = "KIND")]
    load: Option<Kind>,
    #[arg(long, requires = "load", default_value_t = 8)]
    clients: usize,
    #[arg(long, requires = "load", default_value_t = 4000)]
    requests: usize,
    /// Requests begun each second
    #[arg(long, requires = "load", value_parser = clap::value_parser!(u32).range(1..))]
    pace: Option<u32>,
    /// Measure nothing but these parts, by comma
    #[arg(long, value_name = "PARTS", value_delimiter = ',')]
    only: Vec<Part>,
    /// Set by itself in its lab: be the other side of traffic
    #[arg(long, hide = true)]
    sink: bool,
    /// Set by itself in its lab: ask that other side, and print how often a second
    #[arg(long, hide = true, value_name = "ADDRESS")]
    echoes: Option<SocketAddr>,
    /// Where the numbers go (default: bench.json in the directory above that of this program)
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 64 } else { 0 });
        }
    };
    let done = match arguments.load {
        None if arguments.echoes.is_some() => only_echoes(&arguments),
        Some(kind) => {
            let (clients, requests, pace) = (arguments.clients, arguments.requests, arguments.pace);
            Ok(only_load(&Load { kind, clients, requests, pace }))
        }
        None if arguments.sink => sink::serve().map(|()| ExitCode::SUCCESS),
        None if arguments.inside => inside(&arguments),
        None => outside(&arguments),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("imds-bench: {error}");
            ExitCode::from(71)
        }
    }
}

fn only_echoes(arguments: &Arguments) -> io::Result<ExitCode> {
    let rate = arguments.echoes.map_or(Ok(0.0), traffic::echoes)?;
    println!("{rate}");
    Ok(ExitCode::SUCCESS)
}

fn only_load(load: &Load) -> ExitCode {
    let outcome = load::run(load);
    println!("{} requests in {:?}, {} failed", outcome.latencies.len(), outcome.elapsed, outcome.failed);
    if let Some(error) = &outcome.first_error {
        println!("the first error: {error}");
    }
    if outcome.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What the lab of a container, a separate one, has to measure.
const IN_CONTAINER: [Part; 1] = [Part::Traffic];

fn inside(arguments: &Arguments) -> io::Result<ExitCode> {
    let report = rounds::measure(arguments.rounds.into(), &arguments.nginx, &arguments.only)?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(ExitCode::SUCCESS)
}

fn outside(arguments: &Arguments) -> io::Result<ExitCode> {
    let program = std::env::current_exe()?;
    let directory = program.parent().unwrap_or(Path::new("."));
    let whole = arguments.only.is_empty();
    let parts = if whole { Part::ALL.to_vec() } else { arguments.only.clone() };
    let (container, plain): (Vec<Part>, Vec<Part>) =
        parts.iter().partition(|part| IN_CONTAINER.contains(part));
    // also when it is empty: it tells the machine
    let mut report = in_lab(directory, arguments, &plain, &[])?;
    if !container.is_empty() {
        let other = in_lab(directory, arguments, &container, &["--container", "bridge"])?;
        report.traffic = other.traffic;
    }
    for daemon in ["imds-interceptor", "imds-filterd"] {
        report.program_bytes += std::fs::metadata(directory.join(daemon))?.len();
    }
    tell(arguments, &report, directory.parent().unwrap_or(directory), whole)?;
    Ok(if report.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A part alone does not take the place of what a whole run told.
fn tell(arguments: &Arguments, report: &Report, target: &Path, whole: bool) -> io::Result<()> {
    let bench = if whole { target.join("bench") } else { target.join("bench/part") };
    std::fs::create_dir_all(&bench)?;
    let json = match &arguments.json {
        Some(path) => path.clone(),
        None if whole => target.join("bench.json"),
        None => bench.join("bench.json"),
    };
    std::fs::write(&json, serde_json::to_string_pretty(report)? + "\n")?;
    let charts = plots::write(report, &bench)?;
    let text = markdown::render(report, &charts).map_err(io::Error::other)?;
    std::fs::write(bench.join("table.md"), text)?;
    print!("{}", table::render(report).map_err(io::Error::other)?);
    println!("\nnumbers: {}; tables and charts for README.md: {}", json.display(), bench.display());
    Ok(())
}

fn in_lab(directory: &Path, arguments: &Arguments, parts: &[Part], more: &[&str]) -> io::Result<Report> {
    let bench = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench");
    let nginx = arguments.nginx.to_string_lossy();
    let mut lab = Command::new(directory.join("imds-lab"));
    lab.args(["run", "--timeout", LIMIT_SECONDS, "--bare", "--rules-text", "Allow \"/\"\n"]).args(more);
    lab.arg("--config").arg(bench.join("imds-filterd.toml"));
    lab.arg("--upstream").arg(format!(
        "exec '{nginx}' -e /run/lab/log/upstream-error.log -c /run/lab/tests/bench/upstream.conf"
    ));
    lab.args(["--", "imds-bench", "--inside", "--rounds", &arguments.rounds.to_string(), "--nginx", &nginx]);
    for part in parts {
        lab.args(["--only", part.name()]);
    }
    let output = lab.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!("the lab ended: {}", output.status)));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
