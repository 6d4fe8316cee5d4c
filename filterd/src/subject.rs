//! What interceptor told of a client, as the rules take it; and whether it can tell what the rules ask for.
//! Must not make "none" of what was not told.

use imds_ipc::{Identity, Lack, Needs};
use imds_rules::{Groups, RuleRef, Rules, Subject, Unit};
use imds_settings::GroupSource;
use std::fmt;

/// The rules ask for what is not told of clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CannotTell {
    rule: RuleRef,
    what: &'static str,
    why: Lack,
    advice: &'static str,
}

impl fmt::Display for CannotTell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, what, why, advice } = self;
        write!(f, "line {}: `{}`: {what} of clients cannot be told: {why}{advice}", rule.line, rule.text)
    }
}

impl std::error::Error for CannotTell {}

/// What these rules need of clients.
///
/// # Errors
/// When interceptor cannot tell it.
pub fn needs(rules: &Rules, groups: GroupSource, identity: Identity) -> Result<Needs, CannotTell> {
    let from_kernel = match groups {
        GroupSource::Kernel => rules.first_with_group(),
        GroupSource::Database => None,
    };
    if let (Some(rule), Err(why)) = (from_kernel, identity.groups) {
        let advice = "; groups = \"database\" in the settings judges by the account database instead";
        return Err(CannotTell { rule: rule.clone(), what: "the groups", why, advice });
    }
    if let (Some(rule), Err(why)) = (rules.first_with_unit(), identity.unit) {
        return Err(CannotTell { rule: rule.clone(), what: "the units", why, advice: "" });
    }
    Ok(Needs { groups: from_kernel.is_some(), unit: rules.first_with_unit().is_some() })
}

pub(crate) fn subject(told: imds_ipc::Subject, source: GroupSource) -> Subject {
    let groups = match (source, told.groups) {
        (GroupSource::Database, _) => Groups::Database,
        (GroupSource::Kernel, imds_ipc::Groups::All(gids)) => Groups::All(gids),
        (GroupSource::Kernel, imds_ipc::Groups::Cut(gids)) => Groups::AtLeast(gids),
        (GroupSource::Kernel, imds_ipc::Groups::Unknown) => Groups::AtLeast(Vec::new()),
    };
    let unit = match told.unit {
        imds_ipc::Unit::Unknown => Unit::Unknown,
        imds_ipc::Unit::None => Unit::None,
        imds_ipc::Unit::Named(name) => Unit::Named(name),
    };
    Subject { uid: told.uid, groups, unit }
}

#[cfg(test)]
mod tests {
    use super::*;
    use imds_rules::{Names, parse};

    fn rules(text: &str) -> Rules {
        Rules::new(&parse("t.conf", text.as_bytes()).unwrap(), &Names::default())
    }

    const ALL: Identity = Identity { groups: Ok(()), unit: Ok(()), connecting: Ok(()) };

    #[test]
    fn only_what_the_rules_ask_for_is_needed() {
        for (text, groups, unit) in [
            ("Allow \"/\"", false, false),
            ("Allow user 5 \"/\"", false, false),
            ("Allow group 5 \"/\"", true, false),
            ("Allow unit a.service \"/\"", false, true),
            ("Allow group 5 unit a.service \"/\"", true, true),
        ] {
            let wanted = Needs { groups, unit };
            assert_eq!(needs(&rules(text), GroupSource::Kernel, ALL), Ok(wanted), "{text}");
            let wanted = Needs { groups: false, unit };
            assert_eq!(needs(&rules(text), GroupSource::Database, ALL), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn rules_that_ask_for_what_cannot_be_told_are_refused_with_the_reason() {
        let none = Identity::partial(Lack::NoTypes);
        let text = "Allow \"/\"\nDeny group 5 \"/x\"\n";
        let said = needs(&rules(text), GroupSource::Kernel, none).unwrap_err().to_string();
        for word in ["line 2", "Deny group 5", "groups", "/sys/kernel/btf/vmlinux", "database"] {
            assert!(said.contains(word), "{said}");
        }
        assert!(needs(&rules(text), GroupSource::Database, none).is_ok());
        let said = needs(&rules("Allow unit a.service \"/\""), GroupSource::Database, none).unwrap_err();
        assert!(said.to_string().contains("units"));
        assert!(needs(&rules("Allow \"/\""), GroupSource::Kernel, none).is_ok());
    }

    #[test]
    fn what_was_not_told_is_not_known_and_not_none() {
        let told = imds_ipc::Subject::of_uid(5);
        let judged = subject(told.clone(), GroupSource::Kernel);
        assert_eq!(judged, Subject { uid: 5, groups: Groups::AtLeast(vec![]), unit: Unit::Unknown });
        assert_eq!(subject(told.clone(), GroupSource::Database).groups, Groups::Database);
        let cut = imds_ipc::Subject { groups: imds_ipc::Groups::Cut(vec![1]), ..told.clone() };
        assert_eq!(subject(cut, GroupSource::Kernel).groups, Groups::AtLeast(vec![1]));
        let all = imds_ipc::Subject { groups: imds_ipc::Groups::All(vec![1]), ..told };
        assert_eq!(subject(all, GroupSource::Kernel).groups, Groups::All(vec![1]));
    }
}
