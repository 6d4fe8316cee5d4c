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
    /// The answer to one [`FromFilterd::Sync`]. Since minor 2.
    Synced,
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
    /// Asks for [`FromInterceptor::Synced`] as soon as all that was said before is in effect. Since minor 2.
    Sync,
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
            | Self::Drain
            | Self::Synced => false,
        }
    }

    /// The first minor version that has this message.
    #[must_use]
    pub fn since(&self) -> u8 {
        match self {
            Self::Asked { .. }
            | Self::Opened { .. }
            | Self::Gone { .. }
            | Self::Dialling { .. }
            | Self::Synced => 2,
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
                | Self::Drain
                | Self::Synced => 0,
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
            Self::Synced => w.kind(kind::SYNCED),
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
            kind::SYNCED => Self::Synced,
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
                | Self::Sync
                | Self::Leaving => 0,
            }
    }

    /// The first minor version that has this message.
    #[must_use]
    pub fn since(&self) -> u8 {
        match self {
            Self::Answer { .. } | Self::Open { .. } | Self::Sync => 2,
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
            Self::Sync => w.kind(kind::SYNC),
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
            kind::SYNC => Self::Sync,
            kind::LEAVING => Self::Leaving,
            _ => return Err(DecodeError::Kind),
        };
        r.finish()?;
        Ok(message)
    }
}

#[cfg(test)]
mod tests;
