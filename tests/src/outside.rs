//! The part of imds-lab that stays outside: starts the lab in namespaces of its own and waits for it.
//! Changes nothing on the machine but that a lab has a cgroup of its own: all else of a lab lies in its namespaces, whose
//! pid 1 dies when this process does, however that happens, and the kernel removes the rest.

use crate::cgroup;
use crate::command_line::{Container, Options};
use crate::error::LabError;
use crate::world;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io::{self, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

/// Programs that a lab runs, and the Debian packages that have them.
const TOOLS: [(&str, &str); 5] = [
    ("unshare", "util-linux"),
    ("setpriv", "util-linux"),
    ("nsenter", "util-linux"),
    ("mount", "mount"),
    ("ip", "iproute2"),
];

/// Returns the exit status of what ran in the lab. In an interactive lab an interrupt is for the shell, not for us.
///
/// # Errors
/// When no lab could be started; what happens in it is its exit status.
pub fn run(options: &Options, interactive: bool) -> Result<u8, LabError> {
    require_root_and_tools(options)?;
    cgroup::remove_ended();
    let (control, theirs) = UnixStream::pair().map_err(|e| LabError::System("making a socket", e))?;
    let mut lab = start(theirs)?;
    pass_standard_input(&control).map_err(|e| LabError::System("passing standard input on", e))?;
    forward_signals(control, interactive)?;
    let status = lab.wait().map_err(|e| LabError::System("waiting for the lab", e));
    cgroup::remove_ended();
    let status = status?;
    Ok(exit_code(status))
}

fn require_root_and_tools(options: &Options) -> Result<(), LabError> {
    if !rustix::process::geteuid().is_root() {
        return Err(LabError::NotRoot);
    }
    let nft = (options.container == Some(Container::Masquerade)).then_some(("nft", "nftables"));
    for (tool, package) in TOOLS.into_iter().chain(nft) {
        if !world::PATH.split(':').any(|directory| Path::new(directory).join(tool).exists()) {
            return Err(LabError::MissingTool(tool, package));
        }
    }
    Ok(())
}

/// The same command line again, as pid 1 of new namespaces. Its standard input is the control socket: the lab gets ours
/// over it, and its end of file tells the lab that we are gone even if we die before setpriv has asked for a signal.
fn start(control: UnixStream) -> Result<Child, LabError> {
    let program = std::env::current_exe().map_err(|e| LabError::System("looking for my own program", e))?;
    Command::new("setpriv")
        .args(["--pdeathsig=KILL", "--", "unshare", "--mount", "--propagation=private", "--net", "--ipc"])
        .args(["--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--"])
        .arg(program)
        .arg("--inside")
        .args(std::env::args_os().skip(1))
        .env("PATH", world::PATH)
        .env(cgroup::OUTSIDE, std::process::id().to_string())
        .stdin(Stdio::from(OwnedFd::from(control)))
        .spawn()
        .map_err(|e| LabError::System("starting setpriv", e))
}

fn pass_standard_input(control: &UnixStream) -> io::Result<()> {
    let stdin = io::stdin();
    let descriptors = [stdin.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(control, &[IoSlice::new(&[0])], &mut ancillary, SendFlags::empty())?;
    Ok(())
}

/// A signal becomes a byte on the control socket: the lab saves its logs and ends.
fn forward_signals(mut control: UnixStream, interactive: bool) -> Result<(), LabError> {
    let mut signals = signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGTERM])
        .map_err(|e| LabError::System("waiting for signals", e))?;
    std::thread::spawn(move || {
        for signal in &mut signals {
            if let (Ok(signal), false) = (u8::try_from(signal), interactive && signal == SIGINT) {
                let _ = control.write_all(&[signal]);
            }
        }
    });
    Ok(())
}

/// As a shell has it: 128 + signal for a death by signal.
pub(crate) fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(71)
}
