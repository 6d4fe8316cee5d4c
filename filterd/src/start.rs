//! Everything that is read from files, before privileges are given up. Nothing here is called afterwards.
//! Serves nobody.

use imds_rules::{Members, Names, Parsed, Rules, Severity};
use imds_settings::{AccountError, Accounts, exit};
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The parser has bounds of its own; this one keeps a wrong path from filling the memory.
const MAX_FILE: u64 = 16 << 20;

/// Rules and the names that the audit trail shows.
pub struct Loaded {
    pub rules: Rules,
    pub user_names: HashMap<u32, String>,
}

/// Why there are no rules. Displays file, line and column where there are any.
#[derive(Debug)]
pub enum LoadError {
    Unreadable(PathBuf, io::Error),
    /// Others than its owner may write it.
    Writable(PathBuf),
    TooLarge(PathBuf),
    Wrong(Vec<imds_rules::Diagnostic>),
    Accounts(AccountError),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Writable(path) => write!(
                f,
                "{0}: writable by its group or by everybody; expected a file that only its owner may write \
                 (chmod go-w {0})",
                path.display()
            ),
            Self::TooLarge(path) => write!(f, "{}: larger than {MAX_FILE} bytes", path.display()),
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
            Self::Unreadable(..) | Self::Writable(_) | Self::TooLarge(_) | Self::Wrong(_) => {
                exit::CONFIGURATION
            }
            Self::Accounts(_) => exit::OS,
        }
    }
}

/// Reads, parses and resolves the rules. What only deserves a warning is logged: an unknown user or group matches nobody.
///
/// # Errors
/// When the file cannot be had or is no imds.conf, or the account database cannot be asked.
pub fn load(path: &Path, accounts: &Accounts) -> Result<Loaded, LoadError> {
    let text = read_trusted(path)?;
    let parsed = imds_rules::parse(&path.display().to_string(), &text).map_err(LoadError::Wrong)?;
    let names = resolve(&parsed, accounts).map_err(LoadError::Accounts)?;
    for warning in parsed.warnings().into_iter().chain(parsed.unknown_names(&names, Severity::Warning)) {
        tracing::warn!("{warning}");
    }
    let rules = Rules::new(&parsed, &names);
    Ok(Loaded { rules, user_names: user_names(&names, accounts) })
}

fn read_trusted(path: &Path) -> Result<Vec<u8>, LoadError> {
    let unreadable = |error| LoadError::Unreadable(path.into(), error);
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(unreadable(io::Error::other("not a regular file")));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(LoadError::Writable(path.into()));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_FILE) {
        return Err(LoadError::TooLarge(path.into()));
    }
    Ok(bytes)
}

fn resolve(parsed: &Parsed, accounts: &Accounts) -> Result<Names, AccountError> {
    Names::resolve(
        parsed,
        |name| Ok(accounts.user(name)?.map(|user| user.uid)),
        |name| {
            let group = match name {
                imds_rules::GroupName::Name(name) => accounts.group(name)?,
                imds_rules::GroupName::Gid(gid) => Some(accounts.group_of_gid(*gid)?),
            };
            Ok(group.map(|group| Members { gid: group.gid, uids: group.members }))
        },
    )
}

/// The first name of a uid counts, and the local ones before those that only the rules name.
fn user_names(names: &Names, accounts: &Accounts) -> HashMap<u32, String> {
    let mut table = HashMap::new();
    let local = accounts.local_users().map(|(name, user)| (name, user.uid));
    let named = names.users().filter_map(|(name, uid)| Some((name, uid?)));
    for (name, uid) in local.chain(named) {
        table.entry(uid).or_insert_with(|| name.to_owned());
    }
    table
}
