//! filterd: judges the requests of captured connections and forwards those the rules allow. Unprivileged.
//! Opens nothing once it serves: connections come from interceptor, rules and names from before.
#![forbid(unsafe_code)]

mod answer;
pub mod audit;
pub mod channel;
mod connection;
mod exchange;
mod filter;
pub mod forward;
pub mod limits;
pub mod log;
pub mod notices;
pub mod sandbox;
mod serve;
pub mod start;
pub mod strict;
pub mod subject;
pub mod supervise;

pub use filter::Filter;
pub use serve::{End, serve};
