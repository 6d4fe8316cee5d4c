//! Linux. See the contract in `sys`.

pub(crate) const SETTINGS: &str = "/etc/imds-filterd.toml";
pub(crate) const RULES: &str = "/etc/imds.conf";
pub(crate) const RUNTIME: &str = "/run/imds-filterd";
