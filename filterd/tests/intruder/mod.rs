//! What an intruder in filterd would try, each in a process of its own that entered filterd's sandbox before.
//! Attempts are harmless where they work: they touch the process itself, loopback and /dev/null.

use imds_settings::{Accounts, Sandbox, Settings};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use seccompiler::{SeccompAction, SeccompFilter, apply_filter};
use std::fs::File;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

const ROLE: &str = "IMDS_INTRUDER";
const LOCKED: &str = "IMDS_INTRUDER_LOCKED";
const LACKS: &str = "IMDS_KERNEL_LACKS";

pub(crate) enum Stopped {
    /// With SIGSYS.
    Killed,
    With(i32),
}

pub(crate) struct Attempt {
    pub(crate) name: &'static str,
    pub(crate) stopped: Stopped,
    /// Without the sandbox, to work.
    pub(crate) needs_root: bool,
    attempt: fn(&Held) -> io::Result<()>,
}

/// What a filterd has when it is locked.
struct Held {
    listener: TcpListener,
    upstream: TcpStream,
    /// An upstream that could not be reached.
    unreached: OwnedFd,
    datagram: UnixDatagram,
    open: File,
    parent: rustix::process::Pid,
}

const fn killed(name: &'static str, attempt: fn(&Held) -> io::Result<()>) -> Attempt {
    Attempt { name, stopped: Stopped::Killed, needs_root: false, attempt }
}

/// As if the kernel did not know the call.
const fn unknown(name: &'static str, attempt: fn(&Held) -> io::Result<()>) -> Attempt {
    Attempt { name, stopped: Stopped::With(libc::ENOSYS), needs_root: false, attempt }
}

const fn as_root(attempt: Attempt) -> Attempt {
    Attempt { needs_root: true, ..attempt }
}

