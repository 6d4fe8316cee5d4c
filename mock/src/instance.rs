//! An instance as data, before it becomes a tree: what is laid over it, references between its values. Does no I/O.
//! Serves nothing and knows no moment.

use crate::fault::TreeError;
use crate::tree::{Tree, plain};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

const BUILT_IN: &str = include_str!("instance.toml");
/// A reference to a reference to …: more of them is a circle.
const MAX_REFERENCES: usize = 8;

/// Listings are tables, values are strings, numbers, truth values or arrays of those.
#[derive(Debug, Clone)]
pub struct Instance {
    root: Map<String, Value>,
    removed: Removed,
}

/// Paths of what was taken away. It goes at last: what refers to it still knows it.
type Removed = BTreeSet<Vec<String>>;

impl Instance {
    /// The small instance that comes with the program.
    ///
    /// # Errors
    /// Never for the built-in data; a test reads them.
    pub fn built_in() -> Result<Self, TreeError> {
        Self::parse(BUILT_IN)
    }

    /// # Errors
    /// Text that is no TOML.
    pub fn parse(text: &str) -> Result<Self, TreeError> {
        let root = toml::from_str(text).map_err(|error| TreeError::Syntax(Box::new(error)))?;
        Ok(Self { root, removed: Removed::new() })
    }

    /// Lays tables over this one: what is named is replaced, what is null is taken away, the rest stays. A table over
    /// a JSON document changes the document's keys.
    pub fn lay(&mut self, over: Map<String, Value>) {
        merge_tables(&mut self.root, over, &[], &mut self.removed);
    }

    /// One value at a path below the version, `meta-data/instance-id` for example.
    ///
    /// # Errors
    /// [`TreeError::Place`]: the path is empty.
    pub fn set(&mut self, path: &str, value: &str) -> Result<(), TreeError> {
        let value = segments(path).rev().fold(Value::String(value.into()), |below, segment| {
            Value::Object(Map::from_iter([(segment.to_owned(), below)]))
        });
        match value {
            Value::Object(over) => {
                self.lay(over);
                Ok(())
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                Err(TreeError::Place(path.into()))
            }
        }
    }

    /// Takes away what is at this path; a listing that gets empty by that goes, too.
    pub fn remove(&mut self, path: &str) {
        self.removed.insert(segments(path).map(str::to_owned).collect());
    }

    /// What is served.
    ///
    /// # Errors
    /// What cannot be served, or was to be removed and is not there.
    pub fn tree(&self) -> Result<Tree, TreeError> {
        let mut root = self.expand_table(&self.root)?;
        for path in &self.removed {
            let path: Vec<_> =
                path.iter().map(|name| self.fill(name, MAX_REFERENCES)).collect::<Result<_, _>>()?;
            remove(&mut root, &path).ok_or_else(|| TreeError::Absent(path.join("/")))?;
        }
        Tree::of(&root)
    }

    fn expand(&self, value: &Value) -> Result<Value, TreeError> {
        Ok(match value {
            Value::Object(table) => Value::Object(self.expand_table(table)?),
            Value::Array(items) => {
                Value::Array(items.iter().map(|i| self.expand(i)).collect::<Result<_, _>>()?)
            }
            Value::String(text) => Value::String(self.fill(text, MAX_REFERENCES)?),
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        })
    }

    /// A name that is written out goes over the same name by reference, whichever comes first.
    fn expand_table(&self, table: &Map<String, Value>) -> Result<Map<String, Value>, TreeError> {
        let mut expanded = Map::new();
        let (by_reference, written): (Vec<_>, Vec<_>) =
            table.iter().partition(|(name, _)| name.contains("{{"));
        for (name, value) in by_reference.into_iter().chain(written) {
            let over = Map::from_iter([(self.fill(name, MAX_REFERENCES)?, self.expand(value)?)]);
            // nothing is null any more
            merge_tables(&mut expanded, over, &[], &mut Removed::new());
        }
        Ok(expanded)
    }

    /// Puts the value at `meta-data/mac` in the place of `{{meta-data/mac}}`; other fields are filled in when served.
    fn fill(&self, text: &str, references_left: usize) -> Result<String, TreeError> {
        let mut filled = String::new();
        let mut left = text;
        while let Some((before, rest)) = left.split_once("{{") {
            filled.push_str(before);
            let Some((name, after)) = rest.split_once("}}").filter(|(name, _)| name.contains('/')) else {
                filled.push_str("{{");
                left = rest;
                continue;
            };
            let unknown = || TreeError::Reference(name.into());
            let value = self.at(name).ok_or_else(unknown)?;
            let references_left = references_left.checked_sub(1).ok_or_else(unknown)?;
            let value = plain(name, value).map_err(|_| unknown())?;
            filled.push_str(&self.fill(&value, references_left)?);
            left = after;
        }
        filled.push_str(left);
        Ok(filled)
    }

    fn at(&self, path: &str) -> Option<&Value> {
        let mut segments = segments(path);
        let first = self.root.get(segments.next()?)?;
        segments.try_fold(first, |value, segment| value.get(segment))
    }
}

pub(crate) fn segments(path: &str) -> impl DoubleEndedIterator<Item = &str> {
    path.split('/').filter(|segment| !segment.is_empty())
}

fn merge_tables(
    base: &mut Map<String, Value>,
    over: Map<String, Value>,
    path: &[String],
    removed: &mut Removed,
) {
    for (name, value) in over {
        let path = [path, std::slice::from_ref(&name)].concat();
        if value.is_null() {
            removed.insert(path);
            continue;
        }
        removed.remove(&path);
        let merged = merge(base.remove(&name), value, &path, removed);
        base.insert(name, merged);
    }
}

