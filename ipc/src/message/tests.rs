//! The messages on the wire, byte by byte: what survives it, what is refused, what stays as it is for ever.
//! Must not be changed to make a changed byte pass: a new minor version adds.

use super::*;
use crate::blob::MAX_BLOB;
use crate::subject::{Groups, Lack, MAX_EXE, MAX_GROUPS, Process, Unit};
use crate::wire::MAX_MESSAGE;
use proptest::prelude::*;

fn samples_from_interceptor() -> Vec<FromInterceptor> {
    let client = "10.0.0.5:40001".parse().unwrap();
    let service = "169.254.169.254:80".parse().unwrap();
    let client6 = "[fd00:1::2]:40001".parse().unwrap();
    let service6 = "[fd00:ec2::254]:80".parse().unwrap();
    let subject = Subject::of_uid(1000);
    let known = Subject {
        uid: 0,
        groups: Groups::All(vec![5, u32::MAX]),
        unit: Unit::Named("nginx.service".into()),
        process: Some(Process { pid: 77, exe: Some("/usr/bin/curl".into()) }),
    };
    let cut = Subject {
        uid: 7,
        groups: Groups::Cut(vec![]),
        unit: Unit::None,
        process: Some(Process { pid: 1, exe: None }),
    };
    let mut all = vec![
        FromInterceptor::Hello(Hello::OURS),
        FromInterceptor::Identity(Identity::partial(Lack::NoTypes)),
        FromInterceptor::Identity(Identity {
            groups: Ok(()),
            unit: Err(Lack::NoCgroups),
            connecting: Ok(()),
        }),
        FromInterceptor::Connection { id: 7, subject: Ok(subject.clone()), client, service, upstream: 0 },
        FromInterceptor::Connection { id: 8, subject: Ok(known), client, service, upstream: 0 },
        FromInterceptor::Connection { id: 9, subject: Ok(cut), client, service, upstream: 0 },
        FromInterceptor::Connection {
            id: u64::MAX,
            subject: Ok(subject),
            client: client6,
            service: service6,
            upstream: 1,
        },
        FromInterceptor::Connection {
            id: 10,
            subject: Err(Unattributed::new("no local socket")),
            client,
            service,
            upstream: 0,
        },
        FromInterceptor::Dialled { dial: 3 },
        asked(Ok(Subject::of_uid(7)), 1),
        asked(Err(Unattributed::new("no local socket")), MAX_ASKED),
        FromInterceptor::Opened { id: 5 },
        FromInterceptor::Gone { id: 6 },
        FromInterceptor::Dialling { dial: 7 },
        FromInterceptor::Drain,
        FromInterceptor::Synced,
        FromInterceptor::Kept(blob(0)),
        FromInterceptor::Kept(blob(MAX_BLOB)),
    ];
    for why in [
        DialFailure::Refused,
        DialFailure::TimedOut,
        DialFailure::Unreachable,
        DialFailure::TooMany,
        DialFailure::UnknownUpstream,
    ] {
        all.push(FromInterceptor::DialFailed { dial: 9, why });
    }
    all
}

fn samples_from_filterd() -> Vec<FromFilterd> {
    vec![
        FromFilterd::Hello(Hello::OURS),
        FromFilterd::Needs(Needs { groups: true, unit: false }),
        FromFilterd::Needs(Needs { groups: false, unit: true }),
        FromFilterd::Mode(Mode::Enforce),
        FromFilterd::Mode(Mode::Audit),
        FromFilterd::Dial { dial: 1, upstream: 2 },
        FromFilterd::Close { connection: 3 },
        FromFilterd::Answered { connection: 4, bytes: 5, end: 6, closes: true },
        FromFilterd::Answered { connection: 4, bytes: u32::MAX, end: u64::MAX, closes: false },
        FromFilterd::Reset { connection: 7 },
        FromFilterd::Leaving,
        FromFilterd::Keep(blob(1)),
        FromFilterd::Answer { connection: 8, closes: true, bytes: Piece::of(b"x") },
        FromFilterd::Answer { connection: 8, closes: false, bytes: Piece::of(&[7; MAX_ANSWER]) },
        FromFilterd::Open { connection: 9 },
        FromFilterd::Sync,
    ]
}

