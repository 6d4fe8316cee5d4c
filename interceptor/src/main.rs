//! imds-interceptor: reads the arguments and the settings, and turns one result into one exit code.
//! Must not do anything itself.
#![forbid(unsafe_code)]

use imds_interceptor::{log, start};
use imds_settings::{DEFAULT_PATH, Settings, exit};
use std::path::PathBuf;
use std::process::ExitCode;

const HELP: &str = "\
Usage: imds-interceptor [--config FILE] [release]

Captures connections to the instance metadata service, tells which user made each, and hands them to imds-filterd.
Runs in the foreground until SIGTERM or SIGINT; access then stays closed.

  release        give the host its direct route to the metadata service back, and end
  --config FILE  read FILE instead of /etc/imds-filterd.toml
  --help         print this and end
  --version      print the version and end
";

/// With the path of this system.
fn help() -> String {
    HELP.replace("/etc/imds-filterd.toml", DEFAULT_PATH)
}

enum Task {
    Run,
    Release,
    Print(String),
}

fn main() -> ExitCode {
    let (task, config) = match arguments(lexopt::Parser::from_env()) {
        Ok(found) => found,
        Err(error) => {
            eprintln!("imds-interceptor: {error}; see imds-interceptor --help");
            return ExitCode::from(exit::USAGE);
        }
    };
    if let Task::Print(text) = task {
        print!("{text}");
        return ExitCode::SUCCESS;
    }
    let settings = match Settings::load(config.as_deref()) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("imds-interceptor: {error}");
            return ExitCode::from(exit::CONFIGURATION);
        }
    };
    log::start();
    let result = match task {
        Task::Run => start::run(&settings),
        Task::Release => start::release(&settings),
        Task::Print(_) => Ok(()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::say(&format!("imds-interceptor: {error}"));
            ExitCode::from(error.exit_code())
        }
    }
}

fn arguments(mut parser: lexopt::Parser) -> Result<(Task, Option<PathBuf>), lexopt::Error> {
    let (mut task, mut config) = (Task::Run, None);
    while let Some(argument) = parser.next()? {
        match argument {
            lexopt::Arg::Long("config") => config = Some(PathBuf::from(parser.value()?)),
            lexopt::Arg::Long("help") | lexopt::Arg::Short('h') => task = Task::Print(help()),
            lexopt::Arg::Long("version") | lexopt::Arg::Short('V') => {
                task = Task::Print(format!("imds-interceptor {}\n", env!("CARGO_PKG_VERSION")));
            }
            lexopt::Arg::Value(word) if word == "release" && matches!(task, Task::Run) => {
                task = Task::Release
            }
            other => return Err(other.unexpected()),
        }
    }
    Ok((task, config))
}
