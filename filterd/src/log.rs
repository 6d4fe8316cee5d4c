//! Log lines to stderr, and what is said of a panic.
//! Must not log what a client or the service sent; must not open anything.

use std::panic::PanicHookInfo;

/// Every line goes to stderr; without time where the journal adds its own.
pub fn start() {
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).with_target(false);
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        log.without_time().init();
    } else {
        log.init();
    }
    say_panics();
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
