//! The daemons of the lab and the service in its cloud: start until ready, stop, kill. All of it from inside the lab.
//! Does not know what they do.

use crate::command_line::Place;
use crate::error::LabError;
use crate::notify::{self, Said};
use crate::world;
use clap::ValueEnum;
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// Generous: on a loaded machine a start takes long, and waiting ends with the event anyway.
const LIMIT: Duration = Duration::from_secs(10);
/// How often to look at what sends no event: a process that is not our child, a list of sockets.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Of a log, in the message about a failed start.
const LAST_LINES: usize = 40;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Daemon {
    /// The metadata service in the cloud
    Upstream,
    Interceptor,
    Filterd,
}

impl fmt::Display for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Daemon {
    pub(crate) const ALL: [Self; 3] = [Self::Upstream, Self::Interceptor, Self::Filterd];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Upstream => "upstream",
            Self::Interceptor => "interceptor",
            Self::Filterd => "filterd",
        }
    }

    fn place(self) -> Place {
        match self {
            Self::Upstream => Place::Cloud,
            Self::Interceptor | Self::Filterd => Place::Instance,
        }
    }

    fn pid_file(self) -> PathBuf {
        Path::new(world::LAB).join(format!("{self}.pid"))
    }

    fn log(self) -> PathBuf {
        Path::new(world::LOGS).join(format!("{self}.log"))
    }

    /// filterd's standard output is the audit log, all else goes to the daemon's own.
    fn standard_output(self) -> PathBuf {
        match self {
            Self::Filterd => world::AUDIT.into(),
            Self::Upstream | Self::Interceptor => self.log(),
        }
    }

    fn command(self) -> Result<Vec<String>, LabError> {
        let program = match self {
            Self::Upstream => return Ok(vec!["sh".into(), world::UPSTREAM.into()]),
            Self::Interceptor => "imds-interceptor",
            Self::Filterd => "imds-filterd",
        };
        let path = format!("{}/{program}", world::BIN);
        if !Path::new(&path).exists() {
            return Err(LabError::NotBuilt(program));
        }
        Ok(vec![path, "--config".into(), world::CONFIG.into()])
    }

    /// What the start wrote down, whether or not it lives still.
    pub(crate) fn pid(self) -> Option<Pid> {
        fs::read_to_string(self.pid_file()).ok()?.trim().parse().ok().and_then(Pid::from_raw)
    }

    fn running(self) -> Option<Pid> {
        self.pid().filter(|pid| test_kill_process(*pid).is_ok())
    }

    /// The end of its log.
    pub(crate) fn last_words(self) -> String {
        let log = match fs::read(self.log()) {
            Ok(log) => log,
            Err(error) => return format!("--- no {self}.log: {error}"),
        };
        let log = String::from_utf8_lossy(&log);
        let skipped = log.lines().count().saturating_sub(LAST_LINES);
        let last: Vec<&str> = log.lines().skip(skipped).collect();
        format!("--- {self}.log\n{}\n---", last.join("\n"))
    }
}

/// Starts it and waits until it is ready.
///
/// # Errors
/// When it ended or was not ready in time; it is not running then.
pub fn start(daemon: Daemon) -> Result<(), LabError> {
    world::require_inside()?;
    if daemon.running().is_some() {
        return Err(LabError::AlreadyRunning(daemon));
    }
    let said = match daemon {
        // any program may be the upstream, so nothing is expected to be said
        Daemon::Upstream => None,
        Daemon::Interceptor | Daemon::Filterd => Some(Said::from_now(daemon.name())?),
    };
    let mut child = spawn(daemon, said.as_ref().map(|_| notify::socket(daemon.name())))?;
    let ready = wait(daemon, &mut child, |pid| match &said {
        Some(said) => said.ready(),
        None => Ok(serves(pid)),
    });
    if ready.is_err() {
        let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
        let _ = child.wait();
        let _ = fs::remove_file(daemon.pid_file());
    }
    ready
}

/// # Errors
/// When it does not run, or not end in time.
pub fn stop(daemon: Daemon) -> Result<(), LabError> {
    end(daemon, Signal::TERM)
}

