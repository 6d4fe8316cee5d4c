//! A private network for a test: an instance with the interceptor under test, a cloud with the service's addresses.
//! Must not touch anything outside: each test runs itself again in namespaces of its own, which end with it.
#![allow(dead_code, unused_imports, reason = "each test file uses a part of this")]

mod client;
#[allow(unreachable_pub, reason = "it is a library's, too")]
#[path = "../../../tests/src/stopwatch.rs"]
mod stopwatch;

pub(crate) use client::*;
use imds_ipc::{FromFilterd, FromInterceptor, Hello, MAX_MESSAGE, Needs, Subject, channel};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use rustix::thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
pub(crate) use stopwatch::Stopwatch;

pub(crate) const V4: &str = "169.254.169.254:80";
pub(crate) const V6: &str = "[fd00:ec2::254]:80";
pub(crate) const NOBODY: (u32, u32) = (65534, 65534);
const PRIVATE: &str = "IMDS_TEST_IN_PRIVATE_WORLD";

/// Runs `body` in namespaces of its own: this test again, alone, in a new process.
pub(crate) fn privately(name: &str, body: impl FnOnce()) {
    if std::env::var_os(PRIVATE).is_some() {
        return body();
    }
    assert!(rustix::process::geteuid().is_root(), "this test needs root: it makes namespaces");
    let me = std::env::current_exe().unwrap();
    remove_cgroups(|number| !std::path::Path::new(&format!("/proc/{number}")).exists());
    let status = Command::new("unshare")
        .args([
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--propagation",
            "private",
        ])
        .arg(me)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(PRIVATE, format!("{}-{name}", std::process::id()))
        .status()
        .expect("unshare(1) of util-linux");
    assert!(status.success(), "{name}: {status}");
}

/// That interceptor kept a client waiting as long as it may: 800 ms, and what a busy test machine needs besides. Who waits
/// twice has waited too long.
#[track_caller]
pub(crate) fn assert_held(since: Stopwatch) {
    assert!(since.on_the_wall() >= Duration::from_millis(600), "{:?}", since.on_the_wall());
    assert!(since.elapsed() < Duration::from_millis(1400), "{:?}", since.elapsed());
}

/// Again if it failed while the machine stood still for so long that interceptor may have given up rightly.
pub(crate) fn undisturbed(body: impl Fn()) {
    for _ in 0..5 {
        let watch = Stopwatch::start();
        let Err(panic) = catch_unwind(AssertUnwindSafe(&body)) else { return };
        if watch.on_the_wall() - watch.elapsed() < Duration::from_millis(400) {
            resume_unwind(panic);
        }
    }
    panic!("the machine stands still again and again");
}

pub(crate) fn sh(script: &str) {
    let status = Command::new("sh").args(["-ec", script]).status().unwrap();
    assert!(status.success(), "{script}");
}

/// A cgroup of this test's own, with this process in it; gone at the end. What watches it watches nobody else.
pub(crate) struct Cgroup {
    hierarchy: String,
    pub(crate) path: String,
}

impl Cgroup {
    pub(crate) fn enter() -> Self {
        let hierarchy = hierarchy().expect("this test needs a cgroup v2 hierarchy");
        // a slice, so that units below it are units
        let path = format!("{hierarchy}/imds-test-{}.slice", std::env::var(PRIVATE).unwrap());
        std::fs::create_dir(&path).unwrap();
        let cgroup = Self { hierarchy, path };
        cgroup.enter_below("");
        cgroup
    }

    /// Makes a cgroup below this one and moves this process into it.
    pub(crate) fn enter_below(&self, below: &str) {
        let path = format!("{}/{below}", self.path);
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(format!("{path}/cgroup.procs"), "0").unwrap();
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = std::fs::write(format!("{}/cgroup.procs", self.hierarchy), "0");
        remove(&self.path);
    }
}

