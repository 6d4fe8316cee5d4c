//! Users and groups as the account database has them now. Only while a process starts: name services open files and
//! sockets. Decides nothing.

use nix::unistd;
use std::collections::BTreeSet;
use std::fmt;
use std::io::{BufRead, BufReader};

/// The account database could not be asked; that is not the same as "no such name".
#[derive(Debug)]
pub struct AccountError(String, nix::Error);

impl fmt::Display for AccountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "account database: looking up {:?}: {}", self.0, self.1)
    }
}

impl std::error::Error for AccountError {}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    /// The user's primary group.
    pub gid: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub gid: u32,
    /// uids of those listed as members, and of those whose primary group it is.
    pub members: BTreeSet<u32>,
}

/// The account database, with the local users read once.
#[derive(Debug)]
pub struct Accounts {
    local: Vec<(String, User)>,
}

impl Accounts {
    /// Primary groups come from /etc/passwd: other name services cannot be relied on to list all their users. A user
    /// known elsewhere is a member of the groups that list him.
    #[must_use]
    pub fn open() -> Self {
        let local = std::fs::File::open("/etc/passwd").map_or_else(
            |_| Vec::new(),
            |file| {
                BufReader::new(file)
                    .split(b'\n')
                    .map_while(Result::ok)
                    .filter_map(|line| local_user(&line))
                    .collect()
            },
        );
        Self { local }
    }

    /// The users of /etc/passwd, in its order.
    pub fn local_users(&self) -> impl Iterator<Item = (&str, &User)> {
        self.local.iter().map(|(name, user)| (name.as_str(), user))
    }

    /// # Errors
    /// When the database could not be asked.
    pub fn user(&self, name: &str) -> Result<Option<User>, AccountError> {
        unistd::User::from_name(name)
            .map(|found| found.map(|user| User { uid: user.uid.as_raw(), gid: user.gid.as_raw() }))
            .map_err(|error| AccountError(name.into(), error))
    }

    /// # Errors
    /// When the database could not be asked.
    pub fn user_name(&self, uid: u32) -> Result<Option<String>, AccountError> {
        unistd::User::from_uid(uid.into())
            .map(|found| found.map(|user| user.name))
            .map_err(|error| AccountError(uid.to_string(), error))
    }

    /// # Errors
    /// When the database could not be asked.
    pub fn group(&self, name: &str) -> Result<Option<Group>, AccountError> {
        let found = unistd::Group::from_name(name).map_err(|error| AccountError(name.into(), error))?;
        found.map(|group| self.with_members(&group)).transpose()
    }

    /// A gid always names a group, in the database or not.
    ///
    /// # Errors
    /// When the database could not be asked.
    pub fn group_of_gid(&self, gid: u32) -> Result<Group, AccountError> {
        let found =
            unistd::Group::from_gid(gid.into()).map_err(|error| AccountError(gid.to_string(), error))?;
        match found {
            Some(group) => self.with_members(&group),
            None => Ok(Group { gid, members: self.primary_members(gid).collect() }),
        }
    }

    fn with_members(&self, group: &unistd::Group) -> Result<Group, AccountError> {
        let gid = group.gid.as_raw();
        let mut members: BTreeSet<u32> = self.primary_members(gid).collect();
        for name in &group.mem {
            if let Some(user) = self.user(name)? {
                members.insert(user.uid);
            }
        }
        Ok(Group { gid, members })
    }

    fn primary_members(&self, gid: u32) -> impl Iterator<Item = u32> + '_ {
        self.local.iter().filter(move |(_, user)| user.gid == gid).map(|(_, user)| user.uid)
    }
}

/// First, third and fourth field of a passwd(5) line.
fn local_user(line: &[u8]) -> Option<(String, User)> {
    let text = std::str::from_utf8(line).ok()?;
    let mut fields = text.split(':');
    let name = fields.next()?;
    let mut numbers = fields.skip(1);
    let user = User { uid: numbers.next()?.parse().ok()?, gid: numbers.next()?.parse().ok()? };
    Some((name.into(), user))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passwd_line_gives_name_uid_and_primary_group_and_anything_else_gives_nothing() {
        let expected = ("a".into(), User { uid: 1000, gid: 1001 });
        assert_eq!(local_user(b"a:x:1000:1001:,,,:/home/a:/bin/sh"), Some(expected));
        for line in ["", "+::::::", "a:x:", "a:x:1000", "a:x:-1:5::", "a:x:4294967296:5::", "# a:b:1:c"] {
            assert_eq!(local_user(line.as_bytes()), None, "{line}");
        }
    }

    #[test]
    fn root_is_known_and_a_name_nobody_has_is_not_an_error() {
        let accounts = Accounts::open();
        let root = accounts.user("root").unwrap().unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert_eq!(accounts.user_name(0).unwrap().as_deref(), Some("root"));
        assert!(accounts.group_of_gid(0).unwrap().members.contains(&0));
        assert_eq!(accounts.user("no-such-user-here").unwrap(), None);
        assert_eq!(accounts.group("no-such-group-here").unwrap(), None);
    }
}