fn merge(base: Option<Value>, over: Value, path: &[String], removed: &mut Removed) -> Value {
    let Value::Object(over) = over else { return over };
    let mut table = match base {
        Some(Value::Object(table)) => table,
        Some(Value::String(text)) => match serde_json::from_str(&text) {
            Ok(Value::Object(mut document)) => {
                document.extend(over);
                return Value::String(document_text(&document));
            }
            Ok(_) | Err(_) => Map::new(),
        },
        Some(_) | None => Map::new(),
    };
    merge_tables(&mut table, over, path, removed);
    Value::Object(table)
}

/// As the service writes its documents: a key a line, a blank before the colon.
fn document_text(document: &Map<String, Value>) -> String {
    let lines: Vec<String> =
        document.iter().map(|(key, value)| format!("  {} : {value}", Value::from(key.as_str()))).collect();
    format!("{{\n{}\n}}", lines.join(",\n"))
}

fn remove(table: &mut Map<String, Value>, path: &[String]) -> Option<()> {
    let (name, rest) = path.split_first()?;
    if rest.is_empty() {
        return table.remove(name).map(drop);
    }
    let Value::Object(below) = table.get_mut(name)? else { return None };
    remove(below, rest)?;
    if below.is_empty() {
        table.remove(name);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::tests::find;
    use serde_json::json;

    fn instance(text: &str) -> Instance {
        Instance::parse(text).unwrap()
    }

    fn expanded(instance: &Instance) -> Value {
        Value::Object(instance.expand_table(&instance.root).unwrap())
    }

    #[test]
    fn what_is_laid_over_replaces_what_it_names_and_nothing_else() {
        let mut instance = instance("[a]\nb = \"1\"\nc = \"2\"\n[a.d]\ne = \"3\"\n");
        let Value::Object(over) = json!({"a": {"b": "x", "c": null, "d": {"f": 4}}, "g": {"i": "5"}}) else {
            panic!()
        };
        instance.lay(over);
        instance.set("/a/d/e", "y").unwrap();
        let wanted = json!({"a": {"b": "x", "c": "2", "d": {"e": "y", "f": 4}}, "g": {"i": "5"}});
        assert_eq!(expanded(&instance), wanted);
        let tree = instance.tree().unwrap();
        assert_eq!(find(&tree, "a").as_deref(), Some("b\nd/"), "c is taken away");
        instance.set("a/c", "z").unwrap();
        assert_eq!(find(&instance.tree().unwrap(), "a/c").as_deref(), Some("z"), "and back");
        assert!(matches!(instance.set("//", "x"), Err(TreeError::Place(_))));
    }

    #[test]
    fn a_table_over_a_document_changes_its_keys() {
        let mut instance = instance("[a]\nd = '{\"x\": 1, \"y\": null}'\n");
        let Value::Object(over) = json!({"a": {"d": {"x": "{{started}}", "z": null}}}) else { panic!() };
        instance.lay(over);
        let wanted = "{\n  \"x\" : \"{{started}}\",\n  \"y\" : null,\n  \"z\" : null\n}";
        assert_eq!(expanded(&instance), json!({"a": {"d": wanted}}));
    }

    #[test]
    fn a_reference_follows_what_it_names_in_values_and_in_names() {
        let mut instance = instance(
            "[a]\nmac = \"m1\"\nsame = \"<{{a/mac}}>{{role}}\"\n[a.macs.\"{{a/mac}}\"]\nn = \"0\"\nx = \"{{a/same}}\"\n",
        );
        instance.set("a/mac", "m2").unwrap();
        instance.set("a/macs/m2/n", "7").unwrap();
        let wanted =
            json!({"mac": "m2", "same": "<m2>{{role}}", "macs": {"m2": {"n": "7", "x": "<m2>{{role}}"}}});
        assert_eq!(expanded(&instance), json!({ "a": wanted }));
    }

    #[test]
    fn a_reference_to_nothing_to_a_listing_or_in_a_circle_is_named() {
        for text in
            ["a = \"{{b/c}}\"", "a = \"{{b/c}}\"\n[b]\nc = {}", "a = \"{{b/c}}\"\n[b]\nc = \"{{b/c}}\""]
        {
            let error = instance(text).tree().unwrap_err();
            assert!(matches!(&error, TreeError::Reference(name) if name == "b/c"), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_removed_takes_an_empty_listing_with_it_and_leaves_what_refers_to_it() {
        let mut data = instance("[a.b]\nc = \"1\"\n[d]\ne = \"{{a/b/c}}\"\n\"{{a/b/c}}\" = 2");
        data.remove("/a/b/c");
        let tree = data.tree().unwrap();
        assert_eq!(find(&tree, "").as_deref(), Some("d"));
        assert_eq!(find(&tree, "d/e").as_deref(), Some("1"));
        data.lay(Map::from_iter([("d".to_owned(), json!({"{{a/b/c}}": null}))]));
        assert_eq!(find(&data.tree().unwrap(), "d").as_deref(), Some("e"));
    }

    #[test]
    fn what_is_removed_must_have_been_there() {
        for path in ["a/b/x", "a/b/c/x", "", "x"] {
            let mut instance = instance("[a.b]\nc = \"1\"\n");
            instance.remove(path);
            let error = instance.tree().unwrap_err();
            assert!(matches!(error, TreeError::Absent(_)), "{path}: {error}");
        }
    }
}
