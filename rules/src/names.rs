//! The names in rules and whom they stand for, as the account database had them when asked.
//! Asks nothing itself; a name without an answer stands for nobody.

use crate::diagnostic::{Diagnostic, Severity};
use crate::language::{GroupName, Parsed, Rule, UserName};
use crate::lexer::{Fault, Place};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// A group: its number, and who is a member by the account database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members {
    pub gid: u32,
    pub uids: BTreeSet<u32>,
}

/// Something that rules name and the account database must be asked about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    User(Arc<str>),
    /// By number too: its members are needed.
    Group(GroupName),
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => write!(f, "user `{name}`"),
            Self::Group(name) => write!(f, "group `{name}`"),
        }
    }
}

/// The table of resolved names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    users: BTreeMap<Arc<str>, Option<u32>>,
    groups: BTreeMap<GroupName, Option<Members>>,
}

impl Names {
    /// Asks for each name that `parsed` needs once. `None` from either closure means that there is none such.
    ///
    /// # Errors
    /// The first error of a closure: a database that cannot be asked is not one without the name.
    pub fn resolve<E>(
        parsed: &Parsed,
        user: impl FnMut(&str) -> Result<Option<u32>, E>,
        group: impl FnMut(&GroupName) -> Result<Option<Members>, E>,
    ) -> Result<Self, E> {
        Self::ask(parsed.names_needed(), user, group)
    }

    /// Asks again for each name of this table.
    ///
    /// # Errors
    /// As of [`Names::resolve`].
    pub fn resolve_again<E>(
        &self,
        user: impl FnMut(&str) -> Result<Option<u32>, E>,
        group: impl FnMut(&GroupName) -> Result<Option<Members>, E>,
    ) -> Result<Self, E> {
        Self::ask(self.named(), user, group)
    }

    fn named(&self) -> impl Iterator<Item = Name> {
        let users = self.users.keys().map(|name| Name::User(Arc::clone(name)));
        users.chain(self.groups.keys().map(|name| Name::Group(name.clone())))
    }

    /// Whether every name that the rules need was asked for.
    #[must_use]
    pub fn cover(&self, parsed: &Parsed) -> bool {
        parsed.names_needed().all(|needed| match needed {
            Name::User(name) => self.users.contains_key(&name),
            Name::Group(name) => self.groups.contains_key(&name),
        })
    }

    /// Whether there is a name that stands for nobody.
    #[must_use]
    pub fn has_unknown(&self) -> bool {
        self.users.values().any(Option::is_none) || self.groups.values().any(Option::is_none)
    }

    fn ask<E>(
        needed: impl Iterator<Item = Name>,
        mut user: impl FnMut(&str) -> Result<Option<u32>, E>,
        mut group: impl FnMut(&GroupName) -> Result<Option<Members>, E>,
    ) -> Result<Self, E> {
        let mut names = Self::default();
        for needed in needed {
            match needed {
                Name::User(name) => {
                    let found = user(&name)?;
                    names.insert_user(&name, found);
                }
                Name::Group(name) => {
                    let found = group(&name)?;
                    names.insert_group(name, found);
                }
            }
        }
        Ok(names)
    }

    pub fn insert_user(&mut self, name: &str, uid: Option<u32>) {
        self.users.insert(name.into(), uid);
    }

    pub fn insert_group(&mut self, name: GroupName, members: Option<Members>) {
        self.groups.insert(name, members);
    }

    pub fn users(&self) -> impl Iterator<Item = (&str, Option<u32>)> {
        self.users.iter().map(|(name, uid)| (&**name, *uid))
    }

    pub fn groups(&self) -> impl Iterator<Item = (&GroupName, Option<&Members>)> {
        self.groups.iter().map(|(name, members)| (name, members.as_ref()))
    }

    pub(crate) fn uid(&self, user: &UserName) -> Option<u32> {
        match user {
            UserName::Uid(uid) => Some(*uid),
            UserName::Name(name) => self.users.get(name).copied().flatten(),
        }
    }

    /// A gid needs no name; without an answer it has no known members.
    pub(crate) fn gid(&self, group: &GroupName) -> Option<u32> {
        match (group, self.members(group)) {
            (GroupName::Gid(gid), _) => Some(*gid),
            (GroupName::Name(_), members) => members.map(|members| members.gid),
        }
    }

    pub(crate) fn members(&self, group: &GroupName) -> Option<&Members> {
        self.groups.get(group).and_then(Option::as_ref)
    }

    /// What `rule` names and this table does not know, with its place.
    pub(crate) fn unknown_in<'a>(&'a self, rule: &'a Rule) -> impl Iterator<Item = (Name, Place)> + 'a {
        let user = rule.user.as_ref().and_then(|(user, place)| match (user, self.uid(user)) {
            (UserName::Name(name), None) => Some((Name::User(Arc::clone(name)), *place)),
            (UserName::Name(_), Some(_)) | (UserName::Uid(_), _) => None,
        });
        let group = rule.group.as_ref().and_then(|(group, place)| {
            self.gid(group).is_none().then(|| (Name::Group(group.clone()), *place))
        });
        user.into_iter().chain(group)
    }
}

impl Parsed {
    /// Every name that the rules need, once.
    pub fn names_needed(&self) -> impl Iterator<Item = Name> + use<> {
        let mut needed = BTreeSet::new();
        for rule in &self.rules {
            if let Some((UserName::Name(name), _)) = &rule.user {
                needed.insert(Name::User(Arc::clone(name)));
            }
            if let Some((group, _)) = &rule.group {
                needed.insert(Name::Group(group.clone()));
            }
        }
        needed.into_iter()
    }

    /// The places where the file names a user or group that `names` does not know, as errors or as warnings.
    #[must_use]
    pub fn unknown_names(&self, names: &Names, severity: Severity) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        for rule in &self.rules {
            for (name, place) in names.unknown_in(rule) {
                let expected = match name {
                    Name::User(_) => "expected a user of this host, or a uid",
                    Name::Group(_) => "expected a group of this host, or a gid",
                };
                let fault = Fault::new(place, format!("unknown {name}"), expected);
                found.push(self.diagnostic(rule, severity, fault));
            }
        }
        found
    }
}
