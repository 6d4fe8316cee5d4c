//! imds.conf as rules: one directive a line, every fault of the file reported at once.
//! Total. Resolves no name and decides nothing.

use crate::condition::{Conditions, MAX_SETS};
use crate::diagnostic::{Diagnostic, Severity};
use crate::directive::directive;
use crate::lexer::{Fault, Place, text_of};
use crate::rules::RuleRef;
use crate::warnings;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

/// Bytes of a file: 10,000 rules are 600 KB; the whole is held in memory, and again at a reload.
const MAX_FILE: usize = 4 << 20;
/// Bytes of a line: several times the longest path of any metadata service.
const MAX_LINE: usize = 4096;
/// Different arrangements of `*` in one file. Each may cost every verdict another walk along the path; a real file
/// has two or three.
const MAX_ARRANGEMENTS: usize = 256;
/// Faults reported for one file: a file of something else has one in each of its lines.
const MAX_FAULTS: usize = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    Allow,
    Deny,
    /// No verdict: what is allowed without a token is fetched with one.
    Translate,
}

/// A user as a rule names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum UserName {
    Uid(u32),
    Name(Arc<str>),
}

/// A group as a rule names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GroupName {
    Gid(u32),
    Name(Arc<str>),
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uid(uid) => write!(f, "{uid}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gid(gid) => write!(f, "{gid}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// Whole segments, matched as a prefix of a request's segments.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Pattern(pub(crate) Vec<Segment>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Segment {
    Name(Box<str>),
    /// `*`: exactly one segment, whatever it is.
    Any,
}

impl Pattern {
    /// Whether it is a prefix of a path: the definition that the tree must agree with.
    pub(crate) fn covers<'a>(&self, mut path: impl Iterator<Item = &'a str>) -> bool {
        self.0.iter().all(|segment| match (segment, path.next()) {
            (Segment::Name(name), Some(given)) => **name == *given,
            (Segment::Any, Some(_)) => true,
            (Segment::Name(_) | Segment::Any, None) => false,
        })
    }

    /// Where the `*` stand.
    fn arrangement(&self) -> u64 {
        self.0.iter().rev().fold(0, |bits, segment| bits << 1 | u64::from(*segment == Segment::Any))
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Rule {
    pub(crate) verb: Verb,
    pub(crate) user: Option<(UserName, Place)>,
    pub(crate) group: Option<(GroupName, Place)>,
    pub(crate) unit: Option<(Arc<str>, Place)>,
    pub(crate) conditions: Conditions,
    /// The first condition's, or the pattern's.
    pub(crate) conditions_place: Place,
    pub(crate) pattern: Pattern,
    pub(crate) pattern_place: Place,
    /// From 1.
    pub(crate) line: u32,
    /// The whole line.
    pub(crate) source: Arc<str>,
    /// The directive alone.
    pub(crate) text: Arc<str>,
}

impl Rule {
    pub(crate) fn reference(&self) -> RuleRef {
        RuleRef { line: self.line, text: Arc::clone(&self.text) }
    }
}

/// A well-formed file of rules, its names not yet resolved.
#[derive(Debug, Clone)]
pub struct Parsed {
    pub(crate) file: Arc<str>,
    pub(crate) rules: Vec<Rule>,
}

impl Parsed {
    /// The number of rules.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// What the file says but can hardly mean.
    #[must_use]
    pub fn warnings(&self) -> Vec<Diagnostic> {
        warnings::of(self)
    }

    pub(crate) fn diagnostic(&self, rule: &Rule, severity: Severity, fault: Fault) -> Diagnostic {
        diagnostic(&self.file, rule.line, &rule.source, severity, fault)
    }
}

/// # Errors
/// Every fault of the file, in the order of its lines; one a line, since what follows a fault may be its consequence.
pub fn parse(file_name: &str, text: &[u8]) -> Result<Parsed, Vec<Diagnostic>> {
    let file: Arc<str> = file_name.into();
    if text.len() > MAX_FILE {
        let place = Place { column: 1, width: 1 };
        let fault = Fault::new(
            place,
            format!("file of {} bytes", text.len()),
            format!("expected at most {MAX_FILE}"),
        );
        return Err(vec![diagnostic(&file, 1, "", Severity::Error, fault)]);
    }
    let (mut rules, mut faults, mut seen) = (Vec::new(), Vec::new(), Seen::default());
    // some editors begin a file with a byte order mark
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    for (number, line) in (1..).zip(text.split(|byte| *byte == b'\n')) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match parse_line(number, line).and_then(|rule| seen.check(rule)) {
            Ok(rule) => rules.extend(rule),
            Err((fault, source)) => faults.push(diagnostic(&file, number, &source, Severity::Error, fault)),
        }
        if faults.len() == MAX_FAULTS {
            let fault = Fault::new(
                Place { column: 1, width: 1 },
                "too many faults",
                "the rest of the file was not read",
            );
            faults.push(diagnostic(&file, number, "", Severity::Error, fault));
            break;
        }
    }
    if faults.is_empty() { Ok(Parsed { file, rules }) } else { Err(faults) }
}

fn diagnostic(file: &Arc<str>, line: u32, source: &str, severity: Severity, fault: Fault) -> Diagnostic {
    let Fault { place: Place { column, width }, message, expected } = fault;
    Diagnostic {
        severity,
        file: Arc::clone(file),
        line,
        column,
        width,
        source: source.into(),
        message,
        expected,
    }
}

/// A fault with the line it is in.
type LineFault = (Fault, String);

fn parse_line(number: u32, line: &[u8]) -> Result<Option<Rule>, LineFault> {
    let source = text_of(line, MAX_LINE)?;
    directive(number, source).map_err(|fault| (fault, source.to_owned()))
}

/// What a verdict's cost depends on, counted.
#[derive(Default)]
struct Seen {
    arrangements: HashSet<u64>,
    conditions: HashSet<Conditions>,
}

impl Seen {
    fn check(&mut self, rule: Option<Rule>) -> Result<Option<Rule>, LineFault> {
        const EXPECTED: &str = "expected one that an earlier rule has";
        let Some(rule) = rule else { return Ok(None) };
        self.arrangements.insert(rule.pattern.arrangement());
        if self.arrangements.len() > MAX_ARRANGEMENTS {
            let message = format!("more than {MAX_ARRANGEMENTS} different arrangements of `*` in one file");
            let fault = Fault::new(rule.pattern_place, message, EXPECTED);
            return Err((fault, rule.source.to_string()));
        }
        if !rule.conditions.are_none() && !self.conditions.contains(&rule.conditions) {
            if self.conditions.len() == MAX_SETS {
                let message = format!("more than {MAX_SETS} different sets of conditions in one file");
                return Err((Fault::new(rule.conditions_place, message, EXPECTED), rule.source.to_string()));
            }
            self.conditions.insert(rule.conditions.clone());
        }
        Ok(Some(rule))
    }
}
