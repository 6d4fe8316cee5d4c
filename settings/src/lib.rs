//! What a process reads while it starts and before it gives up its privileges: imds-filterd.toml and the account
//! database. Nothing here is called after that. Knows neither HTTP nor rules.
#![forbid(unsafe_code)]

mod accounts;
mod file;
mod kept;
mod refuse_status;
mod sys;
mod token_source;
mod trusted;

pub use accounts::{AccountError, Accounts, Group, User};
pub use file::{
    Capture, Cgroup, DEFAULT_PATH, Filter, Forwarded, GroupSource, Guard, Limits, Mode, Sandbox, Service,
    Settings, SettingsError,
};
pub use kept::Kept;
pub use refuse_status::{NoRefuseStatus, RefuseStatus};
pub use token_source::TokenSource;
pub use trusted::{ReadError, read_trusted};

/// Exit codes of sysexits(3), the ones these programs use.
pub mod exit {
    pub const USAGE: u8 = 64;
    pub const NO_INPUT: u8 = 66;
    pub const UNAVAILABLE: u8 = 69;
    pub const OS: u8 = 71;
    pub const TEMPORARY: u8 = 75;
    pub const PERMISSION: u8 = 77;
    pub const CONFIGURATION: u8 = 78;
}
