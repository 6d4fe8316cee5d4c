//! What may stand between a directive's verb and its path, read: `user`, `group`, `unit`; `method`, `agent`, `header`,
//! `token`, `no-token`. Total; knows nothing of paths.

use crate::Method;
use crate::condition::{Conditions, MAX_HEADERS};
use crate::language::{GroupName, UserName};
use crate::lexer::{Fault, Place, Token, Tokens, What};
use crate::request::TOKEN_HEADER;
use std::sync::Arc;

/// A file's name: a unit's name is that of a cgroup.
const MAX_UNIT: usize = 255;
pub(crate) const EXPECTED: &str = "expected `user`, `group`, `unit`, `method`, `agent`, `header`, `token`, `no-token` \
     or a quoted path";

/// Whom and what a rule is for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Clauses {
    pub(crate) user: Option<(UserName, Place)>,
    pub(crate) group: Option<(GroupName, Place)>,
    pub(crate) unit: Option<(Arc<str>, Place)>,
    pub(crate) conditions: Conditions,
    /// Of the first condition.
    pub(crate) conditions_place: Option<Place>,
}

impl Clauses {
    /// Reads the clause that begins with `word`.
    pub(crate) fn add(&mut self, word: &str, place: Place, tokens: &mut Tokens<'_>) -> Result<(), Fault> {
        match word {
            "user" => return once(&mut self.user, word, place, user_name(tokens)?),
            "group" => return once(&mut self.group, word, place, group_name(tokens)?),
            "unit" => return once(&mut self.unit, word, place, unit_name(tokens)?),
            "method" => once(&mut self.conditions.method, word, place, method(tokens)?)?,
            "agent" => once(&mut self.conditions.agent, word, place, agent(tokens)?)?,
            "header" => self.add_header(tokens)?,
            "token" | "no-token" => self.add_token(word == "token", place)?,
            _ => return Err(unknown(word, place)),
        }
        self.conditions_place.get_or_insert(place);
        Ok(())
    }

    fn add_token(&mut self, token: bool, place: Place) -> Result<(), Fault> {
        match self.conditions.token.replace(token) {
            None => Ok(()),
            Some(other) if other == token => Err(second(if token { "token" } else { "no-token" }, place)),
            Some(_) => Err(Fault::new(place, "`token` and `no-token` in a rule", "expected one of them")),
        }
    }

    fn add_header(&mut self, tokens: &mut Tokens<'_>) -> Result<(), Fault> {
        let (name, place) = header_name(tokens)?;
        let value = header_value(tokens)?;
        if self.conditions.headers.insert(name.clone(), value).is_some() {
            let expected = "expected each header once in a rule";
            return Err(Fault::new(place, format!("second `header \"{name}\"`"), expected));
        }
        if self.conditions.headers.len() > MAX_HEADERS {
            let expected = format!("expected at most {MAX_HEADERS}");
            return Err(Fault::new(place, "too many headers in a rule", expected));
        }
        Ok(())
    }
}

fn unknown(word: &str, place: Place) -> Fault {
    let message = if word.starts_with('/') {
        format!("path `{word}` without quotes")
    } else {
        format!("unknown word `{word}`")
    };
    Fault::new(place, message, EXPECTED)
}

fn once<T>(slot: &mut Option<T>, word: &str, place: Place, value: T) -> Result<(), Fault> {
    if slot.replace(value).is_some() { Err(second(word, place)) } else { Ok(()) }
}

fn second(word: &str, place: Place) -> Fault {
    Fault::new(place, format!("second `{word}`"), format!("expected at most one `{word}` in a rule"))
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

fn method(tokens: &mut Tokens<'_>) -> Result<Method, Fault> {
    const EXPECTED: &str = "expected `GET`, `HEAD` or `PUT`";
    let end = tokens.end();
    match tokens.next()? {
        None => Err(Fault::new(end, "no method", EXPECTED)),
        Some(Token { what: What::Word(word), place }) => {
            let known = Method::ALL.into_iter().find(|method| method.as_str() == word);
            known.ok_or_else(|| {
                Fault::new(place, format!("`{word}` is no method that is ever judged"), EXPECTED)
            })
        }
        Some(Token { what: What::Quoted(_), place }) => Err(Fault::new(place, "no method", EXPECTED)),
    }
}

/// A quoted text that is not the last of its line, since that is the path.
fn quoted<'a>(tokens: &mut Tokens<'a>, expected: &str) -> Result<(&'a str, Place), Fault> {
    let end = tokens.end();
    match tokens.next()? {
        None => Err(Fault::new(end, "no quoted text", expected)),
        Some(Token { what: What::Word(word), place }) => {
            Err(Fault::new(place, format!("`{word}` without quotes"), expected))
        }
        Some(Token { what: What::Quoted(text), place }) => Ok((text, place)),
    }
}

fn agent(tokens: &mut Tokens<'_>) -> Result<Box<str>, Fault> {
    const EXPECTED: &str = "expected the beginning of a User-Agent, like \"aws-cli/\"";
    let (text, place) = quoted(tokens, EXPECTED)?;
    match text {
        "" => Err(Fault::new(place, "empty agent", EXPECTED)),
        // what blanks a value has around it is not part of it
        _ if text.starts_with(is_blank) => Err(Fault::new(place, "agent that begins with a blank", EXPECTED)),
        _ => Ok(text.into()),
    }
}

fn header_name(tokens: &mut Tokens<'_>) -> Result<(Box<str>, Place), Fault> {
    const EXPECTED: &str = "expected the name of a header, like \"Metadata-Flavor\"";
    let (name, place) = quoted(tokens, EXPECTED)?;
    if name.is_empty() || !name.bytes().all(crate::fields::is_token) {
        return Err(Fault::new(place, format!("`{name}` is no header's name"), EXPECTED));
    }
    if name.eq_ignore_ascii_case(TOKEN_HEADER) {
        return Err(Fault::new(place, "the header of tokens", "expected `token` or `no-token` instead"));
    }
    Ok((name.to_ascii_lowercase().into(), place))
}

/// The quoted text that follows a header's name is its value, unless it is the last of the line: that is the path.
fn header_value(tokens: &mut Tokens<'_>) -> Result<Option<Box<str>>, Fault> {
    let mut ahead = tokens.clone();
    let Ok(Some(Token { what: What::Quoted(value), place })) = ahead.next() else { return Ok(None) };
    let after = ahead.clone().next();
    if matches!(after, Ok(None)) {
        return Ok(None);
    }
    *tokens = ahead;
    if value.starts_with(is_blank) || value.ends_with(is_blank) {
        let expected = "expected a value without blanks around it: those are no part of it";
        return Err(Fault::new(place, "blank at an end of a header's value", expected));
    }
    Ok(Some(value.into()))
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t')
}