fn asked(subject: Who, bytes: usize) -> FromInterceptor {
    let (client, service) = ("[fd00:1::2]:40001".parse().unwrap(), "[fd00:ec2::254]:80".parse().unwrap());
    let bytes = Piece::of(&vec![7; bytes]);
    FromInterceptor::Asked { id: 7, subject, client, service, upstream: 1, place: 3, bytes }
}

fn blob(bytes: usize) -> Blob {
    Blob::new(vec![7; bytes].into()).unwrap()
}

#[test]
fn what_is_kept_has_a_bound_and_is_not_shown() {
    assert_eq!(Blob::new(vec![7; MAX_BLOB + 1].into()), None);
    let mut bytes = Vec::new();
    FromFilterd::Keep(blob(MAX_BLOB)).encode(&mut bytes);
    bytes[8..10].copy_from_slice(&257_u16.to_le_bytes());
    bytes.push(7);
    bytes[0] += 1;
    assert_eq!(FromFilterd::decode(&bytes), Err(DecodeError::Value));
    assert_eq!(format!("{:?}", FromFilterd::Keep(blob(2))), "Keep(Blob(2 bytes))");
}

#[test]
fn what_is_asked_and_answered_in_a_message_has_a_bound_is_not_empty_and_not_shown() {
    let mut bytes = Vec::new();
    for count in [0, MAX_ASKED + 1] {
        asked(Ok(Subject::of_uid(7)), count).encode(&mut bytes);
        assert_eq!(FromInterceptor::decode(&bytes), Err(DecodeError::Value), "{count}");
    }
    for count in [0, MAX_ANSWER + 1] {
        let bytes_of = Piece::of(&vec![7; count]);
        FromFilterd::Answer { connection: 1, closes: false, bytes: bytes_of }.encode(&mut bytes);
        assert_eq!(FromFilterd::decode(&bytes), Err(DecodeError::Value), "{count}");
    }
    assert_eq!(format!("{:?}", Piece::of(b"secret")), "Piece(6 bytes)");
}

#[test]
fn every_message_survives_the_wire_and_every_truncation_or_extension_is_refused() {
    let mut bytes = Vec::new();
    for message in samples_from_interceptor() {
        message.encode(&mut bytes);
        assert!(bytes.len() <= message.longest(), "{message:?}");
        assert_eq!(FromInterceptor::decode(&bytes), Ok(message));
        for cut in 0..bytes.len() {
            assert!(FromInterceptor::decode(&bytes[..cut]).is_err());
        }
        bytes.push(0);
        assert!(FromInterceptor::decode(&bytes).is_err());
    }
    for message in samples_from_filterd() {
        message.encode(&mut bytes);
        assert!(bytes.len() <= message.longest(), "{message:?}");
        assert_eq!(FromFilterd::decode(&bytes), Ok(message));
        for cut in 0..bytes.len() {
            assert!(FromFilterd::decode(&bytes[..cut]).is_err());
        }
        bytes.push(0);
        assert!(FromFilterd::decode(&bytes).is_err());
    }
}

#[test]
fn neither_direction_accepts_the_other_ones_messages() {
    let mut bytes = Vec::new();
    FromFilterd::Dial { dial: 1, upstream: 0 }.encode(&mut bytes);
    assert_eq!(FromInterceptor::decode(&bytes), Err(DecodeError::Kind));
    FromInterceptor::Dialled { dial: 1 }.encode(&mut bytes);
    assert_eq!(FromFilterd::decode(&bytes), Err(DecodeError::Kind));
}