fn hierarchy() -> Option<String> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"))?;
    line.split(' ').nth(1).map(str::to_owned)
}

/// What killed tests left: those whose first process has a number that `is_gone`.
fn remove_cgroups(is_gone: impl Fn(&str) -> bool) {
    for entry in hierarchy().into_iter().flat_map(std::fs::read_dir).flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let number = name.strip_prefix("imds-test-").and_then(|rest| rest.split('-').next());
        if number.is_some_and(&is_gone) {
            remove(entry.path().to_str().unwrap());
        }
    }
}

fn remove(cgroup: &str) {
    for entry in std::fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(entry.path().to_str().unwrap());
        }
    }
    let _ = std::fs::remove_dir(cgroup);
}

pub(crate) struct World {
    pub(crate) child: Child,
    config: String,
}

impl World {
    pub(crate) fn start() -> Self {
        Self::with("")
    }

    /// The network, and the interceptor with some settings changed.
    pub(crate) fn with(settings: &str) -> Self {
        Self::network();
        Self::interceptor(settings)
    }

    /// Two namespaces joined by eth0; the cloud's end holds the service's addresses and routes everything back.
    pub(crate) fn network() {
        sh("mount -t tmpfs none /run; mkdir -p /run/netns
            ip link set lo up
            ip netns add cloud; ip -n cloud link set lo up
            ip link add eth0 address 02:00:00:00:00:10 type veth peer name eth0 address 02:00:00:00:00:01 netns cloud
            ip addr add 10.0.0.10/24 dev eth0; ip -n cloud addr add 10.0.0.1/24 dev eth0
            ip addr add 2001:db8::10/64 dev eth0 nodad; ip -n cloud addr add 2001:db8::1/64 dev eth0 nodad
            ip link set eth0 up; ip -n cloud link set eth0 up
            ip -n cloud addr add 169.254.169.254/32 dev lo; ip -n cloud addr add fd00:ec2::254/128 dev lo nodad
            # neighbours are known: nothing is lost while a new link finds its own link-local address
            ip neigh add 10.0.0.1 lladdr 02:00:00:00:00:01 dev eth0
            ip neigh add 2001:db8::1 lladdr 02:00:00:00:00:01 dev eth0
            ip -n cloud neigh add 10.0.0.10 lladdr 02:00:00:00:00:10 dev eth0
            ip -n cloud neigh add 2001:db8::10 lladdr 02:00:00:00:00:10 dev eth0
            ip route add default via 10.0.0.1; ip -6 route add default via 2001:db8::1
            # the kernel lets packets through a little later
            up() { ip $* -o link show eth0 | grep -q 'state UP'; }
            until up && up -n cloud; do :; done");
    }

    pub(crate) fn interceptor(settings: &str) -> Self {
        let config = "/run/imds-filterd.toml".to_owned();
        let mut text = format!("runtime_dir = \"/run/imds-filterd\"\n{settings}\n");
        if !settings.contains("[capture]") {
            // nobody outside of this test is to be watched
            text.push_str("[capture]\ncgroup = \"none\"\n");
        }
        let text =
            if settings.contains("[filter]") { text } else { format!("{text}[filter]\nuser = \"nobody\"\n") };
        std::fs::write(&config, text).unwrap();
        let _ = std::fs::remove_file("/run/notify");
        let notify = UnixDatagram::bind("/run/notify").unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_imds-interceptor"))
            .args(["--config", &config])
            .env("NOTIFY_SOCKET", "/run/notify")
            .spawn()
            .unwrap();
        notify.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let mut message = [0; 64];
        let ready = (0..100).any(|_| {
            let got = notify.recv(&mut message).is_ok_and(|length| message[..length].starts_with(b"READY=1"));
            got || child.try_wait().unwrap().is_some()
        });
        assert!(ready && child.try_wait().unwrap().is_none(), "interceptor did not become ready");
        Self { child, config }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Stops interceptor: when this returns it does nothing more, until it goes on.
    pub(crate) fn stop(&self) {
        self.signal(Signal::STOP);
        let pid = Pid::from_child(&self.child);
        let stopped = waitpid(Some(pid), WaitOptions::UNTRACED).unwrap();
        assert!(stopped.is_some_and(|(_, status)| status.stopped()));
    }

    pub(crate) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    pub(crate) fn alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `body` in a thread that is this user.
pub(crate) fn as_user<R: Send + 'static>(
    (uid, gid): (u32, u32),
    body: impl FnOnce() -> R + Send + 'static,
) -> std::thread::JoinHandle<R> {
    std::thread::spawn(move || {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        set_thread_groups(&[]).unwrap();
        set_thread_res_gid(gid, gid, gid).unwrap();
        set_thread_res_uid(uid, uid, uid).unwrap();
        body()
    })
}

/// A connection as filterd gets it.
pub(crate) struct Given {
    pub(crate) id: u64,
    pub(crate) uid: u32,
    pub(crate) subject: Subject,
    pub(crate) client: SocketAddr,
    pub(crate) service: SocketAddr,
    pub(crate) upstream: u16,
    pub(crate) stream: UnixStream,
}

/// What filterd is asked in a message.
pub(crate) struct Asked {
    pub(crate) id: u64,
    pub(crate) uid: u32,
    pub(crate) client: SocketAddr,
    pub(crate) place: u32,
    pub(crate) bytes: String,
}

/// Says that so many more bytes of the client's are answered, and answers them. `before`: bytes written before.
pub(crate) fn answer(filterd: &Filterd, given: &mut Given, bytes: u32, before: usize, text: &str) {
    let end = u64::try_from(before + text.len()).unwrap();
    filterd.say(&FromFilterd::Answered { connection: given.id, bytes, end, closes: false });
    given.stream.write_all(text.as_bytes()).unwrap();
}

/// filterd as far as interceptor sees it.
pub(crate) struct Filterd(pub(crate) OwnedFd);

impl Filterd {
    /// Comes in as the filter's user and says hello, as one of the previous minor: that one has every connection by a
    /// socket of its own.
    pub(crate) fn attach() -> Self {
        Self::attach_saying(Hello::PREVIOUS)
    }

    /// As today's, which is asked in messages.
    pub(crate) fn attach_asked() -> Self {
        Self::attach_saying(Hello::OURS)
    }

    /// What comes next is an ask: which connection, its client, its place, and the bytes.
    pub(crate) fn asked(&self) -> Asked {
        match self.receive() {
            (FromInterceptor::Asked { id, subject, client, place, bytes, .. }, None) => {
                let bytes = String::from_utf8(bytes.bytes().to_vec()).unwrap();
                Asked { id, uid: subject.unwrap().uid, client, place, bytes }
            }
            other => panic!("no ask: {other:?}"),
        }
    }

    /// Answers an ask in a message.
    pub(crate) fn answer(&self, id: u64, bytes: &str, closes: bool) {
        let bytes = imds_ipc::Piece::of(bytes.as_bytes());
        self.say(&FromFilterd::Answer { connection: id, closes, bytes });
    }

    /// Has it opened.
    pub(crate) fn open(&self, id: u64) -> UnixStream {
        self.say(&FromFilterd::Open { connection: id });
        match self.receive() {
            (FromInterceptor::Opened { id: opened }, Some(stream)) if opened == id => {
                let stream = UnixStream::from(stream);
                stream.set_nonblocking(false).unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                stream
            }
            other => panic!("not opened: {other:?}"),
        }
    }

    pub(crate) fn attach_saying(hello: Hello) -> Self {
        let filterd = Self::connect(NOBODY);
        assert_eq!(filterd.receive().0, FromInterceptor::Hello(Hello::OURS));
        assert!(matches!(filterd.receive().0, FromInterceptor::Identity(_)));
        filterd.say(&FromFilterd::Hello(hello));
        filterd.say(&FromFilterd::Needs(Needs { groups: true, unit: true }));
        filterd
    }

    pub(crate) fn connect(user: (u32, u32)) -> Self {
        Self::try_connect(user).unwrap()
    }

    pub(crate) fn try_connect(user: (u32, u32)) -> Result<Self, rustix::io::Errno> {
        as_user(user, || {
            let socket =
                socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
            connect(&socket, &SocketAddrUnix::new("/run/imds-filterd/filter.sock").unwrap())?;
            Ok(Self(socket))
        })
        .join()
        .unwrap()
    }

    pub(crate) fn say(&self, message: &FromFilterd) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        channel::send(&self.0, &bytes, None).unwrap();
    }

    /// Until interceptor has heard all that was said before. For who has nothing else to hear.
    pub(crate) fn heard(&self) {
        self.say(&FromFilterd::Dial { dial: u64::MAX, upstream: u16::MAX });
        assert!(matches!(self.receive().0, FromInterceptor::DialFailed { dial: u64::MAX, .. }));
    }

    /// Waits until something can be read, at most so long.
    pub(crate) fn wait(&self, limit: Duration) -> bool {
        wait(&self.0, limit)
    }

    pub(crate) fn receive(&self) -> (FromInterceptor, Option<OwnedFd>) {
        assert!(self.wait(Duration::from_secs(5)), "nothing came");
        let mut buffer = [0; MAX_MESSAGE];
        let (bytes, descriptor) = channel::receive_with_descriptor(&self.0, &mut buffer).unwrap();
        (FromInterceptor::decode(bytes).unwrap(), descriptor)
    }

    /// Whether interceptor has ended this channel.
    pub(crate) fn dropped(&self) -> bool {
        let mut buffer = [0; MAX_MESSAGE];
        loop {
            assert!(self.wait(Duration::from_secs(5)), "nothing came");
            match channel::receive_with_descriptor(&self.0, &mut buffer) {
                Ok(_) => {}
                Err(error) => return error == channel::ChannelError::Closed,
            }
        }
    }

    pub(crate) fn given(&self) -> Given {
        match self.receive() {
            (FromInterceptor::Connection { id, subject, client, service, upstream }, Some(fd)) => {
                let stream = UnixStream::from(fd);
                stream.set_nonblocking(false).unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                let subject = subject.unwrap();
                Given { id, uid: subject.uid, subject, client, service, upstream, stream }
            }
            other => panic!("no connection: {other:?}"),
        }
    }

    /// Closes a connection on purpose.
    pub(crate) fn close(&self, id: u64, stream: UnixStream) {
        self.say(&FromFilterd::Close { connection: id });
        drop(stream);
    }
}

pub(crate) fn wait(fd: &impl AsFd, limit: Duration) -> bool {
    wait_for(fd, mio::Interest::READABLE, limit)
}

pub(crate) fn wait_for_room(fd: &impl AsFd, limit: Duration) -> bool {
    wait_for(fd, mio::Interest::WRITABLE, limit)
}

fn wait_for(fd: &impl AsFd, interest: mio::Interest, limit: Duration) -> bool {
    let mut poll = mio::Poll::new().unwrap();
    let mut events = mio::Events::with_capacity(1);
    let raw = std::os::fd::AsRawFd::as_raw_fd(&fd.as_fd());
    poll.registry().register(&mut mio::unix::SourceFd(&raw), mio::Token(0), interest).unwrap();
    poll.poll(&mut events, Some(limit)).unwrap();
    !events.is_empty()
}

/// The output of a command that must not fail.
pub(crate) fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).stderr(Stdio::inherit()).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// For tests in which time itself is what is measured, never to wait for something.
#[expect(clippy::disallowed_methods, reason = "nothing is waited for")]
pub(crate) fn let_time_pass(time: Duration) {
    std::thread::sleep(time);
}
