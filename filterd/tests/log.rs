//! Lines of the log that nobody takes: they must cost neither time nor the process.
//! Not about the audit trail, whose lines are counted where they are written.

mod played;

use imds_ipc::{FromFilterd, FromInterceptor, Piece, Subject};
use played::{ALLOW_ALL, Filterd, GET, OK, Place, program};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::process::Command;

/// A filterd whose stderr is this pipe; we hold both of its ends.
fn with_pipe() -> (Filterd, File) {
    let place = Place::new();
    let path = place.0.join("stderr");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).unwrap();
    let pipe = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let flags = rustix::fs::fcntl_getfl(&pipe).unwrap();
    rustix::fs::fcntl_setfl(&pipe, flags | rustix::fs::OFlags::NONBLOCK).unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec \"$0\" \"$@\" 2>\"$STDERR\""]).arg(program().get_program()).env("STDERR", path);
    (Filterd::spawn(place, &mut shell, ALLOW_ALL, ""), pipe)
}

/// Makes it log a line, and sees that it goes on.
fn provoke(filterd: &mut Filterd, connection: u64) {
    let message = FromInterceptor::Asked {
        id: connection,
        subject: Ok(Subject::of_uid(1)),
        client: "10.0.0.5:40001".parse().unwrap(),
        service: "169.254.169.254:80".parse().unwrap(),
        // no such
        upstream: 99,
        place: 1,
        bytes: Piece::of(GET.as_bytes()),
    };
    filterd.say(&message, None);
    assert_eq!(filterd.hear(), FromFilterd::Close { connection });
}

fn serves(filterd: &mut Filterd) {
    let id = filterd.ask(1, 1, GET);
    filterd.dial().answer(OK);
    assert!(filterd.hear_answer(id).0.ends_with("\r\n\r\nok"));
}

#[test]
fn a_log_that_nobody_reads_costs_lines_and_not_time() {
    let (mut filterd, mut pipe) = with_pipe();
    let mut filled = 0;
    for piece in [4096, 1] {
        loop {
            match pipe.write(&vec![b'x'; piece]) {
                Ok(written) => filled += written,
                Err(error) => break assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
    }
    provoke(&mut filterd, 1001);
    provoke(&mut filterd, 1002);
    serves(&mut filterd);
    let mut before = Vec::new();
    assert_eq!((&pipe).take(u64::MAX).read_to_end(&mut before).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert!(before.len() >= filled);
    provoke(&mut filterd, 1003);
    let mut after = vec![0; 4096];
    let read = pipe.read(&mut after).unwrap();
    let after = String::from_utf8_lossy(&after[..read]);
    assert!(after.starts_with("2 lines could not be written here\n"), "{after}");
    assert!(after.contains("connection 1003 not taken"), "{after}");
}

#[test]
fn a_log_whose_reader_is_gone_does_not_end_filterd() {
    let (mut filterd, pipe) = with_pipe();
    drop(pipe);
    provoke(&mut filterd, 1001);
    serves(&mut filterd);
}
