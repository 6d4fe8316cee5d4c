//! One connection of a client of the metadata service: writes requests, reads whole answers. Blocking, and as cheap as
//! that goes, since it shares the processors with what is measured.
//! Must not guess: an answer that is not a 200 with a length is an error.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

const SERVICE: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// Far above any honest answer here; a lost one is an error and not a hang.
const PATIENCE: Duration = Duration::from_secs(5);
/// More than any answer of upstream.conf.
const MAX_ANSWER: usize = 4096;

pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Box<[u8; MAX_ANSWER]>,
}

impl Connection {
    pub(crate) fn open() -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&SocketAddr::from((SERVICE, 80)), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream, buffer: Box::new([0; MAX_ANSWER]) })
    }

    /// One request and its answer's body.
    pub(crate) fn ask(&mut self, request: &[u8]) -> io::Result<&[u8]> {
        self.stream.write_all(request)?;
        let mut have = 0;
        let body = loop {
            let room = self.buffer.get_mut(have..).unwrap_or(&mut []);
            match self.stream.read(room)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => have += read,
            }
            let answer = self.buffer.get(..have).unwrap_or(&[]);
            if let Some(start) = body_of(answer)? {
                break start..have;
            }
        };
        Ok(self.buffer.get(body).unwrap_or(&[]))
    }

    /// Reads the end, which the service was asked for.
    pub(crate) fn end(mut self) -> io::Result<()> {
        match self.stream.read(&mut self.buffer[..])? {
            0 => Ok(()),
            _ => Err(io::Error::other("bytes after the answer")),
        }
    }
}

/// Where the body begins, once the answer is whole.
fn body_of(answer: &[u8]) -> io::Result<Option<usize>> {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let (head, body) = answer.split_at_checked(end + 4).unwrap_or((answer, b""));
    if !head.starts_with(b"HTTP/1.1 200 ") {
        let line = head.split(|byte| *byte == b'\r').next().unwrap_or(b"");
        return Err(io::Error::other(format!("the answer is {:?}", String::from_utf8_lossy(line))));
    }
    let length: Option<usize> = head.split(|byte| *byte == b'\n').find_map(|line| {
        let (name, value) = line.split_at_checked(b"content-length:".len())?;
        let named = name.eq_ignore_ascii_case(b"content-length:");
        named.then(|| std::str::from_utf8(value.trim_ascii()).ok()?.parse().ok())?
    });
    let length = length.ok_or_else(|| io::Error::other("the answer has no length"))?;
    match body.len().cmp(&length) {
        std::cmp::Ordering::Less => Ok(None),
        std::cmp::Ordering::Equal => Ok(Some(end + 4)),
        std::cmp::Ordering::Greater => Err(io::Error::other("bytes after the answer")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_when_its_length_is_there_and_not_before() {
        let whole = b"HTTP/1.1 200 OK\r\nServer: x\r\ncontent-LENGTH: 3\r\n\r\nabc";
        for cut in 0..whole.len() {
            assert_eq!(body_of(&whole[..cut]).unwrap(), None, "{cut}");
        }
        assert_eq!(body_of(whole).unwrap(), Some(whole.len() - 3));
    }

    #[test]
    fn what_is_no_success_of_known_length_is_an_error() {
        for wrong in [
            "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab",
        ] {
            assert!(body_of(wrong.as_bytes()).is_err(), "{wrong:?}");
        }
    }
}
