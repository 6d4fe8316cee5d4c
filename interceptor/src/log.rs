//! Lines to stderr, and a throttle for those that clients can provoke.
//! Must not log anything a client sent, nor wait for whoever reads it.

mod output;

use output::Output;
use std::io::{self, Write};
use std::panic::PanicHookInfo;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

static STDERR: Mutex<Option<Output>> = Mutex::new(None);

/// Every line goes to stderr; without time where the journal adds its own.
pub fn start() {
    // closed: nothing is said
    *STDERR.lock().unwrap_or_else(PoisonError::into_inner) = Output::stderr().ok();
    let lines = tracing_subscriber::fmt().with_writer(|| Lines).with_ansi(false).with_target(false);
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        lines.without_time().init();
    } else {
        lines.init();
    }
    std::panic::set_hook(Box::new(|panic| tracing::error!("{}", text_of(panic))));
}

/// What is said at the end, for the operator: a line of its own, without level.
pub fn say(text: &str) {
    let _ = Lines.write(format!("{text}\n").as_bytes()); // it never fails
}

/// Takes whole lines. One that there is no room for is lost, and the next that there is says how many were. An error
/// would be told on stderr, and end us where that is gone.
struct Lines;

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Some(output) = &mut *STDERR.lock().unwrap_or_else(PoisonError::into_inner) {
            output.line(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Text that was made when it happened could hold a client's bytes; the program's own words cannot.
fn text_of(panic: &PanicHookInfo<'_>) -> String {
    let place = panic.location().map_or("an unknown place".into(), ToString::to_string);
    match panic.payload().downcast_ref::<&'static str>() {
        Some(text) => format!("internal error at {place}: {text}"),
        None => format!("internal error at {place}"),
    }
}

const BURST: u32 = 10;
const PERIOD: Duration = Duration::from_secs(10);

/// Lets ten lines pass in ten seconds, and then says how many it kept back.
#[derive(Debug, Default)]
pub struct Throttle {
    period: Option<Instant>,
    passed: u32,
    kept_back: u64,
}

impl Throttle {
    /// `Some(n)`: write the line, and that `n` like it were not written before.
    pub fn pass(&mut self, now: Instant) -> Option<u64> {
        let over = self.period.is_none_or(|start| now.saturating_duration_since(start) >= PERIOD);
        if over {
            self.period = Some(now);
            self.passed = 0;
        }
        if self.passed >= BURST {
            self.kept_back += 1;
            return None;
        }
        self.passed += 1;
        Some(std::mem::take(&mut self.kept_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_lines_pass_in_a_period_and_the_next_says_how_many_did_not() {
        let (mut throttle, start) = (Throttle::default(), Instant::now());
        let passed = (0..100).filter(|_| throttle.pass(start).is_some()).count();
        assert_eq!(passed, 10);
        assert_eq!(throttle.pass(start + PERIOD), Some(90));
        assert_eq!(throttle.pass(start + PERIOD), Some(0));
    }
}
