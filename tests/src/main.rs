//! imds-lab: runs a command on a make-believe cloud instance with both daemons, as root, touching nothing of the machine.
//! Only reads its command line and turns the result into an exit code.

#![forbid(unsafe_code)]

use clap::Parser;
use imds_tests::command_line::{Arguments, What};
use imds_tests::{account, daemon, inside, outside, world};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 64 } else { 0 });
        }
    };
    let done = match &arguments.what {
        What::Run { options, command } if arguments.inside => inside::run(options, command),
        What::Shell { options } if arguments.inside => inside::run(options, &inside::shell()),
        What::Run { options, .. } => outside::run(options, false),
        What::Shell { options } => outside::run(options, true),
        What::As { user, groups, command } => account::become_user(user, groups.as_deref(), command),
        What::In { place, command } => world::enter(*place, command),
        What::Start { daemon } => daemon::start(*daemon).map(|()| 0),
        What::Stop { daemon } => daemon::stop(*daemon).map(|()| 0),
        What::Kill { daemon } => daemon::kill(*daemon).map(|()| 0),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("imds-lab: {error}");
            error.exit_code()
        }
    }
}
