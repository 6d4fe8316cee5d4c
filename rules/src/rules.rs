//! Rules ready to decide: names resolved, patterns in a tree. Finds the deciding rule; makes no verdict.

use crate::condition::Sets;
use crate::decide::Mode;
use crate::key::{Key, Keys, Known, Part};
use crate::language::{Parsed, Rule, Verb};
use crate::names::{Name, Names};
use crate::request::Request;
use crate::subject::{Groups, Subject, Unit};
use crate::tree::{Map, Scope, Step, Tree};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A rule, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleRef {
    /// Line in the file, from 1.
    pub line: u32,
    /// The directive as written there.
    pub text: Arc<str>,
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.text)
    }
}

/// A rule that matches nobody, because it names somebody unknown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unresolved {
    pub rule: RuleRef,
    pub name: Name,
}

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: unknown {}", self.rule.line, self.name)
    }
}

#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) verb: Verb,
    pub(crate) rule: RuleRef,
    /// `None`: names somebody unknown.
    pub(crate) key: Option<Key>,
    pub(crate) pattern: crate::language::Pattern,
}

#[derive(Debug)]
pub struct Rules {
    pub(crate) compiled: Vec<Compiled>,
    tree: Tree,
    /// Those of the rules that give no verdict but say how a request is fetched.
    translations: Tree,
    /// Numbers for the tree.
    keys: Keys,
    sets: Sets,
    /// Number of a key without its conditions to the last Allow rule for it.
    allowing: Map<usize, usize>,
    /// uid to the gids that rules name and the account database puts it in.
    memberships: Map<u32, Vec<u32>>,
    unresolved: Vec<Unresolved>,
    /// The first rules that name a group, and a unit.
    first_with_group: Option<RuleRef>,
    first_with_unit: Option<RuleRef>,
    mode: Mode,
}

/// The rule that decides, if nothing unknown stands against it.
pub(crate) struct Deciding<'a> {
    pub(crate) rule: &'a Compiled,
    /// A later Deny that may be for this subject, or may not: its groups or its unit are not wholly known.
    pub(crate) doubt: Option<&'a Compiled>,
}

impl Rules {
    #[must_use]
    pub fn new(parsed: &Parsed, names: &Names) -> Self {
        let mut rules = Self {
            compiled: Vec::with_capacity(parsed.rules.len()),
            tree: Tree::new(),
            translations: Tree::new(),
            keys: Keys::default(),
            sets: Sets::default(),
            allowing: Map::default(),
            memberships: memberships(parsed, names),
            unresolved: Vec::new(),
            first_with_group: first(parsed, |rule| rule.group.is_some()),
            first_with_unit: first(parsed, |rule| rule.unit.is_some()),
            mode: Mode::Enforce,
        };
        for rule in &parsed.rules {
            rules.add(rule, names);
        }
        rules
    }

    fn add(&mut self, rule: &Rule, names: &Names) {
        let place = self.compiled.len();
        let reference = rule.reference();
        let key = self.key_of(rule, names);
        match key {
            None => {
                let unknown = names.unknown_in(rule);
                let unknown = unknown.map(|(name, _)| Unresolved { rule: reference.clone(), name });
                self.unresolved.extend(unknown);
            }
            Some(key) => {
                let number = self.keys.number(key);
                match rule.verb {
                    Verb::Translate => self.translations.insert(&rule.pattern, number, place),
                    Verb::Allow => {
                        self.tree.insert(&rule.pattern, number, place);
                        let whoever = self.keys.number(Key { conditions: None, ..key });
                        self.allowing.insert(whoever, place);
                    }
                    Verb::Deny => {
                        self.tree.insert(&rule.pattern, number, place);
                        for doubted in key.doubted() {
                            let number = self.keys.number(doubted);
                            self.tree.insert(&rule.pattern, number, place);
                        }
                    }
                }
            }
        }
        self.compiled.push(Compiled { verb: rule.verb, rule: reference, key, pattern: rule.pattern.clone() });
    }

    #[must_use]
    pub fn with_mode(self, mode: Mode) -> Self {
        Self { mode, ..self }
    }

    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    fn key_of(&mut self, rule: &Rule, names: &Names) -> Option<Key> {
        let user = match &rule.user {
            None => None,
            Some((user, _)) => Some(names.uid(user)?),
        };
        let group = match &rule.group {
            None => Part::Any,
            Some((group, _)) => Part::Is(names.gid(group)?),
        };
        let unit = match &rule.unit {
            None => Part::Any,
            Some((unit, _)) => Part::Is(self.keys.unit(unit)),
        };
        Some(Key { user, group, unit, conditions: self.sets.number(&rule.conditions, rule.verb) })
    }

