//! The command line of imds-lab.
//! Decides nothing; what a value means is with whoever uses it.

use crate::daemon::Daemon;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;

/// A make-believe cloud instance with imds-filterd on it, in namespaces of its own.
///
/// Users: root; alice (uid 2001, gid 3001, also staff); bob (2002, 3002, also staff and wheel); mallory (2003, 3003,
/// also docker, with subordinate ids); imds; nobody. The command finds the files of the lab below $LAB, the programs in
/// $PATH, the requests that the real service got in $LAB_RECORD and the audit log in $LAB_AUDIT;
/// $LAB_CGROUPS is the root of the lab's cgroups.
#[derive(Debug, Parser)]
#[command(name = "imds-lab", version)]
pub struct Arguments {
    /// Set by the lab itself when it starts itself again in its namespaces.
    #[arg(long, hide = true)]
    pub inside: bool,
    #[command(subcommand)]
    pub what: What,
}

#[derive(Debug, Subcommand)]
pub enum What {
    /// Make a lab, run a command in it and remove it; the exit status is the command's (128 + signal)
    Run {
        #[command(flatten)]
        options: Options,
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Make a lab and give a prompt in it
    Shell {
        #[command(flatten)]
        options: Options,
    },
    /// Inside: run a command as another user, in the present namespace
    As {
        /// A name, or UID:GID
        user: String,
        /// These supplementary groups (names or numbers, by comma; "" for none) instead of the user's
        #[arg(long)]
        groups: Option<String>,
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Inside: run a command in another network namespace
    In {
        place: Place,
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Inside: start a daemon and wait until it is ready
    Start { daemon: Daemon },
    /// Inside: end a daemon with SIGTERM and wait until it is gone
    Stop { daemon: Daemon },
    /// Inside: end a daemon with SIGKILL and wait until it is gone
    Kill { daemon: Daemon },
}

#[derive(Debug, Args)]
pub struct Options {
    /// The rules (default: the shipped imds.conf). With --config they take the place of the rules it names
    #[arg(long, value_name = "FILE", conflicts_with = "rules_text")]
    pub rules: Option<PathBuf>,
    /// The same, given on the command line
    #[arg(long, value_name = "TEXT")]
    pub rules_text: Option<String>,
    /// imds-filterd.toml, taken as it is (default: the shipped one)
    #[arg(long, value_name = "FILE", conflicts_with = "config_text")]
    pub config: Option<PathBuf>,
    /// The same, given on the command line
    #[arg(long, value_name = "TEXT")]
    pub config_text: Option<String>,
    /// Serves the metadata service in the cloud instead of imds-mock; run by sh. Ready when something listens on IPv4
    /// port 80: serve IPv6 first
    #[arg(long, value_name = "COMMAND", conflicts_with = "mock_arg")]
    pub upstream: Option<String>,
    /// A further argument for imds-mock; may be repeated
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub mock_arg: Vec<String>,
    /// Start neither of our daemons: clients reach the real service
    #[arg(long)]
    pub bare: bool,
    /// Put a further network namespace, `container`, behind a bridge of the instance, which then forwards
    #[arg(long, value_name = "HOW")]
    pub container: Option<Container>,
    /// Run the command as this user (a name, or UID:GID)
    #[arg(long, value_name = "NAME", default_value = "root")]
    pub user: String,
    /// Copy all logs into this directory at the end
    #[arg(long, value_name = "DIR")]
    pub keep_logs: Option<PathBuf>,
    /// End everything after so many seconds, with status 124
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Container {
    /// Its packets keep their source address
    Bridge,
    /// Its packets leave with the instance's address
    Masquerade,
}

/// A network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Place {
    Cloud,
    Instance,
    Container,
}

impl Place {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cloud => "cloud",
            Self::Instance => "instance",
            Self::Container => "container",
        }
    }
}
