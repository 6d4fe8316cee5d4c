//! Rules ready to decide: names resolved, patterns in a tree. Finds the deciding rule; makes no verdict.

use crate::language::{Parsed, Rule, Verb};
use crate::names::{Name, Names};
use crate::request::Request;
use crate::tree::{Map, Scope, Step, Tree};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Who asks, as the kernel said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    pub uid: u32,
    /// The groups of the client, its primary one among them, where the kernel told them; `None` where groups come
    /// from the account database.
    pub groups: Option<Vec<u32>>,
}

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

/// Whom a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    Everyone,
    User(u32),
    Group(u32),
    /// uid and gid: both must hold.
    UserInGroup(u32, u32),
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
    /// Numbers for the tree.
    keys: Map<Key, usize>,
    /// Key number to the last Allow rule for it.
    allowing: Map<usize, usize>,
    /// uid to the gids that rules name and the account database puts it in.
    memberships: Map<u32, Vec<u32>>,
    unresolved: Vec<Unresolved>,
}

impl Rules {
    #[must_use]
    pub fn new(parsed: &Parsed, names: &Names) -> Self {
        let mut rules = Self {
            compiled: Vec::with_capacity(parsed.rules.len()),
            tree: Tree::new(),
            keys: Map::default(),
            allowing: Map::default(),
            memberships: memberships(parsed, names),
            unresolved: Vec::new(),
        };
        for rule in &parsed.rules {
            rules.add(rule, names);
        }
        rules
    }

    fn add(&mut self, rule: &Rule, names: &Names) {
        let place = self.compiled.len();
        let reference = RuleRef { line: rule.line, text: Arc::clone(&rule.text) };
        let key = key_of(rule, names);
        match key {
            None => {
                let unknown = names.unknown_in(rule);
                let unknown = unknown.map(|(name, _)| Unresolved { rule: reference.clone(), name });
                self.unresolved.extend(unknown);
            }
            Some(key) => {
                let fresh = self.keys.len();
                let key = *self.keys.entry(key).or_insert(fresh);
                self.tree.insert(&rule.pattern, key, place);
                match rule.verb {
                    Verb::Allow => drop(self.allowing.insert(key, place)),
                    Verb::Deny => {}
                }
            }
        }
        self.compiled.push(Compiled { verb: rule.verb, rule: reference, key, pattern: rule.pattern.clone() });
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

    /// The last rule that matches subject and path.
    pub(crate) fn last_match(&self, subject: &Subject, request: &Request) -> Option<&Compiled> {
        self.last(subject, request, Scope::All)
    }

    /// The last rule about `/latest/api` that matches; without one, the last Allow rule for this subject whatever its
    /// path: whoever may read something may have the token that reading takes.
    pub(crate) fn last_for_token(&self, subject: &Subject, request: &Request) -> Option<&Compiled> {
        self.last(subject, request, Scope::Api).or_else(|| {
            let last = self.held(subject).iter().filter_map(|key| self.allowing.get(key)).max()?;
            self.compiled.get(*last)
        })
    }

    fn last(&self, subject: &Subject, request: &Request, scope: Scope) -> Option<&Compiled> {
        let place = self.tree.last(request.segments().map(Step::Name), &self.held(subject), scope)?;
        self.compiled.get(place)
    }

    /// The keys that hold for a subject, of those that any rule has.
    fn held(&self, subject: &Subject) -> Vec<usize> {
        let uid = subject.uid;
        let groups = subject.groups.as_deref().unwrap_or_else(|| self.groups_of(uid));
        let both = groups.iter().flat_map(|gid| [Key::Group(*gid), Key::UserInGroup(uid, *gid)]);
        let all = [Key::Everyone, Key::User(uid)].into_iter().chain(both);
        all.filter_map(|key| self.keys.get(&key).copied()).collect()
    }

    /// Every rule that matches subject and path, in the order of the file: for explaining only.
    pub(crate) fn all_matches(&self, subject: &Subject, request: &Request) -> Vec<&Compiled> {
        let held = self.held(subject);
        let holds = |key: &Key| self.keys.get(key).is_some_and(|key| held.contains(key));
        self.compiled
            .iter()
            .filter(|rule| rule.key.as_ref().is_some_and(holds) && rule.pattern.covers(request.segments()))
            .collect()
    }
}

fn key_of(rule: &Rule, names: &Names) -> Option<Key> {
    let user = rule.user.as_ref().map(|(user, _)| names.uid(user));
    let group = rule.group.as_ref().map(|(group, _)| names.gid(group));
    match (user, group) {
        (None, None) => Some(Key::Everyone),
        (Some(Some(uid)), None) => Some(Key::User(uid)),
        (None, Some(Some(gid))) => Some(Key::Group(gid)),
        (Some(Some(uid)), Some(Some(gid))) => Some(Key::UserInGroup(uid, gid)),
        (Some(None), _) | (_, Some(None)) => None,
    }
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
