//! The boundary: what `interceptor` and `filterd` may say to each other, and how it crosses a unix socket.
//! No policy, no HTTP, no state: bytes to messages and back. Each side treats the other as hostile.
#![forbid(unsafe_code)]

mod blob;
pub mod channel;
pub mod control;
mod message;
mod piece;
pub mod status;
mod subject;
mod time;
mod wire;

pub use blob::{Blob, MAX_BLOB};
pub use message::{DialFailure, FromFilterd, FromInterceptor, Hello};
pub use piece::{MAX_ANSWER, MAX_ASKED, Piece};
pub use subject::{
    Groups, Identity, Lack, MAX_EXE, MAX_GROUPS, Needs, Process, Subject, Unattributed, Unit, Who,
};
pub use time::Utc;
pub use wire::{DecodeError, MAX_MESSAGE, PROTOCOL_MAJOR, PROTOCOL_MINOR};

/// The name of interceptor's listening socket below the runtime directory.
pub const FILTER_SOCKET: &str = "filter.sock";
