//! interceptor as a library, so that tests and fuzz targets reach its parts: captures connections, attributes them and
//! hands them over. Must never see HTTP or rules.
#![deny(unsafe_code)]

pub mod attribution;
pub mod capture;
mod event_loop;
pub mod filter;
pub mod log;
pub mod netstack;
pub mod start;
mod store;
#[allow(unsafe_code)]
mod sys;
#[cfg(feature = "fuzzing")]
pub use sys::fuzzing;
pub mod upstream;
