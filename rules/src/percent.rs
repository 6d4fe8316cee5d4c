//! Percent-encoding: decoded exactly once, refused where a second reader could see something else, encoded one way.
//! Total; knows neither paths nor queries.

use crate::Refusal;

/// Where a piece of a request target stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Between two slashes.
    Path,
    /// Between `?`, `&` and `=`. There `+` is a blank (HTML forms) and a slash is data.
    Query,
}

/// Decodes one piece.
pub(crate) fn decode(piece: &[u8], place: Place) -> Result<String, Refusal> {
    let mut bytes = Vec::with_capacity(piece.len());
    let mut rest = piece;
    loop {
        rest = match rest {
            [] => break,
            [b'%', high, low, tail @ ..] => {
                bytes.push(hex(*high)? << 4 | hex(*low)?);
                tail
            }
            [b'%', ..] => return Err(Refusal::Escape),
            [b'+', tail @ ..] if place == Place::Query => {
                bytes.push(b' ');
                tail
            }
            [byte, tail @ ..] => {
                bytes.push(raw(*byte, place)?);
                tail
            }
        };
    }
    let text = String::from_utf8(bytes).map_err(|_| Refusal::NotUtf8)?;
    text.chars().try_for_each(|c| decoded(c, place))?;
    Ok(text)
}

fn hex(digit: u8) -> Result<u8, Refusal> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(Refusal::Escape),
    }
}

/// RFC 3986 section 3.3 and 3.4: what may stand there without being encoded.
fn raw(byte: u8, place: Place) -> Result<u8, Refusal> {
    match byte {
        b'\\' => Err(Refusal::Backslash),
        b';' => Err(Refusal::Semicolon),
        b'&' | b'=' | b'+' => Ok(byte),
        _ if plain(byte, place) => Ok(byte),
        0..=0x1f | 0x7f => Err(Refusal::Control),
        _ => Err(Refusal::TargetByte),
    }
}

/// What some server could read differently once more decoded, split or cut.
fn decoded(c: char, place: Place) -> Result<(), Refusal> {
    match c {
        // every one, not only before two hexadecimal digits: %u0041 is decoded by some, too
        '%' => Err(Refusal::DecodedTwice),
        '\\' => Err(Refusal::Backslash),
        // servers that know path parameters cut the segment there
        ';' => Err(Refusal::Semicolon),
        '/' if place == Place::Path => Err(Refusal::EncodedSlash),
        c if c.is_control() => Err(Refusal::Control),
        _ => Ok(()),
    }
}

/// Written as it is; everything else is encoded.
fn plain(byte: u8, place: Place) -> bool {
    match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' => true,
        b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'\'' | b'(' | b')' | b'*' | b',' | b':' | b'@' => true,
        b'&' | b'=' | b'+' => place == Place::Path,
        b'/' | b'?' => place == Place::Query,
        _ => false,
    }
}

/// Appends `text` in the one form that we send and log: ASCII, capital hexadecimal digits.
pub(crate) fn encode(text: &str, place: Place, out: &mut String) {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    for byte in text.bytes() {
        if plain(byte, place) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.extend(DIGITS.get(usize::from(byte >> 4)));
            out.extend(DIGITS.get(usize::from(byte & 15)));
        }
    }
}
