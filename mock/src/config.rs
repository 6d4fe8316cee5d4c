//! The configuration file, JSON or TOML: options by name, and tables that are laid over the instance. Does no I/O.
//! Knows no option: whoever reads the command line does.

use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;

/// Tables that are the instance's, not options.
const OVERRIDES: [&str; 2] = ["meta-data", "dynamic"];

#[derive(Debug, PartialEq)]
pub struct Config {
    /// By name, without dashes before it: `spot-action`, which may be written `[spot] action`.
    pub options: BTreeMap<String, Vec<String>>,
    pub overrides: Map<String, Value>,
}

#[derive(Debug)]
pub enum ConfigError {
    Json(serde_json::Error),
    Toml(Box<toml::de::Error>),
    /// Neither a value nor a table of values; or, for the instance, no table.
    Kind(String),
    /// Written twice: `spot-action` and `[spot] action`.
    Twice(String),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(error) => write!(f, "{error}"),
            Self::Toml(error) => write!(f, "{error}"),
            Self::Kind(key) => write!(f, "{key}: not the kind of value that is expected here"),
            Self::Twice(key) => write!(f, "{key}: given twice"),
        }
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// JSON if it begins with a brace, which no TOML does.
    ///
    /// # Errors
    /// Text that is neither, or has another shape.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let root = if text.trim_start().starts_with('{') {
            serde_json::from_str(text).map_err(ConfigError::Json)?
        } else {
            let table: toml::Table =
                toml::from_str(text).map_err(|error| ConfigError::Toml(Box::new(error)))?;
            json_table(table)
        };
        Self::of(root)
    }

    fn of(root: Map<String, Value>) -> Result<Self, ConfigError> {
        let mut config = Self { options: BTreeMap::new(), overrides: Map::new() };
        for (key, value) in root {
            match value {
                Value::Object(table) if OVERRIDES.contains(&key.as_str()) => {
                    config.overrides.insert(key, Value::Object(table));
                }
                _ if OVERRIDES.contains(&key.as_str()) => return Err(ConfigError::Kind(key)),
                Value::Object(table) => {
                    for (name, value) in table {
                        config.option(format!("{key}-{name}"), value)?;
                    }
                }
                value => config.option(key, value)?,
            }
        }
        Ok(config)
    }

    fn option(&mut self, name: String, value: Value) -> Result<(), ConfigError> {
        let values = match value {
            Value::Array(items) => items.iter().map(|item| scalar(&name, item)).collect::<Result<_, _>>()?,
            value => vec![scalar(&name, &value)?],
        };
        if self.options.contains_key(&name) {
            return Err(ConfigError::Twice(name));
        }
        self.options.insert(name, values);
        Ok(())
    }
}

fn scalar(name: &str, value: &Value) -> Result<String, ConfigError> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(truth) => Ok(truth.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => Err(ConfigError::Kind(name.into())),
    }
}

fn json_table(table: toml::Table) -> Map<String, Value> {
    table.into_iter().map(|(key, value)| (key, json(value))).collect()
}

/// A date becomes its text.
fn json(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => number.into(),
        toml::Value::Boolean(truth) => truth.into(),
        toml::Value::Datetime(moment) => moment.to_string().into(),
        toml::Value::Array(items) => items.into_iter().map(json).collect(),
        toml::Value::Table(table) => Value::Object(json_table(table)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn json_and_toml_say_the_same() {
        let toml = "imdsv2 = true\nlisten = [\"a:1\", \"b:2\"]\n[spot]\naction = \"stop\"\ntime = 2020-01-07T01:03:47Z\n\
                    [meta-data.tags.instance]\nName = \"x\"\n";
        let json = json!({
            "imdsv2": true, "listen": ["a:1", "b:2"],
            "spot": {"action": "stop", "time": "2020-01-07T01:03:47Z"},
            "meta-data": {"tags": {"instance": {"Name": "x"}}},
        });
        let config = Config::parse(toml).unwrap();
        assert_eq!(config, Config::parse(&format!("\n {json}")).unwrap());
        let options: Vec<_> =
            config.options.iter().map(|(name, values)| (name.as_str(), values.join(" "))).collect();
        let wanted = [
            ("imdsv2", "true"),
            ("listen", "a:1 b:2"),
            ("spot-action", "stop"),
            ("spot-time", "2020-01-07T01:03:47Z"),
        ];
        assert_eq!(options, wanted.map(|(name, value)| (name, value.to_owned())));
        assert_eq!(
            config.overrides,
            *json!({"meta-data": {"tags": {"instance": {"Name": "x"}}}}).as_object().unwrap()
        );
    }

    #[test]
    fn what_has_another_shape_is_named() {
        for (text, word) in [
            ("meta-data = 5", "meta-data"),
            ("[a.b]\nc = 1", "a-b"),
            ("a = [[1]]", "a"),
            ("spot-action = \"stop\"\n[spot]\naction = \"stop\"", "spot-action: given twice"),
            ("{\"a\": null}", "a"),
            ("{\"a\": 1,}", "line 1"),
            ("a = ", "line 1"),
        ] {
            let error = Config::parse(text).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[\\[\\]{}\",:=a-z0-9\n -]{0,60}") {
            let _ = Config::parse(&text);
        }
    }
}
