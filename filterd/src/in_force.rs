//! The rules in force: a file's bytes, parsed by our own parser, and what its names stand for.
//! Changes nothing of a set once it is made: who began with it ends with it.

use imds_ipc::control::{self, RuleSet, Shown};
use imds_rules::{Diagnostic, Mode, Names, Parsed, Rules};
use sha2::{Digest, Sha256};
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// Why a set of rules cannot be put in force.
#[derive(Debug)]
pub enum Unusable {
    Wrong(Vec<Diagnostic>),
    /// Whoever resolved the names did not do so for these rules.
    Table,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wrong(faults) => {
                let texts: Vec<String> = faults.iter().map(ToString::to_string).collect();
                f.write_str(&texts.join("\n"))
            }
            Self::Table => f.write_str("the table of resolved names does not belong to these rules"),
        }
    }
}

impl std::error::Error for Unusable {}

pub struct InForce {
    pub(crate) rules: Rules,
    set: RuleSet,
    digest: [u8; 32],
    since: SystemTime,
    /// Why they are in force in the place of the file on disk.
    fault: Option<String>,
}

impl InForce {
    /// Of a set from elsewhere, with our own parser.
    ///
    /// # Errors
    /// See [`Unusable`].
    pub fn of(set: RuleSet, since: SystemTime) -> Result<Self, Unusable> {
        let parsed = imds_rules::parse(&set.file, &set.text).map_err(Unusable::Wrong)?;
        let names = Names::decode(&set.names).filter(|names| names.cover(&parsed)).ok_or(Unusable::Table)?;
        Ok(Self::new(set, &parsed, &names, since))
    }

    pub(crate) fn new(set: RuleSet, parsed: &Parsed, names: &Names, since: SystemTime) -> Self {
        let digest = Sha256::digest(&set.text).into();
        let rules = Rules::new(parsed, names).with_mode(match set.mode {
            control::Mode::Enforce => Mode::Enforce,
            control::Mode::Audit => Mode::Audit,
        });
        Self { rules, set, digest, since, fault: None }
    }

    /// The same rules in the place of others, for this reason.
    #[must_use]
    pub fn instead(self, fault: String) -> Self {
        Self { fault: Some(fault), ..self }
    }

    /// The same rules, with what the names stand for now.
    ///
    /// # Errors
    /// See [`Unusable`].
    pub(crate) fn renamed(&self, names: Vec<u8>, shown: Shown) -> Result<Self, Unusable> {
        let renamed = Self::of(RuleSet { names, shown, ..self.set.clone() }, self.since)?;
        Ok(Self { fault: self.fault.clone(), ..renamed })
    }

    /// Why they are in force in the place of others.
    pub(crate) fn fault(&self) -> Option<&str> {
        self.fault.as_deref()
    }

    #[must_use]
    pub fn mode(&self) -> control::Mode {
        self.set.mode
    }

    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    #[must_use]
    pub fn file(&self) -> &str {
        &self.set.file
    }

    pub(crate) fn names(&self) -> &[u8] {
        &self.set.names
    }

    pub(crate) fn shown(&self) -> &Shown {
        &self.set.shown
    }

    /// For the operator.
    #[must_use]
    pub fn told(&self) -> control::InForce {
        control::InForce {
            file: self.set.file.clone(),
            digest: self.digest,
            // the parser takes no file with so many
            count: u32::try_from(self.rules.len()).unwrap_or(u32::MAX),
            since: self.since.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            mode: self.set.mode,
        }
    }
}
