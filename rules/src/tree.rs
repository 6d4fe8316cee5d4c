//! Patterns as a tree of segments: finds the last rule that covers a path in time that depends on the path alone.
//! Knows neither verbs nor subjects; both are numbers to it.

use crate::language::{Pattern, Segment};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Only the administrator's own words are ever inserted; requests only look up. So nobody can make them collide, and
/// the hash may be a fast one.
pub(crate) type Map<K, V> = HashMap<K, V, BuildHasherDefault<Fold>>;

/// A step along a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step<'a> {
    Name(&'a str),
    /// Stands for every segment at once: only `*` covers it.
    Any,
}

impl<'a> From<&'a Segment> for Step<'a> {
    fn from(segment: &'a Segment) -> Self {
        match segment {
            Segment::Name(name) => Self::Name(name),
            Segment::Any => Self::Any,
        }
    }
}

/// Which patterns are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    All,
    /// Those that begin with `/latest/api` (or `/*/api`): they alone decide the PUT for a token.
    Api,
}

#[derive(Debug, Default)]
struct Node {
    any: Option<usize>,
    /// Some rule's pattern ends here.
    ends: bool,
    api: bool,
}

/// How many places a walk is at once is bounded by the arrangements of `*` in the file, which the parser bounds: two
/// places at one depth were reached by different `*`, since the names along both are those of the path.
#[derive(Debug)]
pub(crate) struct Tree {
    nodes: Vec<Node>,
    words: Map<Box<str>, usize>,
    /// (node, word) to node
    edges: Map<(usize, usize), usize>,
    /// (node, key) to the last rule
    last: Map<(usize, usize), usize>,
}

impl Tree {
    pub(crate) fn new() -> Self {
        Self {
            nodes: vec![Node::default()],
            words: Map::default(),
            edges: Map::default(),
            last: Map::default(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.last.is_empty()
    }

    /// `key` is a number for the rule's subject, `rule` its place in the file.
    pub(crate) fn insert(&mut self, pattern: &Pattern, key: usize, rule: usize) {
        let api = in_scope(pattern, Scope::Api);
        let mut at = 0;
        for (depth, segment) in (1..).zip(&pattern.0) {
            at = self.child(at, segment, api && depth >= 2);
        }
        if let Some(node) = self.nodes.get_mut(at) {
            node.ends = true;
        }
        let last = self.last.entry((at, key)).or_insert(rule);
        *last = rule.max(*last);
    }

    fn child(&mut self, parent: usize, segment: &Segment, api: bool) -> usize {
        let new = self.nodes.len();
        let child = match segment {
            Segment::Any => match self.nodes.get_mut(parent) {
                Some(node) => *node.any.get_or_insert(new),
                None => new,
            },
            Segment::Name(name) => {
                let fresh = self.words.len();
                let word = match self.words.get(name) {
                    Some(word) => *word,
                    None => *self.words.entry(name.clone()).or_insert(fresh),
                };
                *self.edges.entry((parent, word)).or_insert(new)
            }
        };
        if child == new {
            self.nodes.push(Node { api, ..Node::default() });
        }
        child
    }

    /// The last rule among those whose pattern covers a prefix of `path` and whose key is one of `keys`.
    pub(crate) fn last<'a>(
        &self,
        path: impl Iterator<Item = Step<'a>>,
        keys: &[usize],
        scope: Scope,
    ) -> Option<usize> {
        let (mut places, mut next) = (vec![0], Vec::new());
        let mut best = self.best(&places, keys, scope);
        for step in path {
            next.clear();
            let word = match step {
                Step::Name(name) => self.words.get(name),
                Step::Any => None,
            };
            for place in &places {
                next.extend(word.and_then(|word| self.edges.get(&(*place, *word))));
                next.extend(self.nodes.get(*place).and_then(|node| node.any));
            }
            std::mem::swap(&mut places, &mut next);
            if places.is_empty() {
                break;
            }
            best = best.max(self.best(&places, keys, scope));
        }
        best
    }

    fn best(&self, places: &[usize], keys: &[usize], scope: Scope) -> Option<usize> {
        let counts = |place: &&usize| {
            self.nodes.get(**place).is_some_and(|node| node.ends && (node.api || scope == Scope::All))
        };
        let rules = |place: &usize| {
            let place = *place;
            keys.iter().filter_map(move |key| self.last.get(&(place, *key)))
        };
        places.iter().filter(counts).flat_map(rules).max().copied()
    }
}

pub(crate) fn in_scope(pattern: &Pattern, scope: Scope) -> bool {
    match (scope, pattern.0.as_slice()) {
        (Scope::All, _) => true,
        (Scope::Api, [Segment::Any, Segment::Name(api), ..]) => &**api == "api",
        (Scope::Api, [Segment::Name(version), Segment::Name(api), ..]) => {
            &**version == "latest" && &**api == "api"
        }
        (Scope::Api, [] | [_] | [_, Segment::Any, ..]) => false,
    }
}

/// Multiply and rotate (the hash of rustc and Firefox).
#[derive(Debug, Default)]
pub(crate) struct Fold(u64);

impl Fold {
    fn fold(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

impl Hasher for Fold {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.fold(u64::from_le_bytes(*word)));
        if !rest.is_empty() {
            self.fold(rest.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.fold(value.into());
    }

    fn write_u32(&mut self, value: u32) {
        self.fold(value.into());
    }

    fn write_usize(&mut self, value: usize) {
        self.write(&value.to_le_bytes());
    }

    /// The low bits choose the bucket and a product's low bits are its weakest.
    fn finish(&self) -> u64 {
        self.0.rotate_left(26)
    }
}
