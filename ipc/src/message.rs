//! The messages. One enum a direction, so that neither process can even name what only the other may say.
//! Decides nothing: a well-formed message may still be refused by whoever gets it.

use crate::blob::Blob;
use crate::control::Mode;
use crate::piece::{MAX_ANSWER, MAX_ASKED, Piece};
use crate::subject::{Identity, MAX_WHY, Needs, Subject, Unattributed, Who};
use crate::wire::{DecodeError, OLDEST_MINOR, PROTOCOL_MINOR, Reader, Writer, kind};
use std::net::SocketAddr;

/// Opens a channel, from both ends, before anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// The newest minor version of the protocol that the sender speaks.
    pub minor: u8,
    /// The oldest minor version that it still speaks (at least the one before its newest).
    pub oldest_minor: u8,
}

impl Hello {
    /// What this build says.
    pub const OURS: Hello = Hello { minor: PROTOCOL_MINOR, oldest_minor: OLDEST_MINOR };
    /// The same of a program of the previous minor.
    pub const PREVIOUS: Hello = Hello { minor: PROTOCOL_MINOR.saturating_sub(1), oldest_minor: OLDEST_MINOR };

    /// The minor version that both ends speak.
    ///
    /// # Errors
    /// [`DecodeError::Version`] if there is none; the two programs are too far apart and one must be upgraded.
    pub fn agree(self, peer: Hello) -> Result<u8, DecodeError> {
        let minor = self.minor.min(peer.minor);
        if minor >= self.oldest_minor && minor >= peer.oldest_minor {
            Ok(minor)
        } else {
            Err(DecodeError::Version)
        }
    }
}

/// Why an upstream connection could not be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DialFailure {
    /// The metadata service answered with a reset.
    Refused,
    /// No answer within the dial limit.
    TimedOut,
    /// The host has no route to it, or the kernel refused the attempt.
    Unreachable,
    /// More dials are under way than the limit allows.
    TooMany,
    /// No such index in interceptor's configuration.
    UnknownUpstream,
}

/// What interceptor says to filterd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromInterceptor {
    Hello(Hello),
    /// Comes once, right after its Hello.
    Identity(Identity),
    /// What a filterd before asked to be kept, if one did. Comes once, after its first word of needs and before the first
    /// connection.
    Kept(Blob),
    /// A captured connection; its bytes travel over the one descriptor that comes with this message.
    Connection {
        id: u64,
        /// Nobody only where the newest [`FromFilterd::Mode`] was audit.
        subject: Who,
        client: SocketAddr,
        /// The address and port that the client connected to.
        service: SocketAddr,
        /// That address as an index for [`FromFilterd::Dial`].
        upstream: u16,
    },
    /// Bytes of a captured connection that filterd does not have, for one answer to all of them: filterd is to say
    /// [`FromFilterd::Answer`], or [`FromFilterd::Open`] if that cannot be. Since minor 2.
    Asked {
        id: u64,
        /// As with [`Self::Connection`].
        subject: Who,
        client: SocketAddr,
        service: SocketAddr,
        upstream: u16,
        /// As how manieth of its uid's connections it began, those counted that were still there.
        place: u32,
        bytes: Piece,
    },
    /// What filterd asked to open: from here on the bytes of this connection, all but those it was asked, travel over the
    /// one descriptor that comes with this message. Since minor 2.
    Opened {
        id: u64,
    },
    /// There was nothing to open: the client had gone. Since minor 2.
    Gone {
        id: u64,
    },
    /// The connected upstream socket is the one descriptor that comes with this message.
    Dialled {
        dial: u64,
    },
    /// The one descriptor that comes with this message is an upstream socket that is being connected: how that ends, and
    /// within what time, is filterd's to see. Since minor 2.
    Dialling {
        dial: u64,
    },
    DialFailed {
        dial: u64,
        why: DialFailure,
    },
    /// A newer filterd is attached: finish what is under way, and leave. Since minor 1.
    Drain,
}

