//! The part of imds-lab that is pid 1 of the lab: builds the world, starts the daemons, runs the command, reaps.
//! When it ends, all that runs in the lab ends. Runs nowhere else.

use crate::account::Account;
use crate::cgroup;
use crate::command_line::{Options, Place};
use crate::daemon::{self, Daemon};
use crate::error::LabError;
use crate::input::Input;
use crate::notify;
use crate::outside::exit_code;
use crate::world;
use rustix::fs::Mode;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Pid, WaitOptions};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

/// The exit status when --timeout ran out, as of timeout(1).
const TIMED_OUT: u8 = 124;
/// Characters: scripts are commands, too.
const SHOWN_OF_A_COMMAND: usize = 100;

/// Returns the command's exit status.
///
/// # Errors
/// When the world could not be built, a daemon not be started or the command not be options.
pub fn run(options: &Options, command: &[OsString]) -> Result<u8, LabError> {
    if std::process::id() != 1 {
        return Err(LabError::NotInside);
    }
    // the daemons refuse files that others may write, and users must be able to read theirs
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let (control, stdin) =
        receive_standard_input().map_err(|e| LabError::System("getting standard input", e))?;
    let logs = Arc::new(KeptLogs::open(options.keep_logs.as_deref())?);
    watch(control, Arc::clone(&logs), options.timeout.map(Duration::from_secs))?;
    let done = live(options, command, stdin);
    logs.save();
    done
}

fn live(options: &Options, command: &[OsString], stdin: OwnedFd) -> Result<u8, LabError> {
    let input = Input::read(options)?;
    let hierarchy = cgroup::hierarchy();
    let outside = std::env::var(cgroup::OUTSIDE).map_err(|_| LabError::NotInside)?;
    let own = hierarchy.as_deref().map(|path| cgroup::enter(path, &outside)).transpose()?;
    world::build(options.container, hierarchy.as_deref().zip(own.as_deref()))?;
    input.write()?;
    for daemon in [Daemon::Interceptor, Daemon::Filterd] {
        notify::listen(daemon.name())?;
    }
    daemon::start(Daemon::Upstream)?;
    if !options.bare {
        daemon::start(Daemon::Interceptor)?;
        daemon::start(Daemon::Filterd)?;
    }
    let pid = start_command(&options.user, command, stdin)?;
    reap_until(pid).map(exit_code).map_err(|e| LabError::System("waiting for the command", e))
}

fn start_command(user: &str, program: &[OsString], stdin: OwnedFd) -> Result<Pid, LabError> {
    let mut command = world::command_in(Place::Instance);
    for daemon in Daemon::ALL {
        if let Some(pid) = daemon.pid() {
            command
                .env(format!("LAB_{}_PID", daemon.name().to_uppercase()), pid.as_raw_nonzero().to_string());
        }
    }
    Account::find(user)?.wear(&mut command, None)?;
    let child =
        command.args(program).stdin(stdin).spawn().map_err(|e| LabError::System("starting nsenter", e))?;
    Ok(Pid::from_child(&child))
}

/// The command of a lab that is to be used by hand.
#[must_use]
pub fn shell() -> Vec<OsString> {
    let bash = ["env", r"PS1=lab:\u:\w\$ ", "bash", "--norc", "--noprofile", "-i"];
    let sh = ["env", "PS1=lab$ ", "sh", "-i"];
    let words: &[&str] = if Path::new("/bin/bash").exists() { &bash } else { &sh };
    words.iter().map(OsString::from).collect()
}

/// Takes in all that die, daemons and orphans too: a process that nobody reaps would look alive to a test.
fn reap_until(wanted: Pid) -> io::Result<ExitStatus> {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == wanted => return Ok(ExitStatus::from_raw(status.as_raw())),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Our standard input is the control socket; the first message on it carries the real one.
fn receive_standard_input() -> io::Result<(UnixStream, OwnedFd)> {
    let control = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    // no child may hold it
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    recvmsg(&control, &mut [IoSliceMut::new(&mut [0])], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let stdin = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok((control, stdin.ok_or(io::ErrorKind::UnexpectedEof)?))
}

/// Ends the lab when the outside is gone, passes a signal on, or the time is up.
#[expect(clippy::disallowed_methods, reason = "pid 1: there is nothing to undo, the kernel removes the lab")]
fn watch(mut control: UnixStream, logs: Arc<KeptLogs>, limit: Option<Duration>) -> Result<(), LabError> {
    control
        .set_read_timeout(limit)
        .map_err(|_| LabError::System("--timeout", io::ErrorKind::InvalidInput.into()))?;
    std::thread::spawn(move || {
        let mut signal = [0];
        let code = match control.read_exact(&mut signal) {
            Ok(()) => 128u8.saturating_add(signal[0]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                eprintln!("imds-lab: the time is up");
                for daemon in Daemon::ALL {
                    eprintln!("{}", daemon.last_words());
                }
                eprintln!("--- what runs\n{}---", processes());
                TIMED_OUT
            }
            Err(_) => 71,
        };
        logs.save();
        std::process::exit(code.into());
    });
    Ok(())
}

/// A line for each process of the lab: its number, its state (`T`: somebody stopped it) and its command.
fn processes() -> String {
    let mut lines = String::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let number = process.file_name().to_string_lossy().into_owned();
        if !number.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let read = |name: &str| fs::read(process.path().join(name)).ok();
        // neither is there of what has just ended
        let (Some(stat), Some(command)) = (read("stat"), read("cmdline")) else { continue };
        let stat = String::from_utf8_lossy(&stat).into_owned();
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or('?');
        let command = String::from_utf8_lossy(&command).replace(['\0', '\n'], " ");
        let command: String = command.chars().take(SHOWN_OF_A_COMMAND).collect();
        lines.push_str(&format!("{number} {state} {command}\n"));
    }
    lines
}

/// Where the logs go at the end, opened before /run is hidden.
struct KeptLogs(Option<File>);

impl KeptLogs {
    fn open(directory: Option<&Path>) -> Result<Self, LabError> {
        directory
            .map(|path| {
                fs::create_dir_all(path).and_then(|()| File::open(path)).map_err(LabError::file(path))
            })
            .transpose()
            .map(Self)
    }

    /// A lab that failed early has no logs.
    fn save(&self) {
        let Some(directory) = &self.0 else { return };
        let directory = format!("/proc/self/fd/{}", directory.as_raw_fd());
        for entry in fs::read_dir(world::LOGS).into_iter().flatten().flatten() {
            let to = Path::new(&directory).join(entry.file_name());
            if let Err(error) = fs::copy(entry.path(), &to) {
                eprintln!("imds-lab: keeping {}: {error}", entry.path().display());
            }
        }
    }
}