/// # Errors
/// When it does not run, or not end in time.
pub fn kill(daemon: Daemon) -> Result<(), LabError> {
    end(daemon, Signal::KILL)
}

/// Returns when the process is reaped, by pid 1: only then have all its threads closed their descriptors.
fn end(daemon: Daemon, signal: Signal) -> Result<(), LabError> {
    world::require_inside()?;
    let pid = daemon.running().ok_or(LabError::NotRunning(daemon))?;
    kill_process_group(pid, signal).map_err(|e| LabError::System("killing a daemon", e.into()))?;
    let limit = Instant::now() + LIMIT;
    while test_kill_process(pid).is_ok() {
        if Instant::now() > limit {
            return Err(LabError::StillThere(daemon));
        }
        pause();
    }
    let path = daemon.pid_file();
    fs::remove_file(&path).map_err(LabError::file(&path))
}

fn spawn(daemon: Daemon, notify_socket: Option<PathBuf>) -> Result<Child, LabError> {
    let mut command = world::command_in(daemon.place());
    if let Some(path) = notify_socket {
        command.env("NOTIFY_SOCKET", path);
    }
    let child = command
        .args(daemon.command()?)
        .stdin(Stdio::null())
        .stdout(append(&daemon.standard_output())?)
        .stderr(append(&daemon.log())?)
        // an interrupt typed in a shell of the lab is not for the daemons
        .process_group(0)
        .spawn()
        .map_err(|e| LabError::System("starting nsenter", e))?;
    let path = daemon.pid_file();
    fs::write(&path, format!("{}\n", child.id())).map_err(LabError::file(&path))?;
    Ok(child)
}

#[expect(clippy::disallowed_methods, reason = "between two looks at what sends us no event")]
fn pause() {
    std::thread::sleep(LOOK_EVERY);
}

fn append(path: &Path) -> Result<File, LabError> {
    OpenOptions::new().create(true).append(true).open(path).map_err(LabError::file(path))
}

/// Looks until it is ready or ended.
fn wait(
    daemon: Daemon,
    child: &mut Child,
    ready: impl Fn(u32) -> Result<bool, LabError>,
) -> Result<(), LabError> {
    let limit = Instant::now() + LIMIT;
    while !ready(child.id())? {
        match child.try_wait() {
            Ok(None) => {}
            Ok(Some(status)) => return Err(LabError::Ended(daemon, status, daemon.last_words())),
            Err(error) => return Err(LabError::System("waiting for a daemon", error)),
        }
        if Instant::now() > limit {
            return Err(LabError::NotReady(daemon, daemon.last_words()));
        }
        pause();
    }
    Ok(())
}

/// Looks for a listening socket instead of connecting, so that the service's record begins with the first real request.
fn serves(pid: u32) -> bool {
    // unreadable: it has just ended, which the caller sees
    let table = |name| fs::read_to_string(format!("/proc/{pid}/net/{name}")).unwrap_or(String::new());
    // a socket listening on :: takes IPv4 as well
    listens(&table("tcp"), "") || listens(&table("tcp6"), "00000000000000000000000000000000")
}

/// Whether a table like /proc/net/tcp has a socket in state LISTEN (0A) on port 80 (0050) of an address that begins so.
fn listens(table: &str, address: &str) -> bool {
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let local = fields.next().unwrap_or("");
        local.starts_with(address) && local.ends_with(":0050") && fields.nth(1) == Some("0A")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_listener_on_port_80_counts() {
        let head = "  sl  local_address rem_address   st\n";
        let line =
            |local: &str, state: &str| format!("{head}   0: {local} 00000000:0000 {state} 0:0 0 0 1\n");
        assert!(listens(&line("FEA9FEA9:0050", "0A"), ""));
        assert!(!listens(&line("FEA9FEA9:0050", "01"), ""));
        assert!(!listens(&line("FEA9FEA9:0051", "0A"), ""));
        assert!(!listens(&line("FEA9FEA9:0050", "0A"), "00000000"));
        assert!(!listens(head, ""));
    }
}
