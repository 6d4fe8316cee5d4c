//! Whom the interceptor says its clients are, with the kernel's programs in place: through the whole program.
#![cfg(target_os = "linux")]

mod world;

use imds_ipc::{FromFilterd, FromInterceptor, Groups, Identity, Needs, Process, Unit};
use rustix::process::{Pid, Signal, kill_process};
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use world::*;

/// Becomes uid 2001 with groups of its own, and asks.
const CLIENT: &str = r#"
import ctypes, os, socket, struct, sys
def ask(sock=None):
    s = sock or socket.socket()
    s.settimeout(5)
    try:
        s.connect(("169.254.169.254", 80)); print(s.recv(100).decode(), flush=True)
    except OSError as error: print(error.strerror, flush=True)
def become(uid, gid, groups=()):
    os.setgroups(groups); os.setresgid(gid, gid, gid); os.setresuid(uid, uid, uid)
"#;

fn client(script: &'static str) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || output("/usr/bin/python3", &["-c", &format!("{CLIENT}{script}")]))
}

fn watched(name: &str, body: impl FnOnce(&Cgroup)) {
    watched_with("", name, body);
}

fn watched_with(settings: &str, name: &str, body: impl FnOnce(&Cgroup)) {
    privately(name, || {
        let cgroup = Cgroup::enter();
        let _world = World::with(&format!("{settings}[capture]\ncgroup = \"{}\"\n", cgroup.path));
        body(&cgroup);
    });
}

#[test]
fn a_client_comes_with_its_groups_unit_and_process_and_with_no_more_than_is_needed() {
    watched("a_client_comes_with_its_groups_unit_and_process_and_with_no_more_than_is_needed", |cgroup| {
        let filterd = Filterd::attach();
        cgroup.enter_below("system.slice/a.service");
        let given = |needs: Option<Needs>| {
            if let Some(needs) = needs {
                filterd.say(&FromFilterd::Needs(needs));
                filterd.heard(); // the kernel's programs go by it when the client connects
            }
            let client = client("become(2001, 3001, [5, 4242]); ask()");
            let given = filterd.given();
            filterd.close(given.id, given.stream);
            client.join().unwrap();
            given.subject
        };
        // nobody has said yet what is needed
        let subject = given(None);
        assert_eq!(subject.uid, 2001);
        assert_eq!(subject.groups, Groups::All(vec![3001, 5, 4242]));
        assert_eq!(subject.unit, Unit::Named("a.service".into()));
        assert!(matches!(subject.process, Some(Process { pid: 2.., .. })), "{subject:?}");
        let nothing = Needs { groups: false, unit: false };
        let subject = given(Some(nothing));
        assert_eq!((subject.groups, subject.unit), (Groups::Unknown, Unit::Unknown));
        let subject = given(Some(Needs { groups: true, unit: false }));
        assert_eq!((subject.groups, subject.unit), (Groups::All(vec![3001, 5, 4242]), Unit::Unknown));
    });
}

#[test]
fn a_socket_that_one_user_made_and_another_connects_is_refused() {
    watched("a_socket_that_one_user_made_and_another_connects_is_refused", |_| {
        let filterd = Filterd::attach();
        let text = client(
            "s = socket.socket()
if os.fork() == 0: become(2001, 3001); ask(s); os._exit(0)
os.wait()
l = socket.create_server(('', 0))
if os.fork() == 0:
    become(2001, 3001)
    ctypes.CDLL(None).connect(l.fileno(), struct.pack('HHIQ', 0, 0, 0, 0), 16)
    ask(l); os._exit(0)
os.wait()
os.seteuid(2001); ask()",
        );
        // the first that comes is the last that was asked for
        let given = filterd.given();
        assert_eq!(given.uid, 2001);
        drop((given.stream, filterd));
        let text = text.join().unwrap();
        assert_eq!(text.lines().filter(|line| *line == "Connection refused").count(), 2, "{text}");
    });
}

#[test]
fn a_socket_that_root_bound_to_a_device_is_captured_and_another_users_is_not() {
    watched("a_socket_that_root_bound_to_a_device_is_captured_and_another_users_is_not", |_| {
        let filterd = Filterd::attach();
        let text = client(
            "def bound():
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, 25, b'eth0'); return s
if os.fork() == 0: become(2001, 3001); ask(bound()); os._exit(0)
os.wait()
ask(bound())",
        );
        let given = filterd.given();
        assert_eq!(given.uid, 0);
        drop((given.stream, filterd));
        let text = text.join().unwrap();
        assert!(text.starts_with("Operation not permitted\n"), "{text}");
    });
}

/// Stops every interceptor of this test and lets it go on, again and again, and less and less often: the check of a program
/// is to be met, and on a slow machine to have its time.
fn interrupt(ended: &AtomicBool) {
    let mut pause = Duration::from_millis(10);
    while !ended.load(Ordering::Relaxed) {
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            let Ok(name) = std::fs::read_to_string(process.path().join("comm")) else { continue };
            let number = process.file_name().to_str().and_then(|number| number.parse().ok());
            if let (Some(pid), "imds-intercepto\n") = (number.and_then(Pid::from_raw), name.as_str()) {
                let _ = kill_process(pid, Signal::STOP);
                let _ = kill_process(pid, Signal::CONT);
            }
        }
        let_time_pass(pause); // a check takes some 12 ms
        pause += pause / 2;
    }
}

