//! Why the lab could not do what it was asked.
//! Not for the fate of the command run in it: that is its exit status.

use crate::daemon::Daemon;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus};

#[derive(Debug)]
pub enum LabError {
    NotRoot,
    /// A program, and the Debian package that has it.
    MissingTool(&'static str, &'static str),
    /// A program of ours that was not built.
    NotBuilt(&'static str),
    /// One of as, in, start, stop, kill, outside of a lab.
    NotInside,
    UnknownUser(String),
    UnknownGroup(String),
    File(PathBuf, io::Error),
    /// --config and --rules together need a configuration that can be read.
    Config(String),
    /// What was being done, and the error.
    System(&'static str, io::Error),
    /// What was being done ended so.
    Failed(&'static str, ExitStatus),
    /// It ended before it was ready; the end of its log.
    Ended(Daemon, ExitStatus, String),
    /// It was not ready in time; the end of its log.
    NotReady(Daemon, String),
    /// It did not go away.
    StillThere(Daemon),
    NotRunning(Daemon),
    AlreadyRunning(Daemon),
}

impl LabError {
    pub(crate) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_path_buf();
        move |error| Self::File(path, error)
    }

    /// sysexits(3).
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::NotRoot => 77,
            Self::NotInside | Self::UnknownUser(_) | Self::UnknownGroup(_) => 64,
            Self::Config(_) => 78,
            Self::File(..)
            | Self::MissingTool(..)
            | Self::NotBuilt(_)
            | Self::System(..)
            | Self::Failed(..)
            | Self::Ended(..)
            | Self::NotReady(..)
            | Self::StillThere(_)
            | Self::NotRunning(_)
            | Self::AlreadyRunning(_) => 71,
        })
    }
}

impl fmt::Display for LabError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRoot => {
                f.write_str("needs root, to make network and mount namespaces (sudo imds-lab ...)")
            }
            Self::MissingTool(tool, package) => {
                write!(f, "needs the program {tool}: install the package {package}")
            }
            Self::NotBuilt(program) => {
                write!(f, "{program} is not next to imds-lab; build it first: cargo build --workspace")
            }
            Self::NotInside => f.write_str("only works inside a lab: see imds-lab run and imds-lab shell"),
            Self::UnknownUser(name) => write!(f, "no user {name:?} in the lab"),
            Self::UnknownGroup(name) => write!(f, "no group {name:?} in the lab"),
            Self::File(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Config(error) => write!(f, "--rules cannot be put into the given configuration: {error}"),
            Self::System(what, error) => write!(f, "{what}: {error}"),
            Self::Failed(what, status) => write!(f, "{what}: {status}"),
            Self::Ended(daemon, status, log) => {
                write!(f, "{daemon} ended before it was ready: {status}\n{log}")
            }
            Self::NotReady(daemon, log) => write!(f, "{daemon} was not ready in time\n{log}"),
            Self::StillThere(daemon) => write!(f, "{daemon} did not end in time"),
            Self::NotRunning(daemon) => write!(f, "{daemon} is not running"),
            Self::AlreadyRunning(daemon) => write!(f, "{daemon} is running already"),
        }
    }
}

impl std::error::Error for LabError {}
