//! What is served, as data: a tree of listings and values, made from an instance. Does no I/O.
//! Knows neither HTTP nor tokens.

use crate::answer::{BINARY, TEXT};
use crate::fault::TreeError;
use crate::instance::{Instance, segments};
use crate::text::{Facts, Text, UnknownField};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

/// What stands below a version, `latest` for example.
#[derive(Debug, Clone)]
pub struct Tree {
    root: BTreeMap<String, Node>,
}

#[derive(Debug, Clone)]
enum Node {
    Branch(BTreeMap<String, Node>),
    Text(Text),
    /// `modified`: the start, unless it came later.
    Fixed {
        content_type: &'static str,
        modified: Option<SystemTime>,
        body: Arc<[u8]>,
    },
}

/// A value or a listing, as served.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) content_type: &'static str,
    pub(crate) modified: SystemTime,
    pub(crate) body: Arc<[u8]>,
}

impl Tree {
    /// The small instance that comes with the program.
    ///
    /// # Errors
    /// Never for the built-in data; a test reads them.
    pub fn built_in() -> Result<Self, TreeError> {
        Instance::built_in()?.tree()
    }

    /// # Errors
    /// Text that is no TOML or holds what cannot be served.
    pub fn parse(text: &str) -> Result<Self, TreeError> {
        Instance::parse(text)?.tree()
    }

    pub(crate) fn of(root: &Map<String, Value>) -> Result<Self, TreeError> {
        Ok(Self { root: branch(root)? })
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
        let node = Node::Fixed { content_type: BINARY, modified: None, body: bytes.into() };
        self.root.insert("user-data".into(), node);
    }

    /// Puts a value at a path below the version, `meta-data/big` for example, over whatever value is there.
    ///
    /// # Errors
    /// [`TreeError::Place`]
    pub fn set_body(&mut self, path: &str, body: Vec<u8>) -> Result<(), TreeError> {
        self.put(path, body, None)
    }

    /// The same, for what has changed since the start.
    pub(crate) fn put(
        &mut self,
        path: &str,
        body: Vec<u8>,
        modified: Option<SystemTime>,
    ) -> Result<(), TreeError> {
        let wrong = || TreeError::Place(path.into());
        let mut segments: Vec<&str> = segments(path).collect();
        let last = segments.pop().ok_or_else(wrong)?;
        let mut branch = &mut self.root;
        for segment in segments {
            let child = branch.entry(segment.into()).or_insert_with(|| Node::Branch(BTreeMap::new()));
            let Node::Branch(below) = child else { return Err(wrong()) };
            branch = below;
        }
        branch.insert(last.into(), Node::Fixed { content_type: TEXT, modified, body: body.into() });
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
            Node::Fixed { content_type, modified, body } => {
                Found { content_type, modified: modified.unwrap_or(facts.started), body: Arc::clone(body) }
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
        // what is written out under the role's own name goes first
        branch.entry(to.into()).or_insert(node);
    }
    for node in branch.values_mut() {
        match node {
            Node::Branch(children) => rename(children, from, to),
            Node::Text(_) | Node::Fixed { .. } => {}
        }
    }
}

fn branch(table: &Map<String, Value>) -> Result<BTreeMap<String, Node>, TreeError> {
    let children: BTreeMap<_, _> = table
        .iter()
        .map(|(name, value)| Ok((name.clone(), node(name, value)?)))
        .collect::<Result<_, TreeError>>()?;
    match children.iter().find(|child| !can_be_asked_for(*child, &children)) {
        Some((name, _)) => Err(TreeError::Name(name.clone())),
        None => Ok(children),
    }
}

/// A listing must not show what no request can ask for, or what leaves two readings.
fn can_be_asked_for((name, node): (&String, &Node), siblings: &BTreeMap<String, Node>) -> bool {
    if matches!(name.as_str(), "" | "." | "..") || name.contains(|c: char| c == '/' || c.is_control()) {
        return false;
    }
    let Some(index) = index_of(name) else { return true };
    let others = siblings.keys().filter(|other| *other == index || index_of(other) == Some(index));
    matches!(node, Node::Branch(_)) && others.count() == 1
}

fn node(key: &str, value: &Value) -> Result<Node, TreeError> {
    if let Value::Object(children) = value {
        return branch(children).map(Node::Branch);
    }
    let text = Text::parse(&plain(key, value)?);
    Ok(Node::Text(text.map_err(|UnknownField(name)| TreeError::Field(name))?))
}

pub(crate) fn plain(key: &str, value: &Value) -> Result<String, TreeError> {
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
pub(crate) mod tests {
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

    pub(crate) fn find(tree: &Tree, path: &str) -> Option<String> {
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
    fn a_name_that_cannot_be_asked_for_is_refused() {
        for text in [
            "\"a/b\" = 1",
            "\"\" = 1",
            "\"..\" = 1",
            "\"a\\nb\" = 1",
            "\"0=a\" = 1",
            "[\"0=a\"]\n[\"0=b\"]",
            "0 = 1\n[\"0=b\"]",
        ] {
            let text = format!("[x]\nfine = 1\n[x.y]\n{}", text.replace("[\"", "[x.y.\""));
            assert!(matches!(Tree::parse(&text), Err(TreeError::Name(_))), "{text}");
        }
        assert!(Tree::parse("[x.\"0=a\"]\n[x.\"1=a\"]\n[x.y]\n\"a=b\" = 1\n\"é 0\" = 1").is_ok());
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
