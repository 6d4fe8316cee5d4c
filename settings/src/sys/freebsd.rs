//! FreeBSD: what a port installs lies below /usr/local (hier(7)). See the contract in `sys`.

pub(crate) const SETTINGS: &str = "/usr/local/etc/imds-filterd.toml";
pub(crate) const RULES: &str = "/usr/local/etc/imds.conf";
pub(crate) const RUNTIME: &str = "/var/run/imds-filterd";
