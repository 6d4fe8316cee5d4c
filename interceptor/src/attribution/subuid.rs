//! /etc/subuid: whose user namespaces may use which uids. Without BPF a uid of a range counts as the range's owner,
//! or `unshare --map-auto` would dodge every `Deny user`. Read once, at start; a range without an owner refuses its uids.

use super::Unattributable;
use imds_settings::Accounts;
use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::Path;

const PATH: &str = "/etc/subuid";
/// shadow's tools write one line a user; this is room for a hundred thousand.
const MAX_FILE: u64 = 8 << 20;

/// Something in the file is not as it should be; what it names is refused or was never in force.
#[derive(Debug, PartialEq, Eq)]
pub enum SubuidWarning {
    /// Not `owner:first:count`; shadow's tools ignore such a line too.
    Line(usize),
    /// No such user: its range is refused.
    Owner(usize, String),
}

impl fmt::Display for SubuidWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "{PATH}:{line}: not owner:first:count; the line is ignored"),
            Self::Owner(line, name) => {
                write!(f, "{PATH}:{line}: no user {name:?}; clients with a uid of its range are refused")
            }
        }
    }
}

/// Ranges of uids and whose they are. The usual host has a handful, so they are a list.
#[derive(Debug, Default)]
pub struct SubordinateUids {
    /// first, last, owner
    ranges: Vec<(u32, u32, Option<u32>)>,
}

impl SubordinateUids {
    /// # Errors
    /// When the file is there and cannot be read, or the account database cannot be asked. No file: no ranges.
    pub fn read(accounts: &Accounts) -> Result<(Self, Vec<SubuidWarning>), String> {
        let text = match read_bounded(Path::new(PATH)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(format!("{PATH}: {error}")),
        };
        Self::parse(&text, |name| {
            accounts.user(name).map(|user| user.map(|user| user.uid)).map_err(|error| error.to_string())
        })
    }

    fn parse(
        text: &str,
        uid_of: impl Fn(&str) -> Result<Option<u32>, String>,
    ) -> Result<(Self, Vec<SubuidWarning>), String> {
        let mut ranges = Vec::new();
        let mut warnings = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let Some((owner, first, last)) = range(line) else {
                warnings.push(SubuidWarning::Line(number));
                continue;
            };
            let uid = match owner.parse() {
                Ok(uid) => Some(uid),
                Err(_) => uid_of(owner)?,
            };
            if uid.is_none() {
                warnings.push(SubuidWarning::Owner(number, owner.into()));
            }
            ranges.push((first, last, uid));
        }
        Ok((Self { ranges }, warnings))
    }

    /// The uid itself where no range has it.
    ///
    /// # Errors
    /// When its range has no owner, or two ranges of different owners have it.
    pub fn owner_of(&self, uid: u32) -> Result<u32, Unattributable> {
        let owners: BTreeSet<Option<u32>> = self
            .ranges
            .iter()
            .filter(|range| (range.0..=range.1).contains(&uid))
            .map(|range| range.2)
            .collect();
        match (owners.first(), owners.len()) {
            (None, _) => Ok(uid),
            (Some(Some(owner)), 1) => Ok(*owner),
            _ => Err(Unattributable::SubordinateUid(uid)),
        }
    }
}

/// `owner:first:count`, as (owner, first, last).
fn range(line: &str) -> Option<(&str, u32, u32)> {
    let mut fields = line.trim().split(':');
    let (owner, first, count) = (fields.next()?, fields.next()?, fields.next()?);
    if owner.is_empty() || fields.next().is_some() {
        return None;
    }
    let first: u32 = first.parse().ok()?;
    let count: u32 = count.parse().ok()?;
    Some((owner, first, first.saturating_add(count.checked_sub(1)?)))
}

fn read_bounded(path: &Path) -> io::Result<String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_FILE) {
        return Err(io::Error::other(format!("larger than {MAX_FILE} bytes")));
    }
    // names of accounts may be in any encoding; a range we cannot name still has its numbers
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (SubordinateUids, Vec<SubuidWarning>) {
        let accounts = |name: &str| Ok(if name == "mallory" { Some(2003) } else { None });
        SubordinateUids::parse(text, accounts).unwrap()
    }

    #[test]
    fn a_uid_of_a_range_counts_as_its_owner_whether_named_or_numbered() {
        let (uids, warnings) = parse("# comment\nmallory:100000:65536\n\n2004:200000:10\n");
        assert_eq!(warnings, []);
        for (uid, owner) in [
            (0, 0),
            (99_999, 99_999),
            (100_000, 2003),
            (165_535, 2003),
            (165_536, 165_536),
            (200_000, 2004),
            (200_009, 2004),
            (200_010, 200_010),
        ] {
            assert_eq!(uids.owner_of(uid), Ok(owner), "{uid}");
        }
    }

    #[test]
    fn a_range_of_nobody_or_of_two_is_refused() {
        let (uids, warnings) = parse("gone:100000:10\nmallory:200000:10\n2004:200005:10\nmallory:200001:1\n");
        assert_eq!(warnings, [SubuidWarning::Owner(1, "gone".into())]);
        for uid in [100_000, 100_009, 200_005, 200_009] {
            assert_eq!(uids.owner_of(uid), Err(Unattributable::SubordinateUid(uid)));
        }
        assert_eq!(uids.owner_of(200_001), Ok(2003));
        assert_eq!(uids.owner_of(200_010), Ok(2004));
    }

    #[test]
    fn what_is_no_range_is_ignored_with_a_warning_and_the_end_never_overflows() {
        let (uids, warnings) =
            parse("mallory:1\nmallory:x:5\n:5:5\nmallory:5:0\nmallory:1:2:3\nmallory:4294967290:65536\n");
        assert_eq!(warnings, (1..=5).map(SubuidWarning::Line).collect::<Vec<_>>());
        assert_eq!(uids.owner_of(u32::MAX), Ok(2003));
        assert_eq!(uids.owner_of(5), Ok(5));
    }
}
