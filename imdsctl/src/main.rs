//! The operator's command: checks rules and explains verdicts with the very parser and `decide` of imds-filterd, and
//! asks the running one. Changes nothing by itself.
#![forbid(unsafe_code)]

mod check;
mod completions;
mod control;
mod diff;
mod doctor;
mod explain;
mod lines;
mod load;
mod log;
mod release;
mod reload;
mod status;
mod v1_report;

use clap::{Parser, Subcommand};
use imds_settings::exit;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Check, explain and load the rules of imds-filterd: who may read what of the instance metadata service.
#[derive(Debug, Parser)]
#[command(
    name = "imdsctl",
    version,
    after_help = "Exit status, as in sysexits(3): 0 done, 1 something is to be looked at, 64 wrong usage, \
    66 a file cannot be read, 69 imds-filterd does not run, 71 the operating system failed, 75 try again, \
    77 it takes root, 78 the rules or settings are wrong."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check a file of rules; exit 0 if imds-filterd can use it, 78 with every fault and its place if not
    Check {
        /// The file of rules
        file: PathBuf,
        /// Only warn of users and groups that this host does not have (their rules match nobody)
        #[arg(long)]
        allow_unknown: bool,
    },
    /// Put a file of rules in force, and the mode that the settings name; exit 78 if they are wrong: the old rules stay
    Reload {
        /// The file of rules [default: the one of the settings]
        file: Option<PathBuf>,
        /// The settings [default: /etc/imds-filterd.toml]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Only warn of users and groups that this host does not have (their rules match nobody until it does)
        #[arg(long)]
        allow_unknown: bool,
    },
    /// Say how both daemons are; exit 0 if all is well, 1 if somebody should look at it
    Status {
        /// The settings [default: /etc/imds-filterd.toml]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Show the audit lines of imds-filterd, chosen or summed up
    Log(log::Options),
    /// Say who still sends IMDSv1: user, unit, program and path, how often and when last
    V1Report {
        /// A file of audit lines, or - for standard input [default: the journal]
        file: Option<PathBuf>,
    },
    /// Say which recorded requests a file of rules would judge otherwise; exit 1 if there are any
    Diff {
        /// The file of rules
        file: PathBuf,
        /// A file of audit lines, or - for standard input [default: the journal]
        log: Option<PathBuf>,
        /// The settings [default: /etc/imds-filterd.toml]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Stop both services and give the host its direct route to the metadata service back
    Release {
        /// The settings [default: /etc/imds-filterd.toml]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Look at the installation and try the known ways around the filter; exit 1 if anything failed
    Doctor {
        /// The settings [default: /etc/imds-filterd.toml]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Who tries the ways: a user without privileges
        #[arg(long, value_name = "NAME", default_value = "nobody")]
        user: String,
    },
    #[command(hide = true, name = WAYS)]
    Ways(doctor::Targets),
    /// Say whether a user may read a path, and which rule decides
    Explain {
        /// The file of rules [default: the one of the settings]
        #[arg(long, value_name = "FILE")]
        rules: Option<PathBuf>,
        /// The settings [default: /etc/imds-filterd.toml]
        #[arg(long, value_name = "FILE", conflicts_with = "rules")]
        config: Option<PathBuf>,
        /// The user who asks
        #[arg(long, value_name = "NAME|UID")]
        user: String,
        /// A group of his besides those of the account database; may be given more than once
        #[arg(long = "group", value_name = "NAME|GID")]
        groups: Vec<String>,
        /// The service he asks from, as the service manager names it (nginx.service)
        #[arg(long)]
        unit: Option<String>,
        /// The method of the request
        #[arg(long, default_value = "GET")]
        method: String,
        /// The beginning of what the client says of itself (its User-Agent)
        #[arg(long, value_name = "TEXT")]
        agent: Option<String>,
        /// A header of the request, "Name: value"; may be given more than once
        #[arg(long = "header", value_name = "HEADER")]
        headers: Vec<String>,
        /// An IMDSv2 token comes with the request
        #[arg(long)]
        token: bool,
        /// The path, as in a request (percent-encoding and all)
        path: String,
    },
    /// Print a shell's completions for imdsctl
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Of imdsctl alone, for itself: see `doctor`.
pub(crate) const WAYS: &str = "doctor-ways";

/// Why there is no answer.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) code: u8,
    pub(crate) message: String,
}

/// The answer is that something is to be looked at.
const FOUND: u8 = 1;

impl Fault {
    pub(crate) fn new(code: u8, what: impl std::fmt::Display) -> Self {
        Self { code, message: format!("imdsctl: {what}") }
    }
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let wrong = error.use_stderr();
            // nowhere left to tell if even this cannot be written
            let _ = error.print();
            return if wrong { exit::USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    let answer = answer(arguments.command);
    match answer.and_then(|(text, found)| print(&text).map(|()| found)) {
        Ok(true) => FOUND.into(),
        Ok(false) => ExitCode::SUCCESS,
        Err(Fault { code, message }) => {
            // as above
            let _ = writeln!(io::stderr(), "{message}");
            code.into()
        }
    }
}

/// The text, and whether something is to be looked at.
fn answer(command: Command) -> Result<(String, bool), Fault> {
    let well = |text| (text, false);
    match command {
        Command::Check { file, allow_unknown } => check::run(&file, allow_unknown).map(well),
        Command::Reload { file, config, allow_unknown } => {
            reload::run(file, config.as_deref(), allow_unknown).map(well)
        }
        Command::Status { config, json } => status::run(&load::settings(config.as_deref())?, json),
        Command::Log(options) => log::run(&options).map(well),
        Command::V1Report { file } => v1_report::run(file.as_deref()).map(well),
        Command::Diff { file, log, config } => {
            diff::run(&file, log.as_deref(), &load::settings(config.as_deref())?)
        }
        Command::Release { config } => release::run(config.as_deref()).map(well),
        Command::Doctor { config, user } => doctor::run(config.as_deref(), &user),
        Command::Ways(targets) => Ok(doctor::run_ways(&targets)),
        Command::Explain { rules, config, user, groups, unit, method, agent, headers, token, path } => {
            let question = explain::Question { user, groups, unit, method, agent, headers, token, path };
            explain::run(rules, config.as_deref(), &question).map(well)
        }
        Command::Completions { shell } => Ok(well(completions::of(shell))),
    }
}

/// A reader who has seen enough (`| head -1`) is no fault.
fn print(text: &str) -> Result<(), Fault> {
    let mut out = io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Fault { code: exit::OS, message: format!("imdsctl: standard output: {error}") })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