pub(crate) const ATTEMPTS: &[Attempt] = &[
    killed("open a file", |_| File::open("/dev/null").map(drop)),
    killed("open a file to write", |_| File::create("/dev/null").map(drop)),
    killed("open a file below a descriptor", |held| {
        let flags = rustix::fs::OFlags::RDONLY;
        Ok(rustix::fs::openat(&held.open, "/dev/null", flags, rustix::fs::Mode::empty()).map(drop)?)
    }),
    killed("run a program", |_| Err(Command::new("echo").arg("got through").exec())),
    killed("be traced", |_| {
        // SAFETY: PTRACE_TRACEME takes no further argument and touches no memory.
        checked(unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) })
    }),
    killed("read another process", |_| {
        let (mut to, from) = ([0_u8; 4], [1_u8; 4]);
        let local = libc::iovec { iov_base: to.as_mut_ptr().cast(), iov_len: 4 };
        let remote = libc::iovec { iov_base: from.as_ptr().cast_mut().cast(), iov_len: 4 };
        let ours = std::process::id().cast_signed();
        // SAFETY: both descriptions name four bytes of ours that live past the call.
        checked(unsafe { libc::process_vm_readv(ours, &raw const local, 1, &raw const remote, 1, 0) } as i64)
    }),
    killed("an IPv4 socket", |_| made(AddressFamily::INET, SocketType::STREAM)),
    killed("an IPv6 socket", |_| made(AddressFamily::INET6, SocketType::DGRAM)),
    killed("a netlink socket", |_| made(AddressFamily::NETLINK, SocketType::RAW)),
    as_root(killed("a packet socket", |_| made(AddressFamily::PACKET, SocketType::RAW))),
    as_root(killed("a raw socket", |_| {
        let raw = rustix::net::socket(AddressFamily::INET, SocketType::RAW, Some(rustix::net::ipproto::ICMP));
        Ok(raw.map(drop)?)
    })),
    // its packets carry interceptor's mark and leave by the host's network
    killed("turn the upstream connection elsewhere", |held| {
        Ok(rustix::net::connect(&held.upstream, &held.listener.local_addr()?)
            .or_else(|errno| if errno == rustix::io::Errno::ISCONN { Ok(()) } else { Err(errno) })?)
    }),
    // without a word of connecting, where a connection failed or has ended (tcp(7), TCP Fast Open)
    killed("turn a failed upstream connection elsewhere", |held| {
        turned(&held.unreached, |data, flags| {
            Ok(rustix::net::sendto(&held.unreached, data, flags, &held.listener.local_addr()?)?)
        })
    }),
    killed("turn it elsewhere with a message", |held| {
        turned(&held.unreached, |data, flags| {
            let (to, data) = (held.listener.local_addr()?, [io::IoSlice::new(data)]);
            let none = &mut rustix::net::SendAncillaryBuffer::default();
            Ok(rustix::net::sendmsg_addr(&held.unreached, &to, &data, none, flags)?)
        })
    }),
    killed("connect a unix socket", |held| {
        let name = rustix::net::SocketAddrUnix::new_abstract_name(b"imds-intruder-nobody")?;
        match rustix::net::connect(&held.datagram, &name) {
            Err(rustix::io::Errno::CONNREFUSED) => Ok(()),
            other => Ok(other?),
        }
    }),
    killed("listen", |held| Ok(rustix::net::listen(&held.listener, 1)?)),
    as_root(killed("load a BPF program", |_| {
        // type, key size, value size, entries: an array
        let map: [u32; 32] = std::array::from_fn(|at| [2, 4, 4, 1].get(at).copied().unwrap_or(0));
        // SAFETY: reads the 128 bytes of `map`, which lives past the call; the new descriptor is closed at our end.
        checked(unsafe { libc::syscall(libc::SYS_bpf, 0, map.as_ptr(), size_of_val(&map)) })
    })),
    unknown("a unix socket", |_| made(AddressFamily::UNIX, SocketType::STREAM)),
    unknown("a thread", |_| std::thread::Builder::new().spawn(|| ()).map(drop)),
    unknown("a process", |_| {
        // SAFETY: there is one thread, and the child ends at once without unwinding or running destructors.
        match unsafe { libc::fork() } {
            // SAFETY: ends this process and touches nothing.
            0 => unsafe { libc::_exit(0) },
            child => checked(child.into()),
        }
    }),
    unknown("look at a file", |_| std::fs::metadata("/etc/passwd").map(drop)),
    unknown("remove a file", |_| match std::fs::remove_file("/nonexistent/imds-intruder") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }),
    unknown("a signal for the parent", |held| Ok(rustix::process::test_kill_process(held.parent)?)),
    unknown("a namespace", |_| Ok(nix::sched::unshare(nix::sched::CloneFlags::CLONE_FILES)?)),
    unknown("change the user", |_| Ok(nix::unistd::setuid(nix::unistd::getuid())?)),
    unknown("a ring of calls", |_| {
        let mut parameters = [0_u32; 30];
        // SAFETY: writes at most the 120 bytes of `parameters`, which is the size of the kernel's structure.
        checked(unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) })
    }),
    unknown("memory to run code in", |_| {
        let (rights, flags) = (libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at a place of the kernel's choice touches no memory of ours.
        let place = unsafe { libc::mmap(std::ptr::null_mut(), 4096, rights, flags, -1, 0) };
        if place == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
    }),
    unknown("a further descriptor", |held| held.open.try_clone().map(drop)),
    unknown("another filter", |_| {
        let kill = SeccompFilter::new(
            [(libc::SYS_vhangup, Vec::new())].into(),
            SeccompAction::Allow,
            SeccompAction::KillThread,
            std::env::consts::ARCH.try_into().map_err(io::Error::other)?,
        );
        let program: seccompiler::BpfProgram = kill.and_then(TryInto::try_into).map_err(io::Error::other)?;
        match apply_filter(&program) {
            Ok(()) => Ok(()),
            Err(seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error)) => Err(error),
            Err(error) => Err(io::Error::other(error)),
        }
    }),
    Attempt {
        name: "more memory than connections need",
        stopped: Stopped::With(libc::ENOMEM),
        needs_root: false,
        attempt: |_| {
            let mut bytes: Vec<u8> = Vec::new();
            match bytes.try_reserve_exact(512 << 20) {
                Ok(()) => Ok(()),
                Err(_) => Err(io::Error::from_raw_os_error(libc::ENOMEM)),
            }
        },
    },
];

fn checked(result: i64) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn made(family: AddressFamily, kind: SocketType) -> io::Result<()> {
    Ok(rustix::net::socket(family, kind, None).map(drop)?)
}

