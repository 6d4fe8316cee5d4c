//! A text with fields, `{{role.secret}}` for example, that are filled in each time it is served. Does no I/O.
//! Knows nothing of where the text stands.

use crate::clock::document_date;
use crate::credentials::Set;
use std::time::SystemTime;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text(Vec<Part>);

/// `{{...}}` with this name, or what follows a `{{` that is never closed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UnknownField(pub(crate) String);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Plain(String),
    Field(Field),
}

/// What `{{...}}` stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Role,
    Started,
    Credential(Owner, Item),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Role,
    Instance,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Item {
    Issued,
    Expires,
    KeyId,
    Secret,
    Token,
}

/// What a field is filled in from.
pub(crate) struct Facts<'a> {
    pub(crate) started: SystemTime,
    /// Nothing is filled in for a role that there is not.
    pub(crate) role_name: Option<&'a str>,
    pub(crate) role: &'a Set,
    pub(crate) instance: &'a Set,
}

impl Text {
    pub(crate) fn parse(text: &str) -> Result<Self, UnknownField> {
        let mut parts = Vec::new();
        let mut left = text;
        while let Some((plain, field)) = left.split_once("{{") {
            let (name, rest) = field.split_once("}}").ok_or_else(|| UnknownField(field.into()))?;
            parts.push(Part::Plain(plain.into()));
            parts.push(Part::Field(Field::parse(name).ok_or_else(|| UnknownField(name.into()))?));
            left = rest;
        }
        parts.push(Part::Plain(left.into()));
        Ok(Self(parts))
    }
}

impl Field {
    fn parse(name: &str) -> Option<Self> {
        let (owner, item) = match name {
            "role" => return Some(Self::Role),
            "started" => return Some(Self::Started),
            name => name.split_once('.')?,
        };
        let owner = match owner {
            "role" => Owner::Role,
            "instance" => Owner::Instance,
            _ => return None,
        };
        let item = match item {
            "issued" => Item::Issued,
            "expires" => Item::Expires,
            "key-id" => Item::KeyId,
            "secret" => Item::Secret,
            "token" => Item::Token,
            _ => return None,
        };
        Some(Self::Credential(owner, item))
    }
}

impl Facts<'_> {
    /// The text as it is now, and the moment it last changed.
    pub(crate) fn fill(&self, text: &Text) -> (String, SystemTime) {
        let mut filled = String::new();
        let mut modified = self.started;
        for part in &text.0 {
            match part {
                Part::Plain(plain) => filled.push_str(plain),
                Part::Field(Field::Role) => filled.extend(self.role_name),
                Part::Field(Field::Started) => filled.push_str(&document_date(self.started)),
                Part::Field(Field::Credential(owner, item)) => {
                    let set = self.set(*owner);
                    modified = set.issued;
                    filled.push_str(&self.item(set, *item));
                }
            }
        }
        (filled, modified)
    }

    fn set(&self, owner: Owner) -> &Set {
        match owner {
            Owner::Role => self.role,
            Owner::Instance => self.instance,
        }
    }

    fn item(&self, set: &Set, item: Item) -> String {
        match item {
            Item::Issued => document_date(set.issued),
            Item::Expires => document_date(set.expires),
            Item::KeyId => set.key_id.clone(),
            Item::Secret => set.secret.clone(),
            Item::Token => set.token.clone(),
        }
    }
}