/// The bytes of version 1.0, written down: a change here is a change of the protocol.
#[test]
fn the_bytes_of_version_1_0_stay_as_they_are() {
    let mut bytes = Vec::new();
    FromFilterd::Dial { dial: 0x0102_0304_0506_0708, upstream: 0x0a0b }.encode(&mut bytes);
    assert_eq!(bytes, [18, 0, 0, 0, 1, 0, 16, 0, 8, 7, 6, 5, 4, 3, 2, 1, 0x0b, 0x0a]);
    FromFilterd::Hello(Hello { minor: 0, oldest_minor: 0 }).encode(&mut bytes);
    assert_eq!(bytes, [10, 0, 0, 0, 1, 0, 1, 0, 0, 0]);
    FromInterceptor::Connection {
        id: 1,
        subject: Ok(Subject {
            uid: 2,
            groups: Groups::All(vec![6]),
            unit: Unit::Named("u".into()),
            process: Some(Process { pid: 7, exe: Some("/x".into()) }),
        }),
        client: "1.2.3.4:5".parse().unwrap(),
        service: "6.7.8.9:80".parse().unwrap(),
        upstream: 3,
    }
    .encode(&mut bytes);
    assert_eq!(
        bytes,
        [
            56, 0, 0, 0, 1, 0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, 1, 0, 6, 0, 0, 0, 2, 1, 0, b'u',
            2, 7, 0, 0, 0, 2, 0, b'/', b'x', 4, 1, 2, 3, 4, 5, 0, 4, 6, 7, 8, 9, 80, 0, 3, 0
        ]
    );
}

