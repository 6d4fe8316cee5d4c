//! Writes one JSON object on one line, in ASCII: whatever a client sends, the line stays one line.
//! Knows nothing of what the members mean.

use std::fmt::Display;
use std::io::Write;

pub(super) struct Line<'a>(&'a mut Vec<u8>);

/// Writing to a vector cannot fail; the result is dropped here and only here.
fn put(bytes: &mut Vec<u8>, what: std::fmt::Arguments<'_>) {
    let _ = bytes.write_fmt(what);
}

impl<'a> Line<'a> {
    pub(super) fn begin(bytes: &'a mut Vec<u8>) -> Self {
        bytes.push(b'{');
        Self(bytes)
    }

    fn name(&mut self, name: &'static str) {
        if self.0.last() != Some(&b'{') {
            self.0.push(b',');
        }
        put(self.0, format_args!("\"{name}\":"));
    }

    pub(super) fn number(&mut self, name: &'static str, value: u64) {
        self.name(name);
        put(self.0, format_args!("{value}"));
    }

    pub(super) fn number_or_null(&mut self, name: &'static str, value: Option<u64>) {
        match value {
            Some(value) => self.number(name, value),
            None => self.null(name),
        }
    }

    pub(super) fn flag_or_null(&mut self, name: &'static str, value: Option<bool>) {
        match value {
            Some(flag) => {
                self.name(name);
                put(self.0, format_args!("{flag}"));
            }
            None => self.null(name),
        }
    }

    fn null(&mut self, name: &'static str) {
        self.name(name);
        self.0.extend_from_slice(b"null");
    }

    /// A value that is ours and needs no escapes.
    pub(super) fn plain(&mut self, name: &'static str, value: &dyn Display) {
        self.name(name);
        put(self.0, format_args!("\"{value}\""));
    }

    pub(super) fn text(&mut self, name: &'static str, value: &str) {
        self.name(name);
        self.0.push(b'"');
        value.chars().for_each(|c| self.escaped(c));
        self.0.push(b'"');
    }

    pub(super) fn text_or_null(&mut self, name: &'static str, value: Option<&str>) {
        match value {
            Some(value) => self.text(name, value),
            None => self.null(name),
        }
    }

    /// RFC 8259 section 7, with everything outside printable ASCII escaped: terminals and log viewers act on some of it.
    fn escaped(&mut self, c: char) {
        match u8::try_from(c) {
            Ok(byte @ (b'"' | b'\\')) => self.0.extend_from_slice(&[b'\\', byte]),
            Ok(byte @ b' '..=b'~') => self.0.push(byte),
            Ok(_) | Err(_) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    put(self.0, format_args!("\\u{unit:04x}"));
                }
            }
        }
    }

    pub(super) fn end(self) {
        self.0.extend_from_slice(b"}\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_comes_back_from_a_parser_and_none_leaves_the_line_or_ascii() {
        let mut all: String = (0..=0x2fff).filter_map(char::from_u32).collect();
        all.push_str("\u{2028}\u{1f600}\u{10ffff}");
        let mut bytes = Vec::new();
        let mut line = Line::begin(&mut bytes);
        line.text("text", &all);
        line.number("number", u64::MAX);
        line.number_or_null("rule", None);
        line.text_or_null("user", None);
        line.end();
        let (last, rest) = bytes.split_last().unwrap();
        assert_eq!(*last, b'\n');
        assert!(rest.iter().all(|byte| (b' '..=b'~').contains(byte)));
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(value["text"], all.as_str());
        assert_eq!(value["number"], u64::MAX);
        assert!(value["rule"].is_null() && value["user"].is_null());
    }
}
