//! What a client sent, borrowed and unjudged, and what a service accepts.
//! Nothing here changes a byte: judging is `request`, `target` and `fields`.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// The head of a request as it was read, without its line ends.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    pub method: &'a [u8],
    pub target: &'a [u8],
    pub version: Version,
    /// (name, value) in order of arrival.
    pub headers: &'a [(&'a [u8], &'a [u8])],
}

impl fmt::Debug for Head<'_> {
    /// Header values may be tokens: they are not shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Head({:?}, {} headers)", self.version, self.headers.len())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Http10,
    Http11,
}

/// The methods that are ever forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    Get,
    Head,
    Put,
}

impl Method {
    pub(crate) const ALL: [Method; 3] = [Self::Get, Self::Head, Self::Put];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Put => "PUT",
        }
    }
}

/// What one metadata service accepts.
#[derive(Debug, Clone)]
pub struct Profile {
    pub addresses: Vec<IpAddr>,
    pub port: u16,
    /// Names that `Host` may carry besides the addresses.
    pub hosts: Vec<String>,
    /// Query keys it knows; any other is refused.
    pub query_keys: &'static [&'static str],
    /// Request headers that are passed on; all others are dropped.
    pub request_headers: &'static [&'static str],
}

impl Profile {
    /// EC2: no queries; the headers of IMDSv2 and the two that tell clients apart. `Expect` is dropped: there is no
    /// body to wait for. `Range`, conditions and `Accept-Encoding` are dropped: the whole answer is always right.
    #[must_use]
    pub fn ec2(addresses: Vec<IpAddr>, port: u16, hosts: Vec<String>) -> Self {
        Self {
            addresses,
            port,
            hosts,
            query_keys: &[],
            request_headers: &[
                "X-aws-ec2-metadata-token",
                "X-aws-ec2-metadata-token-ttl-seconds",
                "User-Agent",
                "Accept",
            ],
        }
    }

    /// Whether `authority` (`host`, `host:port`, `[v6]:port`) is this service. A name that merely resolves to the
    /// service's address is not: that is how a web page gets a browser to ask for it (DNS rebinding).
    pub(crate) fn serves(&self, authority: &[u8]) -> bool {
        let Ok(text) = std::str::from_utf8(authority) else { return false };
        let (host, port) = split_port(text);
        port.is_none_or(|port| port == self.port.to_string()) && self.is_host(host)
    }

    fn is_host(&self, host: &str) -> bool {
        let address = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            // a dual-stack client may write the service's IPv4 address as ::ffff:a.b.c.d
            Some(v6) => v6.parse::<Ipv6Addr>().ok().map(|v6| v6.to_canonical()),
            None => host.parse::<std::net::Ipv4Addr>().ok().map(IpAddr::V4),
        };
        match address {
            Some(address) => self.addresses.contains(&address),
            None => self.hosts.iter().any(|known| known.eq_ignore_ascii_case(host)),
        }
    }
}

/// RFC 3986 section 3.2: the port follows the last colon that is not inside the brackets of an IPv6 address.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        Some(_) | None => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_addresses_and_listed_names_are_the_service() {
        let profile = Profile::ec2(
            vec!["169.254.169.254".parse().unwrap(), "fd00:ec2::254".parse().unwrap()],
            80,
            vec!["instance-data".into()],
        );
        for good in [
            "169.254.169.254",
            "169.254.169.254:80",
            "[fd00:ec2::254]",
            "[FD00:EC2:0::254]:80",
            "[::ffff:169.254.169.254]",
            "instance-data",
            "Instance-Data:80",
        ] {
            assert!(profile.serves(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            ":",
            ":80",
            "[]",
            "[",
            "169.254.169.254:",
            "169.254.169.254:080",
            "169.254.169.254:81",
            "169.254.169.254.",
            "user@169.254.169.254",
            "2852039166",
            "0xa9fea9fe",
            "169.254.43518",
            "fd00:ec2::254",
            "[fd00:ec2::254%25eth0]",
            "[169.254.169.254]",
            "[fd00:ec2::254]80",
            "[fd00:ec2::254]:80:80",
            "evil.example",
            "instance-data.evil.example",
            "169.254.169.254, evil.example",
            " 169.254.169.254",
        ] {
            assert!(!profile.serves(bad.as_bytes()), "{bad}");
        }
        assert!(!profile.serves(b"\xff"));
    }
}
