//! filterd: judges the requests of captured connections and forwards those the rules allow. Unprivileged.
//! Opens nothing once it serves: connections come from interceptor, rules and names from before.
#![forbid(unsafe_code)]

mod answer;
mod as_service;
pub mod audit;
pub mod channel;
mod connection;
pub mod control;
mod exchange;
mod fetch;
mod filter;
pub mod forward;
pub mod in_force;
pub mod limits;
mod line;
pub mod log;
pub mod names;
pub mod notices;
mod reload;
pub mod sandbox;
mod serve;
pub mod start;
mod stock;
pub mod strict;
pub mod subject;
pub mod supervise;
mod sys;
mod tokens;

pub use filter::Filter;
pub use reload::{choose, say_in_force};
pub use serve::{End, serve};
