//! imds-filterd.toml as typed settings; the built-in values are EC2's. Total: an unknown key is an error.
//! Trusts the file's owner, so it refuses a file that others may write.

use crate::refuse_status::RefuseStatus;
use crate::sys;
use crate::token_source::TokenSource;
use crate::trusted::{ReadError, read_trusted};
use serde::Deserialize;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Read when `--config` is not given; may be absent.
pub const DEFAULT_PATH: &str = sys::SETTINGS;
/// Far above any real file; keeps a wrong path from filling the memory.
const MAX_FILE: u64 = 1 << 20;
/// Every service address costs rules and policies in the kernel; a cloud has two or three.
const MAX_ADDRESSES: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Holds the sockets between the processes. Root's; made at start.
    pub runtime_dir: PathBuf,
    pub capture: Capture,
    #[serde(rename = "service")]
    pub services: Vec<Service>,
    pub filter: Filter,
    pub limits: Limits,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Capture {
    /// Name of the tun device.
    pub device: String,
    /// The device's own address; answers go to whatever address the client has.
    pub address: Ipv4Addr,
    /// The device's own IPv6 address (S6 in ARCHITECTURE.md), a unique local one: IPv6 clients are given it as source.
    pub address6: Ipv6Addr,
    /// Largest packet on the tun, bytes.
    pub mtu: u16,
    /// TTL of the answers: 1 keeps them on this host.
    pub hop_limit: u8,
    /// Linux routing table that leads into the tun.
    pub table: u32,
    /// Linux firewall mark of the interceptor's own upstream sockets.
    pub mark: u32,
    /// Linux: first of the four consecutive priorities of our routing rules.
    pub rule_priority: u32,
    pub guard: Guard,
    pub forwarded: Forwarded,
    /// Linux: whose connects are watched.
    pub cgroup: Cgroup,
}

/// The cgroup v2 directory whose processes are watched when they connect.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Cgroup {
    /// The root of the hierarchy, wherever it is mounted.
    Auto,
    /// Nobody is watched.
    None,
    At(PathBuf),
}

impl TryFrom<String> for Cgroup {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "auto" => Ok(Self::Auto),
            "none" => Ok(Self::None),
            path if path.starts_with('/') => Ok(Self::At(path.into())),
            _ => Err(format!("cgroup = {text:?}: expected \"auto\", \"none\" or an absolute path")),
        }
    }
}

/// What keeps packets to the service from leaving by any other way than the marked sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Guard {
    /// Policies of the IPsec layer: nothing to pay for connected sockets, a look-up for forwarded packets.
    Xfrm,
    /// A table of nftables: for kernels without xfrm, and for routers.
    Nftables,
}

/// What becomes of packets to the service that this host forwards, for containers behind a bridge for example.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Forwarded {
    /// Nobody behind this host reaches the service.
    Refuse,
    /// They reach it directly and unjudged.
    Direct,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    pub name: String,
    pub addresses: Vec<IpAddr>,
    /// Names that a `Host` header may carry besides the addresses.
    #[serde(default)]
    pub hosts: Vec<String>,
    #[serde(default = "http_port")]
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Filter {
    /// The user that filterd becomes; only its processes may attach to the interceptor.
    pub user: String,
    pub rules: PathBuf,
    pub groups: GroupSource,
    pub sandbox: Sandbox,
    pub mode: Mode,
    /// Of our own answers that refuse.
    pub refuse_status: RefuseStatus,
    pub tokens: TokenSource,
}

/// What becomes of a request that is not allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It is refused.
    Enforce,
    /// It is let through and logged, so that rules can be watched before they are enforced.
    Audit,
}

/// What becomes of a start on a kernel that cannot filter system calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sandbox {
    /// Neither program starts.
    Required,
    /// Both start, and say what is missing.
    BestEffort,
}

/// Where the groups of a client come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupSource {
    /// The kernel: the groups of the process that made the connection's socket.
    Kernel,
    /// The account database, read when the rules are loaded.
    Database,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    pub connections: u32,
    pub connections_per_uid: u32,
    pub half_open_per_uid: u32,
    /// Requests a second for a uid, after `request_burst`.
    pub requests_per_second: u32,
    pub request_burst: u32,
    /// Bytes of a request's head.
    pub head_bytes: u32,
    /// Bytes of an answer's body.
    pub answer_bytes: u64,
    /// Connections that wait for a filterd.
    pub held_connections: u32,
    pub hold_milliseconds: u32,
    pub dial_milliseconds: u32,
    pub idle_seconds: u32,
}

impl Limits {
    #[must_use]
    pub fn hold(&self) -> Duration {
        Duration::from_millis(self.hold_milliseconds.into())
    }
    #[must_use]
    pub fn dial(&self) -> Duration {
        Duration::from_millis(self.dial_milliseconds.into())
    }
    #[must_use]
    pub fn idle(&self) -> Duration {
        Duration::from_secs(self.idle_seconds.into())
    }
}

