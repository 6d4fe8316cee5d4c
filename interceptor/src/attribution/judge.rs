//! What follows from who made a socket and who connects it. Pure.
//! Must not make a subject of a record that leaves a doubt about the uid.

use super::unit::unit_of;
use super::{SubordinateUids, Unattributable};
use crate::sys::{Connecting, GroupList, Record};
use imds_ipc::{Groups, Process, Subject, Unit};

/// `owner`: the socket's uid by sock_diag. `must_connect`: whether it has to be known who connects.
pub(super) fn subject(
    owner: u32,
    record: &Record,
    must_connect: bool,
    subordinate: &SubordinateUids,
) -> Result<Subject, Unattributable> {
    let maker = record.uid;
    if maker != owner {
        return Err(Unattributable::GivenAway { maker, owner });
    }
    match &record.connecting {
        Some(connecting) if connecting.uid != maker => {
            return Err(Unattributable::ConnectedByAnother { maker, by: connecting.uid });
        }
        None if must_connect => return Err(Unattributable::NoConnect),
        Some(_) | None => {}
    }
    Ok(Subject {
        uid: responsible(maker, record.namespace_owner, subordinate)?,
        groups: groups_of(record.groups.clone(), record.namespace_owner),
        unit: record.cgroups.as_deref().map_or(Unit::Unknown, unit_of),
        process: record.connecting.as_ref().map(process),
    })
}

/// For the log alone: who connects chooses what he runs and calls it as he likes.
fn process(connecting: &Connecting) -> Process {
    let exe = connecting.exe.as_deref().map(|name| String::from_utf8_lossy(name).into_owned());
    Process { pid: connecting.pid, exe }
}

/// Whoever made the outermost user namespace answers for all uids in it. One that root made has only uids that root
/// chose to put there, and its owner may be but a set-uid program: there the uid itself counts, or its range's owner.
fn responsible(
    uid: u32,
    namespace_owner: Option<u32>,
    subordinate: &SubordinateUids,
) -> Result<u32, Unattributable> {
    match namespace_owner {
        Some(owner) if owner != 0 => Ok(owner),
        // in the initial namespace, too: a set-uid file may have a uid of a range
        Some(_) | None => subordinate.owner_of(uid),
    }
}

/// In a user namespace groups can be dropped at will.
pub(super) fn groups_of(told: Option<GroupList>, namespace_owner: Option<u32>) -> Groups {
    match (told, namespace_owner) {
        (None, _) | (_, Some(_)) => Groups::Unknown,
        (Some(list), None) if list.cut => Groups::Cut(list.gids),
        (Some(list), None) => Groups::All(list.gids),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            cookie: 1,
            uid: 2001,
            connecting: Some(Connecting { uid: 2001, pid: 9, exe: Some(b"curl".to_vec()) }),
            namespace_owner: None,
            groups: Some(GroupList { gids: vec![3001, 5], cut: false }),
            cgroups: Some(vec![b"system.slice".to_vec(), b"a.service".to_vec()]),
        }
    }

    fn judged(owner: u32, record: Record) -> Result<Subject, Unattributable> {
        subject(owner, &record, true, &SubordinateUids::default())
    }

    #[test]
    fn who_made_and_connects_a_socket_is_its_subject_with_groups_and_unit() {
        let expected = Subject {
            uid: 2001,
            groups: Groups::All(vec![3001, 5]),
            unit: Unit::Named("a.service".into()),
            process: Some(Process { pid: 9, exe: Some("curl".into()) }),
        };
        assert_eq!(judged(2001, record()), Ok(expected));
    }

    #[test]
    fn another_who_connects_or_owns_it_is_refused() {
        let by_another =
            Record { connecting: Some(Connecting { uid: 33, pid: 9, exe: None }), uid: 0, ..record() };
        assert_eq!(
            judged(0, by_another.clone()),
            Err(Unattributable::ConnectedByAnother { maker: 0, by: 33 })
        );
        let unseen = Record { connecting: None, ..record() };
        assert_eq!(judged(2001, unseen.clone()), Err(Unattributable::NoConnect));
        assert_eq!(judged(0, record()), Err(Unattributable::GivenAway { maker: 2001, owner: 0 }));
        // where connects cannot be watched the uid is what is left, but what is seen still counts
        let none = SubordinateUids::default();
        assert_eq!(subject(2001, &unseen, false, &none).map(|subject| subject.uid), Ok(2001));
        assert!(subject(0, &by_another, false, &none).is_err());
    }

    #[test]
    fn in_a_user_namespace_its_owner_is_the_subject_and_groups_are_unknown() {
        let inside = Record { namespace_owner: Some(2003), ..record() };
        let subject = judged(2001, inside).unwrap();
        assert_eq!((subject.uid, subject.groups), (2003, Groups::Unknown));
    }

    #[test]
    fn in_a_namespace_that_root_made_nobody_becomes_root() {
        let inside = Record { namespace_owner: Some(0), ..record() };
        let subject = judged(2001, inside).unwrap();
        assert_eq!((subject.uid, subject.groups), (2001, Groups::Unknown));
    }

    #[test]
    fn what_was_not_asked_for_is_unknown_and_a_cut_list_says_so() {
        let silent = Record { groups: None, cgroups: None, ..record() };
        let subject = judged(2001, silent).unwrap();
        assert_eq!((subject.groups, subject.unit), (Groups::Unknown, Unit::Unknown));
        let cut = GroupList { gids: vec![1, 2], cut: true };
        let subject = judged(2001, Record { groups: Some(cut), ..record() }).unwrap();
        assert_eq!(subject.groups, Groups::Cut(vec![1, 2]));
    }
}