/// Sends twice: the first is told that the connection failed, and the socket is as new from then on.
fn turned(
    socket: &OwnedFd,
    send: impl Fn(&[u8], rustix::net::SendFlags) -> io::Result<usize>,
) -> io::Result<()> {
    let fast_open = rustix::net::SendFlags::from_bits_retain(libc::MSG_FASTOPEN.cast_unsigned());
    let mut ended = [rustix::event::PollFd::new(socket, rustix::event::PollFlags::OUT)];
    rustix::event::poll(&mut ended, None)?;
    match send(b"x", fast_open) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        other => return Err(io::Error::other(format!("no failed connection: {other:?}"))),
    }
    match send(b"x", fast_open) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
        other => other.map(drop),
    }
}

/// Runs one attempt in a process of its own.
pub(crate) fn play(name: &str, locked: bool) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(ROLE, name).env("RUST_BACKTRACE", "1");
    if locked {
        command.env(LOCKED, "1");
    }
    command.output().unwrap()
}

/// imds-filterd, as on a kernel that lacks something.
pub(crate) fn lacking(what: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(LACKS, what);
    command
}

/// Whether this process is one of those.
pub(crate) fn plays() -> bool {
    if let Ok(what) = std::env::var(LACKS) {
        lose(&what);
        let error = Command::new(env!("CARGO_BIN_EXE_imds-filterd"))
            .args(std::env::args_os().skip(1))
            .env_remove(LACKS)
            .exec();
        panic!("{error}");
    }
    let Ok(name) = std::env::var(ROLE) else { return false };
    let held = hold();
    if std::env::var_os(LOCKED).is_some() {
        lock();
        println!("locked");
    }
    match (name.as_str(), ATTEMPTS.iter().find(|attempt| attempt.name == name)) {
        ("panic", _) => drop(std::panic::catch_unwind(|| panic!("read {:?}", "hunter2"))),
        ("abort", _) => std::process::abort(),
        (_, Some(attempt)) => match (attempt.attempt)(&held) {
            Ok(()) => println!("got through"),
            Err(error) => println!("stopped: {error}"),
        },
        (_, None) => panic!("no such attempt: {name}"),
    }
    true
}

fn hold() -> Held {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let upstream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    Held {
        listener,
        upstream,
        unreached: unreached().unwrap(),
        datagram: UnixDatagram::unbound().unwrap(),
        open: File::open("/dev").unwrap(),
        parent: rustix::process::getppid().unwrap(),
    }
}

/// As interceptor passes it: being connected, here to a port that nobody listens at.
fn unreached() -> io::Result<OwnedFd> {
    let nobody = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?;
    let socket =
        rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::NONBLOCK, None)?;
    match rustix::net::connect(&socket, &nobody) {
        Err(rustix::io::Errno::INPROGRESS) => Ok(socket),
        other => Err(io::Error::other(format!("not being connected: {other:?}"))),
    }
}

/// As main does it.
fn lock() {
    imds_filterd::log::start();
    let mut settings = Settings::default();
    settings.limits.connections = 16;
    let name = crate::played::filter_user();
    let user = imds_filterd::sandbox::user(&Accounts::open(), &name).unwrap();
    imds_filterd::sandbox::bound(&settings).unwrap();
    imds_filterd::sandbox::enter(&name, &user).unwrap();
    let missing = imds_filterd::sandbox::lock(Sandbox::Required).unwrap();
    assert!(missing.is_empty(), "{missing:?}");
}

/// An outer filter makes the kernel answer as one that was built without.
fn lose(what: &str) {
    let (call, errno) = match what {
        "seccomp" => (libc::SYS_seccomp, libc::EINVAL),
        "landlock" => (libc::SYS_landlock_create_ruleset, libc::ENOSYS),
        "namespaces" => (libc::SYS_unshare, libc::EINVAL),
        "nothing" => return,
        other => panic!("{other}"),
    };
    let filter = SeccompFilter::new(
        [(call, Vec::new())].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(errno.unsigned_abs()),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let program: seccompiler::BpfProgram = filter.unwrap().try_into().unwrap();
    apply_filter(&program).unwrap();
}
