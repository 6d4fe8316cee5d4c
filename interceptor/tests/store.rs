//! interceptor is restarted: with a service manager that keeps its descriptors, and with one that does not. The service
//! manager is played by the test.
#![cfg(target_os = "linux")]

mod world;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::collections::BTreeMap;
use std::io::{ErrorKind, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command};
use std::time::Duration;
use world::*;

const SOCKET: &str = "/run/manager";
const CONFIG: &str = "/run/imds-filterd.toml";
const ALICE: (u32, u32) = (2001, 3001);

/// What it was told to keep, as systemd keeps it: by name, and given again at each start.
struct Manager {
    socket: UnixDatagram,
    kept: BTreeMap<String, OwnedFd>,
    keeps: bool,
}

impl Manager {
    fn new(keeps: bool) -> Self {
        let socket = UnixDatagram::bind(SOCKET).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self { socket, kept: BTreeMap::new(), keeps }
    }

    /// Returns when it is ready.
    fn start(&mut self) -> Child {
        let mut script = "exec".to_owned();
        let mut passed = Vec::new(); // inherited by the child, and closed here then
        for (number, fd) in self.kept.values().enumerate() {
            // out of the way of the numbers that they get in the child
            let fd = fcntl_dupfd_cloexec(fd, 100).unwrap();
            fcntl_setfd(&fd, FdFlags::empty()).unwrap();
            script += &format!(" {}<&{1} {1}<&-", number + 3, fd.as_raw_fd());
            passed.push(fd);
        }
        let program = env!("CARGO_BIN_EXE_imds-interceptor");
        script += &format!("; LISTEN_PID=$$ exec {program} --config {CONFIG}");
        let names: Vec<&str> = self.kept.keys().map(String::as_str).collect();
        let mut command = Command::new("bash");
        command.args(["-c", &script]).env("NOTIFY_SOCKET", SOCKET);
        if !names.is_empty() {
            command.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        }
        if self.keeps {
            command.env("FDSTORE", "16");
        }
        let child = command.spawn().unwrap();
        while !self.hear() {}
        child
    }

    /// One notification. Whether it says READY.
    fn hear(&mut self) -> bool {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = [0; 4096];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let got = recvmsg(&self.socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags).unwrap();
        let text = String::from_utf8(bytes[..got.bytes].to_vec()).unwrap();
        let name = text.lines().find_map(|line| line.strip_prefix("FDNAME=")).map(str::to_owned);
        let mut fds: Vec<OwnedFd> = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        if text.contains("FDSTOREREMOVE=1") {
            self.kept.remove(&name.unwrap());
        } else if text.contains("FDSTORE=1") && self.keeps {
            assert_eq!(fds.len(), 1, "{text}");
            let fd = fds.pop().unwrap();
            // systemd waits for an error or an end of what it keeps, and lets go of that, unless it is told not to
            if text.contains("FDPOLL=0") || !is_broken(&fd) {
                assert!(self.kept.insert(name.unwrap(), fd).is_none(), "stored twice: {text}");
            }
        }
        text.lines().any(|line| line == "READY=1")
    }
}

