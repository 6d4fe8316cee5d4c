//! `imdsctl reload`: rules and mode to the running imds-filterd, which puts them in force whole or not at all. Keeps
//! what was put in force as the last good rules; a start whose file is wrong uses those.

use crate::{Fault, check, control, load};
use imds_ipc::control::{Ask, InForce, Mode, Reply, RuleSet};
use imds_rules::Names;
use imds_settings::{Accounts, Kept, Settings, exit, read_trusted};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One byte more than the parser takes, so that it says so.
const MAX_FILE: u64 = (4 << 20) + 1;

pub(crate) fn run(
    file: Option<PathBuf>,
    config: Option<&Path>,
    allow_unknown: bool,
) -> Result<String, Fault> {
    let settings = load::settings(config)?;
    let file = file.unwrap_or_else(|| settings.filter.rules.clone());
    // before the file is read: who comes last has what is in it last. Where it cannot be had, filterd does not run
    let _alone = Kept::alone(&control::directory(&settings)).ok();
    let set = read(&settings, &file, allow_unknown)?;
    let mut kept = Vec::new();
    set.encode(&mut kept);
    match control::ask(&settings, &Ask::Reload(set))? {
        Reply::InForce(told) => {
            keep(&settings, &kept)?;
            Ok(shown(&told))
        }
        Reply::Unconfirmed(told) => {
            keep(&settings, &kept)?;
            let why = "imds-interceptor has not said in time that it has taken the mode and what the rules ask of it";
            Err(Fault::new(
                exit::TEMPORARY,
                format!("{why}; requests are judged by\n{}try again", shown(&told)),
            ))
        }
        Reply::Refused(why) => Err(Fault {
            code: exit::CONFIGURATION,
            message: format!("{why}\nimdsctl: imds-filterd refused these rules; those in force before stay"),
        }),
        Reply::Names { .. } | Reply::Is(_) => {
            Err(Fault::new(exit::OS, "imds-filterd replied to something else"))
        }
    }
}

fn read(settings: &Settings, file: &Path, allow_unknown: bool) -> Result<RuleSet, Fault> {
    let text = read_trusted(file, MAX_FILE).map_err(|error| Fault::new(exit::CONFIGURATION, error))?;
    // as imds-filterd will be told to name it
    let file = std::path::absolute(file).map_err(|error| Fault::new(exit::OS, error))?.display().to_string();
    let parsed = imds_rules::parse(&file, &text).map_err(|faults| load::wrong(&faults))?;
    load::warn(&parsed.warnings());
    let accounts = Accounts::open();
    let names = check::names(&parsed, &accounts, allow_unknown)?;
    let shown = user_names(&names, &accounts);
    let mode = match settings.filter.mode {
        imds_settings::Mode::Enforce => Mode::Enforce,
        imds_settings::Mode::Audit => Mode::Audit,
    };
    Ok(RuleSet { file, text, names: names.encode(), shown, mode })
}

/// The first name of a uid counts, and the local ones before those that only the rules name.
fn user_names(names: &Names, accounts: &Accounts) -> Vec<(u32, String)> {
    let mut table = BTreeMap::new();
    let local = accounts.local_users().map(|(name, user)| (name, user.uid));
    let named = names.users().filter_map(|(name, uid)| Some((name, uid?)));
    for (name, uid) in local.chain(named) {
        table.entry(uid).or_insert_with(|| name.to_owned());
    }
    table.into_iter().collect()
}

fn keep(settings: &Settings, set: &[u8]) -> Result<(), Fault> {
    let directory = control::directory(settings);
    Kept::open(&directory).and_then(|kept| kept.accept(set)).map_err(|error| {
        let why =
            format!("the rules are in force, but not kept as the last good ones: {}", directory.display());
        Fault::new(exit::OS, format!("{why}: {error}"))
    })
}

fn shown(told: &InForce) -> String {
    let InForce { file, digest, count, since, mode } = told;
    let digest = crate::status::hex(digest);
    let rules = if *count == 1 { "rule" } else { "rules" };
    let audit = match mode {
        Mode::Enforce => "",
        Mode::Audit => "AUDIT: what these rules refuse is let through and logged as would-deny\n",
    };
    format!(
        "{audit}in force: {file}, {count} {rules}, sha256 {digest}, since {}\n",
        imds_ipc::Utc::of_seconds(*since)
    )
}
