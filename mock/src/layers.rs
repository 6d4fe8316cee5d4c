//! The options from all places: command line, then environment, then configuration file, then what is built in.
//! Knows no single option but the one that names the file.

use crate::arguments::Arguments;
use crate::{Failure, exit};
use clap::parser::ValueSource;
use clap::{Arg, Command, CommandFactory, FromArgMatches};
use imds_mock::Config;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::Path;

/// Ours first; the other is amazon-ec2-metadata-mock's, whose option names ours contain.
const PREFIXES: [&str; 2] = ["IMDS_MOCK_", "AEMM_"];
/// A file that names another would have to say which of both goes first.
const FILE_OPTION: &str = "config-file";

/// Options of which one is enough; `arguments` says the same of one command line.
const EXCLUSIVE: [[&str; 2]; 2] = [["role", "no_role"], ["user_data", "user_data_text"]];

/// What stands below the command line, as the values of an option that is not given.
type Values = Vec<OsString>;

/// Why there are no options.
pub(crate) enum Fault {
    /// The command line or a variable; also `--help`, which is none.
    Usage(clap::Error),
    File(Failure),
}

/// The options, and the tables of the file that are laid over the instance.
pub(crate) fn read() -> Result<(Arguments, Map<String, Value>), Fault> {
    let command = Arguments::command();
    let matches = command.clone().try_get_matches().map_err(Fault::Usage)?;
    let on_line = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
    let mut above: BTreeSet<String> = ids(&command).filter(|id| on_line(id)).collect();
    let command = lay(command, environment(&Arguments::command()), &mut above);
    let arguments = parse(command.clone()).map_err(Fault::Usage)?;
    let Some(path) = &arguments.config_file else { return Ok((arguments, Map::new())) };
    let Config { options, overrides } = read_file(path).map_err(Fault::File)?;
    let wrong = |what: &dyn std::fmt::Display| {
        Fault::File(Failure(exit::CONFIGURATION, format!("{}: {what}", path.display())))
    };
    let options = by_id(&command, options).map_err(|name| wrong(&format!("unknown key {name}")))?;
    let arguments = parse(lay(command, options, &mut above)).map_err(|error| wrong(&error))?;
    Ok((arguments, overrides))
}

/// Values below those that are already there: they do not count where the option, or one that excludes it, is given
/// above.
fn lay(command: Command, values: BTreeMap<String, Values>, above: &mut BTreeSet<String>) -> Command {
    let excluded = |id: &str| {
        EXCLUSIVE.iter().any(|pair| pair.contains(&id) && pair.iter().any(|other| above.contains(*other)))
    };
    let values: BTreeMap<_, _> =
        values.into_iter().filter(|(id, _)| !above.contains(id) && !excluded(id)).collect();
    above.extend(values.keys().cloned());
    command.mut_args(|arg| match values.get(arg.get_id().as_str()) {
        Some(values) => arg.default_values(values.iter().cloned()),
        None => arg,
    })
}

/// # Errors
/// The name of no option.
fn by_id(
    command: &Command,
    options: BTreeMap<String, Vec<String>>,
) -> Result<BTreeMap<String, Values>, String> {
    let by_id = |(name, values): (String, Vec<String>)| {
        let arg = command.get_arguments().find(|arg| names(arg).contains(&name.as_str()));
        let arg = arg.filter(|_| name != FILE_OPTION).ok_or(name)?;
        Ok((arg.get_id().to_string(), values.into_iter().map(OsString::from).collect()))
    };
    options.into_iter().map(by_id).collect()
}

fn ids(command: &Command) -> impl Iterator<Item = String> {
    command.get_arguments().map(|arg| arg.get_id().to_string())
}

fn parse(command: Command) -> Result<Arguments, clap::Error> {
    Arguments::from_arg_matches(&command.try_get_matches()?)
}

fn read_file(path: &Path) -> Result<Config, Failure> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure(exit::NO_INPUT, format!("{shown}: {error}")))?;
    Config::parse(&text).map_err(|error| Failure(exit::CONFIGURATION, format!("{shown}: {error}")))
}

/// By the option's id. An empty variable is none.
fn environment(command: &Command) -> BTreeMap<String, Values> {
    let value = |arg: &Arg| {
        let variables = names(arg).into_iter().flat_map(|name| {
            let name = name.replace('-', "_").to_uppercase();
            PREFIXES.map(|prefix| format!("{prefix}{name}"))
        });
        let mut values = variables.filter_map(std::env::var_os).filter(|value| !value.is_empty());
        Some((arg.get_id().to_string(), vec![values.next()?]))
    };
    command.get_arguments().filter_map(value).collect()
}

/// The option's name and the others that it has.
fn names(arg: &Arg) -> Vec<&str> {
    arg.get_long_and_visible_aliases().into_iter().flatten().collect()
}