/// What filterd says to interceptor. Never with a descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromFilterd {
    Hello(Hello),
    /// Comes after its Hello, and again whenever its rules change. Before the first, all that can be told is.
    Needs(Needs),
    /// Comes with its needs. In audit mode the connections of clients whom nobody can tell are wanted too; before the
    /// first such word, and with no filterd attached, they are refused. Since minor 1.
    Mode(Mode),
    /// To be given to the next filterd, in place of what was kept before.
    Keep(Blob),
    /// Asks for a connection to a configured upstream; `dial` is filterd's own number for the ask.
    Dial {
        dial: u64,
        upstream: u16,
    },
    /// filterd is about to close this connection on purpose. End of file without it is a death.
    Close {
        connection: u64,
    },
    /// Comes before the last bytes of an answer are written, so that whoever looks at what was written knows which
    /// requests are answered. Since minor 1.
    Answered {
        connection: u64,
        /// How many bytes of the client's it answers, after those of the last such message.
        bytes: u32,
        /// How many bytes filterd will have written on this connection when the answer is whole.
        end: u64,
        /// The connection closes with it: a [`FromFilterd::Close`] that holds if all of the answer was written.
        closes: bool,
    },
    /// filterd gives this connection up: its client is to see a reset. Since minor 1.
    Reset {
        connection: u64,
    },
    /// The whole answer to what [`FromInterceptor::Asked`] said, which is over with it. If the connection does not close,
    /// its next bytes are an ask of their own. Since minor 2.
    Answer {
        connection: u64,
        closes: bool,
        bytes: Piece,
    },
    /// What was asked cannot be answered in a message: it is not all of a head, or more than one, or the answer is long or
    /// slow. Since minor 2.
    Open {
        connection: u64,
    },
    /// This filterd ends. It wants no further connections; those it closes from here on without [`FromFilterd::Close`]
    /// are for the next one. Since minor 1.
    Leaving,
}

impl FromInterceptor {
    /// Whether exactly one descriptor must come with this message.
    #[must_use]
    pub fn carries_descriptor(&self) -> bool {
        match self {
            Self::Connection { .. } | Self::Opened { .. } | Self::Dialled { .. } | Self::Dialling { .. } => {
                true
            }
            Self::Hello(_)
            | Self::Identity(_)
            | Self::Kept(_)
            | Self::Asked { .. }
            | Self::Gone { .. }
            | Self::DialFailed { .. }
            | Self::Drain => false,
        }
    }

    /// The first minor version that has this message.
    #[must_use]
    pub fn since(&self) -> u8 {
        match self {
            Self::Asked { .. } | Self::Opened { .. } | Self::Gone { .. } | Self::Dialling { .. } => 2,
            Self::Kept(_) | Self::Drain | Self::Connection { subject: Err(_), .. } => 1,
            Self::Hello(_)
            | Self::Identity(_)
            | Self::Connection { subject: Ok(_), .. }
            | Self::Dialled { .. }
            | Self::DialFailed { .. } => 0,
        }
    }

    /// A number of bytes that it does not exceed when encoded, for who wipes what held it.
    #[must_use]
    pub fn longest(&self) -> usize {
        const FIXED: usize = 128; // header, numbers, two addresses
        FIXED
            + match self {
                Self::Asked { subject, bytes, .. } => longest(subject) + bytes.bytes().len(),
                Self::Connection { subject, .. } => longest(subject),
                Self::Kept(blob) => blob.bytes().len(),
                Self::Hello(_)
                | Self::Identity(_)
                | Self::Opened { .. }
                | Self::Gone { .. }
                | Self::Dialled { .. }
                | Self::Dialling { .. }
                | Self::DialFailed { .. }
                | Self::Drain => 0,
            }
    }

