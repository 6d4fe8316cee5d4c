//! What is served, as data: a tree read from TOML (instance.toml is the built-in one). Does no I/O.
//! Knows neither HTTP nor tokens.

use crate::answer::{BINARY, TEXT};
use crate::text::{Facts, Text, UnknownField};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

const BUILT_IN: &str = include_str!("instance.toml");

/// What stands below a version, `latest` for example.
#[derive(Debug, Clone)]
pub struct Tree {
    root: BTreeMap<String, Node>,
}

#[derive(Debug, Clone)]
enum Node {
    Branch(BTreeMap<String, Node>),
    Text(Text),
    Fixed { content_type: &'static str, body: Arc<[u8]> },
}

/// A value or a listing, as served.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) content_type: &'static str,
    pub(crate) modified: SystemTime,
    pub(crate) body: Arc<[u8]>,
}

/// Why there is no tree. Displays where and what was expected.
#[derive(Debug)]
pub enum TreeError {
    Syntax(Box<toml::de::Error>),
    /// Neither table, text, number, truth value nor list of those.
    Kind(String),
    Field(String),
    /// A value stands where the path goes on, or the path is empty.
    Place(String),
}

impl fmt::Display for TreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax(error) => write!(f, "{error}"),
            Self::Kind(key) => write!(f, "{key}: expected a table, a string, a number or a list of those"),
            Self::Field(text) => {
                write!(
                    f,
                    "{{{{{text}: expected role, started, or issued, expires, key-id, secret or token of role or instance"
                )
            }
            Self::Place(path) => {
                write!(f, "{path}: no place for a value, the path is empty or goes through a value")
            }
        }
    }
}

impl std::error::Error for TreeError {}

impl Tree {
    /// The small instance that comes with the program.
    ///
    /// # Errors
    /// Never for the built-in data; a test reads them.
    pub fn built_in() -> Result<Self, TreeError> {
        Self::parse(BUILT_IN)
    }

    /// # Errors
    /// Text that is no TOML or holds what cannot be served.
    pub fn parse(text: &str) -> Result<Self, TreeError> {
        let value: Value = toml::from_str(text).map_err(|error| TreeError::Syntax(Box::new(error)))?;
        match node("", &value)? {
            Node::Branch(root) => Ok(Self { root }),
            Node::Text(_) | Node::Fixed { .. } => Err(TreeError::Kind("the whole".into())),
        }
    }

    /// Gives the role its name, or removes the role and its credentials.
    pub fn set_role(&mut self, role: Option<&str>) {
        let Some(Node::Branch(meta_data)) = self.root.get_mut("meta-data") else { return };
        match role {
            None => drop(meta_data.remove("iam")),
            Some(name) => rename(meta_data, "{{role}}", name),
        }
    }

    pub fn set_user_data(&mut self, bytes: Vec<u8>) {
        self.root.insert("user-data".into(), Node::Fixed { content_type: BINARY, body: bytes.into() });
    }

    /// Puts a value at a path below the version, `meta-data/big` for example, over whatever value is there.
    ///
    /// # Errors
    /// [`TreeError::Place`]
    pub fn set_body(&mut self, path: &str, body: Vec<u8>) -> Result<(), TreeError> {
        let wrong = || TreeError::Place(path.into());
        let mut segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        let last = segments.pop().ok_or_else(wrong)?;
        let mut branch = &mut self.root;
        for segment in segments {
            let child = branch.entry(segment.into()).or_insert_with(|| Node::Branch(BTreeMap::new()));
            let Node::Branch(below) = child else { return Err(wrong()) };
            branch = below;
        }
        branch.insert(last.into(), Node::Fixed { content_type: TEXT, body: body.into() });
        Ok(())
    }

    /// The value or the listing at a path, whether written with a trailing slash or not.
    pub(crate) fn find(&self, path: &[String], facts: &Facts) -> Option<Found> {
        let Some((first, rest)) = path.split_first() else {
            // captured: the entries below a version carry no slash
            return Some(listing(self.root.keys().cloned(), facts));
        };
        let mut at = child(&self.root, first)?;
        for segment in rest {
            let Node::Branch(children) = at else { return None };
            at = child(children, segment)?;
        }
        Some(match at {
            Node::Branch(children) => listing(children.iter().map(entry), facts),
            Node::Text(text) => {
                let (body, modified) = facts.fill(text);
                Found { content_type: TEXT, modified, body: body.into_bytes().into() }
            }
            Node::Fixed { content_type, body } => {
                Found { content_type, modified: facts.started, body: Arc::clone(body) }
            }
        })
    }
}

/// A name `0=my-key` is listed whole and found as `0`.
fn child<'a>(children: &'a BTreeMap<String, Node>, segment: &str) -> Option<&'a Node> {
    children
        .get(segment)
        .or_else(|| children.iter().find(|(name, _)| index_of(name) == Some(segment)).map(|(_, node)| node))
}

fn index_of(name: &str) -> Option<&str> {
    let (index, _) = name.split_once('=')?;
    (!index.is_empty() && index.bytes().all(|b| b.is_ascii_digit())).then_some(index)
}

fn entry((name, node): (&String, &Node)) -> String {
    match node {
        Node::Branch(_) if index_of(name).is_none() => format!("{name}/"),
        Node::Branch(_) | Node::Text(_) | Node::Fixed { .. } => name.clone(),
    }
}

fn listing(entries: impl Iterator<Item = String>, facts: &Facts) -> Found {
    let text = entries.collect::<Vec<_>>().join("\n");
    Found { content_type: TEXT, modified: facts.started, body: text.into_bytes().into() }
}

