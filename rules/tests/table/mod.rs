//! Reads the tables of tests/cases. Knows none of their columns.

use std::path::Path;

/// (line number, line) of each line that is neither empty nor a comment (`;;`).
pub(crate) fn rows(name: &str) -> Vec<(usize, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/cases").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let rows: Vec<_> = (1..)
        .zip(text.lines())
        .filter(|(_, line)| !line.trim().is_empty() && !line.starts_with(";;"))
        .map(|(number, line)| (number, line.to_owned()))
        .collect();
    assert!(!rows.is_empty(), "{name} has no rows");
    rows
}

/// `\xNN`, `\t` and `\\` as bytes.
#[allow(dead_code)] // not every table has escapes
pub(crate) fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    loop {
        rest = match rest {
            [] => return out,
            [b'\\', b'x', high, low, tail @ ..] => {
                let digits = [*high, *low];
                out.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
                tail
            }
            [b'\\', b't', tail @ ..] => {
                out.push(b'\t');
                tail
            }
            [b'\\', b'\\', tail @ ..] => {
                out.push(b'\\');
                tail
            }
            [byte, tail @ ..] => {
                out.push(*byte);
                tail
            }
        };
    }
}
