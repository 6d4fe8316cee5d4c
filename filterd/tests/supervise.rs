//! The parent that starts imds-filterd again.
// the peer's pid is asked of the socket as Linux tells it; tests/freebsd/run.sh kills supervised ones on FreeBSD
#![cfg(target_os = "linux")]

mod played;
#[allow(dead_code, unreachable_pub, reason = "it is a library's, too")]
#[path = "../../tests/src/stopwatch.rs"]
mod stopwatch;

use imds_ipc::{FromFilterd, FromInterceptor, Hello, MAX_MESSAGE, channel};
use played::{ALL, ALLOW_ALL, Place, accept, program};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::time::Duration;
use stopwatch::Stopwatch;

/// A parent and the interceptor for its children.
struct Family {
    parent: Child,
    listener: OwnedFd,
    place: Place,
}

impl Family {
    fn start() -> Self {
        let place = Place::new();
        let listener = place.listen();
        let settings = place.settings(ALLOW_ALL, "");
        let parent = program().arg("--supervise").arg("--config").arg(settings).spawn().unwrap();
        Self { parent, listener, place }
    }

    /// The next child: attached, and serving.
    fn child(&self) -> (Pid, OwnedFd) {
        let socket = accept(&self.listener);
        for message in [FromInterceptor::Hello(Hello::OURS), FromInterceptor::Identity(ALL)] {
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            channel::send(&socket, &bytes, None).unwrap();
        }
        played::wait_readable(&socket);
        let mut buffer = [0; MAX_MESSAGE];
        let hello = FromFilterd::decode(channel::receive(&socket, &mut buffer).unwrap());
        assert_eq!(hello, Ok(FromFilterd::Hello(Hello::OURS)));
        played::wait_readable(&socket);
        (self.number_of_child(), socket)
    }

    fn number_of_child(&self) -> Pid {
        let output = Command::new("pgrep").args(["-P", &self.parent.id().to_string()]).output().unwrap();
        let number = String::from_utf8(output.stdout).unwrap().trim().parse().expect("one child");
        Pid::from_raw(number).unwrap()
    }

    /// The parent's exit code, waited for.
    fn end(&mut self) -> Option<i32> {
        let mut parent = std::mem::replace(&mut self.parent, Command::new("true").spawn().unwrap());
        let pid = Pid::from_child(&parent);
        let (ended, waiting) = std::sync::mpsc::channel();
        std::thread::spawn(move || ended.send(parent.wait()));
        let status = waiting.recv_timeout(played::PATIENCE).unwrap_or_else(|_| {
            kill_process(pid, Signal::KILL).unwrap();
            panic!("the parent goes on");
        });
        status.unwrap().code()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.parent), signal).unwrap();
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        let _ = self.parent.kill();
        let _ = self.parent.wait();
    }
}

#[test]
fn a_child_that_is_killed_is_followed_by_the_next_at_once_however_often() {
    let mut family = Family::start();
    let mut waits = Vec::new();
    let (mut pid, mut socket) = family.child();
    for _ in 0..10 {
        kill_process(pid, Signal::KILL).unwrap();
        let killed = Stopwatch::start();
        let next = family.child();
        waits.push(killed.elapsed());
        drop(std::mem::replace(&mut socket, next.1));
        assert_ne!(pid, next.0);
        pid = next.0;
    }
    waits.sort();
    // clients are held for 800 ms; on a quiet machine this is below 100 ms
    assert!(waits[5] < Duration::from_millis(500), "{waits:?}");
    family.signal(Signal::TERM);
    assert_eq!(family.end(), Some(0));
    assert!(test_kill_process(pid).is_err(), "the child is left alone");
}

#[test]
fn a_child_that_finds_wrong_settings_ends_the_parent_too_with_the_same_code() {
    let mut family = Family::start();
    let (pid, _socket) = family.child();
    family.place.write("imds-filterd.toml", "no setting\n", 0o644);
    kill_process(pid, Signal::KILL).unwrap();
    assert_eq!(family.end(), Some(78));
}

#[test]
fn a_hang_up_is_for_the_child_and_does_not_end_the_parent() {
    let mut family = Family::start();
    let (_pid, _socket) = family.child();
    family.signal(Signal::HUP);
    family.signal(Signal::INT);
    assert_eq!(family.end(), Some(0));
}
