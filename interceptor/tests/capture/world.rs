//! The world of a capture test: a throw-away instance (this process's network namespace) and a cloud that holds the
//! service. Touches nothing of the machine: the namespaces vanish with the test.

use imds_interceptor::capture::{Capture, CaptureError, Event, Health, Tun};
use imds_settings::Settings;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Set in the process that runs inside the world.
const INSIDE: &str = "IMDS_CAPTURE_TEST_INSIDE";
/// Far beyond anything that should happen; ends a test that waits for what never comes.
pub(crate) const FOREVER: Duration = Duration::from_secs(20);

/// Runs the calling test in a world of its own: starts this program again, with only that test, in new namespaces.
/// True inside.
pub(crate) fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        build();
        return true;
    }
    assert!(rustix::process::geteuid().is_root(), "this test needs root: it makes network namespaces");
    let this = std::env::current_exe().unwrap();
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(this)
        .args(["--exact", test, "--nocapture", "--test-threads", "1"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare(1) is needed");
    assert!(status.success(), "{test} failed inside its world");
    false
}

fn build() {
    sh("mount -t tmpfs tmpfs /run && mkdir -p /run/netns
        ip netns add cloud
        sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0
        # addresses are there at once, and stay the same
        for in in '' 'ip netns exec cloud'; do $in sysctl -qw net.ipv6.conf.default.accept_dad=0; done
        ip link add eth0 type veth peer name eth0 netns cloud
        for in in '' 'ip netns exec cloud'; do
            $in ip link set lo up
            $in ip link set eth0 up
        done
        ip addr add 10.0.0.2/24 dev eth0; ip addr add 2001:db8::2/64 dev eth0 nodad
        ip route add default via 10.0.0.1; ip -6 route add default via 2001:db8::1
        ip -n cloud addr add 10.0.0.1/24 dev eth0; ip -n cloud addr add 2001:db8::1/64 dev eth0 nodad
        ip -n cloud addr add 169.254.169.254/32 dev eth0; ip -n cloud addr add fd00:ec2::254/128 dev eth0 nodad
        # a careless cloud, that would answer even our private source
        ip -n cloud -6 route add fdc9:1d5f:11d3::/48 via 2001:db8::2");
    until_up(&["eth0", "-n cloud eth0"]);
}

/// Until the kernel lets packets through and has made up the links' own addresses, which it does a little later. A link is
/// named with the arguments of ip(8) that lead to it.
pub(crate) fn until_up(links: &[&str]) {
    let start = Instant::now();
    for link in links {
        let (leads, link) = link.rsplit_once(' ').unwrap_or(("", link));
        let looks = format!(
            "ip {leads} -o link show {link} | grep 'state UP' || :
             ip {leads} -o -6 addr show dev {link} scope link -tentative || :"
        );
        while sh(&looks).lines().count() < 2 {
            assert!(start.elapsed() < FOREVER, "not up: {link}");
        }
    }
}

/// Runs shell lines; the first that fails fails the test.
pub(crate) fn sh(script: &str) -> String {
    let output = Command::new("bash").args(["-euc", script]).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "failed: {script}");
    String::from_utf8(output.stdout).unwrap()
}

/// What capture may change, as text.
pub(crate) fn snapshot() -> String {
    sh("ip rule; ip -6 rule; ip route show table all; ip -6 route show table all; ip xfrm policy
        ip -d link; ip addr | grep -v valid_lft
        nft list ruleset; sysctl -a 2>/dev/null | grep -E '^net.ipv[46].(conf|ip_forward)'; ls -A /run/imds-filterd 2>/dev/null || :")
}

/// Rules, our table and policies, without what may differ from run to run: a link's index, a policy's number.
pub(crate) fn installed() -> String {
    sh("ip rule; ip -6 rule; ip route show table 169254; ip -6 route show table 169254
        ip -6 route show from all | grep -v '^fe80' # made up by the kernel, a little later
        ip xfrm policy | sed 's/ uid [0-9]*//' | paste - - - 2>/dev/null | tr -s ' \\t\\n' ' ' | sed 's/ src/\\nsrc/g' | sort")
}

/// The same, the tun's addresses and its switch, by two programs beside each other in the place of a dozen one after the other: what a
/// look takes on a busy machine would be longer than the repair that is measured.
pub(crate) fn glance() -> String {
    let all = "address show dev imds0\nrule\nroute show table 169254\nxfrm policy\n";
    // addresses and policies are those of both families where none is named
    let asked: [(&[&str], &str); 2] =
        [(&[], all), (&["-6"], "rule\nroute show table 169254\nroute show table main\n")];
    let programs = asked.map(|(family, lines)| {
        let mut program = Command::new("ip")
            .args(family)
            .args(["-o", "-force", "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        program.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        program
    });
    let said = programs.map(|program| String::from_utf8(program.wait_with_output().unwrap().stdout).unwrap());
    let switch = std::fs::read_to_string("/proc/sys/net/ipv4/conf/imds0/disable_xfrm").unwrap();
    let lines = said.iter().flat_map(|said| said.lines()).chain([switch.as_str()]);
    let mut lines: Vec<&str> = lines
        // the kernel makes up link-local addresses anew; a label of ours follows `uid`
        .filter(|line| !line.contains("fe80"))
        .map(|line| line.split(" uid ").next().unwrap_or(line))
        .collect();
    lines.sort_unstable();
    lines.join("\n")
}

pub(crate) fn settings() -> Settings {
    let mut settings = Settings { runtime_dir: "/run/imds-filterd".into(), ..Settings::default() };
    // these tests have no cgroup of their own
    settings.capture.cgroup = imds_settings::Cgroup::None;
    settings
}

/// The service in the cloud: accepts on port 80 of all addresses, says a line, closes.
pub(crate) struct Service(Child);

impl Service {
    pub(crate) fn start() -> Self {
        let program = "import socket
s = socket.create_server(('::', 80), family=socket.AF_INET6, dualstack_ipv6=True)
print('ready', flush=True)
while True:
    c, _ = s.accept(); c.close()";
        let mut child = Command::new("ip")
            .args(["netns", "exec", "cloud", "python3", "-c", program])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A connection attempt of somebody to the service.
#[derive(Default, Clone)]
pub(crate) struct Attempt<'a> {
    pub(crate) ipv6: bool,
    pub(crate) source: &'a str,
    pub(crate) device: &'a str,
    /// Root's, with our mark; others are made by an unprivileged user.
    pub(crate) marked: bool,
}

impl Attempt<'_> {
    /// "connected", "timeout" (into a tun that nobody reads), or the errno's name.
    pub(crate) fn make(&self) -> String {
        let program = "import errno, os, socket, sys
to, source, device, mark = sys.argv[1:]
six = ':' in to
s = socket.socket(socket.AF_INET6 if six else socket.AF_INET)
if mark: s.setsockopt(socket.SOL_SOCKET, 36, int(mark, 0))
else: os.setgroups([]); os.setgid(65533); os.setuid(65534)
s.settimeout(0.3)
try:
    if device: s.setsockopt(socket.SOL_SOCKET, 25, device.encode())
    if source:
        if six: s.setsockopt(socket.IPPROTO_IPV6, 78, 1)
        else: s.setsockopt(0, 15, 1)
        s.bind((source, 0))
    s.connect((to, 80)); print('connected')
except TimeoutError: print('timeout')
except OSError as e: print(errno.errorcode[e.errno])";
        let to = if self.ipv6 { "fd00:ec2::254" } else { "169.254.169.254" };
        let mark = if self.marked { "0x1068" } else { "" };
        let output = Command::new("python3")
            .args(["-c", program, to, self.source, self.device, mark])
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

pub(crate) const TUN_SOURCE: &str = "fdc9:1d5f:11d3::1";

/// Every way an unprivileged user may try here, both families.
pub(crate) fn unprivileged<'a>(devices: &[&'a str]) -> Vec<Attempt<'a>> {
    let mut all = Vec::new();
    for device in devices.iter().copied().chain([""]) {
        for source in ["", "10.0.0.2", "169.254.169.1"] {
            all.push(Attempt { source, device, ..Attempt::default() });
        }
        for source in ["", "2001:db8::2", TUN_SOURCE] {
            all.push(Attempt { ipv6: true, source, device, ..Attempt::default() });
        }
    }
    all
}

/// Not only does nobody connect: no segment arrives in the cloud, even one whose answer would be lost.
pub(crate) fn assert_closed(devices: &[&str], when: &str) {
    wait_for_ends();
    for attempt in unprivileged(devices) {
        let arrived = segments_in_the_cloud();
        let result = attempt.make();
        let way = format!("from {:?} by {:?}, {when}: {result}", attempt.source, attempt.device);
        assert_ne!(result, "connected", "{way}");
        assert_eq!(segments_in_the_cloud(), arrived, "something left: {way}");
    }
}

/// Until connections that were let through are over in the cloud: their last segments would count as somebody else's.
fn wait_for_ends() {
    let start = Instant::now();
    // all but those that listen or are closed on both sides
    let open =
        "ip netns exec cloud awk 'FNR > 1 && $4 != \"0A\" && $4 != \"06\"' /proc/net/tcp /proc/net/tcp6";
    while !sh(open).is_empty() {
        assert!(start.elapsed() < FOREVER, "not over in the cloud: {}", sh(open));
    }
}

/// TCP segments that the cloud received, of both families (RFC 4022 tcpInSegs).
pub(crate) fn segments_in_the_cloud() -> String {
    sh("ip netns exec cloud awk '/^Tcp: [0-9]/ { print $11 }' /proc/net/snmp")
}

/// Equal line by line; says which lines differ.
pub(crate) fn assert_same(before: &str, after: &str) {
    let missing: Vec<_> = before.lines().filter(|line| !after.lines().any(|other| other == *line)).collect();
    let new: Vec<_> = after.lines().filter(|line| !before.lines().any(|other| other == *line)).collect();
    assert!(before == after, "missing {missing:#?}, new {new:#?}");
}

/// A capture with a loop of its own, as the interceptor has.
pub(crate) struct Running {
    waker: Arc<Waker>,
    thread: JoinHandle<(Capture, Tun, Duration)>,
    events: mpsc::Receiver<Event>,
    health: Arc<Mutex<Health>>,
}

impl Running {
    pub(crate) fn start() -> Self {
        Self::start_with(&settings())
    }

    pub(crate) fn start_with(settings: &Settings) -> Self {
        Self::try_start(settings).unwrap_or_else(|error| panic!("{error}"))
    }

    pub(crate) fn try_start(settings: &Settings) -> Result<Self, CaptureError> {
        let (mut capture, tun) = Capture::up(settings)?;
        let poll = Poll::new().unwrap();
        let waker = Arc::new(Waker::new(poll.registry(), Token(9)).unwrap());
        let (tell, events) = mpsc::channel();
        let health = Arc::new(Mutex::new(capture.health()));
        let shared = Arc::clone(&health);
        let found = capture.check(Instant::now());
        *health.lock().unwrap() = capture.health();
        for event in found {
            tell.send(event).unwrap();
        }
        let thread = std::thread::spawn(move || {
            let spent = serve(&mut capture, poll, &tell, &shared);
            (capture, tun, spent)
        });
        Ok(Self { waker, thread, events, health })
    }

    /// Waits for an event that `is` the one.
    pub(crate) fn wait_for(&self, what: &str, is: impl Fn(&Event) -> bool) -> Event {
        let end = Instant::now() + FOREVER;
        let mut others = Vec::new();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(event) if is(&event) => return event,
                Ok(event) => others.push(event),
                Err(_) => panic!("no {what}; but {others:?}"),
            }
        }
    }

    pub(crate) fn health(&self) -> Health {
        self.health.lock().unwrap().clone()
    }

    /// Ends the loop without taking capture down; the CPU time that the loop took comes with it.
    pub(crate) fn halt(self) -> (Capture, Tun, Duration) {
        self.waker.wake().unwrap();
        self.thread.join().unwrap()
    }

    pub(crate) fn down(self) {
        let (capture, tun, _) = self.halt();
        capture.down().unwrap();
        drop(tun);
    }
}

fn serve(
    capture: &mut Capture,
    mut poll: Poll,
    tell: &mpsc::Sender<Event>,
    health: &Mutex<Health>,
) -> Duration {
    for (at, socket) in capture.notification_sockets().into_iter().enumerate() {
        poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), Token(at), Interest::READABLE).unwrap();
    }
    let mut ready = Events::with_capacity(8);
    loop {
        poll.poll(&mut ready, capture.next_check().map(|at| at.saturating_duration_since(Instant::now())))
            .unwrap();
        if ready.iter().any(|event| event.token() == Token(9)) {
            let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
            return Duration::try_from(time).unwrap();
        }
        let mut events = if ready.is_empty() { Vec::new() } else { capture.notified(Instant::now()) };
        if capture.next_check().is_some_and(|at| at <= Instant::now()) {
            events.extend(capture.check(Instant::now()));
        }
        *health.lock().unwrap() = capture.health();
        for event in events {
            let _ = tell.send(event);
        }
    }
}
