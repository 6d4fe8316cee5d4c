//! Everything that is read from files, before privileges are given up. Nothing here is called afterwards.
//! Serves nobody.

use crate::control::{Bound, Control};
use crate::in_force::InForce;
use crate::names::{self, group, shown, user};
use imds_ipc::control::{Ask, CONTROL_DIRECTORY, Mode, RuleSet};
use imds_rules::{Names, Severity};
use imds_settings::{AccountError, Accounts, Kept, ReadError, Settings, exit, read_trusted};
use std::fmt;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::SystemTime;

/// The parser has bounds of its own; this one keeps a wrong path from filling the memory.
const MAX_FILE: u64 = 16 << 20;

/// What serving needs and only the start can have.
pub struct Loaded {
    pub in_force: InForce,
    /// What was last in force before, should interceptor not be able to serve these.
    pub spare: Option<InForce>,
    /// Takes a byte when they are in force: from then on they are the last good ones.
    pub accepted: Option<OwnedFd>,
    pub control: Option<Bound>,
    pub watcher: Option<UnixStream>,
}

/// Why there are no rules. Displays file, line and column where there are any.
#[derive(Debug)]
pub enum LoadError {
    Read(ReadError),
    Wrong(Vec<imds_rules::Diagnostic>),
    Accounts(AccountError),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) => error.fmt(f),
            Self::Wrong(faults) => {
                let texts: Vec<String> = faults.iter().map(ToString::to_string).collect();
                f.write_str(&texts.join("\n"))
            }
            Self::Accounts(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for LoadError {}

impl LoadError {
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Read(_) | Self::Wrong(_) => exit::CONFIGURATION,
            Self::Accounts(_) => exit::OS,
        }
    }
}

/// Takes everything that serving needs from files, while we still are who we were started as.
///
/// # Errors
/// When the rules on disk cannot be used and none were in force before.
pub fn load(settings: &Settings, accounts: &Accounts) -> Result<Loaded, LoadError> {
    let kept = match Kept::open(&settings.runtime_dir.join(CONTROL_DIRECTORY)) {
        Ok(kept) => Some(kept),
        Err(error) => {
            let directory = settings.runtime_dir.join(CONTROL_DIRECTORY);
            tracing::warn!("no control socket, and no last good rules: {}: {error}", directory.display());
            None
        }
    };
    let before = kept.as_ref().and_then(|kept| recall(kept, settings, accounts));
    let (in_force, spare, accepted) = match rules(settings, accounts) {
        Ok((in_force, set)) => (in_force, before, kept.as_ref().and_then(|kept| propose(kept, set))),
        Err(error) => match before {
            Some(before) => (instead(before, &error.to_string()), None, None),
            None => return Err(error),
        },
    };
    let control =
        kept.and_then(|kept| Control::bind(kept.directory()).map_err(|error| tracing::warn!("{error}")).ok());
    let watcher = names::start(&settings.filter.user).map_err(|error| {
        tracing::warn!("users and groups are resolved at a reload only: no watcher of names: {error}");
    });
    Ok(Loaded { in_force, spare, accepted, control, watcher: watcher.ok() })
}

/// The last good rules take the place of those that cannot be used.
#[must_use]
pub fn instead(before: InForce, why: &str) -> InForce {
    let told = before.told();
    tracing::error!("{why}");
    tracing::error!("the last good rules are used instead: {} rules of {}", told.count, told.file);
    before.instead(why.into())
}

/// Reads, parses and resolves. What only deserves a warning is logged: an unknown user or group matches nobody.
fn rules(settings: &Settings, accounts: &Accounts) -> Result<(InForce, RuleSet), LoadError> {
    let path = &settings.filter.rules;
    let text = read_trusted(path, MAX_FILE).map_err(LoadError::Read)?;
    let file = path.display().to_string();
    let parsed = imds_rules::parse(&file, &text).map_err(LoadError::Wrong)?;
    let names = Names::resolve(&parsed, |name| user(accounts, name), |name| group(accounts, name))
        .map_err(LoadError::Accounts)?;
    for warning in parsed.warnings().into_iter().chain(parsed.unknown_names(&names, Severity::Warning)) {
        tracing::warn!("{warning}");
    }
    let shown = shown(&names, accounts);
    let set = RuleSet { file, text, names: names.encode(), shown, mode: mode(settings) };
    Ok((InForce::new(set.clone(), &parsed, &names, SystemTime::now()), set))
}

fn mode(settings: &Settings) -> Mode {
    match settings.filter.mode {
        imds_settings::Mode::Enforce => Mode::Enforce,
        imds_settings::Mode::Audit => Mode::Audit,
    }
}

/// The last good rules, with what their names stand for now.
fn recall(kept: &Kept, settings: &Settings, accounts: &Accounts) -> Option<InForce> {
    let unusable = |why: &str| tracing::warn!("the last good rules cannot be used: {why}");
    let bytes = kept.recall().map_err(|error| unusable(&error.to_string())).ok()??;
    let Ok(Ask::Reload(mut set)) = Ask::decode(&bytes) else {
        unusable("they were kept by another version");
        return None;
    };
    // of the settings, which a start has anew
    set.mode = mode(settings);
    let known = Names::decode(&set.names).unwrap_or_else(|| {
        unusable("their table of names is none");
        Names::default()
    });
    match known.resolve_again(|name| user(accounts, name), |name| group(accounts, name)) {
        Ok(names) => {
            set.shown = shown(&names, accounts);
            set.names = names.encode();
        }
        // what they stood for then is the next best
        Err(error) => tracing::warn!("{error}"),
    }
    InForce::of(set, SystemTime::now()).map_err(|why| unusable(&why.to_string())).ok()
}

fn propose(kept: &Kept, set: RuleSet) -> Option<OwnedFd> {
    let mut bytes = Vec::new();
    set.encode(&mut bytes);
    let proposed = kept.propose(&bytes);
    proposed.map_err(|error| tracing::warn!("these rules are not kept as the last good ones: {error}")).ok()
}
