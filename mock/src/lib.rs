//! The EC2 instance metadata service, imitated: same answers, same headers in the same order, no instance needed.
//! No part of the filter: it tells nobody apart and hands its (made-up) secrets to everybody who asks.
//!
//! ```text
//! server    sockets: reads one bounded request at a time, records it, writes the answer
//! request   bytes -> Request | Malformed
//! service   Request + time -> Answer; tokens, methods, 401 and 403
//! config    the configuration file: options, and what is laid over the instance
//! aemm      the same of amazon-ec2-metadata-mock
//! instance  an instance as data (instance.toml is the built-in one), what is laid over it
//! tree      the listings and values made from it
//! notice    what is put into the tree while it runs: spot interruption, maintenance and the like
//! text      one value, its fields filled in when served
//! answer    Answer -> bytes
//! record    what was received, one JSON object a line
//! clock, credentials, tokens: dates; made-up secrets that age; session tokens
//! ```
#![forbid(unsafe_code)]

mod aemm;
mod answer;
mod clock;
mod config;
mod credentials;
mod fault;
mod instance;
mod notice;
mod record;
mod request;
mod server;
mod service;
mod text;
mod tokens;
mod tree;

pub use answer::{Answer, Page};
pub use clock::parse_moment;
pub use config::{Config, ConfigError};
pub use fault::TreeError;
pub use instance::Instance;
pub use notice::{Action, Due, Event, EventState, Lifecycle, Notices, Rebalance, Spot};
pub use record::{Record, Recorder, read_records};
pub use request::{Malformed, Request};
pub use server::{Options, Server};
pub use service::{Profile, Service};
pub use tree::Tree;
