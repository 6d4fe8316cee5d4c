//! `imdsctl explain`: what would imds-filterd answer, and why? Asks the rules; sends nothing.

use crate::{Fault, load};
use imds_rules::{
    Explanation, Groups, Head, Profile, Request, Rules, Severity, Subject, Unit, Verdict, Version, explain,
};
use imds_settings::{Accounts, Settings, exit};
use std::fmt::Write;
use std::path::{Path, PathBuf};

pub(crate) struct Question {
    pub(crate) user: String,
    pub(crate) groups: Vec<String>,
    pub(crate) unit: Option<String>,
    pub(crate) method: String,
    pub(crate) agent: Option<String>,
    /// `Name: value`
    pub(crate) headers: Vec<String>,
    pub(crate) token: bool,
    pub(crate) path: String,
}

pub(crate) fn run(
    rules: Option<PathBuf>,
    config: Option<&Path>,
    question: &Question,
) -> Result<String, Fault> {
    let settings = match rules {
        Some(_) => Settings::default(),
        None => load::settings(config)?,
    };
    let file = rules.unwrap_or_else(|| settings.filter.rules.clone());
    let accounts = Accounts::open();
    let parsed = load::rules(&file)?;
    let names = load::names(&parsed, &accounts)?;
    load::warn(&parsed.unknown_names(&names, Severity::Warning));
    let rules = Rules::new(&parsed, &names);
    let subject = subject(question, &accounts, &rules)?;
    let who = format!("user {} (uid {})", question.user, subject.uid);
    Ok(match canonical(question, &settings) {
        Err(refusal) => {
            format!("deny\nno rule is asked: imds-filterd answers {} ({refusal})\n", refusal.status())
        }
        Ok(request) => {
            let what = format!("{} {}", request.method().as_str(), request.path());
            shown(&explain(&rules, &subject, request), &file, &format!("{who}, {what}"))
        }
    })
}

/// Without `Host`, which HTTP/1.0 allows: this is about the path.
fn canonical(question: &Question, settings: &Settings) -> Result<Request, imds_rules::Refusal> {
    let given = question.headers.iter().map(|header| header.split_once(':').unwrap_or((header, "")));
    let agent = question.agent.iter().map(|agent| ("User-Agent", agent.as_str()));
    // which one makes no difference to rules
    let token = question.token.then_some(("X-aws-ec2-metadata-token", "token"));
    let headers: Vec<(&[u8], &[u8])> =
        agent.chain(token).chain(given).map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
    let (addresses, port, hosts) = settings
        .services
        .first()
        .map_or((Vec::new(), 80, Vec::new()), |s| (s.addresses.clone(), s.port, s.hosts.clone()));
    let head = Head {
        method: question.method.as_bytes(),
        target: question.path.as_bytes(),
        version: Version::Http10,
        headers: &headers,
    };
    Request::canonicalise(&head, &Profile::ec2(addresses, port, hosts))
}

fn subject(question: &Question, accounts: &Accounts, rules: &Rules) -> Result<Subject, Fault> {
    let uid = match question.user.parse() {
        Ok(uid) => uid,
        Err(_) => match accounts.user(&question.user).map_err(|error| load::unasked(&error))? {
            Some(user) => user.uid,
            None => return Err(unknown("user", &question.user)),
        },
    };
    let unit = question.unit.clone().map_or(Unit::None, Unit::Named);
    if question.groups.is_empty() {
        return Ok(Subject { uid, groups: Groups::Database, unit });
    }
    let mut groups = rules.groups_of(uid).to_vec();
    for name in &question.groups {
        groups.push(match name.parse() {
            Ok(gid) => gid,
            Err(_) => match accounts.group(name).map_err(|error| load::unasked(&error))? {
                Some(group) => group.gid,
                None => return Err(unknown("group", name)),
            },
        });
    }
    Ok(Subject { uid, groups: Groups::All(groups), unit })
}

fn unknown(kind: &str, name: &str) -> Fault {
    Fault {
        code: exit::USAGE,
        message: format!("imdsctl: unknown {kind} {name:?}; expected one of this host, or a number"),
    }
}

fn shown(told: &Explanation, file: &Path, about: &str) -> String {
    let word = match told.verdict {
        Verdict::Allow(_) => "allow",
        Verdict::Deny(_) => "deny",
    };
    let mut text = format!("{word}\n");
    if let Some(rule) = &told.rule {
        // writing to a String cannot fail
        let _ = writeln!(text, "{}:{}: {}", file.display(), rule.line, rule.text);
    }
    let _ = writeln!(text, "{}: {about}", told.reason);
    if let Some(rule) = &told.translation {
        let _ = writeln!(text, "sent to the service with a token of imds-filterd's own: {rule}");
    }
    for other in &told.others {
        let _ = writeln!(text, "also matches: {other}");
    }
    text
}
