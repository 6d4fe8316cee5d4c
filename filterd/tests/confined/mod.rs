//! FreeBSD: what a process of filterd's sandbox can still do. Each attempt works before the sandbox and not in it.

use imds_filterd::sandbox::{self, Use, limit};
use imds_settings::Sandbox;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::Command;

/// An attempt by its name, and whether it got through.
type Attempt = (&'static str, fn() -> std::io::Result<()>);

const ATTEMPTS: &[Attempt] = &[
    ("opens a file", || File::open("/etc/passwd").map(drop)),
    ("makes a file", || File::create(std::env::temp_dir().join("imds-confined")).map(drop)),
    ("lists a directory", || std::fs::read_dir("/").map(drop)),
    ("binds a TCP socket", || TcpListener::bind("127.0.0.1:0").map(drop)),
    ("connects a TCP socket", || {
        // nobody listens there: a refusal by the other end is a connection that was tried
        match TcpStream::connect("127.0.0.1:1") {
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Ok(()),
            other => other.map(drop),
        }
    }),
    ("sends a datagram to an address", || {
        UdpSocket::bind("127.0.0.1:0")?.send_to(b"x", "127.0.0.1:9").map(drop)
    }),
    ("binds a local socket", || {
        let path = std::env::temp_dir().join(format!("imds-confined-{}", std::process::id()));
        let bound = UnixListener::bind(&path);
        let _ = std::fs::remove_file(path);
        bound.map(drop)
    }),
    ("connects a local socket", || match UnixDatagram::unbound()?.connect("/nonexistent/socket") {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }),
    ("runs a program", || Command::new("/bin/echo").status().map(drop)),
    ("signals another process", || {
        let parent = rustix::process::getppid().ok_or(std::io::ErrorKind::NotFound)?;
        rustix::process::test_kill_process(parent).map_err(Into::into)
    }),
];

const CONFINED: &str = "IMDS_TEST_CONFINED";

pub(crate) fn main() {
    if std::env::var_os(CONFINED).is_some() {
        confined();
        return;
    }
    for (name, attempt) in ATTEMPTS {
        attempt().unwrap_or_else(|error| panic!("{name}: without the sandbox it works: {error}"));
    }
    let me = std::env::current_exe().expect("this program has a path");
    let status = Command::new(me).env(CONFINED, "yes").status().expect("this program runs again");
    assert!(status.success(), "see above");
    println!("{} attempts, each of them stopped", ATTEMPTS.len());
}

fn confined() {
    // made before, as filterd gets its connections
    let (mut ours, mut theirs) = UnixStream::pair().expect("a pair");
    limit(&ours, Use::Exchange).expect("rights are limited");
    let missing = sandbox::lock(Sandbox::Required).expect("the sandbox is entered");
    assert!(missing.is_empty(), "{missing:?}");
    for (name, attempt) in ATTEMPTS {
        assert!(attempt().is_err(), "{name}: got through");
    }
    // and what it is there for still works
    ours.set_nonblocking(true).expect("it is told not to block");
    theirs.write_all(b"bytes").expect("written");
    let mut buffer = [0; 5];
    ours.read_exact(&mut buffer).expect("read");
    ours.write_all(&buffer).expect("written back");
    ours.shutdown(std::net::Shutdown::Both).expect("shut down");
    assert!(rustix::fs::ftruncate(&ours, 0).is_err());
    assert!(std::io::stdin().read(&mut buffer).is_err(), "standard input is closed");
    println!("confined");
}
