//! Log lines to stderr, and what is said of a panic.
//! Must not log what a client or the service sent; must not open anything.

use crate::audit::Output;
use std::io::{self, Write};
use std::panic::PanicHookInfo;
use std::sync::{LazyLock, Mutex, PoisonError};

/// As the audit trail's: a reader that has stopped must not stop us, and one that is gone must not end us. `None`: stderr
/// is closed.
static STDERR: LazyLock<Mutex<Option<Output>>> = LazyLock::new(|| Mutex::new(Output::stderr().ok()));

/// Every line goes to stderr; without time where the journal adds its own.
pub fn start() {
    // now, while descriptors can still be had
    LazyLock::force(&STDERR);
    let log = tracing_subscriber::fmt().with_writer(|| Lines).with_ansi(false).with_target(false);
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        log.without_time().init();
    } else {
        log.init();
    }
    say_panics();
}

/// What is said at the end, for the operator: a line of its own, without level.
pub fn say(text: &str) {
    let _ = writeln!(Lines, "{text}"); // it never fails
}

/// Takes whole lines. One that there is no room for is lost, and the next that there is says how many were.
struct Lines;

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Some(output) = &mut *STDERR.lock().unwrap_or_else(PoisonError::into_inner) {
            output.log_line(line);
        }
        Ok(line.len())
    }

    fn write_fmt(&mut self, text: std::fmt::Arguments<'_>) -> io::Result<()> {
        self.write(text.to_string().as_bytes()).map(drop)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One connection's panic ends that connection. The usual hook would open files for its backtrace, which the sandbox
/// answers with the end of the process, and would print text that was made of a client's bytes.
pub fn say_panics() {
    std::panic::set_hook(Box::new(|panic| tracing::error!("{}", text_of(panic))));
}

fn text_of(panic: &PanicHookInfo<'_>) -> String {
    let place = panic.location().map_or("an unknown place".into(), ToString::to_string);
    match panic.payload().downcast_ref::<&'static str>() {
        // words of the program's own
        Some(text) => format!("internal error at {place}: {text}"),
        None => format!("internal error at {place}"),
    }
}
