//! A configuration file of amazon-ec2-metadata-mock in our words: its short names as places in the instance.
//! Knows nothing of other files; what has no place here is an error, never left out silently.

use crate::config::ConfigError;
use crate::tokens::base64_decode;
use serde_json::{Map, Value};

/// Where that program keeps what it says of itself, which is no setting.
const NOTES: [&str; 2] = ["config-file", "save-config-to-file"];
const MAC: [&str; 4] = ["network", "interfaces", "macs", "{{meta-data/mac}}"];

/// Names that are found at the same place below meta-data.
const SAME: [&str; 18] = [
    "ami-id",
    "ami-launch-index",
    "ami-manifest-path",
    "hostname",
    "instance-action",
    "instance-id",
    "instance-life-cycle",
    "instance-type",
    "kernel-id",
    "local-hostname",
    "local-ipv4",
    "mac",
    "product-codes",
    "public-hostname",
    "public-ipv4",
    "ramdisk-id",
    "reservation-id",
    "security-groups",
];

pub(crate) fn is_aemm(root: &Map<String, Value>) -> bool {
    let dynamic = root.get("dynamic");
    let parted = ["values", "paths"].iter().any(|part| dynamic.and_then(|table| table.get(part)).is_some());
    parted || ["metadata", "userdata", "server"].iter().any(|part| root.contains_key(*part))
}

/// # Errors
/// What has no place here.
pub(crate) fn translate(root: Map<String, Value>) -> Result<Map<String, Value>, ConfigError> {
    let mut ours = Map::new();
    for (key, value) in root {
        match (key.as_str(), value) {
            (note, _) if NOTES.contains(&note) => {}
            ("metadata" | "dynamic" | "userdata", value) => {
                for (name, value) in values(&key, value)? {
                    put(&mut ours, &key, &name, value)?;
                }
            }
            ("server", value) => {
                ours.insert("listen".into(), listen(&value)?);
            }
            (_, value) => {
                ours.insert(key, value);
            }
        }
    }
    Ok(ours)
}

/// Moved paths are not known here: a value can be written at any place.
fn values(part: &str, value: Value) -> Result<Map<String, Value>, ConfigError> {
    let Value::Object(mut table) = value else { return Err(ConfigError::Kind(part.into())) };
    let values = table.remove("values");
    match table.keys().next() {
        Some(key) => Err(ConfigError::Elsewhere(format!("{part}.{key}"))),
        None => match values {
            Some(Value::Object(values)) => Ok(values),
            None => Ok(Map::new()),
            Some(_) => Err(ConfigError::Kind(format!("{part}.values"))),
        },
    }
}

fn put(ours: &mut Map<String, Value>, part: &str, name: &str, value: Value) -> Result<(), ConfigError> {
    let unknown = || ConfigError::Elsewhere(format!("{part}.values.{name}"));
    let place = match (part, name) {
        ("metadata", "event-id") => vec!["events-id"],
        ("metadata", "iam-security-credentials-role") => vec!["role"],
        ("metadata", name) => [&["meta-data"], meta_data(name).ok_or_else(unknown)?.as_slice()].concat(),
        ("dynamic", name) => [&["dynamic"], dynamic(name).ok_or_else(unknown)?.as_slice()].concat(),
        ("userdata", "userdata") => {
            let text = value.as_str().and_then(base64_decode).and_then(|bytes| String::from_utf8(bytes).ok());
            let text = text.ok_or_else(|| ConfigError::Kind("userdata.values.userdata".into()))?;
            ours.insert("user-data-text".into(), text.into());
            return Ok(());
        }
        _ => return Err(unknown()),
    };
    insert(ours, &place, value).ok_or_else(unknown)
}

fn meta_data(name: &str) -> Option<Vec<&str>> {
    let in_table = |table: &'static str| Some(vec![table, name.strip_prefix(table)?.strip_prefix('-')?]);
    let on_mac = |name| Some([MAC.as_slice(), &[name]].concat());
    match name {
        "block-device-mapping-ebs" => Some(vec!["block-device-mapping", "ebs0"]),
        "block-device-mapping-ephemeral" => Some(vec!["block-device-mapping", "ephemeral0"]),
        "iam-info" => Some(vec!["iam", "info"]),
        "iam-security-credentials" => Some(vec!["iam", "security-credentials", "{{role}}"]),
        "public-key" => Some(vec!["public-keys", "0=my-key", "openssh-key"]),
        "tags-instance-name" => Some(vec!["tags", "instance", "Name"]),
        "tags-instance-test" => Some(vec!["tags", "instance", "Test"]),
        "mac-ipv4-associations" => {
            Some([MAC.as_slice(), &["ipv4-associations", "{{meta-data/public-ipv4}}"]].concat())
        }
        "mac-ipv6-associations" => on_mac("ipv6s"),
        "mac-network-interface-id" => on_mac("interface-id"),
        "mac-network-interface-card-index" => on_mac("network-card-index"),
        same if SAME.contains(&same) => Some(vec![same]),
        _ => name
            .strip_prefix("mac-")
            .and_then(on_mac)
            .or_else(|| in_table("block-device-mapping"))
            .or_else(|| in_table("placement"))
            .or_else(|| in_table("services")),
    }
}

fn dynamic(name: &str) -> Option<Vec<&'static str>> {
    match name {
        "instance-identity-document" => Some(vec!["instance-identity", "document"]),
        "instance-identity-pkcs" => Some(vec!["instance-identity", "pkcs7"]),
        "instance-identity-signature" => Some(vec!["instance-identity", "signature"]),
        "fws-instance-monitoring" => Some(vec!["fws", "instance-monitoring"]),
        _ => None,
    }
}

/// That program's defaults: every address, port 1338.
fn listen(server: &Value) -> Result<Value, ConfigError> {
    let wrong = || ConfigError::Kind("server".into());
    let text = |key: &str, default: &str| match server.get(key) {
        None => Ok(default.to_owned()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Number(number)) => Ok(number.to_string()),
        Some(_) => Err(wrong()),
    };
    let known = server.as_object().ok_or_else(wrong)?.keys().all(|key| key == "hostname" || key == "port");
    let host = text("hostname", "0.0.0.0")?;
    let host = if host == "localhost" { "127.0.0.1" } else { &host };
    if known { Ok(format!("{host}:{}", text("port", "1338")?).into()) } else { Err(wrong()) }
}

/// `None` where a value stands in the way.
fn insert(table: &mut Map<String, Value>, place: &[&str], value: Value) -> Option<()> {
    let (name, rest) = place.split_first()?;
    if rest.is_empty() {
        table.insert((*name).into(), value);
        return Some(());
    }
    let below = table.entry(*name).or_insert_with(|| Value::Object(Map::new()));
    insert(below.as_object_mut()?, rest, value)
}
