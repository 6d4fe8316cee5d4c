//! What a rule asks of a request besides its path: its method, its agent, a header, a token.
//! Looks at the canonical request alone; decides nothing.

use crate::Method;
use crate::language::Verb;
use crate::request::Request;
use crate::tree::Map;
use std::collections::BTreeMap;

/// Different sets of conditions in one file. Each is looked at once for every request, so their number and not that of
/// the rules is what a verdict costs.
pub(crate) const MAX_SETS: usize = 64;
/// Headers that one rule may ask for.
pub(crate) const MAX_HEADERS: usize = 8;

/// All of them must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Conditions {
    pub(crate) method: Option<Method>,
    /// `User-Agent` begins so.
    pub(crate) agent: Option<Box<str>>,
    /// Name in small letters, and the exact value; without one the header is there, whatever it says.
    pub(crate) headers: BTreeMap<Box<str>, Option<Box<str>>>,
    /// An IMDSv2 token comes with it, or none does.
    pub(crate) token: Option<bool>,
}

/// A header given more than once has several values. What refuses takes any of them, what gives wants all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Values {
    Any,
    All,
}

impl Values {
    fn of(verb: Verb) -> Self {
        match verb {
            Verb::Allow | Verb::Translate => Self::All,
            Verb::Deny => Self::Any,
        }
    }
}

impl Conditions {
    pub(crate) fn are_none(&self) -> bool {
        *self == Self::default()
    }

    fn hold(&self, seen: &Seen<'_>, wanted: Values) -> bool {
        let begins = |agent: &str| seen.agent.is_some_and(|given| given.starts_with(agent.as_bytes()));
        self.method.is_none_or(|method| method == seen.request.method())
            && self.token.is_none_or(|token| token == seen.token)
            && self.agent.as_deref().is_none_or(begins)
            && self.headers.iter().all(|(name, value)| has(seen.request, name, value.as_deref(), wanted))
    }

    /// Whether a request for which `self` holds also satisfies `other`, by what is written.
    pub(crate) fn imply(&self, other: &Self) -> bool {
        let agent = |prefix: &str| self.agent.as_ref().is_some_and(|agent| agent.starts_with(prefix));
        let header = |name: &str, value: &Option<Box<str>>| {
            self.headers.get(name).is_some_and(|known| value.is_none() || known == value)
        };
        (other.method.is_none() || other.method == self.method)
            && (other.token.is_none() || other.token == self.token)
            && other.agent.as_deref().is_none_or(agent)
            && other.headers.iter().all(|(name, value)| header(name, value))
    }

    /// Whether a value given twice makes a difference.
    pub(crate) fn name_a_value(&self) -> bool {
        self.headers.values().any(Option::is_some)
    }
}

/// What many sets of conditions look at, looked up once.
struct Seen<'a> {
    request: &'a Request,
    /// Given twice it is refused before any rule is asked.
    agent: Option<&'a [u8]>,
    token: bool,
}

fn has(request: &Request, name: &str, value: Option<&str>, wanted: Values) -> bool {
    let mut given = request.values(name).peekable();
    let Some(value) = value else { return given.peek().is_some() };
    match wanted {
        Values::Any => given.any(|given| given == value.as_bytes()),
        Values::All => given.peek().is_some() && given.all(|given| given == value.as_bytes()),
    }
}

/// Numbers for the sets of conditions of a file of rules.
#[derive(Debug, Default)]
pub(crate) struct Sets {
    numbers: Map<(Conditions, Values), u32>,
    all: Vec<(Conditions, Values)>,
}

impl Sets {
    /// `None`: no conditions.
    pub(crate) fn number(&mut self, conditions: &Conditions, verb: Verb) -> Option<u32> {
        if conditions.are_none() {
            return None;
        }
        let values = if conditions.name_a_value() { Values::of(verb) } else { Values::All };
        let set = (conditions.clone(), values);
        if let Some(number) = self.numbers.get(&set) {
            return Some(*number);
        }
        // the parser bounds them
        let fresh = u32::try_from(self.all.len()).unwrap_or(u32::MAX);
        self.numbers.insert(set.clone(), fresh);
        self.all.push(set);
        Some(fresh)
    }

    /// Numbers of those that hold for a request, and the `None` of rules without conditions.
    pub(crate) fn held(&self, request: &Request) -> Vec<Option<u32>> {
        if self.all.is_empty() {
            return vec![None];
        }
        let seen = Seen { request, agent: request.values("user-agent").next(), token: request.has_token() };
        let holding = (0..).zip(&self.all).filter(|(_, (set, values))| set.hold(&seen, *values));
        [None].into_iter().chain(holding.map(|(number, _)| Some(number))).collect()
    }
}