fn is_broken(fd: &OwnedFd) -> bool {
    let mut asked = [PollFd::new(fd, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut asked, Some(&now)).unwrap();
    asked[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
}

/// The network, with somebody at the real service who says what no filterd says.
fn network(settings: &str) -> Child {
    World::network();
    let text = format!("runtime_dir = \"/run/imds-filterd\"\n[filter]\nuser = \"nobody\"\n{settings}\n");
    std::fs::write(CONFIG, text).unwrap();
    let mut service = Command::new("ip")
        .args(["netns", "exec", "cloud", "python3", "-c"])
        .arg(
            "
import socket
s = socket.create_server(('::', 80), family=socket.AF_INET6, dualstack_ipv6=True)
print('ready', flush=True)
while True:
    c, a = s.accept(); c.sendall(b'real'); c.close()
",
        )
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    service.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
    service
}

fn end(interceptor: &mut Child, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_child(interceptor), signal).unwrap();
    interceptor.wait().unwrap();
}

/// Empty if there is no such link.
fn index_of(link: &str) -> String {
    let links = output("ip", &["-o", "link"]);
    let line = links.lines().find(|line| line.contains(&format!(": {link}:")));
    line.map_or(String::new(), |line| line.split(':').next().unwrap().to_owned())
}

/// Two clients, one of each family, that connect now, and say how long it took to be asked for by whom.
fn clients() -> [std::thread::JoinHandle<(String, Duration)>; 2] {
    [V4, V6].map(|to| {
        as_user(ALICE, move || {
            let begun = Stopwatch::start();
            let answer = try_dial(to).and_then(|mut stream| {
                let mut text = String::new();
                stream.read_to_string(&mut text).map(|_| text)
            });
            (answer.unwrap_or_else(|error| format!("{:?}", error.kind())), begun.elapsed())
        })
    })
}

fn syns_wait_in_the_tun(settings: &str, full: bool) {
    let mut service = network(settings);
    let mut manager = Manager::new(true);
    let mut interceptor = manager.start();
    let first: Vec<String> = manager.kept.keys().cloned().collect();
    assert!(first.contains(&"imds-tun".to_owned()), "{first:?}");
    let index = index_of("imds0");
    assert!(!index.is_empty());
    for round in 0..20 {
        let signal =
            if round % 2 == 0 { rustix::process::Signal::KILL } else { rustix::process::Signal::TERM };
        end(&mut interceptor, signal);
        let waiting = clients();
        // they have sent their SYNs when the kernel says so
        let begun = Stopwatch::start();
        while output("ss", &["-Htn", "state", "syn-sent", "dst", "169.254.169.254"]).is_empty()
            || output("ss", &["-Htn", "state", "syn-sent", "dst", "[fd00:ec2::254]"]).is_empty()
        {
            assert!(waiting.iter().all(|client| !client.is_finished()), "it did not wait");
            assert!(begun.elapsed() < Duration::from_secs(20), "it did not connect");
        }
        interceptor = manager.start();
        let started = begun.elapsed();
        let filterd = Filterd::attach();
        for _ in 0..2 {
            let mut given = filterd.given();
            assert_eq!(given.uid, ALICE.0);
            assert_eq!(given.subject.process.is_some(), full, "the record waited too");
            given.stream.write_all(b"filterd").unwrap();
            filterd.close(given.id, given.stream);
        }
        for client in waiting {
            let (answer, took) = client.join().unwrap();
            assert_eq!(answer, "filterd");
            // what a start takes, a busy test machine decides; a SYN that is lost comes again after a second
            assert!(
                took < started + Duration::from_millis(500),
                "{took:?}, the start {started:?}, in round {round}"
            );
        }
        assert_eq!(index_of("imds0"), index, "another tun");
        let now: Vec<String> = manager.kept.keys().cloned().collect();
        assert_eq!(now, first);
    }
    end(&mut interceptor, rustix::process::Signal::TERM);
    // a stop that no start follows: the manager lets go of what it kept
    drop(manager);
    for to in [V4, V6] {
        assert_eq!(try_dial(to).unwrap_err().kind(), ErrorKind::PermissionDenied);
    }
    service.kill().unwrap();
    service.wait().unwrap();
}

#[test]
fn with_the_store_no_new_connection_fails_in_twenty_restarts() {
    privately("with_the_store_no_new_connection_fails_in_twenty_restarts", || {
        let cgroup = Cgroup::enter();
        syns_wait_in_the_tun(&format!("[capture]\ncgroup = {:?}", cgroup.path), true);
    });
}

#[test]
fn with_the_store_and_without_watching_connects_neither() {
    privately("with_the_store_and_without_watching_connects_neither", || {
        syns_wait_in_the_tun("[capture]\ncgroup = \"none\"", false);
    });
}

#[test]
fn without_the_store_a_new_connection_is_refused_at_once_and_never_reaches_the_service() {
    privately("without_the_store_a_new_connection_is_refused_at_once_and_never_reaches_the_service", || {
        let mut service = network("[capture]\ncgroup = \"none\"");
        let mut manager = Manager::new(false);
        for round in 0..20 {
            let mut interceptor = manager.start();
            assert!(manager.kept.is_empty());
            let signal =
                if round % 2 == 0 { rustix::process::Signal::KILL } else { rustix::process::Signal::TERM };
            end(&mut interceptor, signal);
            for client in clients() {
                let (answer, took) = client.join().unwrap();
                assert_eq!(answer, "PermissionDenied");
                // who has to wait is heard of after a second
                assert!(took < Duration::from_millis(700), "{took:?}");
            }
        }
        service.kill().unwrap();
        service.wait().unwrap();
    });
}

#[test]
fn what_other_settings_made_is_not_taken_and_forgotten() {
    privately("what_other_settings_made_is_not_taken_and_forgotten", || {
        let mut service = network("[capture]\ncgroup = \"none\"");
        let mut manager = Manager::new(true);
        let mut interceptor = manager.start();
        let before: Vec<String> = manager.kept.keys().cloned().collect();
        end(&mut interceptor, rustix::process::Signal::TERM);
        let cgroup = Cgroup::enter();
        let text =
            std::fs::read_to_string(CONFIG).unwrap().replace("\"none\"", &format!("{:?}", cgroup.path));
        std::fs::write(CONFIG, text).unwrap();
        interceptor = manager.start();
        let after: Vec<String> = manager.kept.keys().cloned().collect();
        assert!(after.contains(&"imds-tun".to_owned()) && before.contains(&"imds-tun".to_owned()));
        assert!(
            after.iter().all(|name| name == "imds-tun" || !before.contains(name)),
            "{before:?} {after:?}"
        );
        let filterd = Filterd::attach();
        let client = clients();
        name_two(&filterd);
        for client in client {
            assert_eq!(client.join().unwrap().0, "filterd");
        }
        // another device: the tun of old is not taken
        end(&mut interceptor, rustix::process::Signal::TERM);
        let text =
            std::fs::read_to_string(CONFIG).unwrap().replace("[capture]", "[capture]\ndevice = \"imds7\"");
        std::fs::write(CONFIG, text).unwrap();
        interceptor = manager.start();
        let filterd = Filterd::attach();
        let client = clients();
        name_two(&filterd);
        for client in client {
            assert_eq!(client.join().unwrap().0, "filterd");
        }
        assert_eq!((index_of("imds0").as_str(), index_of("imds7").is_empty()), ("", false));
        end(&mut interceptor, rustix::process::Signal::TERM);
        service.kill().unwrap();
        service.wait().unwrap();
    });
}

fn name_two(filterd: &Filterd) {
    for _ in 0..2 {
        let mut given = filterd.given();
        given.stream.write_all(b"filterd").unwrap();
        filterd.close(given.id, given.stream);
    }
}

#[test]
fn a_clean_stop_resets_connections_so_that_their_clients_do_not_wait() {
    privately("a_clean_stop_resets_connections_so_that_their_clients_do_not_wait", || {
        let mut service = network("[capture]\ncgroup = \"none\"");
        for keeps in [true, false] {
            let _ = std::fs::remove_file(SOCKET);
            let mut manager = Manager::new(keeps);
            let mut interceptor = manager.start();
            let filterd = Filterd::attach();
            let mut client = dial(V4);
            let _given = filterd.given();
            let begun = Stopwatch::start();
            end(&mut interceptor, rustix::process::Signal::TERM);
            assert_eq!(client.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
            assert!(begun.elapsed() < Duration::from_secs(1));
        }
        service.kill().unwrap();
        service.wait().unwrap();
    });
}
