//! What the service answers, and the bytes of it: the header names, their order and their case are those of captures.
//! Decides nothing.

use crate::clock::http_date;
use std::sync::Arc;
use std::time::SystemTime;

const TTL: &str = "X-Aws-Ec2-Metadata-Token-Ttl-Seconds";
pub(crate) const TEXT: &str = "text/plain";
pub(crate) const BINARY: &str = "application/octet-stream";

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A value or a listing. `ttl`: what is left of the token that was sent, seconds.
    Data { content_type: &'static str, modified: SystemTime, body: Arc<[u8]>, ttl: Option<u64> },
    /// A new token.
    Issued { token: String, ttl: u64 },
    /// No token where one is needed, or one that is wrong or has expired. Says nothing in a body.
    Unauthorised,
    /// Another method than those listed.
    NotAllowed { allow: &'static str },
    /// To `OPTIONS`: the methods there are.
    Methods { allow: &'static str },
    /// A refusal with a small page.
    Page { page: Page, ttl: Option<u64> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    BadRequest,
    Forbidden,
    NotFound,
    Unavailable,
}

impl Page {
    fn status(self) -> (u16, &'static str) {
        match self {
            Self::BadRequest => (400, "Bad Request"),
            Self::Forbidden => (403, "Forbidden"),
            Self::NotFound => (404, "Not Found"),
            Self::Unavailable => (503, "Service Unavailable"),
        }
    }

    /// 339 bytes for a 404, tabs included, as captured.
    fn body(self) -> String {
        let (status, reason) = self.status();
        format!(
            "<?xml version=\"1.0\" encoding=\"iso-8859-1\"?>\n\
             <!DOCTYPE html PUBLIC \"-//W3C//DTD XHTML 1.0 Transitional//EN\"\n\
             \t\t \"http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd\">\n\
             <html xmlns=\"http://www.w3.org/1999/xhtml\" xml:lang=\"en\" lang=\"en\">\n\
             \x20<head>\n  <title>{status} - {reason}</title>\n </head>\n\
             \x20<body>\n  <h1>{status} - {reason}</h1>\n </body>\n</html>\n"
        )
    }
}

/// Whether the connection outlives the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// What the real service always does.
    Close,
    KeepAlive,
}

impl Answer {
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status_line().0
    }

    fn status_line(&self) -> (u16, &'static str) {
        match self {
            Self::Data { .. } | Self::Issued { .. } | Self::Methods { .. } => (200, "OK"),
            Self::Unauthorised => (401, "Unauthorized"),
            // not "Method Not Allowed": captured so
            Self::NotAllowed { .. } => (405, "Not Allowed"),
            Self::Page { page, .. } => page.status(),
        }
    }

    /// The whole answer; without its body if the request was a HEAD.
    pub(crate) fn to_bytes(&self, now: SystemTime, after: After, head_only: bool) -> Vec<u8> {
        let (status, reason) = self.status_line();
        let mut out = Lines(format!("HTTP/1.1 {status} {reason}\r\n"));
        let body: Arc<[u8]> = match self {
            Self::Data { content_type, modified, body, ttl } => {
                out.ttl(*ttl);
                out.line("Content-Type", content_type);
                out.line("Accept-Ranges", "none");
                out.line("Last-Modified", &http_date(*modified));
                out.ending(body.len(), now, after);
                Arc::clone(body)
            }
            Self::Page { page, ttl } => {
                let body = page.body();
                out.ttl(*ttl);
                out.line("Content-Type", "text/html");
                out.ending(body.len(), now, after);
                body.into_bytes().into()
            }
            Self::Issued { token, ttl } => {
                out.ttl(Some(*ttl));
                out.ending(token.len(), now, after);
                out.line("Content-Type", TEXT);
                token.as_bytes().into()
            }
            Self::Unauthorised => {
                out.ending(0, now, after);
                out.line("Content-Type", TEXT);
                Arc::default()
            }
            Self::NotAllowed { allow } | Self::Methods { allow } => {
                out.line("Allow", allow);
                out.ending(0, now, after);
                out.line("Content-Type", TEXT);
                Arc::default()
            }
        };
        let mut bytes = out.0.into_bytes();
        bytes.extend_from_slice(b"\r\n");
        if !head_only {
            bytes.extend_from_slice(&body);
        }
        bytes
    }
}

struct Lines(String);

impl Lines {
    fn line(&mut self, name: &str, value: &str) {
        self.0.push_str(name);
        self.0.push_str(": ");
        self.0.push_str(value);
        self.0.push_str("\r\n");
    }

    fn ttl(&mut self, ttl: Option<u64>) {
        if let Some(seconds) = ttl {
            self.line(TTL, &seconds.to_string());
        }
    }

    /// The four headers that always come together.
    fn ending(&mut self, length: usize, now: SystemTime, after: After) {
        self.line("Content-Length", &length.to_string());
        self.line("Date", &http_date(now));
        self.line("Server", "EC2ws");
        match after {
            After::Close => self.line("Connection", "close"),
            After::KeepAlive => self.line("Connection", "keep-alive"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn text(answer: &Answer, after: After, head_only: bool) -> String {
        let now = UNIX_EPOCH + Duration::from_secs(1_696_257_165);
        String::from_utf8(answer.to_bytes(now, after, head_only)).unwrap()
    }

    /// Word for word what was captured on an instance in October 2023, its token's TTL included.
    #[test]
    fn a_value_is_answered_with_the_bytes_of_a_capture() {
        let value = Answer::Data {
            content_type: TEXT,
            modified: UNIX_EPOCH + Duration::from_secs(1_696_255_518),
            body: b"10.1.2.194".as_slice().into(),
            ttl: Some(21_600),
        };
        let captured = "HTTP/1.1 200 OK\r\nX-Aws-Ec2-Metadata-Token-Ttl-Seconds: 21600\r\n\
            Content-Type: text/plain\r\nAccept-Ranges: none\r\nLast-Modified: Mon, 02 Oct 2023 14:05:18 GMT\r\n\
            Content-Length: 10\r\nDate: Mon, 02 Oct 2023 14:32:45 GMT\r\nServer: EC2ws\r\nConnection: close\r\n\r\n";
        assert_eq!(text(&value, After::Close, false), format!("{captured}10.1.2.194"));
        assert_eq!(text(&value, After::Close, true), captured);
        assert!(text(&value, After::KeepAlive, true).ends_with("\r\nConnection: keep-alive\r\n\r\n"));
    }

    #[test]
    fn the_page_of_a_404_has_the_captured_length() {
        let answer = text(&Answer::Page { page: Page::NotFound, ttl: None }, After::Close, false);
        assert!(answer.starts_with(
            "HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nContent-Length: 339\r\nDate: "
        ));
        assert_eq!(answer.split_once("\r\n\r\n").unwrap().1.len(), 339);
    }

    #[test]
    fn a_405_is_answered_with_the_bytes_of_a_capture() {
        assert_eq!(
            text(&Answer::NotAllowed { allow: "OPTIONS, PUT" }, After::Close, false),
            "HTTP/1.1 405 Not Allowed\r\nAllow: OPTIONS, PUT\r\nContent-Length: 0\r\n\
             Date: Mon, 02 Oct 2023 14:32:45 GMT\r\nServer: EC2ws\r\nConnection: close\r\n\
             Content-Type: text/plain\r\n\r\n"
        );
    }
}
