//! Rules, configuration and upstream as the command line gives them, read before the lab hides parts of the machine and
//! written into it afterwards.
//! Does not judge them: the daemons must see faults too.

use crate::command_line::Options;
use crate::error::LabError;
use crate::world;
use std::fs;
use std::path::Path;

pub(crate) struct Input {
    /// `None`: the configuration names its own.
    rules: Option<String>,
    config: String,
    upstream: String,
}

impl Input {
    pub(crate) fn read(options: &Options) -> Result<Self, LabError> {
        let given_rules = text_or_file(options.rules_text.as_deref(), options.rules.as_deref())?;
        let given_config = text_or_file(options.config_text.as_deref(), options.config.as_deref())?;
        let (rules, config) = match (given_rules, given_config) {
            (None, Some(config)) => (None, config),
            (Some(rules), Some(config)) => (Some(rules), with_our_rules(&config)?),
            (rules, None) => {
                let rules = match rules {
                    Some(rules) => rules,
                    None => read(&world::checkout("conf/imds.conf"))?,
                };
                let config = with_our_rules(&read(&world::checkout("conf/imds-filterd.toml"))?)?;
                (Some(rules), config)
            }
        };
        Ok(Self { rules, config, upstream: upstream(options) })
    }

    pub(crate) fn write(&self) -> Result<(), LabError> {
        if let Some(rules) = &self.rules {
            write(world::RULES, rules)?;
        }
        write(world::CONFIG, &self.config)?;
        write(world::UPSTREAM, &self.upstream)?;
        // tests read them before the first line is written
        write(world::RECORD, "")?;
        write(world::AUDIT, "")
    }
}

fn text_or_file(text: Option<&str>, file: Option<&Path>) -> Result<Option<String>, LabError> {
    match (text, file) {
        (Some(text), _) => Ok(Some(text.into())),
        (None, Some(file)) => read(file).map(Some),
        (None, None) => Ok(None),
    }
}

fn read(path: &Path) -> Result<String, LabError> {
    fs::read_to_string(path).map_err(LabError::file(path))
}

fn write(path: &str, text: &str) -> Result<(), LabError> {
    fs::write(path, text).map_err(LabError::file(Path::new(path)))
}

/// The configuration with `[filter] rules` naming the lab's file.
fn with_our_rules(config: &str) -> Result<String, LabError> {
    let mut table: toml::Table =
        config.parse().map_err(|error: toml::de::Error| LabError::Config(error.to_string()))?;
    let filter = table.entry("filter").or_insert_with(|| toml::Value::Table(toml::Table::new()));
    let filter = filter.as_table_mut().ok_or_else(|| LabError::Config("filter is not a table".into()))?;
    filter.insert("rules".into(), world::RULES.into());
    Ok(table.to_string())
}

fn upstream(options: &Options) -> String {
    if let Some(command) = &options.upstream {
        return format!("{command}\n");
    }
    let mut text = format!(
        "exec imds-mock --listen '[fd00:ec2::254]:80' --listen 169.254.169.254:80 --record {}",
        world::RECORD
    );
    for argument in &options.mock_arg {
        text.push_str(&format!(" '{}'", argument.replace('\'', r"'\''")));
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_of_the_lab_take_the_place_of_those_in_the_configuration() {
        for config in
            ["", "[filter]\nrules = \"/etc/x\"\n", "runtime_dir = \"/run/y\"\n[filter]\nuser = \"imds\"\n"]
        {
            let text = with_our_rules(config).unwrap();
            let table: toml::Table = text.parse().unwrap();
            assert_eq!(table["filter"]["rules"].as_str(), Some(world::RULES), "{text}");
        }
        assert!(matches!(with_our_rules("filter = 1"), Err(LabError::Config(_))));
        assert!(matches!(with_our_rules("filter = ["), Err(LabError::Config(_))));
    }
}
