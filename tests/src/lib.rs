//! What imds-lab is made of, and [`Lab`], with which tests written in Rust use it.
//! Not part of what is installed.

#![forbid(unsafe_code)]

pub mod account;
pub mod cgroup;
pub mod command_line;
pub mod daemon;
pub mod error;
mod input;
pub mod inside;
mod lab;
mod notify;
pub mod outside;
pub mod stopwatch;
pub mod world;

pub use lab::{Lab, Outcome, require_root};
pub use stopwatch::Stopwatch;