fn http_port() -> u16 {
    80
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            runtime_dir: sys::RUNTIME.into(),
            capture: Capture::default(),
            services: vec![Service {
                name: "ec2".into(),
                addresses: vec![
                    Ipv4Addr::new(169, 254, 169, 254).into(),
                    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254).into(),
                ],
                hosts: vec!["instance-data".into(), "instance-data.ec2.internal".into()],
                port: http_port(),
            }],
            filter: Filter::default(),
            limits: Limits::default(),
        }
    }
}

impl Default for Capture {
    fn default() -> Self {
        Self {
            device: "imds0".into(),
            address: Ipv4Addr::new(169, 254, 169, 1),
            address6: Ipv6Addr::new(0xfdc9, 0x1d5f, 0x11d3, 0, 0, 0, 0, 1),
            mtu: 1500,
            hop_limit: 1,
            table: 169_254,
            // clear of kube-proxy (0x4000, 0x8000), Calico (0xffff0000), Cilium (0xf00), Tailscale (0xff0000),
            // the AWS VPC CNI (0x80) and the CNI port map (0x2000)
            mark: 0x1068,
            // before Cilium (100), strongSwan (220), Tailscale (5210) and ec2-net-utils (10000)
            rule_priority: 10,
            guard: Guard::Xfrm,
            forwarded: Forwarded::Refuse,
            cgroup: Cgroup::Auto,
        }
    }
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            user: "imds".into(),
            rules: sys::RULES.into(),
            groups: GroupSource::Kernel,
            sandbox: Sandbox::Required,
            mode: Mode::Enforce,
            refuse_status: RefuseStatus::default(),
            tokens: TokenSource::Forward,
        }
    }
}

impl Default for Limits {
    /// Design section 7: a noisy user must not spend the instance's 1,024 packets a second; a whole cloud-init crawl
    /// is not slowed.
    fn default() -> Self {
        Self {
            connections: 4096,
            connections_per_uid: 256,
            half_open_per_uid: 64,
            requests_per_second: 100,
            request_burst: 1000,
            head_bytes: 16 * 1024,
            answer_bytes: 4 * 1024 * 1024,
            held_connections: 1024,
            hold_milliseconds: 800,
            dial_milliseconds: 500,
            idle_seconds: 60,
        }
    }
}

/// Why there are no settings. Displays file, place and what was expected.
#[derive(Debug)]
pub enum SettingsError {
    Read(ReadError),
    NotText(PathBuf),
    Syntax(PathBuf, Box<toml::de::Error>),
    Value(PathBuf, String),
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) => error.fmt(f),
            Self::NotText(path) => write!(f, "{}: not UTF-8 text", path.display()),
            Self::Syntax(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Value(path, what) => write!(f, "{}: {what}", path.display()),
        }
    }
}

impl std::error::Error for SettingsError {}

