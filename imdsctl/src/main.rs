//! The operator's command: checks rules and explains verdicts with the very parser and `decide` of imds-filterd, and
//! asks the running one. Changes nothing by itself.
#![forbid(unsafe_code)]

mod check;
mod control;
mod explain;
mod load;
mod reload;
mod status;

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
        /// The path, as in a request (percent-encoding and all)
        path: String,
    },
}

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
    let mut found = false;
    let answer = match arguments.command {
        Command::Check { file, allow_unknown } => check::run(&file, allow_unknown),
        Command::Reload { file, config, allow_unknown } => {
            reload::run(file, config.as_deref(), allow_unknown)
        }
        Command::Status { config, json } => load::settings(config.as_deref())
            .and_then(|settings| status::run(&settings, json))
            .map(|(text, healthy)| {
                found = !healthy;
                text
            }),
        Command::Explain { rules, config, user, groups, unit, method, path } => {
            let question = explain::Question { user, groups, unit, method, path };
            explain::run(rules, config.as_deref(), &question)
        }
    };
    match answer.and_then(|text| print(&text)) {
        Ok(()) if found => FOUND.into(),
        Ok(()) => ExitCode::SUCCESS,
        Err(Fault { code, message }) => {
            // as above
            let _ = writeln!(io::stderr(), "{message}");
            code.into()
        }
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
