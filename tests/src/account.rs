//! Users of the lab, as its /etc/passwd and /etc/group have them now, and how a command becomes one of them.
//! Never looks outside of the lab.

use crate::error::LabError;
use crate::world;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Account {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

impl Account {
    /// By name, or `UID:GID` for one that no file knows.
    pub(crate) fn find(wanted: &str) -> Result<Self, LabError> {
        if let Some(account) = unnamed(wanted) {
            return Ok(account);
        }
        read("/etc/passwd")?
            .lines()
            .filter_map(of_passwd_line)
            .find(|account| account.name == wanted)
            .ok_or_else(|| LabError::UnknownUser(wanted.into()))
    }

    /// Makes `command` run what is added to it later as this user, with the given groups or those of /etc/group.
    pub(crate) fn wear(&self, command: &mut Command, groups: Option<&str>) -> Result<(), LabError> {
        command.env("HOME", &self.home).env("USER", &self.name).env("LOGNAME", &self.name);
        if self.uid == 0 && groups.is_none() {
            return Ok(());
        }
        command.arg("setpriv").arg(format!("--reuid={}", self.uid)).arg(format!("--regid={}", self.gid));
        match groups {
            Some("") => command.arg("--clear-groups"),
            Some(groups) => command.arg(format!("--groups={}", group_ids(groups)?)),
            None if self.name.is_empty() => command.arg("--clear-groups"),
            None => command.arg("--init-groups"),
        };
        if self.uid != 0 {
            command.args(["--inh-caps=-all", "--ambient-caps=-all"]);
        }
        command.arg("--");
        Ok(())
    }
}

/// Becomes `command` as another user.
///
/// # Errors
/// Returns only if that failed.
pub fn become_user(user: &str, groups: Option<&str>, command: &[OsString]) -> Result<u8, LabError> {
    world::require_inside()?;
    // env does nothing here, but wear() adds arguments and so needs a program that runs its arguments
    let mut program = Command::new("env");
    Account::find(user)?.wear(&mut program, groups)?;
    let error = program.args(command).exec();
    Err(LabError::System("starting env", error))
}

fn read(path: &str) -> Result<String, LabError> {
    std::fs::read_to_string(path).map_err(LabError::file(Path::new(path)))
}

fn unnamed(text: &str) -> Option<Account> {
    let (uid, gid) = text.split_once(':')?;
    let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
    Some(Account { name: String::new(), uid, gid, home: "/nonexistent".into() })
}

/// passwd(5).
fn of_passwd_line(line: &str) -> Option<Account> {
    let mut fields = line.split(':');
    let name = fields.next()?.into();
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    let home = fields.nth(1)?.into();
    Some(Account { name, uid, gid, home })
}

/// Names become numbers, numbers stay.
fn group_ids(groups: &str) -> Result<String, LabError> {
    let file = read("/etc/group")?;
    let ids: Result<Vec<String>, LabError> = groups.split(',').map(|group| group_id(&file, group)).collect();
    Ok(ids?.join(","))
}

fn group_id(file: &str, wanted: &str) -> Result<String, LabError> {
    if wanted.parse::<u32>().is_ok() {
        return Ok(wanted.into());
    }
    file.lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            (fields.next()? == wanted).then(|| fields.nth(1))?
        })
        .next()
        .map(String::from)
        .ok_or_else(|| LabError::UnknownGroup(wanted.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_a_passwd_line_or_two_numbers() {
        let alice = Account { name: "alice".into(), uid: 2001, gid: 3001, home: "/home/alice".into() };
        assert_eq!(of_passwd_line("alice:x:2001:3001:Alice:/home/alice:/bin/sh"), Some(alice));
        assert_eq!(of_passwd_line("alice:x:2001"), None);
        assert_eq!(unnamed("7:8").map(|a| (a.uid, a.gid)), Some((7, 8)));
        assert_eq!(unnamed("alice"), None);
        assert_eq!(unnamed("alice:8"), None);
    }

    #[test]
    fn a_group_name_becomes_its_number() {
        let file = "root:x:0:\nstaff:x:4001:alice,bob\n";
        assert_eq!(group_id(file, "staff").unwrap(), "4001");
        assert_eq!(group_id(file, "17").unwrap(), "17");
        assert!(matches!(group_id(file, "wheel"), Err(LabError::UnknownGroup(_))));
    }

    #[test]
    fn nobody_in_the_lab_has_a_uid_that_is_also_his_gid_except_root() {
        for account in include_str!("etc/passwd").lines().filter_map(of_passwd_line) {
            assert_eq!(account.uid == account.gid, account.name == "root", "{account:?}");
        }
        assert_eq!(include_str!("etc/passwd").lines().filter_map(of_passwd_line).count(), 6);
    }
}
