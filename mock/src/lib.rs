//! The EC2 instance metadata service, imitated: same answers, same headers in the same order, no instance needed.
//! No part of the filter: it tells nobody apart and hands its (made-up) secrets to everybody who asks.
//!
//! ```text
//! server    sockets: reads one bounded request at a time, records it, writes the answer
//! request   bytes -> Request | Malformed
//! service   Request + time -> Answer; tokens, methods, 401 and 403
//! tree      what is served, as data: instance.toml and its listings
//! text      one value, its fields filled in when served
//! answer    Answer -> bytes
//! record    what was received, one JSON object a line
//! clock, credentials, tokens: dates; made-up secrets that age; session tokens
//! ```
#![forbid(unsafe_code)]

mod answer;
mod clock;
mod credentials;
mod record;
mod request;
mod server;
mod service;
mod text;
mod tokens;
mod tree;

pub use answer::{Answer, Page};
pub use record::{Record, Recorder, read_records};
pub use request::{Malformed, Request};
pub use server::{Options, Server};
pub use service::{Profile, Service};
pub use tree::{Tree, TreeError};
