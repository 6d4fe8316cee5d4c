//! The two ends of an exchange: a captured client, and the metadata service.
//! Assert nothing about what filterd does, but that it comes to its end.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

/// A captured client's end.
pub struct Client {
    pub stream: BufReader<UnixStream>,
    pub id: u64,
}

impl Client {
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    /// A head, up to its blank line.
    pub fn head(&mut self) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(self.stream.read_line(&mut head).unwrap(), 0, "cut short: {head:?}");
        }
        head
    }

    pub fn body(&mut self, bytes: usize) -> String {
        let mut body = vec![0; bytes];
        self.stream.read_exact(&mut body).unwrap();
        String::from_utf8(body).unwrap()
    }

    /// Status and body of an answer that says its length.
    pub fn answer(&mut self) -> (u16, String) {
        let head = self.head();
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).expect("a length");
        let length = length.parse().unwrap();
        (status_of(&head), self.body(length))
    }

    /// Everything up to the end of the connection.
    pub fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).unwrap();
        String::from_utf8(rest).unwrap()
    }
}

pub fn status_of(head: &str) -> u16 {
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

/// The metadata service's end of a dialled connection.
pub struct Upstream(pub TcpStream);

impl Upstream {
    /// The request as it arrived, up to its blank line.
    pub fn request(&mut self) -> String {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap();
            request.extend_from_slice(&byte);
        }
        String::from_utf8(request).unwrap()
    }

    /// Reads the request, answers, and closes.
    pub fn answer(mut self, bytes: impl AsRef<[u8]>) -> String {
        let request = self.request();
        self.0.write_all(bytes.as_ref()).unwrap();
        request
    }
}
