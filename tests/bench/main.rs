//! imds-bench: imds-filterd beside nginx and beside nothing, measured in one run in a lab; as root, touching nothing of the
//! machine. Only reads its command line, starts itself in a lab and shows what came of it.

#![forbid(unsafe_code)]

mod crowd;
mod http;
mod load;
mod process;
mod report;
mod rounds;
mod table;
mod variant;

use clap::Parser;
use load::{Kind, Load};
use report::Report;
use std::ffi::OsString;
use std::io;
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
        Some(kind) => {
            let (clients, requests, pace) = (arguments.clients, arguments.requests, arguments.pace);
            Ok(only_load(&Load { kind, clients, requests, pace }))
        }
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

fn only_load(load: &Load) -> ExitCode {
    let outcome = load::run(load);
    println!("{} requests in {:?}, {} failed", outcome.latencies.len(), outcome.elapsed, outcome.failed);
    if let Some(error) = &outcome.first_error {
        println!("the first error: {error}");
    }
    if outcome.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn inside(arguments: &Arguments) -> io::Result<ExitCode> {
    let report = rounds::measure(arguments.rounds.into(), &arguments.nginx)?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(ExitCode::SUCCESS)
}

fn outside(arguments: &Arguments) -> io::Result<ExitCode> {
    let program = std::env::current_exe()?;
    let directory = program.parent().unwrap_or(Path::new("."));
    let bench = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench");
    let nginx = arguments.nginx.to_string_lossy();
    let mut lab = Command::new(directory.join("imds-lab"));
    lab.args(["run", "--timeout", LIMIT_SECONDS, "--bare", "--rules-text", "Allow \"/\"\n", "--config"]);
    lab.arg(bench.join("imds-filterd.toml"));
    lab.arg("--upstream").arg(format!(
        "exec '{nginx}' -e /run/lab/log/upstream-error.log -c /run/lab/tests/bench/upstream.conf"
    ));
    lab.args(["--", "imds-bench", "--inside", "--rounds", &arguments.rounds.to_string(), "--nginx", &nginx]);
    let output = lab.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!("the lab ended: {}", output.status)));
    }
    let report: Report = serde_json::from_slice(&output.stdout)?;
    let json = match &arguments.json {
        Some(path) => path.clone(),
        None => directory.parent().unwrap_or(directory).join("bench.json"),
    };
    std::fs::write(&json, serde_json::to_string_pretty(&report)? + "\n")?;
    print!("{}", table::render(&report).map_err(io::Error::other)?);
    println!("\nnumbers: {}", json.display());
    Ok(if report.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