fn rename(branch: &mut BTreeMap<String, Node>, from: &str, to: &str) {
    if let Some(node) = branch.remove(from) {
        branch.insert(to.into(), node);
    }
    for node in branch.values_mut() {
        match node {
            Node::Branch(children) => rename(children, from, to),
            Node::Text(_) | Node::Fixed { .. } => {}
        }
    }
}

fn node(key: &str, value: &Value) -> Result<Node, TreeError> {
    if let Value::Object(children) = value {
        let children = children.iter().map(|(name, value)| Ok((name.clone(), node(name, value)?)));
        return Ok(Node::Branch(children.collect::<Result<_, _>>()?));
    }
    let text = Text::parse(&plain(key, value)?);
    Ok(Node::Text(text.map_err(|UnknownField(name)| TreeError::Field(name))?))
}

fn plain(key: &str, value: &Value) -> Result<String, TreeError> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(truth) => Ok(truth.to_string()),
        Value::Array(items) => {
            let lines: Vec<_> = items.iter().map(|item| plain(key, item)).collect::<Result<_, _>>()?;
            Ok(lines.join("\n"))
        }
        Value::Null | Value::Object(_) => Err(TreeError::Kind(key.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::Set;
    use std::time::UNIX_EPOCH;

    fn set(secret: &str) -> Set {
        Set {
            issued: UNIX_EPOCH,
            expires: UNIX_EPOCH,
            key_id: "K".into(),
            secret: secret.into(),
            token: "T".into(),
        }
    }

    fn find(tree: &Tree, path: &str) -> Option<String> {
        let (role, instance) = (set("role secret"), set("instance secret"));
        let facts = Facts { started: UNIX_EPOCH, role_name: Some("app"), role: &role, instance: &instance };
        let path: Vec<String> =
            path.split('/').filter(|segment| !segment.is_empty()).map(str::to_owned).collect();
        tree.find(&path, &facts).map(|found| String::from_utf8(found.body.to_vec()).unwrap())
    }

    #[test]
    fn the_built_in_instance_loads_and_takes_its_roles_name() {
        let mut tree = Tree::built_in().unwrap();
        tree.set_role(Some("app"));
        assert_eq!(find(&tree, "meta-data/iam/security-credentials").as_deref(), Some("app"));
        let document = find(&tree, "meta-data/iam/security-credentials/app").unwrap();
        assert!(document.contains("\"SecretAccessKey\" : \"role secret\""), "{document}");
        let arn = find(&tree, "meta-data/iam/info").unwrap();
        assert!(arn.contains("instance-profile/app\""), "{arn}");
        tree.set_role(None);
        assert_eq!(find(&tree, "meta-data/iam"), None);
        assert!(
            find(&tree, "meta-data/identity-credentials/ec2/security-credentials/ec2-instance").is_some()
        );
    }

    #[test]
    fn every_leaf_of_a_listing_can_be_read_and_every_branch_listed() {
        fn walk(tree: &Tree, path: &str, seen: &mut usize) {
            let listing = find(tree, path).unwrap();
            for entry in listing.lines() {
                let name = entry.split_once('=').map_or(entry, |(index, _)| index);
                let below = format!("{path}/{}", name.trim_end_matches('/'));
                *seen += 1;
                match entry.ends_with('/') || entry.contains('=') || path.is_empty() {
                    true => walk(tree, &below, seen),
                    false => drop(find(tree, &below).unwrap_or_else(|| panic!("{below}"))),
                }
            }
        }
        let mut tree = Tree::built_in().unwrap();
        tree.set_role(Some("app"));
        let mut seen = 0;
        walk(&tree, "", &mut seen);
        assert!(seen > 70, "{seen}");
    }

    #[test]
    fn nothing_stands_below_a_value() {
        let tree = Tree::built_in().unwrap();
        assert_eq!(find(&tree, "meta-data/ami-id/"), find(&tree, "meta-data/ami-id"));
        assert_eq!(find(&tree, "meta-data/ami-id/x"), None);
        assert_eq!(
            find(&tree, "meta-data/public-keys/0=my-key/openssh-key"),
            find(&tree, "meta-data/public-keys/0/openssh-key")
        );
        assert_eq!(find(&tree, "meta-data/public-keys/1"), None);
    }

    #[test]
    fn a_body_may_be_put_anywhere_but_below_a_value() {
        let mut tree = Tree::parse("[a]\nb = \"c\"\nn = 5\nl = [1, \"x\"]\n").unwrap();
        assert_eq!(find(&tree, "a/n").as_deref(), Some("5"));
        assert_eq!(find(&tree, "a/l").as_deref(), Some("1\nx"));
        tree.set_body("/a/d/e", b"f".to_vec()).unwrap();
        assert_eq!(find(&tree, "a").as_deref(), Some("b\nd/\nl\nn"));
        assert_eq!(find(&tree, "a/d/e").as_deref(), Some("f"));
        assert!(tree.set_body("a/b/x", Vec::new()).is_err());
        assert!(tree.set_body("/", Vec::new()).is_err());
    }

    #[test]
    fn an_unknown_field_and_a_wrong_kind_are_named() {
        for (text, wanted) in [
            ("a = \"{{colour}}\"", "colour"),
            ("a = \"{{role.colour}}\"", "role.colour"),
            ("a = \"{{role\"", "role"),
            ("a = ", "line 1"),
            ("a = [[], [{}]]", "a"),
        ] {
            let error = Tree::parse(text).unwrap_err().to_string();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }
}
