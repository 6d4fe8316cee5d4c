//! Whom and what a rule is for, as a key: the keys that hold for a subject and its request, and those that may.
//! Decides nothing; a key that may hold never makes an Allow match.

use crate::subject::{Subject, Unit};
use crate::tree::Map;
use std::sync::Arc;

/// Whom and what a rule is for; each part that it names must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) user: Option<u32>,
    pub(crate) group: Part,
    pub(crate) unit: Part,
    /// The number of its set of conditions.
    pub(crate) conditions: Option<u32>,
}

/// What is known of who asks: the groups that rules name among others, and whether there are no more.
#[derive(Clone, Copy)]
pub(crate) struct Known<'a> {
    pub(crate) subject: &'a Subject,
    pub(crate) gids: &'a [u32],
    pub(crate) complete: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Part {
    /// The rule names none.
    Any,
    Is(u32),
    /// Whichever a Deny names, for a subject of whom that is not known.
    Doubt,
}

impl Part {
    fn doubted(self) -> Self {
        match self {
            Self::Any => Self::Any,
            Self::Is(_) | Self::Doubt => Self::Doubt,
        }
    }
}

impl Key {
    /// The keys under which a Deny is found for subjects of whom a part is not known.
    pub(crate) fn doubted(self) -> impl Iterator<Item = Key> {
        let (group, unit) = (self.group.doubted(), self.unit.doubted());
        let mut all = vec![Self { group, ..self }, Self { unit, ..self }, Self { group, unit, ..self }];
        all.retain(|key| *key != self);
        all.dedup();
        all.into_iter()
    }
}

/// Numbers for the keys of a file of rules.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    numbers: Map<Key, usize>,
    units: Map<Arc<str>, u32>,
    /// The gids that any rule names: a client may have a thousand others.
    gids: Map<u32, ()>,
}

impl Keys {
    pub(crate) fn number(&mut self, key: Key) -> usize {
        if let Part::Is(gid) = key.group {
            self.gids.insert(gid, ());
        }
        let fresh = self.numbers.len();
        *self.numbers.entry(key).or_insert(fresh)
    }

    pub(crate) fn find(&self, key: &Key) -> Option<usize> {
        self.numbers.get(key).copied()
    }

    pub(crate) fn unit(&mut self, name: &Arc<str>) -> u32 {
        // a file of rules has fewer lines than that
        let fresh = u32::try_from(self.units.len()).unwrap_or(u32::MAX);
        *self.units.entry(Arc::clone(name)).or_insert(fresh)
    }

    /// Numbers of the keys that hold for who asks and for one of these sets of conditions; or, `in_doubt`, of those that
    /// may and are not among them.
    pub(crate) fn of(&self, who: Known<'_>, conditions: &[Option<u32>], in_doubt: bool) -> Vec<usize> {
        let named = who.gids.iter().filter(|gid| self.gids.contains_key(gid)).map(|gid| Part::Is(*gid));
        let mut groups: Vec<Part> = [Part::Any].into_iter().chain(named).collect();
        let mut units = vec![Part::Any];
        match &who.subject.unit {
            Unit::Named(name) => units.extend(self.units.get(name.as_str()).map(|unit| Part::Is(*unit))),
            Unit::Unknown if in_doubt => units.push(Part::Doubt),
            Unit::Unknown | Unit::None => {}
        }
        if in_doubt && !who.complete {
            groups.push(Part::Doubt);
        }
        let mut numbers = Vec::new();
        for user in [None, Some(who.subject.uid)] {
            for group in &groups {
                for unit in
                    units.iter().filter(|unit| !in_doubt || *group == Part::Doubt || **unit == Part::Doubt)
                {
                    let key = |set: &Option<u32>| Key { user, group: *group, unit: *unit, conditions: *set };
                    numbers.extend(conditions.iter().filter_map(|set| self.find(&key(set))));
                }
            }
        }
        numbers
    }
}
