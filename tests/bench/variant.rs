//! Who stands between the clients and the service: nobody, nginx, or imds-filterd. Put up and taken down in a bare lab.
//! Takes down all that it put up, so that no variant sees the one before.

use crate::process;
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const BENCH: &str = "/run/lab/tests/bench";
/// nginx says nothing when it listens.
const LOOK_EVERY: Duration = Duration::from_millis(2);
const LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    Direct,
    Nginx,
    Filterd,
}

impl Variant {
    pub(crate) const ALL: [Self; 3] = [Self::Direct, Self::Nginx, Self::Filterd];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx",
            Self::Filterd => "imds-filterd",
        }
    }

    /// # Errors
    /// When something does not start; the lab is of no further use then.
    pub(crate) fn put_up(self, nginx: &OsStr) -> io::Result<Up> {
        match self {
            Self::Direct => Ok(Up::Direct),
            Self::Nginx => {
                run(Command::new("nft").args(["-f", &format!("{BENCH}/redirect.nft")]))?;
                Ok(Up::Nginx(start_nginx(nginx)?))
            }
            Self::Filterd => {
                run(Command::new("imds-lab").args(["start", "interceptor"]))?;
                run(Command::new("imds-lab").args(["start", "filterd"]))?;
                Ok(Up::Filterd { interceptor: pid_of("interceptor")?, filterd: pid_of("filterd")? })
            }
        }
    }
}

/// A variant that is up.
pub(crate) enum Up {
    Direct,
    Nginx(Child),
    Filterd { interceptor: u32, filterd: u32 },
}

impl Up {
    /// The processes that serve it. Asked anew each time: nginx makes its workers when it likes.
    ///
    /// # Errors
    /// When nginx has ended.
    pub(crate) fn pids(&self) -> io::Result<Vec<u32>> {
        match self {
            Self::Direct => Ok(Vec::new()),
            Self::Nginx(child) => process::with_children(child.id()),
            Self::Filterd { interceptor, filterd } => Ok(vec![*interceptor, *filterd]),
        }
    }

    /// With the rules and settings as they are now; interceptor stays.
    ///
    /// # Errors
    /// When filterd does not end or start.
    pub(crate) fn restart_filterd(self) -> io::Result<Self> {
        match self {
            Self::Direct | Self::Nginx(_) => Ok(self),
            Self::Filterd { interceptor, .. } => {
                run(Command::new("imds-lab").args(["stop", "filterd"]))?;
                run(Command::new("imds-lab").args(["start", "filterd"]))?;
                Ok(Self::Filterd { interceptor, filterd: pid_of("filterd")? })
            }
        }
    }

    /// # Errors
    /// When something does not go away.
    pub(crate) fn take_down(self) -> io::Result<()> {
        match self {
            Self::Direct => Ok(()),
            Self::Nginx(mut child) => {
                kill_process(Pid::from_child(&child), Signal::TERM)?;
                child.wait()?;
                run(Command::new("nft").args(["delete", "table", "ip", "bench"]))
            }
            Self::Filterd { .. } => {
                run(Command::new("imds-lab").args(["stop", "filterd"]))?;
                run(Command::new("imds-lab").args(["stop", "interceptor"]))?;
                let config = std::env::var_os("LAB_CONFIG").ok_or(io::ErrorKind::NotFound)?;
                run(Command::new("imds-interceptor").arg("--config").arg(config).arg("release"))
            }
        }
    }
}

fn pid_of(daemon: &str) -> io::Result<u32> {
    let path = PathBuf::from(format!("/run/lab/{daemon}.pid"));
    fs::read_to_string(path)?.trim().parse().map_err(io::Error::other)
}

pub(crate) fn run(command: &mut Command) -> io::Result<()> {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("{command:?}: {status}"))) }
}

/// Returns when it takes connections and has its workers.
fn start_nginx(nginx: &OsStr) -> io::Result<Child> {
    let mut command = Command::new(nginx);
    let workers = std::thread::available_parallelism()?.get();
    command.args(["-e", "/run/lab/log/proxy-error.log", "-c", &format!("{BENCH}/proxy.conf")]);
    command.args(["-g", &format!("worker_processes {workers};")]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    let limit = Instant::now() + LIMIT;
    // the master listens before it makes workers, so both are looked for
    while TcpStream::connect("127.0.0.1:8080").is_err()
        || process::with_children(child.id())?.len() <= workers
    {
        if let Some(status) = child.try_wait()? {
            return Err(io::Error::other(format!("nginx ended: {status}")));
        }
        if Instant::now() > limit {
            let _ = child.kill();
            return Err(io::Error::other("nginx does not take connections"));
        }
        pause();
    }
    Ok(child)
}

#[expect(clippy::disallowed_methods, reason = "between two looks at what sends us no event")]
fn pause() {
    std::thread::sleep(LOOK_EVERY);
}