impl Settings {
    /// Reads `path`; without one the default path, where a missing file means the built-in values.
    ///
    /// # Errors
    /// Anything but a readable, well-formed file with possible values.
    pub fn load(path: Option<&Path>) -> Result<Self, SettingsError> {
        let (path, optional) = match path {
            Some(path) => (path, false),
            None => (Path::new(DEFAULT_PATH), true),
        };
        match read(path) {
            Ok(text) => Self::parse(path, &text),
            Err(SettingsError::Read(error)) if optional && error.is_absence() => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    fn parse(path: &Path, text: &str) -> Result<Self, SettingsError> {
        let settings: Self =
            toml::from_str(text).map_err(|error| SettingsError::Syntax(path.into(), Box::new(error)))?;
        settings.check().map_err(|what| SettingsError::Value(path.into(), what))?;
        Ok(settings)
    }

    fn check(&self) -> Result<(), String> {
        let addresses: Vec<SocketAddr> = self.upstreams().collect();
        if addresses.is_empty() {
            return Err("no [[service]] has an address; expected at least one".into());
        }
        if addresses.len() > MAX_ADDRESSES {
            return Err(format!("{} service addresses; expected at most {MAX_ADDRESSES}", addresses.len()));
        }
        for (at, address) in addresses.iter().enumerate() {
            if addresses.iter().take(at).any(|other| other.ip() == address.ip()) {
                return Err(format!("the address {} belongs to two services", address.ip()));
            }
            let ip = address.ip();
            // a mapped one would be captured as an IPv6 address, which no packet has
            let mapped = ip.to_canonical() != ip;
            if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || mapped || address.port() == 0 {
                return Err(format!("{address} is not the address of a metadata service"));
            }
        }
        let capture = &self.capture;
        // IFNAMSIZ is 16 with its final NUL
        let name_ok = (1..=15).contains(&capture.device.len())
            && capture.device.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
            && !matches!(capture.device.as_str(), "." | "..");
        if !name_ok {
            return Err(format!(
                "capture.device = {:?}: expected 1 to 15 letters, digits, '-', '_' or '.'",
                capture.device
            ));
        }
        if capture.mark == 0 {
            return Err("capture.mark = 0: every socket has that mark; expected another number".into());
        }
        if matches!(capture.table, 0 | 253..=255) {
            return Err(format!(
                "capture.table = {}: the kernel's own; expected a table of our own",
                capture.table
            ));
        }
        if !(1..=32_762).contains(&capture.rule_priority) {
            return Err(format!(
                "capture.rule_priority = {}: expected 1 to 32762, before the main table's rule",
                capture.rule_priority
            ));
        }
        if !(1280..=9000).contains(&capture.mtu) {
            return Err(format!("capture.mtu = {}: expected 1280 (the least of IPv6) to 9000", capture.mtu));
        }
        if capture.hop_limit == 0 {
            return Err("capture.hop_limit = 0: expected 1 to 255".into());
        }
        if !capture.address6.is_unique_local() {
            return Err(format!("capture.address6 = {}: expected an address in fc00::/7", capture.address6));
        }
        if !(4096..=1024 * 1024).contains(&self.limits.head_bytes) {
            return Err(format!("limits.head_bytes = {}: expected 4096 to 1048576", self.limits.head_bytes));
        }
        Ok(())
    }

    /// Every address of every service; the place in this order is the index that filterd names in a dial.
    pub fn upstreams(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.services
            .iter()
            .flat_map(|service| service.addresses.iter().map(|ip| SocketAddr::new(*ip, service.port)))
    }

    #[must_use]
    pub fn service_of(&self, address: SocketAddr) -> Option<&Service> {
        self.services
            .iter()
            .find(|service| service.port == address.port() && service.addresses.contains(&address.ip()))
    }
}

fn read(path: &Path) -> Result<String, SettingsError> {
    let bytes = read_trusted(path, MAX_FILE).map_err(SettingsError::Read)?;
    String::from_utf8(bytes).map_err(|_| SettingsError::NotText(path.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, String> {
        Settings::parse(Path::new("t.toml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_file_means_the_built_in_values() {
        assert_eq!(parse("").unwrap(), Settings::default());
    }

    #[test]
    fn the_shipped_file_says_the_built_in_values() {
        let shipped = include_str!("../../conf/imds-filterd.toml");
        // as the Makefile installs it elsewhere than on Linux
        let installed = shipped
            .replace("\"/run/imds-filterd\"", &format!("{:?}", sys::RUNTIME))
            .replace("\"/etc/imds.conf\"", &format!("{:?}", sys::RULES));
        assert_eq!(parse(&installed).unwrap(), Settings::default());
    }

    #[test]
    fn an_error_names_file_line_and_what_was_expected() {
        let cases = [
            ("[capture]\nmarc = 5\n", &["t.toml", "line 2", "marc", "expected"][..]),
            ("[capture]\nguard = \"none\"\n", &["line 2", "none", "xfrm", "nftables"]),
            ("[filter]\nsandbox = \"off\"\n", &["line 2", "off", "required", "besteffort"]),
            ("[filter]\nmode = \"disabled\"\n", &["line 2", "disabled", "enforce", "audit"]),
            ("[filter]\ntokens = \"own\"\n", &["line 2", "own", "forward", "bound"]),
            ("[filter]\nrefuse_status = 401\n", &["line 2", "401", "expected 400, 403 or 404"]),
            ("[capture]\nmark = -1\n", &["line 2"]),
            ("[capture]\ncgroup = \"\"\n", &["line 2", "auto", "absolute path"]),
            ("[capture]\nmark = 0\n", &["mark = 0", "expected"]),
            ("[capture]\ndevice = \"a/b\"\n", &["a/b", "expected"]),
            ("[capture]\ntable = 254\n", &["254"]),
            ("[capture]\nrule_priority = 40000\n", &["40000"]),
            ("service = []\n", &["service"]),
            ("[[service]]\nname = \"x\"\naddresses = [\"127.0.0.1\"]\n", &["127.0.0.1:80"]),
            (
                "[[service]]\nname = \"x\"\naddresses = [\"::ffff:169.254.169.254\"]\n",
                &["::ffff:169.254.169.254"],
            ),
            ("[[service]]\nname = \"x\"\naddresses = [\"nonsense\"]\n", &["line 3"]),
            ("colour = 1\n", &["line 1", "colour"]),
        ];
        for (text, wanted) in cases {
            let error = parse(text).unwrap_err();
            for word in wanted {
                assert!(error.contains(word), "{text:?}: {error:?} lacks {word:?}");
            }
        }
    }

    #[test]
    fn a_file_that_others_may_write_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let path = std::env::temp_dir().join(format!("imds-settings-{}.toml", std::process::id()));
        for (mode, good) in [(0o644, true), (0o600, true), (0o664, false), (0o602, false)] {
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let loaded = Settings::load(Some(&path));
            assert_eq!(loaded.is_ok(), good, "{mode:o}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(Settings::load(Some(&path)), Err(SettingsError::Read(_))));
    }

    #[test]
    fn upstreams_are_numbered_in_the_order_of_the_file() {
        let settings = Settings::default();
        let all: Vec<_> = settings.upstreams().map(|a| a.to_string()).collect();
        assert_eq!(all, ["169.254.169.254:80", "[fd00:ec2::254]:80"]);
        assert!(settings.service_of("169.254.169.254:80".parse().unwrap()).is_some());
        assert!(settings.service_of("169.254.169.254:81".parse().unwrap()).is_none());
    }
}
