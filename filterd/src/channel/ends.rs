//! Why there is no channel any more, and why a dial gave no connection, in words for the log.
//! Must not say anything of a client.

use imds_ipc::channel::ChannelError;
use imds_ipc::{DecodeError, DialFailure};
use std::fmt;

/// Why there is no channel any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelEnd {
    Channel(ChannelError),
    Decode(DecodeError),
    /// A second Hello, or something else before the first.
    OutOfTurn,
    /// A descriptor where none is due, or none where one is.
    Descriptor,
    /// An answer to a dial that we never asked for.
    UnknownDial,
    /// It opened what we never asked for.
    UnknownOpen,
    NoHello,
    /// It has not read our messages for long.
    Deaf,
}

impl fmt::Display for ChannelEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Channel(error) => error.fmt(f),
            Self::Decode(error) => write!(f, "interceptor sent {error}"),
            Self::OutOfTurn => f.write_str("interceptor sent a message out of turn"),
            Self::Descriptor => {
                f.write_str("interceptor sent a message with the wrong number of descriptors")
            }
            Self::UnknownDial => f.write_str("interceptor answered a dial that was not asked for"),
            Self::UnknownOpen => f.write_str("interceptor opened a connection that was not asked for"),
            Self::NoHello => f.write_str("interceptor sent no hello"),
            Self::Deaf => f.write_str("interceptor does not read what it is sent"),
        }
    }
}

impl std::error::Error for ChannelEnd {}

impl From<ChannelError> for ChannelEnd {
    fn from(error: ChannelError) -> Self {
        Self::Channel(error)
    }
}

impl From<DecodeError> for ChannelEnd {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

impl From<std::io::Error> for ChannelEnd {
    fn from(error: std::io::Error) -> Self {
        let errno = rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO);
        Self::Channel(errno.into())
    }
}

/// Why a dial gave no upstream connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DialError {
    Failed(DialFailure),
    /// No word from interceptor in time.
    NoAnswer,
    /// interceptor is gone.
    ChannelGone,
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Failed(DialFailure::Refused) => "the metadata service refused the connection",
            Self::Failed(DialFailure::TimedOut) | Self::NoAnswer => "the metadata service does not answer",
            Self::Failed(DialFailure::Unreachable) => "the metadata service is unreachable",
            Self::Failed(DialFailure::TooMany) => {
                "too many connections to the metadata service are being made"
            }
            Self::Failed(DialFailure::UnknownUpstream) => "interceptor knows no such service",
            Self::ChannelGone => "interceptor is gone",
        })
    }
}

impl std::error::Error for DialError {}