    /// Appends nothing, replaces `out` by the encoded message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut w = Writer::new(out);
        match self {
            Self::Hello(hello) => w.hello(*hello),
            Self::Identity(identity) => {
                w.kind(kind::IDENTITY);
                identity.encode(&mut w);
            }
            Self::Kept(blob) => {
                w.kind(kind::KEPT);
                w.blob(blob);
            }
            Self::Connection { id, subject, client, service, upstream } => {
                // a 1.0 knows the first kind only, and never has the second, which it cannot ask for
                match subject {
                    Ok(subject) => {
                        w.kind(kind::CONNECTION);
                        w.u64(*id);
                        subject.encode(&mut w);
                    }
                    Err(why) => {
                        w.kind(kind::UNATTRIBUTED);
                        w.u64(*id);
                        why.encode(&mut w);
                    }
                }
                w.address(*client);
                w.address(*service);
                w.u16(*upstream);
            }
            Self::Asked { id, subject, client, service, upstream, place, bytes } => {
                w.kind(kind::ASKED);
                w.u64(*id);
                w.bool(subject.is_ok());
                match subject {
                    Ok(subject) => subject.encode(&mut w),
                    Err(why) => why.encode(&mut w),
                }
                w.address(*client);
                w.address(*service);
                w.u16(*upstream);
                w.u32(*place);
                w.piece(bytes);
            }
            Self::Opened { id } => {
                w.kind(kind::OPENED);
                w.u64(*id);
            }
            Self::Gone { id } => {
                w.kind(kind::GONE);
                w.u64(*id);
            }
            Self::Dialled { dial } => {
                w.kind(kind::DIALLED);
                w.u64(*dial);
            }
            Self::Dialling { dial } => {
                w.kind(kind::DIALLING);
                w.u64(*dial);
            }
            Self::DialFailed { dial, why } => {
                w.kind(kind::DIAL_FAILED);
                w.u64(*dial);
                w.u8(match why {
                    DialFailure::Refused => 1,
                    DialFailure::TimedOut => 2,
                    DialFailure::Unreachable => 3,
                    DialFailure::TooMany => 4,
                    DialFailure::UnknownUpstream => 5,
                });
            }
            Self::Drain => w.kind(kind::DRAIN),
        }
        w.finish();
    }

    /// # Errors
    /// Whatever is not exactly one message of this direction.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes)?;
        let message = match r.kind() {
            kind::HELLO => Self::Hello(r.hello()?),
            kind::IDENTITY => Self::Identity(Identity::decode(&mut r)?),
            kind::KEPT => Self::Kept(r.blob()?),
            kind::CONNECTION => Self::Connection {
                id: r.u64()?,
                subject: Ok(Subject::decode(&mut r)?),
                client: r.address()?,
                service: r.address()?,
                upstream: r.u16()?,
            },
            kind::UNATTRIBUTED => Self::Connection {
                id: r.u64()?,
                subject: Err(Unattributed::decode(&mut r)?),
                client: r.address()?,
                service: r.address()?,
                upstream: r.u16()?,
            },
            kind::ASKED => Self::Asked {
                id: r.u64()?,
                subject: match r.bool()? {
                    true => Ok(Subject::decode(&mut r)?),
                    false => Err(Unattributed::decode(&mut r)?),
                },
                client: r.address()?,
                service: r.address()?,
                upstream: r.u16()?,
                place: r.u32()?,
                bytes: r.piece(MAX_ASKED)?,
            },
            kind::OPENED => Self::Opened { id: r.u64()? },
            kind::GONE => Self::Gone { id: r.u64()? },
            kind::DIALLED => Self::Dialled { dial: r.u64()? },
            kind::DIALLING => Self::Dialling { dial: r.u64()? },
            kind::DIAL_FAILED => Self::DialFailed {
                dial: r.u64()?,
                why: match r.u8()? {
                    1 => DialFailure::Refused,
                    2 => DialFailure::TimedOut,
                    3 => DialFailure::Unreachable,
                    4 => DialFailure::TooMany,
                    5 => DialFailure::UnknownUpstream,
                    _ => return Err(DecodeError::Value),
                },
            },
            kind::DRAIN => Self::Drain,
            _ => return Err(DecodeError::Kind),
        };
        r.finish()?;
        Ok(message)
    }
}

fn longest(who: &Who) -> usize {
    match who {
        Ok(subject) => subject.longest(),
        Err(_) => MAX_WHY,
    }
}

impl FromFilterd {
    /// A number of bytes that it does not exceed when encoded, for who wipes what held it.
    #[must_use]
    pub fn longest(&self) -> usize {
        const FIXED: usize = 32; // header and numbers
        FIXED
            + match self {
                Self::Answer { bytes, .. } => bytes.bytes().len(),
                Self::Keep(blob) => blob.bytes().len(),
                Self::Hello(_)
                | Self::Needs(_)
                | Self::Mode(_)
                | Self::Dial { .. }
                | Self::Close { .. }
                | Self::Answered { .. }
                | Self::Reset { .. }
                | Self::Open { .. }
                | Self::Leaving => 0,
            }
    }

