//! One directive of imds.conf: `Allow|Deny|Translate [subjects and conditions] "path"`.
//! Total; reports the first fault of a line, since what follows may be its consequence.

use crate::clauses::{Clauses, EXPECTED};
use crate::language::{Pattern, Rule, Segment, Verb};
use crate::lexer::{Fault, Place, Token, Tokens, What};

/// Segments of a pattern: four times the deepest path of any metadata service, and a set of them fits in 64 bits.
const MAX_SEGMENTS: usize = 64;
const VERBS: [&str; 3] = ["Allow", "Deny", "Translate"];

/// The rule of a line; `None` if it is blank or a comment.
pub(crate) fn directive(line: u32, source: &str) -> Result<Option<Rule>, Fault> {
    let mut tokens = Tokens::of(source);
    let Some(first) = tokens.next()? else { return Ok(None) };
    let verb = verb(&first)?;
    let mut clauses = Clauses::default();
    let (pattern, pattern_place) = loop {
        let token = tokens.next()?.ok_or_else(|| Fault::new(tokens.end(), "no path", EXPECTED))?;
        match token.what {
            What::Quoted(text) => break (pattern(text, token.place)?, token.place),
            What::Word(word) => clauses.add(word, token.place, &mut tokens)?,
        }
    };
    let end = tokens.end().column;
    if let Some(Token { place, .. }) = tokens.next()? {
        return Err(Fault::new(place, "words after the path", "expected the end of the line"));
    }
    let text: String = source.chars().take(end - 1).collect();
    Ok(Some(Rule {
        verb,
        user: clauses.user,
        group: clauses.group,
        unit: clauses.unit,
        conditions: clauses.conditions,
        conditions_place: clauses.conditions_place.unwrap_or(pattern_place),
        pattern,
        pattern_place,
        line,
        source: source.into(),
        text: text.trim().into(),
    }))
}

fn verb(token: &Token<'_>) -> Result<Verb, Fault> {
    const EXPECTED: &str = "expected `Allow`, `Deny` or `Translate`";
    match token.what {
        What::Word("Allow") => Ok(Verb::Allow),
        What::Word("Deny") => Ok(Verb::Deny),
        What::Word("Translate") => Ok(Verb::Translate),
        What::Word(word) if VERBS.iter().any(|verb| verb.eq_ignore_ascii_case(word)) => {
            Err(Fault::new(token.place, format!("`{word}` in wrong letter case"), EXPECTED))
        }
        What::Word(word) => Err(Fault::new(token.place, format!("unknown directive `{word}`"), EXPECTED)),
        What::Quoted(_) => Err(Fault::new(token.place, "a path without a directive", EXPECTED)),
    }
}

fn pattern(text: &str, place: Place) -> Result<Pattern, Fault> {
    let fault = |message: String, expected: &str| Err(Fault::new(place, message, expected));
    let Some(path) = text.strip_prefix('/') else {
        return fault(format!("path \"{text}\" does not begin with a slash"), "expected \"/...\"");
    };
    let mut segments = Vec::new();
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        match segment {
            "*" => segments.push(Segment::Any),
            "." | ".." => {
                return fault(format!("`{segment}` in a path"), "expected a path without dot segments");
            }
            _ if segment.contains('*') => {
                return fault(
                    format!("`*` inside the segment `{segment}`"),
                    "expected `*` alone between two slashes: it stands for one whole segment",
                );
            }
            _ => match segment.chars().find(|c| matches!(c, '%' | '\\' | ';' | '?')) {
                Some(c) => {
                    return fault(
                        format!("`{c}` in a path"),
                        "expected the decoded path alone: no request with this one is ever judged",
                    );
                }
                None => segments.push(Segment::Name(segment.into())),
            },
        }
    }
    if segments.len() > MAX_SEGMENTS {
        let expected = format!("expected at most {MAX_SEGMENTS}");
        return fault(format!("path of {} segments", segments.len()), &expected);
    }
    Ok(Pattern(segments))
}
