//! Standard error, for lines. Must not wait for its reader: one that has stopped would stop every client.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat};
use rustix::io::{Errno, fcntl_dupfd_cloexec, write};
use rustix::net::{SendFlags, send};
use std::os::fd::OwnedFd;

/// Bytes that a pipe takes at once when poll(2) calls it writable: FreeBSD's PIPE_BUF, the least that POSIX allows.
const PIECE: usize = 512;

#[derive(Clone, Copy)]
enum Kind {
    /// journald's stream: the send itself can be told not to wait.
    Socket,
    /// A pipe or a terminal.
    Polled,
    /// Never waits.
    File,
}

pub(super) struct Output {
    stderr: OwnedFd,
    kind: Kind,
    /// What of the last line was not taken.
    rest: Vec<u8>,
    lost: u64,
}

impl Output {
    pub(super) fn stderr() -> Result<Self, Errno> {
        Self::new(fcntl_dupfd_cloexec(std::io::stderr(), 0)?)
    }

    fn new(stderr: OwnedFd) -> Result<Self, Errno> {
        let kind = match FileType::from_raw_mode(fstat(&stderr)?.st_mode) {
            FileType::Socket => Kind::Socket,
            FileType::RegularFile => Kind::File,
            _ => Kind::Polled,
        };
        Ok(Self { stderr, kind, rest: Vec::new(), lost: 0 })
    }

    /// Writes it, or counts it where there is no room.
    pub(super) fn line(&mut self, line: &[u8]) {
        self.write();
        if !self.rest.is_empty() {
            self.lost = self.lost.saturating_add(1);
            return;
        }
        if self.lost > 0 {
            self.rest
                .extend_from_slice(format!("{} lines could not be written here\n", self.lost).as_bytes());
        }
        self.rest.extend_from_slice(line);
        let whole = self.rest.len();
        self.write();
        if self.rest.len() == whole {
            self.rest.clear();
            self.lost = self.lost.saturating_add(1);
        } else {
            self.lost = 0;
        }
    }

    /// As much of `rest` as there is room for.
    fn write(&mut self) {
        while !self.rest.is_empty() {
            let piece = self.rest.get(..PIECE).unwrap_or(&self.rest);
            let written = match self.kind {
                Kind::Socket => send(&self.stderr, &self.rest, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
                Kind::Polled if !self.has_room() => return,
                Kind::Polled => write(&self.stderr, piece),
                Kind::File => write(&self.stderr, &self.rest),
            };
            match written {
                Ok(written) if written > 0 => drop(self.rest.drain(..written.min(self.rest.len()))),
                Ok(_) | Err(_) => return,
            }
        }
    }

    fn has_room(&self) -> bool {
        let mut asked = [PollFd::new(&self.stderr, PollFlags::OUT)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut asked, Some(&now)).is_ok() && asked.iter().all(|fd| fd.revents().contains(PollFlags::OUT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use std::fs::File;
    use std::io::Read;

    fn all_of(reader: &mut File) -> String {
        let mut text = Vec::new();
        assert_eq!(reader.read_to_end(&mut text).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        String::from_utf8(text).unwrap()
    }

    /// Lines until they no longer fit, and some more; then all is read, and one more is written.
    fn stuff(reader: OwnedFd, writer: OwnedFd) {
        let mut output = Output::new(writer).unwrap();
        let mut reader = File::from(reader);
        rustix::fs::fcntl_setfl(&reader, rustix::fs::OFlags::NONBLOCK).unwrap();
        let (mut number, line) = (0, format!("{}\n", "x".repeat(700)));
        while output.lost < 10 {
            assert!(number < 1_000_000, "never full");
            output.line(line.as_bytes());
            number += 1;
        }
        let before = all_of(&mut reader);
        output.line(b"last\n");
        let all = before + &all_of(&mut reader);
        let told = "10 lines could not be written here\nlast\n";
        assert_eq!(all, format!("{}{told}", line.repeat(number - 10)), "cut, out of order or not counted");
    }

    #[test]
    fn a_pipe_that_nobody_reads_costs_lines_and_not_time() {
        let (reader, writer) = std::io::pipe().unwrap();
        stuff(reader.into(), writer.into());
    }

    #[test]
    fn a_socket_that_nobody_reads_costs_lines_and_not_time() {
        let (reader, writer) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        stuff(reader, writer);
    }

    #[test]
    fn a_reader_that_is_gone_costs_lines_and_not_the_process() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut output = Output::new(writer.into()).unwrap();
        output.line(b"x\n");
        output.line(b"x\n");
        assert_eq!(output.lost, 2);
    }
}
