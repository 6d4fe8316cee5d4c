//! `--supervise`: a parent that starts filterd again when it dies, for systems whose service manager is too slow for that.
//! Must not read a file, listen to anybody or take what a child says for anything but its end.

use imds_settings::exit;
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::signal::unix::{self, SignalKind};
use tokio::time::{Instant, sleep};

/// One that lived so long is started again at once. Others after a pause, or a filterd that cannot live would take all of
/// a processor; clients wait meanwhile.
const LIFE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(50);
/// When it cannot even be started (no memory, no program while it is being replaced).
const RETRY: Duration = Duration::from_millis(500);

/// The signals that are for the child.
struct Signals {
    terminated: unix::Signal,
    interrupted: unix::Signal,
    hung_up: unix::Signal,
}

impl Signals {
    fn take() -> io::Result<Self> {
        Ok(Self {
            terminated: unix::signal(SignalKind::terminate())?,
            interrupted: unix::signal(SignalKind::interrupt())?,
            hung_up: unix::signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminated.recv() => Signal::TERM,
            _ = self.interrupted.recv() => Signal::INT,
            _ = self.hung_up.recv() => Signal::HUP,
        }
    }
}

/// Runs `program` again and again. Returns the exit code to end with: that of a child that ended because it was told to,
/// or that found something which another start does not mend.
///
/// # Errors
/// When the OS has no signals for us, or the first child cannot be started.
pub fn supervise(program: &Path, arguments: &[OsString]) -> io::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(start_again_and_again(program, arguments))
}

async fn start_again_and_again(program: &Path, arguments: &[OsString]) -> io::Result<u8> {
    let mut signals = Signals::take()?;
    let mut child = start(program, arguments)?;
    loop {
        let born = Instant::now();
        let (status, told) = live(&mut child, &mut signals).await?;
        if let Some(code) = last_word(status, told) {
            return Ok(code);
        }
        let pause = if born.elapsed() < LIFE { PAUSE } else { Duration::ZERO };
        tracing::warn!("imds-filterd ended ({status}) and is started again");
        child = loop {
            if !wait(pause, &mut signals).await {
                return Ok(0);
            }
            match start(program, arguments) {
                Ok(child) => break child,
                Err(error) => tracing::error!("starting {}: {error}", program.display()),
            }
            if !wait(RETRY, &mut signals).await {
                return Ok(0);
            }
        };
    }
}

fn start(program: &Path, arguments: &[OsString]) -> io::Result<Child> {
    Command::new(program).args(arguments).stdin(Stdio::null()).spawn()
}

/// To its end. Whether it was told to end.
async fn live(child: &mut Child, signals: &mut Signals) -> io::Result<(ExitStatus, bool)> {
    let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
    let mut told = false;
    loop {
        let signal = tokio::select! {
            status = child.wait() => return Ok((status?, told)),
            signal = signals.next() => signal,
        };
        told |= signal != Signal::HUP;
        if let Some(pid) = pid {
            // it may have ended just now, and is not reaped before we look: its number is nobody else's
            let _ = kill_process(pid, signal);
        }
    }
}

/// `false`: told to end meanwhile.
async fn wait(pause: Duration, signals: &mut Signals) -> bool {
    let paused = sleep(pause);
    tokio::pin!(paused);
    loop {
        tokio::select! {
            () = paused.as_mut() => return true,
            signal = signals.next() => if signal != Signal::HUP { return false },
        }
    }
}

/// The code to end with, if that was not a death.
fn last_word(status: ExitStatus, told: bool) -> Option<u8> {
    let code = status.code().map(|code| u8::try_from(code).unwrap_or(exit::OS));
    match code {
        // it was stopped, or another filterd took over
        Some(0) => Some(0),
        Some(code @ (exit::USAGE | exit::PERMISSION | exit::CONFIGURATION)) => Some(code),
        Some(code) if told => Some(code),
        None if told && status.signal().is_some() => Some(0), // before it could take the signal
        Some(_) | None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deaths_are_started_again_and_what_no_start_mends_is_not() {
        let exited = |code: i32| ExitStatus::from_raw(code << 8);
        let killed = ExitStatus::from_raw(9);
        for (status, told, word) in [
            (exited(0), false, Some(0)),
            (exited(78), false, Some(78)),
            (exited(77), false, Some(77)),
            (exited(64), false, Some(64)),
            (exited(75), false, None),
            (exited(71), false, None),
            (exited(101), false, None),
            (killed, false, None),
            (exited(75), true, Some(75)),
            (killed, true, Some(0)),
        ] {
            assert_eq!(last_word(status, told), word, "{status} {told}");
        }
    }
}
