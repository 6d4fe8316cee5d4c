//! The strict reader: one request head at a time out of a client's bytes, before hyper sees anything.
//! Judges form only; what a well-formed request may have is for the rules.

mod collector;
mod head;
mod io;

pub use collector::{Collected, Collector};
pub use head::{Fields, Head, Malformed};
pub(crate) use io::{Ask, Draining, First, Opening, Slot, StrictIo, Way, Whole};
