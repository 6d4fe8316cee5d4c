//! Splits a line of imds.conf into words and quoted strings. Total; knows no word's meaning.

/// A piece of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token<'a> {
    pub(crate) what: What<'a>,
    pub(crate) place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What<'a> {
    Word(&'a str),
    /// Without its quotes; there is no escape character.
    Quoted(&'a str),
}

/// Where it stands, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// From 1.
    pub(crate) column: usize,
    pub(crate) width: usize,
}

/// What is wrong at a place, and what would have been right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) place: Place,
    pub(crate) message: String,
    pub(crate) expected: String,
}

impl Fault {
    pub(crate) fn new(place: Place, message: impl Into<String>, expected: impl Into<String>) -> Self {
        Self { place, message: message.into(), expected: expected.into() }
    }
}

/// The tokens of one line. A `#` where a token could begin makes the rest a comment.
#[derive(Debug, Clone)]
pub(crate) struct Tokens<'a> {
    rest: &'a str,
    column: usize,
}

impl<'a> Tokens<'a> {
    pub(crate) fn of(line: &'a str) -> Self {
        Self { rest: line, column: 1 }
    }

    /// The place after the last token.
    pub(crate) fn end(&self) -> Place {
        Place { column: self.column, width: 1 }
    }

    /// The next token; `None` at the end of the line or a comment.
    pub(crate) fn next(&mut self) -> Result<Option<Token<'a>>, Fault> {
        let text = self.rest.trim_start_matches(is_blank);
        let column = self.column + self.rest.chars().count() - text.chars().count();
        if text.is_empty() || text.starts_with('#') {
            return Ok(None);
        }
        let (what, rest) = match text.strip_prefix('"') {
            Some(inner) => match inner.split_once('"') {
                Some((quoted, rest)) => (What::Quoted(quoted), rest),
                None => {
                    let width = text.chars().count();
                    return Err(Fault::new(Place { column, width }, "quote without an end", "expected `\"`"));
                }
            },
            None => {
                let end = text.find(|c| is_blank(c) || c == '"').unwrap_or(text.len());
                let (word, rest) = text.split_at_checked(end).unwrap_or((text, ""));
                (What::Word(word), rest)
            }
        };
        let width = text.chars().count() - rest.chars().count();
        (self.rest, self.column) = (rest, column + width);
        Ok(Some(Token { what, place: Place { column, width } }))
    }
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t')
}

/// One line of the file as text: no line end, nothing that an editor would not show.
///
/// # Errors
/// A fault, with the line as far as it can be shown.
pub(crate) fn text_of(line: &[u8], longest: usize) -> Result<&str, (Fault, String)> {
    let shown = || String::from_utf8_lossy(line).into_owned();
    if line.len() > longest {
        let place = Place { column: 1, width: 1 };
        let message = format!("line of {} bytes", line.len());
        let start: String = shown().chars().take(60).collect();
        return Err((Fault::new(place, message, format!("expected at most {longest}")), start));
    }
    let text = match std::str::from_utf8(line) {
        Ok(text) => text,
        Err(error) => {
            let valid = line
                .get(..error.valid_up_to())
                .map_or(0, |good| String::from_utf8_lossy(good).chars().count());
            let place = Place { column: valid + 1, width: 1 };
            return Err((Fault::new(place, "byte that is not UTF-8", "expected UTF-8 text"), shown()));
        }
    };
    match text.chars().position(|c| c.is_control() && c != '\t') {
        None => Ok(text),
        Some(at) => {
            let place = Place { column: at + 1, width: 1 };
            Err((Fault::new(place, "control character", "expected text"), shown()))
        }
    }
}