    /// The first minor version that has this message.
    #[must_use]
    pub fn since(&self) -> u8 {
        match self {
            Self::Answer { .. } | Self::Open { .. } => 2,
            Self::Mode(_) | Self::Keep(_) | Self::Answered { .. } | Self::Reset { .. } | Self::Leaving => 1,
            Self::Hello(_) | Self::Needs(_) | Self::Dial { .. } | Self::Close { .. } => 0,
        }
    }

    /// Replaces `out` by the encoded message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut w = Writer::new(out);
        match self {
            Self::Hello(hello) => w.hello(*hello),
            Self::Needs(needs) => {
                w.kind(kind::NEEDS);
                needs.encode(&mut w);
            }
            Self::Mode(mode) => {
                w.kind(kind::MODE);
                w.u8(mode.number());
            }
            Self::Keep(blob) => {
                w.kind(kind::KEEP);
                w.blob(blob);
            }
            Self::Dial { dial, upstream } => {
                w.kind(kind::DIAL);
                w.u64(*dial);
                w.u16(*upstream);
            }
            Self::Close { connection } => {
                w.kind(kind::CLOSE);
                w.u64(*connection);
            }
            Self::Answered { connection, bytes, end, closes } => {
                w.kind(kind::ANSWERED);
                w.u64(*connection);
                w.u32(*bytes);
                w.u64(*end);
                w.bool(*closes);
            }
            Self::Reset { connection } => {
                w.kind(kind::RESET);
                w.u64(*connection);
            }
            Self::Answer { connection, closes, bytes } => {
                w.kind(kind::ANSWER);
                w.u64(*connection);
                w.bool(*closes);
                w.piece(bytes);
            }
            Self::Open { connection } => {
                w.kind(kind::OPEN);
                w.u64(*connection);
            }
            Self::Leaving => w.kind(kind::LEAVING),
        }
        w.finish();
    }

    /// # Errors
    /// Whatever is not exactly one message of this direction.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes)?;
        let message = match r.kind() {
            kind::HELLO => Self::Hello(r.hello()?),
            kind::NEEDS => Self::Needs(Needs::decode(&mut r)?),
            kind::MODE => Self::Mode(Mode::of(r.u8()?)?),
            kind::KEEP => Self::Keep(r.blob()?),
            kind::DIAL => Self::Dial { dial: r.u64()?, upstream: r.u16()? },
            kind::CLOSE => Self::Close { connection: r.u64()? },
            kind::ANSWERED => {
                Self::Answered { connection: r.u64()?, bytes: r.u32()?, end: r.u64()?, closes: r.bool()? }
            }
            kind::RESET => Self::Reset { connection: r.u64()? },
            kind::ANSWER => {
                Self::Answer { connection: r.u64()?, closes: r.bool()?, bytes: r.piece(MAX_ANSWER)? }
            }
            kind::OPEN => Self::Open { connection: r.u64()? },
            kind::LEAVING => Self::Leaving,
            _ => return Err(DecodeError::Kind),
        };
        r.finish()?;
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
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
                56, 0, 0, 0, 1, 0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, 1, 0, 6, 0, 0, 0, 2, 1, 0,
                b'u', 2, 7, 0, 0, 0, 2, 0, b'/', b'x', 4, 1, 2, 3, 4, 5, 0, 4, 6, 7, 8, 9, 80, 0, 3, 0
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
                35, 0, 0, 0, 1, 0, 7, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, b'w', 4, 1, 2, 3, 4, 5, 0, 4, 6, 7, 8,
                9, 80, 0, 3, 0
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
                46, 0, 0, 0, 1, 0, 9, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 4, 1, 2, 3, 4, 5, 0,
                4, 6, 7, 8, 9, 80, 0, 3, 0, 4, 0, 0, 0, b'a', b'b'
            ]
        );
        let added = samples_from_filterd().into_iter().filter(|message| message.since() == 2).count();
        assert_eq!(added, 3);
        let added = samples_from_interceptor().into_iter().filter(|message| message.since() == 2).count();
        assert_eq!(added, 5);
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
}
