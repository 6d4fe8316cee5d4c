//! Rules as text again: one directive a line, each in the one form that has the fewest signs.
//! Must not print what parses to another rule; comments, blanks and line numbers are not kept.

use crate::condition::Conditions;
use crate::language::{GroupName, Parsed, Pattern, Rule, Segment, UserName, Verb};
use std::fmt;

impl fmt::Display for Parsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rules.iter().try_for_each(|rule| writeln!(f, "{rule}"))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.verb {
            Verb::Allow => "Allow",
            Verb::Deny => "Deny",
            Verb::Translate => "Translate",
        })?;
        match &self.user {
            Some((UserName::Uid(uid), _)) => write!(f, " user {uid}")?,
            Some((UserName::Name(name), _)) => write!(f, " user {}", Account(name))?,
            None => {}
        }
        match &self.group {
            Some((GroupName::Gid(gid), _)) => write!(f, " group {gid}")?,
            Some((GroupName::Name(name), _)) => write!(f, " group {}", Account(name))?,
            None => {}
        }
        if let Some((unit, _)) = &self.unit {
            write!(f, " unit {}", Account(unit))?;
        }
        write!(f, "{} {}", self.conditions, self.pattern)
    }
}

impl fmt::Display for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(method) = self.method {
            write!(f, " method {}", method.as_str())?;
        }
        if let Some(agent) = &self.agent {
            write!(f, " agent \"{agent}\"")?;
        }
        for (name, value) in &self.headers {
            write!(f, " header \"{name}\"")?;
            value.iter().try_for_each(|value| write!(f, " \"{value}\""))?;
        }
        match self.token {
            Some(true) => f.write_str(" token"),
            Some(false) => f.write_str(" no-token"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        if self.0.is_empty() {
            f.write_str("/")?;
        }
        for segment in &self.0 {
            match segment {
                Segment::Name(name) => write!(f, "/{name}")?,
                Segment::Any => f.write_str("/*")?,
            }
        }
        f.write_str("\"")
    }
}

/// A name in quotes where a word would be read as something else; what cannot stand in quotes was a word.
struct Account<'a>(&'a str);

impl fmt::Display for Account<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(name) = self;
        if name.starts_with('#') || name.contains([' ', '\t']) {
            write!(f, "\"{name}\"")
        } else {
            f.write_str(name)
        }
    }
}
