//! What a shell completes after `imdsctl`, from the command line's own definition.
//! Installs nothing: `make install` does.

use crate::Arguments;
use clap::CommandFactory;

pub(crate) fn of(shell: clap_complete::Shell) -> String {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "imdsctl", &mut text);
    String::from_utf8_lossy(&text).into_owned()
}
