//! A descriptor that lines are written to, the audit trail's or the log's. One write a line, at once, so that an answered
//! request is a logged one.
//! Never waits: a reader that has stopped must not stop the filter.

use crate::sandbox;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::net::SendFlags;
use std::os::fd::OwnedFd;

/// PIPE_BUF. A line is longer where a client asks for a long path.
const PIECE: usize = 4096;

/// What keeps a write to it from waiting.
#[derive(Clone, Copy)]
enum Kind {
    /// journald's stream: the send itself can be told not to wait.
    Socket,
    /// A pipe or a terminal. Writable, by poll(2), means that a pipe has room for [`PIECE`], and takes it at once; or
    /// (FreeBSD) that the write, which does not wait, takes a part of it.
    Polled,
    /// A file: never waits.
    File,
}

pub struct Output {
    file: OwnedFd,
    kind: Kind,
    /// The line being written; between lines, what of the last one was not taken.
    line: Vec<u8>,
    lost: u64,
    ever_lost: u64,
}

impl Output {
    /// # Errors
    /// When the descriptor cannot be looked at.
    pub fn new(file: OwnedFd) -> rustix::io::Result<Self> {
        let kind = match FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
            FileType::Socket => Kind::Socket,
            FileType::RegularFile => Kind::File,
            _ => Kind::Polled,
        };
        sandbox::take_lines(&file).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        Ok(Self { file, kind, line: Vec::with_capacity(1024), lost: 0, ever_lost: 0 })
    }

    /// Standard output.
    ///
    /// # Errors
    /// When it is closed.
    pub fn stdout() -> rustix::io::Result<Self> {
        Self::new(rustix::io::dup(std::io::stdout())?)
    }

    /// Standard error.
    ///
    /// # Errors
    /// When it is closed.
    pub(crate) fn stderr() -> rustix::io::Result<Self> {
        Self::new(rustix::io::fcntl_dupfd_cloexec(std::io::stderr(), 0)?)
    }

    /// A line for people; it is told before it how many there was no room for.
    pub(crate) fn log_line(&mut self, line: &[u8]) {
        let lost = self.lost;
        self.line(|bytes| {
            if lost > 0 {
                bytes.extend_from_slice(format!("{lost} lines could not be written here\n").as_bytes());
            }
            bytes.extend_from_slice(line);
        });
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    pub(super) fn ever_lost(&self) -> u64 {
        self.ever_lost
    }

    fn lose(&mut self) {
        self.lost = self.lost.saturating_add(1);
        self.ever_lost = self.ever_lost.saturating_add(1);
    }

    /// Writes the line that `compose` appends; a line that there is no room for is counted instead.
    pub(super) fn line(&mut self, compose: impl FnOnce(&mut Vec<u8>)) {
        if !self.line.is_empty() {
            self.write(); // the rest of a line comes before the next
        }
        if !self.line.is_empty() {
            self.lose();
            return;
        }
        compose(&mut self.line);
        let whole = self.line.len();
        self.write();
        if self.line.len() == whole {
            self.line.clear();
            self.lose();
        } else {
            self.lost = 0; // the line that went out told it
        }
    }

    /// Takes what was written off `line`.
    fn write(&mut self) {
        match self.kind {
            Kind::Socket => {
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                self.wrote(rustix::net::send(&self.file, &self.line, flags));
            }
            Kind::Polled => {
                while !self.line.is_empty() && self.has_room() {
                    let piece = self.line.get(..PIECE).unwrap_or(&self.line);
                    if self.wrote(rustix::io::write(&self.file, piece)) == 0 {
                        return;
                    }
                }
            }
            Kind::File => drop(self.wrote(rustix::io::write(&self.file, &self.line))),
        }
    }

    fn wrote(&mut self, written: rustix::io::Result<usize>) -> usize {
        let written = written.unwrap_or(0).min(self.line.len());
        self.line.drain(..written);
        written
    }

    fn has_room(&self) -> bool {
        let mut asked = [PollFd::new(&self.file, PollFlags::OUT)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut asked, Some(&now)).is_ok()
            && asked.iter().all(|fd| fd.revents().contains(PollFlags::OUT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    use std::fs::File;
    use std::io::{BufRead, BufReader, Read};

    /// Writes numbered lines until they no longer fit, and 10 more; then everything is read and one more written.
    fn stuffed(output: &mut Output, reader: impl Read + Send + 'static) -> (u64, Vec<String>) {
        let mut number = 0_u64;
        while output.lost() < 10 {
            assert!(number < 1_000_000, "never full");
            let text = format!("{number} {}\n", "x".repeat(3000));
            output.line(|bytes| bytes.extend_from_slice(text.as_bytes()));
            number += 1;
        }
        let mut reader = BufReader::new(reader);
        let mut first = String::new();
        // one line read makes room for none to one more, so half of what fitted is read
        let mut lines = Vec::new();
        for _ in 0..(number - output.lost()) / 2 {
            first.clear();
            reader.read_line(&mut first).unwrap();
            lines.push(first.trim_end().to_owned());
        }
        let lost = output.lost();
        output.line(|bytes| bytes.extend_from_slice(b"last\n"));
        assert_eq!(output.lost(), 0, "the line that fits again tells of the lost ones");
        output.file = File::open("/dev/null").unwrap().into(); // our end of it closes
        lines.extend(reader.lines().map(Result::unwrap));
        (lost, lines)
    }

    fn check((lost, lines): (u64, Vec<String>)) {
        assert!(lost >= 10);
        let (last, numbered) = lines.split_last().unwrap();
        assert_eq!(last, "last");
        for (number, line) in numbered.iter().enumerate() {
            assert_eq!(*line, format!("{number} {}", "x".repeat(3000)), "cut or out of order");
        }
    }

    #[test]
    fn a_pipe_that_nobody_reads_costs_lines_and_not_time() {
        let (reader, writer) = std::io::pipe().unwrap();
        check(stuffed(&mut Output::new(writer.into()).unwrap(), reader));
    }

    #[test]
    fn a_line_longer_than_the_room_of_a_pipe_does_not_wait_for_who_reads_it() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut output = Output::new(writer.into()).unwrap();
        // room for one piece is left
        let mut full = 0;
        while output.has_room() {
            full += rustix::io::write(&output.file, &[b'x'; PIECE]).unwrap();
        }
        reader.read_exact(&mut [0; PIECE]).unwrap();
        let long = format!("{}\n", "y".repeat(3 * PIECE));
        let (done, waits) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            output.line(|bytes| bytes.extend_from_slice(long.as_bytes()));
            done.send(output).unwrap();
        });
        let mut output = waits.recv_timeout(std::time::Duration::from_secs(5)).expect("it waits");
        reader.read_exact(&mut vec![0; full - PIECE]).unwrap();
        output.line(|bytes| bytes.extend_from_slice(b"next\n"));
        drop(output);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, format!("{}\nnext\n", "y".repeat(3 * PIECE)));
    }

    #[test]
    fn a_socket_that_nobody_reads_costs_lines_and_not_time() {
        let (reader, writer) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .unwrap();
        let reader = std::os::unix::net::UnixStream::from(reader);
        check(stuffed(&mut Output::new(writer).unwrap(), reader));
    }

    #[test]
    fn a_reader_that_is_gone_costs_lines_and_not_the_process() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut output = Output::new(writer.into()).unwrap();
        output.line(|bytes| bytes.extend_from_slice(b"x\n"));
        assert_eq!(output.lost(), 1);
    }
}