/// The kernel gives up the check of a program when a signal comes.
#[test]
fn a_start_that_is_interrupted_again_and_again_can_tell_all_the_same() {
    privately("a_start_that_is_interrupted_again_and_again_can_tell_all_the_same", || {
        let cgroup = Cgroup::enter();
        World::network();
        for _ in 0..3 {
            let ended = AtomicBool::new(false);
            let world = std::thread::scope(|scope| {
                scope.spawn(|| interrupt(&ended));
                let world = World::interceptor(&format!("[capture]\ncgroup = \"{}\"\n", cgroup.path));
                ended.store(true, Ordering::Relaxed);
                world
            });
            let filterd = Filterd::connect(NOBODY);
            filterd.receive();
            let whole = Identity { groups: Ok(()), unit: Ok(()), connecting: Ok(()) };
            assert_eq!(filterd.receive().0, FromInterceptor::Identity(whole));
            drop(world);
        }
    });
}

/// More than the ring of records holds, or the tun.
const MANY: usize = 5000;
/// All SYNs of one uid reach the tun.
const NO_PACE: &str = "[limits]\nrequests_per_second = 0\n";

#[test]
fn connects_to_other_ports_of_the_service_take_nobodys_room() {
    watched_with(NO_PACE, "connects_to_other_ports_of_the_service_take_nobodys_room", |_| {
        let _filterd = Filterd::attach();
        for _ in 0..MANY {
            assert_eq!(try_dial("169.254.169.254:81").unwrap_err().kind(), ErrorKind::ConnectionRefused);
        }
        dial(V4);
    });
}

#[test]
fn sockets_that_are_gone_when_interceptor_looks_take_nobodys_room() {
    privately("sockets_that_are_gone_when_interceptor_looks_take_nobodys_room", || {
        let world = World::with(NO_PACE);
        let _filterd = Filterd::attach();
        world.stop();
        // they all end with the process
        let script = format!(
            "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (9000, 9000))
socks = [socket.socket() for _ in range({MANY})]
for sock in socks: sock.setblocking(False); sock.connect_ex(('169.254.169.254', 80))"
        );
        output("/usr/bin/python3", &["-c", &format!("{CLIENT}{script}")]);
        world.go_on();
        dial(V4);
    });
}

/// Packets of the tun that were read, and that found no room there.
fn read_and_lost() -> (u64, u64) {
    let devices = std::fs::read_to_string("/proc/self/net/dev").unwrap();
    let tun = devices.lines().find_map(|line| line.trim().strip_prefix("imds0:")).unwrap();
    let number = |place| tun.split_whitespace().nth(place).unwrap().parse().unwrap();
    (number(9), number(11))
}

#[test]
fn datagrams_to_the_service_take_no_clients_place_in_the_tun() {
    privately("datagrams_to_the_service_take_no_clients_place_in_the_tun", || {
        let world = World::start();
        let _filterd = Filterd::attach();
        world.stop();
        for (own, service) in [("0.0.0.0:0", "169.254.169.254:9"), ("[::]:0", "[fd00:ec2::254]:9")] {
            let socket = std::net::UdpSocket::bind(own).unwrap();
            for _ in 0..MANY {
                // some systems tell that it went no further
                let _ = socket.send_to(b"x", service);
            }
        }
        assert_eq!(read_and_lost().1, 0);
        world.go_on();
        dial(V4);
    });
}

/// uid 2001, who connects without end; then so that his sockets are parts of others; then as many users of a namespace that
/// he made.
const CONNECTS_WITHOUT_END: &str = r#"
def connect(count, protocol=0):
    for _ in range(count):
        with socket.socket(proto=protocol) as sock: sock.setblocking(False); sock.connect_ex(("169.254.169.254", 80))
made, mapped = os.pipe(), os.pipe()
pid = os.fork()
if pid == 0:
    become(2001, 2001)
    connect(2000)
    connect(2000, 262)
    assert ctypes.CDLL(None).unshare(0x10000000) == 0
    os.write(made[1], b"x"); os.read(mapped[0], 1)
    for uid in range(1, 11):
        os.setresuid(uid, uid, 0)
        connect(200)
        os.setresuid(-1, 0, -1)
    os._exit(0)
os.read(made[0], 1)
with open(f"/proc/{pid}/uid_map", "w") as file: file.write("0 300000 100")
os.write(mapped[1], b"x")
assert os.waitpid(pid, 0)[1] == 0
"#;

#[test]
fn who_connects_without_end_leaves_room_for_others() {
    privately("who_connects_without_end_leaves_room_for_others", || {
        let world = World::with("[limits]\nconnections_per_uid = 1\n");
        let _filterd = Filterd::attach();
        world.stop();
        let since = Stopwatch::start();
        output("/usr/bin/python3", &["-c", &format!("{CLIENT}{CONNECTS_WITHOUT_END}")]);
        let milliseconds = since.on_the_wall().as_millis();
        world.go_on();
        dial(V4);
        let (read, lost) = read_and_lost();
        // a burst, one each millisecond, and those of the last client
        assert!(u128::from(read + lost) <= 250 + milliseconds + 10, "{read}, {lost}: {milliseconds} ms");
    });
}
