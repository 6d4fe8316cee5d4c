//! `imdsctl check`: can imds-filterd use this file? Prints what is wrong; installs nothing.

use crate::{Fault, load};
use imds_rules::{Names, Parsed, Severity};
use imds_settings::Accounts;
use std::path::Path;

pub(crate) fn run(file: &Path, allow_unknown: bool) -> Result<String, Fault> {
    let parsed = load::rules(file)?;
    load::warn(&parsed.warnings());
    names(&parsed, &Accounts::open(), allow_unknown)?;
    let count = parsed.len();
    let rules = if count == 1 { "rule" } else { "rules" };
    let nothing = if count == 0 { ": everything is denied" } else { "" };
    Ok(format!("{}: ok, {count} {rules}{nothing}\n", file.display()))
}

/// What the names in rules stand for. Those that stand for nobody are faults, or warnings if they are allowed.
pub(crate) fn names(parsed: &Parsed, accounts: &Accounts, allow_unknown: bool) -> Result<Names, Fault> {
    let names = load::names(parsed, accounts)?;
    if allow_unknown {
        load::warn(&parsed.unknown_names(&names, Severity::Warning));
        return Ok(names);
    }
    let unknown = parsed.unknown_names(&names, Severity::Error);
    if unknown.is_empty() { Ok(names) } else { Err(load::wrong(&unknown)) }
}