#[test]
fn the_bytes_that_version_1_1_added_stay_as_they_are_and_1_0_has_none_of_them() {
    let mut bytes = Vec::new();
    FromFilterd::Answered { connection: 1, bytes: 2, end: 3, closes: true }.encode(&mut bytes);
    assert_eq!(
        bytes,
        [29, 0, 0, 0, 1, 0, 19, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 1]
    );
    FromFilterd::Reset { connection: 1 }.encode(&mut bytes);
    assert_eq!(bytes, [16, 0, 0, 0, 1, 0, 20, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    FromFilterd::Leaving.encode(&mut bytes);
    assert_eq!(bytes, [8, 0, 0, 0, 1, 0, 21, 0]);
    FromInterceptor::Drain.encode(&mut bytes);
    assert_eq!(bytes, [8, 0, 0, 0, 1, 0, 6, 0]);
    let added = samples_from_filterd().into_iter().filter(|message| message.since() == 1).count();
    assert_eq!(added, 7);
    let added = samples_from_interceptor().into_iter().filter(|message| message.since() == 1);
    let kinds = added.map(|message| {
        let of_nobody = matches!(message, FromInterceptor::Connection { subject: Err(_), .. });
        of_nobody || matches!(message, FromInterceptor::Drain | FromInterceptor::Kept(_))
    });
    assert_eq!(kinds.collect::<Vec<_>>(), [true; 4]);
    FromFilterd::Mode(Mode::Audit).encode(&mut bytes);
    assert_eq!(bytes, [9, 0, 0, 0, 1, 0, 22, 0, 1]);
    FromInterceptor::Connection {
        id: 1,
        subject: Err(Unattributed::new("w")),
        client: "1.2.3.4:5".parse().unwrap(),
        service: "6.7.8.9:80".parse().unwrap(),
        upstream: 3,
    }
    .encode(&mut bytes);
    assert_eq!(
        bytes,
        [
            35, 0, 0, 0, 1, 0, 7, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, b'w', 4, 1, 2, 3, 4, 5, 0, 4, 6, 7, 8, 9,
            80, 0, 3, 0
        ]
    );
}

#[test]
fn the_bytes_that_version_1_2_added_stay_as_they_are_and_1_1_has_none_of_them() {
    let mut bytes = Vec::new();
    FromFilterd::Answer { connection: 1, closes: true, bytes: Piece::of(b"ok") }.encode(&mut bytes);
    assert_eq!(bytes, [19, 0, 0, 0, 1, 0, 23, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, b'o', b'k']);
    FromFilterd::Open { connection: 1 }.encode(&mut bytes);
    assert_eq!(bytes, [16, 0, 0, 0, 1, 0, 24, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    FromFilterd::Sync.encode(&mut bytes);
    assert_eq!(bytes, [8, 0, 0, 0, 1, 0, 25, 0]);
    FromInterceptor::Synced.encode(&mut bytes);
    assert_eq!(bytes, [8, 0, 0, 0, 1, 0, 13, 0]);
    FromInterceptor::Opened { id: 1 }.encode(&mut bytes);
    assert_eq!(bytes, [16, 0, 0, 0, 1, 0, 10, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    FromInterceptor::Gone { id: 1 }.encode(&mut bytes);
    assert_eq!(bytes, [16, 0, 0, 0, 1, 0, 11, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    FromInterceptor::Dialling { dial: 1 }.encode(&mut bytes);
    assert_eq!(bytes, [16, 0, 0, 0, 1, 0, 12, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    FromInterceptor::Asked {
        id: 1,
        subject: Ok(Subject::of_uid(2)),
        client: "1.2.3.4:5".parse().unwrap(),
        service: "6.7.8.9:80".parse().unwrap(),
        upstream: 3,
        place: 4,
        bytes: Piece::of(b"ab"),
    }
    .encode(&mut bytes);
    assert_eq!(
        bytes,
        [
            46, 0, 0, 0, 1, 0, 9, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 4, 1, 2, 3, 4, 5, 0, 4,
            6, 7, 8, 9, 80, 0, 3, 0, 4, 0, 0, 0, b'a', b'b'
        ]
    );
    let added = samples_from_filterd().into_iter().filter(|message| message.since() == 2).count();
    assert_eq!(added, 4);
    let added = samples_from_interceptor().into_iter().filter(|message| message.since() == 2).count();
    assert_eq!(added, 6);
}

#[test]
fn the_longest_message_fits_and_longer_lists_and_texts_are_refused() {
    let subject = |groups, exe: usize| Subject {
        uid: 1,
        groups: Groups::Cut(vec![9; groups]),
        unit: Unit::Named("u".repeat(255)),
        process: Some(Process { pid: 1, exe: Some("e".repeat(exe)) }),
    };
    let address = "[fd00:ec2::254]:80".parse().unwrap();
    let mut bytes = Vec::new();
    for (groups, exe, good) in
        [(MAX_GROUPS, MAX_EXE, true), (MAX_GROUPS + 1, 1, false), (1, MAX_EXE + 1, false)]
    {
        let subject = subject(groups, exe);
        let longest = asked(Ok(subject.clone()), MAX_ASKED);
        longest.encode(&mut bytes);
        assert!(bytes.len() <= MAX_MESSAGE && bytes.len() <= longest.longest());
        assert_eq!(FromInterceptor::decode(&bytes).is_ok(), good, "{groups} {exe}");
        let message = FromInterceptor::Connection {
            id: 1,
            subject: Ok(subject),
            client: address,
            service: address,
            upstream: 0,
        };
        message.encode(&mut bytes);
        assert!(bytes.len() <= MAX_MESSAGE);
        assert_eq!(FromInterceptor::decode(&bytes).is_ok(), good, "{groups} {exe}");
    }
}

#[test]
fn a_peer_one_minor_away_is_understood_and_one_further_is_a_clear_error() {
    let ours = Hello { minor: 3, oldest_minor: 2 };
    assert_eq!(ours.agree(Hello { minor: 2, oldest_minor: 1 }), Ok(2));
    assert_eq!(ours.agree(Hello { minor: 4, oldest_minor: 3 }), Ok(3));
    assert_eq!(ours.agree(Hello { minor: 1, oldest_minor: 0 }), Err(DecodeError::Version));
    assert_eq!(ours.agree(Hello { minor: 5, oldest_minor: 4 }), Err(DecodeError::Version));
}

proptest! {
    #[test]
    fn whatever_decodes_encodes_to_the_same_bytes(bytes in prop::collection::vec(any::<u8>(), 0..64), kind in 0u16..40, major in 0u16..3) {
        let mut framed = Vec::new();
        framed.extend_from_slice(&u32::try_from(bytes.len() + 8).unwrap().to_le_bytes());
        framed.extend_from_slice(&major.to_le_bytes());
        framed.extend_from_slice(&kind.to_le_bytes());
        framed.extend_from_slice(&bytes);
        let mut again = Vec::new();
        if let Ok(message) = FromInterceptor::decode(&framed) {
            message.encode(&mut again);
            prop_assert_eq!(&again, &framed);
        }
        if let Ok(message) = FromFilterd::decode(&framed) {
            message.encode(&mut again);
            prop_assert_eq!(&again, &framed);
        }
        prop_assert!(framed.len() <= MAX_MESSAGE);
    }
}
