//! What was received, kept: one JSON object a line. Never what was answered but its status.
//! The bytes are exact, tokens included: the file is for tests and readable by its owner only.
//!
//! ```json
//! {"connection":1,"peer":"127.0.0.1:40000","local":"127.0.0.1:80","status":200,"bytes":"GET / HTTP/1.1\r\n\r\n"}
//! ```
//! `bytes` is one character, U+0000 to U+00FF, for each byte (Latin-1). `status` is null for what got no answer: a
//! head cut short, or bytes after the request on a connection that was about to close. A line is written before the
//! answer is sent, so whoever has an answer finds its request in the file.

use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Counts the connections of this server from 1.
    pub connection: u64,
    pub peer: SocketAddr,
    pub local: SocketAddr,
    pub status: Option<u16>,
    pub bytes: Vec<u8>,
}

impl Record {
    #[must_use]
    pub fn to_line(&self) -> String {
        let bytes: String = self.bytes.iter().map(|b| char::from(*b)).collect();
        let line = json!({
            "connection": self.connection,
            "peer": self.peer.to_string(),
            "local": self.local.to_string(),
            "status": self.status,
            "bytes": bytes,
        });
        format!("{line}\n")
    }

    /// A line back as a record; `None` if it is not one.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(line).ok()?;
        let address = |key: &str| value.get(key)?.as_str()?.parse().ok();
        let status = match value.get("status")? {
            Value::Null => None,
            number => Some(u16::try_from(number.as_u64()?).ok()?),
        };
        let text = value.get("bytes")?.as_str()?;
        Some(Self {
            connection: value.get("connection")?.as_u64()?,
            peer: address("peer")?,
            local: address("local")?,
            status,
            bytes: text.chars().map(|c| u8::try_from(c).ok()).collect::<Option<_>>()?,
        })
    }
}

/// Every record of a file, in the order in which the requests were complete.
///
/// # Errors
/// The file cannot be read, or a line in it is no record.
pub fn read_records(path: &Path) -> io::Result<Vec<Record>> {
    let text = std::fs::read_to_string(path)?;
    let record =
        |line| Record::parse(line).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no record"));
    text.lines().map(record).collect()
}

/// Where records go.
#[derive(Debug)]
pub struct Recorder(Mutex<File>);

impl Recorder {
    /// Starts an empty file, which only its owner may read.
    ///
    /// # Errors
    /// The file cannot be made or emptied.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        Ok(Self(Mutex::new(file)))
    }

    /// One write a line, so that a reader sees whole lines.
    pub(crate) fn write(&self, record: &Record) -> io::Result<()> {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(record.to_line().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives_the_file() {
        let record = Record {
            connection: 7,
            peer: "[::1]:5".parse().unwrap(),
            local: "127.0.0.1:80".parse().unwrap(),
            status: None,
            bytes: (0..=255).collect(),
        };
        let line = record.to_line();
        assert_eq!(line.lines().count(), 1);
        assert_eq!(Record::parse(&line), Some(record.clone()));
        let answered = Record { status: Some(404), ..record };
        assert_eq!(Record::parse(&answered.to_line()), Some(answered.clone()));
        assert_eq!(Record::parse("{}"), None);
        assert_eq!(Record::parse(&answered.to_line().replace("GET", "").replace("\u{ff}", "\u{100}")), None);
    }
}
