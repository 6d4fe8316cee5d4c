//! One directive of imds.conf: `Allow|Deny [user NAME|uid] [group NAME|gid] [unit NAME.service] "path"`.
//! Total; reports the first fault of a line, since what follows may be its consequence.

use crate::language::{GroupName, Pattern, Rule, Segment, UserName, Verb};
use crate::lexer::{Fault, Place, Token, Tokens, What};
use std::sync::Arc;

/// Segments of a pattern: four times the deepest path of any metadata service, and a set of them fits in 64 bits.
const MAX_SEGMENTS: usize = 64;
/// A file's name: a unit's name is that of a cgroup.
const MAX_UNIT: usize = 255;
const SUBJECTS: &str = "expected `user`, `group`, `unit` or a quoted path";
/// Words of the language that this version cannot judge yet.
const LATER: [&str; 6] = ["method", "agent", "header", "token", "no-token", "Translate"];

/// The rule of a line; `None` if it is blank or a comment.
pub(crate) fn directive(line: u32, source: &str) -> Result<Option<Rule>, Fault> {
    let mut tokens = Tokens::of(source);
    let Some(first) = tokens.next()? else { return Ok(None) };
    let verb = verb(&first)?;
    let (mut user, mut group, mut unit) = (None, None, None);
    let (pattern, pattern_place) = loop {
        let token = tokens.next()?.ok_or_else(|| Fault::new(tokens.end(), "no path", SUBJECTS))?;
        match token.what {
            What::Quoted(text) => break (pattern(text, token.place)?, token.place),
            What::Word("user") => add(&mut user, "user", token.place, user_name(&mut tokens)?)?,
            What::Word("group") => add(&mut group, "group", token.place, group_name(&mut tokens)?)?,
            What::Word("unit") => add(&mut unit, "unit", token.place, unit_name(&mut tokens)?)?,
            What::Word(word) => return Err(unknown_word(word, token.place)),
        }
    };
    let end = tokens.end().column;
    if let Some(Token { place, .. }) = tokens.next()? {
        return Err(Fault::new(place, "words after the path", "expected the end of the line"));
    }
    let text: String = source.chars().take(end - 1).collect();
    Ok(Some(Rule {
        verb,
        user,
        group,
        unit,
        pattern,
        pattern_place,
        line,
        source: source.into(),
        text: text.trim().into(),
    }))
}

fn verb(token: &Token<'_>) -> Result<Verb, Fault> {
    const EXPECTED: &str = "expected `Allow` or `Deny`";
    match token.what {
        What::Word("Allow") => Ok(Verb::Allow),
        What::Word("Deny") => Ok(Verb::Deny),
        What::Word(word) if LATER.contains(&word) => {
            Err(Fault::new(token.place, format!("`{word}` is not supported yet"), EXPECTED))
        }
        What::Word(word) if word.eq_ignore_ascii_case("allow") || word.eq_ignore_ascii_case("deny") => {
            Err(Fault::new(token.place, format!("`{word}` in wrong letter case"), EXPECTED))
        }
        What::Word(word) => Err(Fault::new(token.place, format!("unknown directive `{word}`"), EXPECTED)),
        What::Quoted(_) => Err(Fault::new(token.place, "a path without a directive", EXPECTED)),
    }
}

fn unknown_word(word: &str, place: Place) -> Fault {
    let message = if LATER.contains(&word) {
        format!("`{word}` is not supported yet")
    } else if word.starts_with('/') {
        format!("path `{word}` without quotes")
    } else {
        format!("unknown word `{word}`")
    };
    Fault::new(place, message, SUBJECTS)
}

fn add<T>(slot: &mut Option<T>, word: &str, place: Place, value: T) -> Result<(), Fault> {
    if slot.replace(value).is_some() {
        return Err(Fault::new(
            place,
            format!("second `{word}`"),
            format!("expected at most one `{word}` in a rule"),
        ));
    }
    Ok(())
}

fn user_name(tokens: &mut Tokens<'_>) -> Result<(UserName, Place), Fault> {
    let (name, place) = account(tokens, "user name or uid")?;
    let user = number(name, place, "uid")?.map_or_else(|| UserName::Name(name.into()), UserName::Uid);
    Ok((user, place))
}

fn group_name(tokens: &mut Tokens<'_>) -> Result<(GroupName, Place), Fault> {
    let (name, place) = account(tokens, "group name or gid")?;
    let group = number(name, place, "gid")?.map_or_else(|| GroupName::Name(name.into()), GroupName::Gid);
    Ok((group, place))
}

/// A unit of the service manager that holds processes, by its full name (systemd.unit(5)).
fn unit_name(tokens: &mut Tokens<'_>) -> Result<(Arc<str>, Place), Fault> {
    const EXPECTED: &str = "expected a whole unit name, like `nginx.service`";
    let (name, place) = account(tokens, "unit name")?;
    let holds_processes =
        [".service", ".scope"].iter().any(|suffix| name.len() > suffix.len() && name.ends_with(suffix));
    if !holds_processes || name.len() > MAX_UNIT {
        return Err(Fault::new(place, format!("`{name}` is no unit that has processes"), EXPECTED));
    }
    match name.chars().find(|c| !c.is_ascii_alphanumeric() && !":_.\\@-".contains(*c)) {
        Some(c) => Err(Fault::new(place, format!("`{c}` in a unit name"), EXPECTED)),
        None => Ok((name.into(), place)),
    }
}

/// A name; one with blanks (as directory services have) in quotes.
fn account<'a>(tokens: &mut Tokens<'a>, expected: &str) -> Result<(&'a str, Place), Fault> {
    let end = tokens.end();
    let expected = format!("expected a {expected}");
    match tokens.next()? {
        None => Err(Fault::new(end, "no name", expected)),
        Some(Token { what: What::Quoted(text), place }) if text.is_empty() || text.starts_with('/') => {
            Err(Fault::new(place, "no name before the path", expected))
        }
        Some(Token { what: What::Word(text) | What::Quoted(text), place }) => Ok((text, place)),
    }
}

/// All digits is a number, as in chown(1) when no such name exists; names of digits alone are not portable.
fn number(name: &str, place: Place, what: &str) -> Result<Option<u32>, Fault> {
    if !name.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match name.parse() {
        // -1 means "no change" to chown(2) and setreuid(2): nobody has it
        Ok(id) if id != u32::MAX => Ok(Some(id)),
        Ok(_) | Err(_) => {
            Err(Fault::new(place, format!("{what} out of range"), format!("expected 0 to {}", u32::MAX - 1)))
        }
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
