//! `imdsctl check`: can imds-filterd use this file? Prints what is wrong; installs nothing.

use crate::{Fault, load};
use imds_rules::Severity;
use imds_settings::Accounts;
use std::path::Path;

pub(crate) fn run(file: &Path, allow_unknown: bool) -> Result<String, Fault> {
    let parsed = load::rules(file)?;
    load::warn(&parsed.warnings());
    let names = load::names(&parsed, &Accounts::open())?;
    if allow_unknown {
        load::warn(&parsed.unknown_names(&names, Severity::Warning));
    } else {
        let unknown = parsed.unknown_names(&names, Severity::Error);
        if !unknown.is_empty() {
            return Err(load::wrong(&unknown));
        }
    }
    let count = parsed.len();
    let rules = if count == 1 { "rule" } else { "rules" };
    let nothing = if count == 0 { ": everything is denied" } else { "" };
    Ok(format!("{}: ok, {count} {rules}{nothing}\n", file.display()))
}
