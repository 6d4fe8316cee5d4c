//! Reads a file of rules and asks the account database for the names in it. Judges neither.

use crate::Fault;
use imds_rules::{Diagnostic, GroupName, Members, Names, Parsed};
use imds_settings::{AccountError, Accounts, Settings, exit};
use std::io::{Read, Write};
use std::path::Path;

/// One byte more than a file of rules may have, so that the parser sees that it is too large.
const MAX_READ: u64 = (4 << 20) + 1;

pub(crate) fn settings(config: Option<&Path>) -> Result<Settings, Fault> {
    Settings::load(config).map_err(|error| Fault::new(exit::CONFIGURATION, error))
}

pub(crate) fn rules(file: &Path) -> Result<Parsed, Fault> {
    let unreadable =
        |error| Fault { code: exit::NO_INPUT, message: format!("imdsctl: {}: {error}", file.display()) };
    let mut text = Vec::new();
    let opened = std::fs::File::open(file).map_err(unreadable)?;
    opened.take(MAX_READ).read_to_end(&mut text).map_err(unreadable)?;
    imds_rules::parse(&file.to_string_lossy(), &text).map_err(|faults| wrong(&faults))
}

pub(crate) fn names(parsed: &Parsed, accounts: &Accounts) -> Result<Names, Fault> {
    Names::resolve(
        parsed,
        |name| Ok(accounts.user(name)?.map(|user| user.uid)),
        |name| {
            let group = match name {
                GroupName::Name(name) => accounts.group(name)?,
                GroupName::Gid(gid) => Some(accounts.group_of_gid(*gid)?),
            };
            Ok(group.map(|group| Members { gid: group.gid, uids: group.members }))
        },
    )
    .map_err(|error| unasked(&error))
}

pub(crate) fn unasked(error: &AccountError) -> Fault {
    Fault { code: exit::OS, message: format!("imdsctl: {error}") }
}

/// The rules cannot be used, for these reasons.
pub(crate) fn wrong(faults: &[Diagnostic]) -> Fault {
    let shown: Vec<String> = faults.iter().map(ToString::to_string).collect();
    Fault { code: exit::CONFIGURATION, message: shown.join("\n") }
}

pub(crate) fn warn(warnings: &[Diagnostic]) {
    for warning in warnings {
        // a warning that cannot be written changes nothing
        let _ = writeln!(std::io::stderr(), "{warning}");
    }
}
