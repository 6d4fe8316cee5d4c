//! The configuration file, JSON or TOML: options by name, and tables that are laid over the instance. Does no I/O.
//! Knows no option: whoever reads the command line does.

use crate::aemm::{is_aemm, translate};
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
    /// Something of amazon-ec2-metadata-mock that has no place here under its name.
    Elsewhere(String),
    /// Written twice: `spot-action` and `[spot] action`.
    Twice(String),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(error) => write!(f, "{error}"),
            Self::Toml(error) => write!(f, "{error}"),
            Self::Kind(key) => write!(f, "{key}: not the kind of value that is expected here"),
            Self::Elsewhere(key) => {
                write!(
                    f,
                    "{key}: not known here; write the value at its place in a table meta-data or dynamic"
                )
            }
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
        Self::of(if is_aemm(&root) { translate(root)? } else { root })
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
    fn a_file_of_amazon_ec2_metadata_mock_is_understood() {
        let theirs = r#"{
            "metadata": {"values": {"mac": "0e:49:61:0f:c3:77", "mac-owner-id": "1", "mac-ipv6-associations": "::1",
                "public-key": "k", "placement-region": "r", "block-device-mapping-swap": "s", "event-id": "e",
                "iam-security-credentials-role": "baskinc-role", "iam-security-credentials": {"AccessKeyId": "A"},
                "mac-ipv4-associations": "10.0.0.1", "tags-instance-name": "n"}},
            "dynamic": {"values": {"instance-identity-document": {"accountId": "9"}, "fws-instance-monitoring": "on"}},
            "userdata": {"values": {"userdata": "MTIzNCxqb2huLHJlYm9vdCx0cnVlCg=="}},
            "server": {"hostname": "localhost", "port": "1550"}, "imdsv2": true, "spot": {"action": "stop"},
            "config-file": "x", "save-config-to-file": true}"#;
        let config = Config::parse(theirs).unwrap();
        let options = [
            ("events-id", "e"),
            ("imdsv2", "true"),
            ("listen", "127.0.0.1:1550"),
            ("role", "baskinc-role"),
            ("spot-action", "stop"),
            ("user-data-text", "1234,john,reboot,true\n"),
        ];
        let options = options.map(|(name, value)| (name.to_owned(), vec![value.to_owned()]));
        assert_eq!(config.options, BTreeMap::from(options));
        let wanted = json!({
            "meta-data": {
                "mac": "0e:49:61:0f:c3:77",
                "network": {"interfaces": {"macs": {"{{meta-data/mac}}": {"owner-id": "1", "ipv6s": "::1",
                    "ipv4-associations": {"{{meta-data/public-ipv4}}": "10.0.0.1"}}}}},
                "public-keys": {"0=my-key": {"openssh-key": "k"}},
                "placement": {"region": "r"},
                "block-device-mapping": {"swap": "s"},
                "iam": {"security-credentials": {"{{role}}": {"AccessKeyId": "A"}}},
                "tags": {"instance": {"Name": "n"}},
            },
            "dynamic": {"instance-identity": {"document": {"accountId": "9"}}, "fws": {"instance-monitoring": "on"}},
        });
        assert_eq!(Value::Object(config.overrides), wanted);
    }

    #[test]
    fn what_has_no_place_here_is_not_left_out_silently() {
        for text in [
            r#"{"metadata": {"paths": {"mac": "/latest/meta-data/x"}}}"#,
            r#"{"metadata": {"values": {"colour": "red"}}}"#,
            r#"{"dynamic": {"values": {"colour": "red"}}}"#,
            r#"{"dynamic": {"values": {}, "instance-identity": {}}}"#,
            r#"{"userdata": {"values": {"userdata": "?"}}}"#,
            r#"{"server": {"hostname": "localhost", "colour": 1}}"#,
            r#"{"metadata": []}"#,
        ] {
            assert!(Config::parse(text).is_err(), "{text}");
        }
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
