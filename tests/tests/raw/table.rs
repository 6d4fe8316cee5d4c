//! tests/cases/requests.txt as rows; its head says what they mean.
//! Sends nothing.

/// What a request is answered with.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// The service's answer, and the request that reached it, line by line without Host.
    Forwarded { status: u16, lines: Vec<Vec<u8>> },
    /// Our own.
    Ours { status: u16, why: String },
}

impl Outcome {
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::Forwarded { status, .. } | Self::Ours { status, .. } => *status,
        }
    }

    /// The bytes that reach the service; `host` is its name there.
    pub(crate) fn upstream(&self, host: &str) -> Option<Vec<u8>> {
        let Self::Forwarded { lines, .. } = self else { return None };
        let (first, fields) = lines.split_first()?;
        let mut bytes = [first, b" HTTP/1.1\r\nHost: ".as_slice(), host.as_bytes(), b"\r\n"].concat();
        for field in fields {
            bytes.extend([field, b"\r\n".as_slice()].concat());
        }
        if first.starts_with(b"PUT ") {
            bytes.extend(b"Content-Length: 0\r\n");
        }
        if first.starts_with(b"HEAD ") {
            bytes.extend(b"Connection: close\r\n");
        }
        bytes.extend(b"\r\n");
        Some(bytes)
    }
}

pub(crate) struct Row {
    /// Where it stands, and what, shortened: for messages.
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    /// The client ends its side after the bytes.
    pub(crate) ends: bool,
    pub(crate) outcomes: Vec<Outcome>,
    /// The connection ends after the last answer.
    pub(crate) closes: bool,
}

pub(crate) fn rows(text: &str) -> Vec<Row> {
    let lines = (1..).zip(text.lines());
    lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with(";;"))
        .map(|(n, line)| row(n, line))
        .collect()
}

fn row(number: usize, line: &str) -> Row {
    let name = format!("requests.txt:{number}: {line}");
    let (bytes, rest) = line.rsplit_once(" => ").unwrap_or_else(|| panic!("{name}: no ' => '"));
    let (bytes, ends) = bytes.strip_suffix("{end}").map_or((bytes, false), |bytes| (bytes, true));
    let (rest, said_closes) = rest.strip_suffix(" ; closes").map_or((rest, false), |rest| (rest, true));
    let outcomes = match rest {
        "nothing" => Vec::new(),
        answers => answers.split(" ++ ").map(|answer| outcome(answer, &name)).collect(),
    };
    let closes = said_closes
        || outcomes.last().is_none_or(
            |last| matches!(last, Outcome::Ours { why, .. } if !why.starts_with("denied by rule line ")),
        );
    Row { bytes: bytes_of(bytes), ends, outcomes, closes, name }
}

fn outcome(text: &str, name: &str) -> Outcome {
    let (status, what) = text.split_once(' ').unwrap_or_else(|| panic!("{name}: {text:?}"));
    let status = status.parse().unwrap_or_else(|error| panic!("{name}: {status:?}: {error}"));
    if ["GET ", "HEAD ", "PUT "].iter().any(|method| what.starts_with(method)) {
        return Outcome::Forwarded { status, lines: what.split(" | ").map(bytes_of).collect() };
    }
    Outcome::Ours { status, why: what.into() }
}

/// What a text of the table stands for.
fn bytes_of(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some((plain, braced)) = rest.split_once('{') {
        let (braced, after) = braced.split_once('}').unwrap_or_else(|| panic!("{text}: no '}}'"));
        out.extend(unescape(plain));
        let count = |text: &str| text.parse::<usize>().unwrap_or_else(|error| panic!("{text}: {error}"));
        if braced == "1.1" {
            out.extend(b" HTTP/1.1\r\nHost: 169.254.169.254\r\n");
        } else if let Some(length) = braced.strip_prefix("fill:") {
            out.resize(count(length), b'a');
        } else {
            let (text, times) =
                braced.rsplit_once('*').unwrap_or_else(|| panic!("{{{braced}}}: what is it?"));
            out.extend(unescape(text).repeat(count(times)));
        }
        rest = after;
    }
    out.extend(unescape(rest));
    out
}

fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    loop {
        let (byte, tail) = match rest {
            [] => return out,
            [b'\\', b'r', tail @ ..] => (b'\r', tail),
            [b'\\', b'n', tail @ ..] => (b'\n', tail),
            [b'\\', b't', tail @ ..] => (b'\t', tail),
            [b'\\', b'\\', tail @ ..] => (b'\\', tail),
            [b'\\', b'x', high, low, tail @ ..] => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).expect("two digits");
                (u8::from_str_radix(digits, 16).expect("two digits"), tail)
            }
            [b'\\', ..] => panic!("{text}: what is this escape?"),
            [byte, tail @ ..] => (*byte, tail),
        };
        out.push(byte);
        rest = tail;
    }
}
