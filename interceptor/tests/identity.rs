//! What the kernel's programs tell of sockets: their makers, whoever connects them, groups, cgroups, user namespaces.
//! Nothing is attributed here: these are the programs alone, on a tun that nobody answers on.
#![cfg(target_os = "linux")]

mod world;

use imds_interceptor::attribution::{GroupList, Programs, Record, TunHook};
use std::process::Command;
use world::*;

/// Prints the cookie of a socket that has sent a SYN to the service. The end of its standard input ends it.
const CONNECT: &str = r#"
import ctypes, os, socket, struct, sys
def begin(family=socket.AF_INET, host="169.254.169.254", sock=None):
    sock = sock or socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    error = sock.connect_ex((host, 80))
    assert error == 115, error
    return sock
def tell(sock):
    print(struct.unpack("Q", sock.getsockopt(socket.SOL_SOCKET, 57, 8))[0], flush=True)
def child(run):
    pid = os.fork()
    if pid == 0:
        run()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
def become(uid, gid, groups=()):
    os.setgroups(groups); os.setresgid(gid, gid, gid); os.setresuid(uid, uid, uid)
"#;

struct Tun {
    programs: Programs,
}

/// The tun's.
fn index() -> u32 {
    let index = std::fs::read_to_string("/sys/class/net/imds0/ifindex");
    // /sys may show another namespace's links
    let index = index.ok().map(|text| text.trim().parse().unwrap());
    index.unwrap_or_else(|| {
        let output = Command::new("ip").args(["-o", "link", "show", "imds0"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().split(':').next().unwrap().parse().unwrap()
    })
}

impl Tun {
    fn new(hook: TunHook, cgroup: Option<&Cgroup>) -> Self {
        sh("ip link set lo up; ip tuntap add imds0 mode tun; ip link set imds0 up
            ip addr add 169.254.169.1/32 dev imds0; ip addr add fdc9::1/128 dev imds0 nodad
            ip route add 169.254.169.254 dev imds0; ip -6 route add fd00:ec2::254 dev imds0");
        let services = [V4.parse().unwrap(), V6.parse().unwrap()];
        let mut programs = Programs::load(&services, None).unwrap();
        if let Some(cgroup) = cgroup {
            programs.watch_connects(Some(cgroup.path.as_ref())).unwrap();
        }
        programs.watch_tun(index(), hook).unwrap();
        programs.want(true, true);
        Self { programs }
    }

    /// Runs a script after [`CONNECT`] and gives the records of the cookies it printed.
    fn told(&self, before: &[&str], script: &str) -> Vec<Record> {
        let output = Command::new(before.first().unwrap_or(&"env"))
            .args(before.iter().skip(1))
            .args(["/usr/bin/python3", "-c", &format!("{CONNECT}{script}")])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        let mut all = Vec::new();
        self.programs.read(|record| all.push(record));
        let find = |line: &str| {
            let cookie = line.parse::<u64>().unwrap();
            if cookie == 0 {
                return all.last().unwrap().clone();
            }
            let found = all.iter().rev().find(|record| record.cookie == cookie);
            found.unwrap_or_else(|| panic!("no record of {cookie} in {all:?}")).clone()
        };
        text.lines().map(find).collect()
    }
}

fn private(name: &str, body: impl FnOnce(&Cgroup)) {
    privately(name, || body(&Cgroup::enter()));
}

#[test]
fn maker_groups_and_connector_are_told_exactly_by_either_hook() {
    private("maker_groups_and_connector_are_told_exactly_by_either_hook", |cgroup| {
        for hook in [TunHook::Best, TunHook::Classifier] {
            let tun = Tun::new(hook, Some(cgroup));
            let user = ["setpriv", "--reuid=2001", "--regid=3001", "--groups=5,7,4242"];
            // an MPTCP socket connects by another one, which has a cookie of its own
            let families = "tell(begin()); tell(begin(socket.AF_INET6, 'fd00:ec2::254'))
tell(begin(socket.AF_INET6, '::ffff:169.254.169.254')); begin(sock=socket.socket(2, 1, 262)); print(0)";
            let records = tun.told(&user, families);
            assert_eq!(records.len(), 4);
            for record in records {
                assert_eq!(record.uid, 2001);
                assert_eq!(
                    record.connecting.as_ref().map(|connecting| connecting.uid),
                    Some(2001),
                    "{record:?}"
                );
                let groups = GroupList { gids: vec![3001, 5, 7, 4242], cut: false };
                assert_eq!(record.groups, Some(groups));
                assert_eq!(record.namespace_owner, None);
            }
            drop(tun);
            sh("ip link del imds0");
        }
    });
}

#[test]
fn a_classifier_takes_the_place_of_a_former_runs_whose_ring_nobody_reads() {
    private("a_classifier_takes_the_place_of_a_former_runs_whose_ring_nobody_reads", |_| {
        let tun = Tun::new(TunHook::Classifier, None);
        let attached = || {
            let shown = output("tc", &["filter", "show", "dev", "imds0", "egress"]);
            let ids = shown.split(" id ").skip(1).map(|rest| rest.split(' ').next().unwrap().to_owned());
            ids.collect::<Vec<_>>()
        };
        let former = attached();
        assert_eq!(former.len(), 1);
        // the tun outlives it, as one does that the service manager keeps
        drop(tun);
        let mut programs = Programs::load(&[V4.parse().unwrap()], None).unwrap();
        programs.watch_tun(index(), TunHook::Classifier).unwrap();
        let now = attached();
        assert!(now.len() == 1 && now != former, "{former:?} {now:?}");
        assert_eq!(Tun { programs }.told(&[], "tell(begin())").len(), 1);
    });
}

#[test]
fn the_program_that_connects_is_told_by_its_file_and_not_by_the_name_it_gives_itself() {
    private("the_program_that_connects_is_told_by_its_file_and_not_by_the_name_it_gives_itself", |cgroup| {
        let tun = Tun::new(TunHook::Best, Some(cgroup));
        let python = std::fs::canonicalize("/usr/bin/python3").unwrap();
        let named = |script: &str| tun.told(&[], script).remove(0).connecting.unwrap().exe.unwrap();
        let expected = python.file_name().unwrap().as_encoded_bytes();
        assert_eq!(named("open('/proc/self/comm', 'w').write('amazon-ssm-agent'); tell(begin())"), expected);
        // cut, and nothing of another's left behind it
        let directory = std::env::temp_dir().join(format!("imds-identity-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let long = directory.join("p".repeat(200));
        std::fs::copy(&python, &long).unwrap();
        let script = format!(
            "\nif 'ppp' not in os.readlink('/proc/self/exe'): os.execv({long:?}, sys.orig_argv)\ntell(begin())"
        );
        let name = named(&format!("import sys{script}"));
        std::fs::remove_dir_all(&directory).unwrap();
        assert_eq!(name, "p".repeat(63).as_bytes());
        assert_eq!(named("tell(begin())"), expected);
    });
}

#[test]
fn groups_are_whole_up_to_1024_and_said_to_be_cut_beyond() {
    private("groups_are_whole_up_to_1024_and_said_to_be_cut_beyond", |_| {
        let tun = Tun::new(TunHook::Best, None);
        for (count, told, cut) in [
            (0, 0, false),
            (1, 1, false),
            (300, 300, false),
            (1024, 1024, false),
            (1025, 1024, true),
            (65536, 1024, true),
        ] {
            let script = format!("become(2001, 3001, [10000 + n for n in range({count})]); tell(begin())");
            let record = tun.told(&[], &script).remove(0);
            let gids = std::iter::once(3001).chain(10000..10000 + told).collect();
            assert_eq!(record.groups, Some(GroupList { gids, cut }), "{count}");
            assert_eq!(record.connecting, None, "connects are not watched");
        }
    });
}

#[test]
fn who_connects_is_told_by_effective_and_not_by_real_uid() {
    private("who_connects_is_told_by_effective_and_not_by_real_uid", |cgroup| {
        let tun = Tun::new(TunHook::Best, Some(cgroup));
        let uids = |script: &str| {
            let record = tun.told(&[], script).remove(0);
            (record.uid, record.connecting.as_ref().map(|connecting| connecting.uid))
        };
        // a set-uid program has the user as its real uid
        assert_eq!(uids("os.setresuid(2001, 0, 0); tell(begin())"), (0, Some(0)));
        assert_eq!(uids("os.seteuid(2001); tell(begin())"), (2001, Some(2001)));
        assert_eq!(
            uids("os.setresuid(0, 2001, 0); s = socket.socket(); os.seteuid(0); tell(begin(sock=s))"),
            (2001, Some(0))
        );
        let inherited =
            "s = socket.socket()\ndef other(): become(2002, 3002); tell(begin(sock=s))\nchild(other)";
        assert_eq!(uids(inherited), (0, Some(2002)));
        // a listener that root made, turned into a client
        let listener = "s = socket.create_server(('', 0))
def other():
    become(2002, 3002)
    nowhere = struct.pack('HHIQ', 0, 0, 0, 0)
    libc = ctypes.CDLL(None)
    assert libc.connect(s.fileno(), nowhere, 16) == 0
    tell(begin(sock=s))
child(other)";
        assert_eq!(uids(listener), (0, Some(2002)));
        // what an earlier connect left does not count: it went elsewhere, or was somebody else's
        let again = "s = begin()
nowhere = struct.pack('HHIQ', 0, 0, 0, 0)
libc = ctypes.CDLL(None)
def other():
    become(2002, 3002)
    assert libc.connect(s.fileno(), nowhere, 16) == 0
    tell(begin(sock=s))
child(other)";
        assert_eq!(uids(again), (0, Some(2002)));
    });
}

#[test]
fn a_connect_to_elsewhere_leaves_nothing_and_a_device_is_left_to_it() {
    private("a_connect_to_elsewhere_leaves_nothing_and_a_device_is_left_to_it", |cgroup| {
        let _tun = Tun::new(TunHook::Best, Some(cgroup));
        sh(
            "ip link add up0 type veth peer name down0; ip link set up0 up; ip link set down0 up; ip addr add 10.0.0.10/24 dev up0",
        );
        let script = "
import errno
def bound(to, port=80, kind=socket.SOCK_STREAM):
    s = socket.socket(socket.AF_INET6 if ':' in to else socket.AF_INET, kind)
    s.setsockopt(socket.SOL_SOCKET, 25, b'up0')
    s.setblocking(False)
    s.connect_ex((to, port))
    return s.getsockopt(socket.SOL_SOCKET, 62)
assert bound('169.254.169.254') == 0
assert bound('fd00:ec2::254') == 0
assert bound('::ffff:169.254.169.254') == 0
for stays in [('169.254.169.253',), ('10.0.0.7',), ('169.254.169.254', 81), ('169.254.169.254', 80, socket.SOCK_DGRAM)]:
    assert bound(*stays) != 0, stays
become(2001, 3001)
assert bound('169.254.169.254') != 0
";
        let run =
            Command::new("/usr/bin/python3").args(["-c", &format!("{CONNECT}{script}")]).status().unwrap();
        assert!(run.success());
    });
}

const NAMESPACE: &str = "
def namespace(uid_map, then):
    'A user namespace of the present user, its map written by root.'
    made, mapped = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        libc = ctypes.CDLL(None)
        become(2003, 3003, [4003])
        assert libc.unshare(0x10000000) == 0
        os.write(made[1], b'x'); os.read(mapped[0], 1)
        then(libc)
        os._exit(0)
    os.read(made[0], 1)
    for name in ('uid_map', 'gid_map'):
        with open(f'/proc/{pid}/{name}', 'w') as file: file.write(uid_map)
    os.write(mapped[1], b'x')
    assert os.waitpid(pid, 0)[1] == 0
";

#[test]
fn in_a_user_namespace_the_outermost_owner_is_told_however_deep() {
    private("in_a_user_namespace_the_outermost_owner_is_told_however_deep", |cgroup| {
        let tun = Tun::new(TunHook::Best, Some(cgroup));
        let told = |script: &str| {
            let record = tun.told(&[], &format!("{NAMESPACE}{script}")).remove(0);
            (record.uid, record.namespace_owner)
        };
        let map = "0 2003 1\\n1 300000 1000";
        let other = "os.setgroups([]); os.setresgid(5, 5, 5); os.setresuid(5, 5, 5)";
        let script = format!("def then(libc): {other}; tell(begin())\nnamespace('{map}', then)");
        assert_eq!(told(&script), (300_004, Some(2003)));
        let script = format!(
            "def then(libc):
    {other}
    for depth in range(31):
        assert libc.prctl(4, 1) == 0 and libc.unshare(0x10000000) == 0
        for name, text in ('uid_map', '5 5 1'), ('setgroups', 'deny'), ('gid_map', '5 5 1'):
            with open('/proc/self/' + name, 'w') as file: file.write(text)
    tell(begin())
namespace('{map}', then)"
        );
        assert_eq!(told(&script), (300_004, Some(2003)));
        // made by root, as a container engine does
        let script = "libc = ctypes.CDLL(None)\nassert libc.unshare(0x10000000) == 0\ntell(begin())";
        assert_eq!(told(script), (0, Some(0)));
    });
}

#[test]
fn cgroups_are_told_by_name_from_the_top_and_too_deep_ones_not_at_all() {
    private("cgroups_are_told_by_name_from_the_top_and_too_deep_ones_not_at_all", |cgroup| {
        let tun = Tun::new(TunHook::Best, None);
        let names = || {
            let record = tun.told(&[], "tell(begin())").remove(0);
            let names = record.cgroups?;
            Some(
                names.iter().skip(1).map(|name| String::from_utf8(name.clone()).unwrap()).collect::<Vec<_>>(),
            )
        };
        assert_eq!(names(), Some(vec![]));
        cgroup.enter_below("system.slice/nginx.service");
        assert_eq!(names(), Some(vec!["system.slice".into(), "nginx.service".into()]));
        let long = "n".repeat(255);
        cgroup.enter_below(&format!("a/{long}/{long}/{long}/{long}/{long}/{long}/below"));
        assert_eq!(names().unwrap().len(), 7);
        assert_eq!(names().unwrap()[6], long);
        cgroup.enter_below(&"d/".repeat(62));
        assert_eq!(names().unwrap().len(), 7);
        cgroup.enter_below(&"d/".repeat(70));
        assert_eq!(names(), None);
    });
}

#[test]
fn what_is_not_wanted_is_not_told() {
    private("what_is_not_wanted_is_not_told", |_| {
        let tun = Tun::new(TunHook::Best, None);
        for (groups, unit) in [(false, false), (true, false), (false, true)] {
            tun.programs.want(groups, unit);
            let record = tun.told(&[], "become(2001, 3001, [7]); tell(begin())").remove(0);
            assert_eq!((record.groups.is_some(), record.cgroups.is_some()), (groups, unit));
            assert_eq!(record.uid, 2001);
        }
    });
}

#[test]
fn a_syn_without_room_for_its_record_does_not_leave_and_the_next_does() {
    private("a_syn_without_room_for_its_record_does_not_leave_and_the_next_does", |_| {
        let tun = Tun::new(TunHook::Best, None);
        sh("ip link set imds0 txqueuelen 10000");
        // who reads the tun counts what arrives there
        let many = "
import fcntl
tun = os.open('/dev/net/tun', os.O_RDWR | os.O_NONBLOCK)
fcntl.ioctl(tun, 0x400454ca, struct.pack('16sH22x', b'imds0', 0x1001))
for n in range(6000): begin().close()
arrived = 0
try:
    while True: arrived += os.read(tun, 2000)[16:20] == socket.inet_aton('169.254.169.254')
except BlockingIOError: pass
print(arrived)
";
        let arrived = output("/usr/bin/python3", &["-c", &format!("{CONNECT}{many}")]);
        let mut told = 0;
        tun.programs.read(|_| told += 1);
        let arrived: i32 = arrived.trim().parse().unwrap();
        assert!((1000..6000).contains(&told), "{told}");
        // the tun may lose one that was told of; none may arrive that was not
        assert!(arrived <= told + 2, "{told} told of, {arrived} arrived");
        // there is room again
        assert_eq!(tun.told(&[], "tell(begin())").len(), 1);
    });
}
