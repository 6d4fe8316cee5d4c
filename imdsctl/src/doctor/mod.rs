//! `imdsctl doctor`: looks at the installation and tries, as an unprivileged user, the known ways around the filter on
//! this very host. Repairs nothing; sends the service nothing but requests that the filter refuses.

mod host;
mod namespaces;
mod sys;
mod ways;

pub(crate) use ways::{Targets, run as run_ways};

use crate::{Fault, load, status};
use imds_settings::{Accounts, Settings, exit};
use std::fmt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// One look, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    result: Outcome,
    text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Pass,
    Fail,
    /// Neither good nor bad, but to be known.
    Note,
}

impl Finding {
    fn pass(text: impl Into<String>) -> Self {
        Self { result: Outcome::Pass, text: text.into() }
    }
    fn fail(text: impl Into<String>) -> Self {
        Self { result: Outcome::Fail, text: text.into() }
    }
    fn note(text: impl Into<String>) -> Self {
        Self { result: Outcome::Note, text: text.into() }
    }
    /// `Err`: what is wrong, besides what was looked at.
    fn of(what: &str, found: Result<(), String>) -> Self {
        match found {
            Ok(()) => Self::pass(what),
            Err(why) => Self::fail(format!("{what}: {why}")),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.result {
            Outcome::Pass => "PASS",
            Outcome::Fail => "FAIL",
            Outcome::Note => "NOTE",
        };
        write!(f, "{word}  {}", self.text)
    }
}

/// The text, and whether anything failed.
pub(crate) fn run(config: Option<&Path>, user: &str) -> Result<(String, bool), Fault> {
    if !rustix::process::geteuid().is_root() {
        return Err(Fault::new(exit::PERMISSION, "it takes root to look at the installation"));
    }
    let settings = load::settings(config)?;
    let mut findings = host::findings(&settings, config);
    match status::ask(&settings) {
        Ok(status) => findings.extend(daemons(&status)),
        Err(fault) => findings.push(Finding::fail(fault.message)),
    }
    findings.extend(namespaces::findings());
    let mut text: String = findings.iter().map(|finding| format!("{finding}\n")).collect();
    let mut failed = findings.iter().any(|finding| finding.result == Outcome::Fail);
    let (tried, passed) = as_user(&settings, user)?;
    text.push_str(&tried);
    failed |= !passed;
    Ok((text, failed))
}

fn daemons(status: &status::Status) -> Vec<Finding> {
    let mut findings: Vec<Finding> = status::problems(status)
        .into_iter()
        .map(|problem| Finding::fail(problem.replace('\n', " ")))
        .collect();
    if findings.is_empty() {
        findings.push(Finding::pass("both daemons run and are well, the guard stands"));
    }
    if let Ok(interceptor) = &status.interceptor {
        let lacks = status::lacks(interceptor.identity);
        let partial = format!("identity: partial: {}", lacks.join("; "));
        findings.push(if lacks.is_empty() {
            Finding::pass("identity: complete")
        } else {
            Finding::fail(partial)
        });
    }
    if status::audit(status) {
        findings.push(Finding::note("AUDIT: what the rules refuse is let through"));
    }
    findings
}

/// Runs the ways in a process of that user's, and of no groups.
fn as_user(settings: &Settings, user: &str) -> Result<(String, bool), Fault> {
    let account = Accounts::open().user(user).map_err(|error| load::unasked(&error))?;
    let account = account.ok_or_else(|| Fault::new(exit::USAGE, format!("unknown user {user:?}")))?;
    if account.uid == 0 {
        return Err(Fault::new(exit::USAGE, "the ways are for a user without privileges, not for root"));
    }
    let failed = |error| Fault::new(exit::OS, format!("trying the ways as {user}: {error}"));
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command.arg(crate::WAYS).args(["--device", &settings.capture.device]);
    for service in settings.upstreams() {
        command.args(["--service", &service.to_string()]);
    }
    // with a uid given, groups are dropped as well
    let output = command.uid(account.uid).gid(account.gid).env_clear().output().map_err(failed)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if text.is_empty() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(Fault::new(exit::OS, format!("trying the ways as {user}: {}{said}", output.status)));
    }
    Ok((text, output.status.success()))
}
