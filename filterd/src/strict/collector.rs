//! Collects the bytes of one head at a time; the same bytes give the same result however they are cut into pieces.
//! Reads nothing itself; keeps no more than one head's worth and what came with its end.

use super::head::{Head, Malformed, request_line};
use imds_rules::Version;
use zeroize::Zeroizing;

/// What the bytes so far are.
#[derive(Debug, PartialEq, Eq)]
pub enum Collected {
    Incomplete,
    Head(Head),
    Malformed(Malformed),
}

/// Fed through [`Collector::room`], asked by [`Collector::next_head`].
pub struct Collector {
    /// Tokens are in it: whatever memory it leaves is wiped.
    buffer: Zeroizing<Vec<u8>>,
    /// Bytes of `buffer` already looked at.
    scanned: usize,
    line_start: usize,
    after_cr: bool,
    /// Known once the request line is complete.
    version: Option<Version>,
    max: usize,
}

impl Collector {
    /// `max`: bytes of a head, its final blank line included.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { buffer: Zeroizing::default(), scanned: 0, line_start: 0, after_cr: false, version: None, max }
    }

    /// One that has been fed already.
    pub(crate) fn fed(bytes: Zeroizing<Vec<u8>>, max: usize) -> Self {
        Self { buffer: bytes, ..Self::new(max) }
    }

    /// Where the next bytes go. Its spare room is small until a head turns out to be long.
    pub fn room(&mut self) -> &mut Vec<u8> {
        const FIRST: usize = 1024; // nearly every head
        if self.buffer.len() == self.buffer.capacity() {
            let more = self.buffer.len().clamp(FIRST, self.max.max(FIRST));
            // not grown in place, which could leave a copy behind
            let mut larger = Zeroizing::new(Vec::with_capacity(self.buffer.len() + more));
            larger.extend_from_slice(&self.buffer);
            self.buffer = larger;
        }
        &mut self.buffer
    }

    /// Whether no head is begun: the client is idle, not slow.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Looks at what has come since the last call. After a head the bytes behind it are kept for the next one; after
    /// [`Collected::Malformed`] the connection has no further head.
    pub fn next_head(&mut self) -> Collected {
        while let Some(&byte) = self.buffer.get(self.scanned) {
            if self.scanned == self.max {
                return Collected::Malformed(Malformed::TooLong);
            }
            self.scanned += 1;
            match self.look_at(byte) {
                Ok(true) => return self.take(),
                Ok(false) => (),
                Err(malformed) => return Collected::Malformed(malformed),
            }
        }
        Collected::Incomplete
    }

    /// Whether `byte` ends the head.
    fn look_at(&mut self, byte: u8) -> Result<bool, Malformed> {
        match (self.after_cr, byte) {
            (true, b'\n') => {
                self.after_cr = false;
                self.end_line()
            }
            (true, _) => Err(Malformed::BareCr),
            (false, b'\r') => {
                self.after_cr = true;
                Ok(false)
            }
            (false, b'\n') => Err(Malformed::BareLf),
            // above ASCII: allowed in header values by RFC 9110 section 5.5; the request line refuses it
            (false, b'\t' | b' '..=b'~' | 0x80..=0xff) => Ok(false),
            (false, _) => Err(Malformed::ControlByte),
        }
    }

    /// The request line is judged as soon as it is there: an HTTP/0.9 client would wait for ever for our answer.
    fn end_line(&mut self) -> Result<bool, Malformed> {
        let line = self.buffer.get(self.line_start..self.scanned).unwrap_or(b"");
        let line = line.strip_suffix(b"\r\n").unwrap_or(line);
        self.line_start = self.scanned;
        match (self.version, line.is_empty()) {
            (None, true) => Err(Malformed::LeadingBlankLine),
            (None, false) => {
                let (_, _, version) = request_line(line)?;
                self.version = Some(version);
                Ok(false)
            }
            (Some(_), blank) => Ok(blank),
        }
    }

    fn take(&mut self) -> Collected {
        let Some(version) = self.version.take() else {
            return Collected::Malformed(Malformed::RequestLine); // end_line never lets this happen
        };
        let behind = Zeroizing::new(self.buffer.split_off(self.scanned));
        let bytes = std::mem::replace(&mut self.buffer, behind);
        self.scanned = 0;
        self.line_start = 0;
        Collected::Head(Head::new(bytes, version))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fmt::Write;

    /// Every outcome of `input`, fed in pieces of `size` bytes.
    fn collect(input: &[u8], size: usize, max: usize) -> Vec<Collected> {
        let mut collector = Collector::new(max);
        let mut all = Vec::new();
        for piece in input.chunks(size) {
            collector.room().extend_from_slice(piece);
            loop {
                match collector.next_head() {
                    Collected::Incomplete => break,
                    Collected::Malformed(why) => {
                        all.push(Collected::Malformed(why));
                        return all;
                    }
                    head @ Collected::Head(_) => all.push(head),
                }
            }
        }
        all
    }

    const GOOD: &[u8] = b"GET /latest/ HTTP/1.1\r\nHost: 169.254.169.254\r\nUser-Agent: a\xc3\xa9\r\n\r\n";

    /// Input and what becomes of it: `None` is a whole head.
    fn cases() -> Vec<(Vec<u8>, Option<Malformed>)> {
        let text: [(&[u8], Option<Malformed>); 24] = [
            (GOOD, None),
            (b"GET / HTTP/1.0\r\n\r\n", None),
            (b"GET / HTTP/1.1\nHost: x\n\n", Some(Malformed::BareLf)),
            (b"GET / HTTP/1.1\r\nHost: x\n\r\n", Some(Malformed::BareLf)),
            (b"GET / HTTP/1.1\r\nA: b\rc\r\n\r\n", Some(Malformed::BareCr)),
            (b"GET / HTTP/1.1\r\r\n\r\n", Some(Malformed::BareCr)),
            (b"GET /\0 HTTP/1.1\r\n\r\n", Some(Malformed::ControlByte)),
            (b"GET / HTTP/1.1\r\nA: \x01\r\n\r\n", Some(Malformed::ControlByte)),
            (b"GET / HTTP/1.1\r\nA: \x7f\r\n\r\n", Some(Malformed::ControlByte)),
            (b"\r\nGET / HTTP/1.1\r\n\r\n", Some(Malformed::LeadingBlankLine)),
            (b"GET /\r\n", Some(Malformed::RequestLine)),
            (b"GET  / HTTP/1.1\r\n\r\n", Some(Malformed::RequestLine)),
            (b" GET / HTTP/1.1\r\n\r\n", Some(Malformed::RequestLine)),
            (b"GET / HTTP/1.1 \r\n\r\n", Some(Malformed::RequestLine)),
            (b"GET\t/ HTTP/1.1\r\n\r\n", Some(Malformed::RequestLine)),
            (b"G(T / HTTP/1.1\r\n\r\n", Some(Malformed::RequestLine)),
            (b"GET /\xc3\xa9 HTTP/1.1\r\n\r\n", Some(Malformed::RequestLine)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(Malformed::Version)),
            (b"GET / HTTP/1.2\r\n\r\n", Some(Malformed::Version)),
            (b"GET / http/1.1\r\n\r\n", Some(Malformed::Version)),
            (b"GET / HTTP/11\r\n\r\n", Some(Malformed::Version)),
            (b"GET / HTTP/1.1x\r\n\r\n", Some(Malformed::Version)),
            (b"\x16\x03\x01\x02\x00", Some(Malformed::ControlByte)),
            (b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA / HTTP/1.1\r\n\r\n", Some(Malformed::RequestLine)),
        ];
        text.into_iter().map(|(bytes, outcome)| (bytes.to_vec(), outcome)).collect()
    }

    #[test]
    fn each_way_of_being_no_head_has_its_name() {
        for (input, outcome) in cases() {
            let all = collect(&input, input.len(), 4096);
            match outcome {
                Some(why) => assert_eq!(all, [Collected::Malformed(why)], "{}", input.escape_ascii()),
                None => assert!(matches!(all.as_slice(), [Collected::Head(_)]), "{}", input.escape_ascii()),
            }
        }
    }

    #[test]
    fn however_the_bytes_are_cut_the_result_is_the_same() {
        for (input, _) in cases() {
            let doubled = [input.as_slice(), GOOD, input.as_slice()].concat();
            let whole = collect(&doubled, doubled.len(), 4096);
            for size in 1..doubled.len() {
                assert_eq!(collect(&doubled, size, 4096), whole, "{size}: {}", doubled.escape_ascii());
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_give_what_they_give_at_once(
            pieces in prop::collection::vec("[GET /:a\t\r\n\u{0}\u{e9}]{0,3}|GET / HTTP/1\\.[01]\r\n|\r\n", 0..12),
            size in 1_usize..9,
        ) {
            let input = pieces.concat().into_bytes();
            let whole = collect(&input, input.len().max(1), 64);
            prop_assert_eq!(collect(&input, size, 64), whole);
        }
    }

    #[test]
    fn no_truncation_of_a_head_is_a_head() {
        for end in 1..GOOD.len() {
            let cut = GOOD.get(..end).unwrap();
            assert_eq!(collect(cut, end, 4096), [], "{}", cut.escape_ascii());
        }
    }

    #[test]
    fn pipelined_heads_come_one_by_one() {
        let input = [GOOD, b"HEAD /a HTTP/1.0\r\n\r\n", GOOD].concat();
        let all = collect(&input, input.len(), GOOD.len());
        let [Collected::Head(first), Collected::Head(second), Collected::Head(third)] = all.as_slice() else {
            panic!("{all:?}")
        };
        assert_eq!(first, third);
        assert!(second.is_for_head_only() && !first.is_for_head_only());
        assert_eq!(second.version(), Version::Http10);
    }

    #[test]
    fn a_head_of_exactly_the_limit_passes_and_one_byte_more_does_not() {
        assert!(matches!(collect(GOOD, 7, GOOD.len()).as_slice(), [Collected::Head(_)]));
        assert_eq!(collect(GOOD, 7, GOOD.len() - 1), [Collected::Malformed(Malformed::TooLong)]);
        let endless = vec![b'a'; 100_000];
        let mut collector = Collector::new(4096);
        for byte in endless {
            collector.room().push(byte);
            if collector.next_head() != Collected::Incomplete {
                break;
            }
        }
        assert!(collector.buffer.len() <= 4097, "{}", collector.buffer.len());
    }

    fn fields_of(text: &str) -> Result<Vec<(String, String)>, Malformed> {
        let all = collect(text.as_bytes(), text.len(), 1 << 20);
        let [Collected::Head(head)] = all.as_slice() else { panic!("{all:?}") };
        let fields = head.fields()?;
        let as_text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(fields.headers.iter().map(|(name, value)| (as_text(name), as_text(value))).collect())
    }

    #[test]
    fn header_lines_with_two_readings_are_refused() {
        let head = |lines: &str| format!("GET / HTTP/1.1\r\n{lines}\r\n");
        let cases = [
            ("A: b\r\n c\r\n", Malformed::FoldedLine),
            (" A: b\r\n", Malformed::FoldedLine),
            ("\tA: b\r\n", Malformed::FoldedLine),
            ("no colon here\r\n", Malformed::NoColon),
            ("Content-Length: 1\r\n", Malformed::Body),
            ("content-length: 00\r\n", Malformed::Body),
            ("Content-Length:\r\n", Malformed::Body),
            ("Content-Length: 0, 0\r\n", Malformed::Body),
            ("Content-Length : 5\r\n", Malformed::Body),
            ("TRANSFER-encoding: chunked\r\n", Malformed::Body),
            ("Transfer-Encoding : identity\r\n", Malformed::Body),
        ];
        for (lines, why) in cases {
            assert_eq!(fields_of(&head(lines)), Err(why), "{lines:?}");
        }
        let mut many = String::new();
        for number in 0..64 {
            write!(many, "H{number}: x\r\n").unwrap();
        }
        assert_eq!(fields_of(&head(&many)).map(|fields| fields.len()), Ok(64));
        many.push_str("H: x\r\n");
        assert_eq!(fields_of(&head(&many)), Err(Malformed::TooManyFields));
    }

    #[test]
    fn a_value_loses_the_blanks_around_it_and_a_name_keeps_them_for_the_rules_to_see() {
        let fields =
            fields_of("GET / HTTP/1.1\r\nA: \t b c \r\nX-Forwarded-For : d\r\nE:\r\nF::g\r\n\r\n").unwrap();
        let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(fields, [("A", "b c"), ("X-Forwarded-For ", "d"), ("E", ""), ("F", ":g")]);
    }

    #[test]
    fn close_is_heard_in_any_case_and_among_other_options() {
        for (text, close) in [
            ("GET / HTTP/1.1\r\n\r\n", false),
            ("GET / HTTP/1.1\r\nConnection: keep-alive\r\n\r\n", false),
            ("GET / HTTP/1.1\r\nconnection: Upgrade, CLOSE\r\n\r\n", true),
            ("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", true),
        ] {
            let all = collect(text.as_bytes(), 1, 4096);
            let [Collected::Head(head)] = all.as_slice() else { panic!("{all:?}") };
            assert_eq!(head.fields().unwrap().wants_close(), close, "{text:?}");
        }
    }
}