    /// The number of rules, those that match nobody among them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.compiled.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.compiled.is_empty()
    }

    /// The rules that match nobody.
    #[must_use]
    pub fn unresolved(&self) -> &[Unresolved] {
        &self.unresolved
    }

    /// The groups named by rules that the account database puts this user in.
    #[must_use]
    pub fn groups_of(&self, uid: u32) -> &[u32] {
        self.memberships.get(&uid).map_or(&[], Vec::as_slice)
    }

    /// The first rule that names a group: whoever loads rules must know the groups of clients.
    #[must_use]
    pub fn first_with_group(&self) -> Option<&RuleRef> {
        self.first_with_group.as_ref()
    }

    /// The first rule that names a unit.
    #[must_use]
    pub fn first_with_unit(&self) -> Option<&RuleRef> {
        self.first_with_unit.as_ref()
    }

    /// The last rule that matches subject, conditions and path. For a token only rules about `/latest/api` count, and
    /// without one the last Allow rule for this subject whatever its path and conditions: whoever may read something
    /// may have the token that reading takes.
    pub(crate) fn deciding(&self, subject: &Subject, request: &Request) -> Option<Deciding<'_>> {
        let scope = if request.asks_for_token() { Scope::Api } else { Scope::All };
        let who = self.known(subject);
        let conditions = self.sets.held(request);
        let last = |keys: &[usize]| self.tree.last(request.segments().map(Step::Name), keys, scope);
        let certain = last(&self.keys.of(who, &conditions, false));
        let doubt = if who.complete && subject.unit != Unit::Unknown {
            None
        } else {
            last(&self.keys.of(who, &conditions, true))
        };
        // what is decided later anyway leaves no doubt
        let doubt = doubt.filter(|doubt| certain.is_none_or(|certain| *doubt > certain));
        let any_allow = || match scope {
            Scope::Api => {
                let whoever = self.keys.of(who, &[None], false);
                whoever.iter().filter_map(|key| self.allowing.get(key)).max().copied()
            }
            Scope::All => None,
        };
        let rule = self.compiled.get(certain.or_else(any_allow)?)?;
        Some(Deciding { rule, doubt: doubt.and_then(|place| self.compiled.get(place)) })
    }

    /// The last Translate that matches a request without a token.
    pub(crate) fn translation(&self, subject: &Subject, request: &Request) -> Option<&Compiled> {
        if self.translations.is_empty() || request.asks_for_token() || request.has_token() {
            return None;
        }
        let keys = self.keys.of(self.known(subject), &self.sets.held(request), false);
        let last = self.translations.last(request.segments().map(Step::Name), &keys, Scope::All)?;
        self.compiled.get(last)
    }

    fn known<'a>(&'a self, subject: &'a Subject) -> Known<'a> {
        let (gids, complete) = match &subject.groups {
            Groups::Database => (self.groups_of(subject.uid), true),
            Groups::All(gids) => (gids.as_slice(), true),
            Groups::AtLeast(gids) => (gids.as_slice(), false),
        };
        Known { subject, gids, complete }
    }

    /// Every rule with a verdict that matches subject, conditions and path, in the order of the file: for explaining only.
    pub(crate) fn all_matches(&self, subject: &Subject, request: &Request) -> Vec<&Compiled> {
        let held = self.keys.of(self.known(subject), &self.sets.held(request), false);
        let holds = |key: &Key| self.keys.find(key).is_some_and(|key| held.contains(&key));
        self.compiled
            .iter()
            .filter(|rule| rule.verb != Verb::Translate)
            .filter(|rule| rule.key.as_ref().is_some_and(holds) && rule.pattern.covers(request.segments()))
            .collect()
    }
}

fn first(parsed: &Parsed, is_it: impl Fn(&Rule) -> bool) -> Option<RuleRef> {
    parsed.rules.iter().find(|rule| is_it(rule)).map(Rule::reference)
}

fn memberships(parsed: &Parsed, names: &Names) -> Map<u32, Vec<u32>> {
    // two names may stand for one gid
    let mut groups: BTreeMap<u32, Vec<&crate::names::Members>> = BTreeMap::new();
    let named: std::collections::BTreeSet<_> =
        parsed.rules.iter().filter_map(|rule| rule.group.as_ref().map(|(group, _)| group)).collect();
    for members in named.into_iter().filter_map(|group| names.members(group)) {
        groups.entry(members.gid).or_default().push(members);
    }
    let mut of_uid: Map<u32, Vec<u32>> = Map::default();
    for (gid, lists) in groups {
        let uids: std::collections::BTreeSet<u32> =
            lists.iter().flat_map(|members| members.uids.iter().copied()).collect();
        for uid in uids {
            of_uid.entry(uid).or_default().push(gid);
        }
    }
    of_uid
}
