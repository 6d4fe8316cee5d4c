//! Ways around the filter, tried by a process without privileges. Each must be refused, be silent, or end at the filter.
//! The request is one that the filter always refuses itself (an escaped NUL), in audit mode, too; whoever else answers it
//! is not the filter.

use super::Finding;
use super::sys;
use clap::Args;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Protocol, SocketFlags, SocketType, bind, connect, sendto, socket_with, sockopt,
};
use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

/// The filter answers in a millisecond; a lost SYN is repeated after a second.
const PATIENCE: Duration = Duration::from_millis(1500);
const REQUEST: &[u8] = b"GET /%00 HTTP/1.1\r\nHost: imds-doctor\r\nConnection: close\r\n\r\n";
/// What the filter's own answers begin with.
const OURS: &str = "imds-filterd: ";
/// Links that are tried.
const MOST_LINKS: usize = 8;

#[derive(Debug, Args)]
pub(crate) struct Targets {
    #[arg(long)]
    device: String,
    #[arg(long)]
    service: Vec<SocketAddr>,
}

/// Where a way led.
enum Led {
    Nowhere(String),
    ToTheFilter,
    Past(String),
}

/// What a way does before it connects.
#[derive(Clone, Copy)]
enum Way {
    Plain,
    Device,
    /// When the first SYN is under way.
    DeviceLate,
    Mapped,
    MappedDevice,
    Multipath,
    MultipathDevice,
    SourceAndDevice,
    Datagram,
}

const WAYS: [(Way, &str); 9] = [
    (Way::Plain, "a plain connection"),
    (Way::Device, "bound to a link"),
    (Way::DeviceLate, "bound to a link after connect"),
    (Way::Mapped, "by an IPv6 socket (v4-mapped)"),
    (Way::MappedDevice, "v4-mapped, bound to a link"),
    (Way::Multipath, "by multipath TCP"),
    (Way::MultipathDevice, "by multipath TCP, bound to a link"),
    (Way::SourceAndDevice, "bound to a link's address and to the link"),
    (Way::Datagram, "a datagram, bound to a link"),
];

/// The text, and whether anything failed.
pub(crate) fn run(targets: &Targets) -> (String, bool) {
    let links = links(&targets.device);
    let mut findings = Vec::new();
    for service in &targets.service {
        for (way, name) in WAYS {
            findings.extend(tried(way, name, *service, &links));
        }
    }
    // last, since there is no way back
    let entered = sys::enter_user_namespace();
    for service in &targets.service {
        let led = match &entered {
            Ok(()) => marked(*service),
            Err(error) => Ok(Led::Nowhere(error.to_string())),
        };
        findings.push(finding(format!("{service}, with the mark, from a user namespace"), led));
    }
    let failed = findings.iter().any(|finding| finding.result == super::Outcome::Fail);
    (findings.iter().map(|finding| format!("{finding}\n")).collect(), failed)
}

/// Links that are up, with an address each if they have one.
fn links(device: &str) -> Vec<(String, Option<SocketAddr>)> {
    let mut names = BTreeSet::new();
    let mut found: Vec<(String, Option<SocketAddr>)> = Vec::new();
    for each in getifaddrs().into_iter().flatten() {
        let outward =
            each.flags.contains(InterfaceFlags::IFF_UP) && !each.flags.contains(InterfaceFlags::IFF_LOOPBACK);
        if !outward || each.interface_name == device {
            continue;
        }
        let address = each.address.and_then(|address| {
            let v4 = address.as_sockaddr_in()?;
            Some(SocketAddr::from((v4.ip(), 0)))
        });
        if names.insert(each.interface_name.clone()) {
            found.push((each.interface_name, address));
        } else if let Some(known) = found.iter_mut().find(|(name, _)| *name == each.interface_name) {
            known.1 = known.1.or(address);
        }
    }
    found.truncate(MOST_LINKS);
    found
}

fn finding(what: String, led: io::Result<Led>) -> Finding {
    match led {
        Ok(Led::Past(how)) => Finding::fail(format!("{what}: PAST THE FILTER: {how}")),
        Ok(Led::ToTheFilter) => Finding::pass(format!("{what}: ends at the filter")),
        Ok(Led::Nowhere(why)) => Finding::pass(format!("{what}: {why}")),
        Err(error) if refuses(&error) => Finding::pass(format!("{what}: {error}")),
        Err(error) => Finding::note(format!("{what}: could not be tried: {error}")),
    }
}

/// Whether a kernel says so to whom it does not let pass, or does not offer the way to. Else nothing is known of the way.
fn refuses(error: &io::Error) -> bool {
    let refusals = [
        Errno::PERM,
        Errno::ACCESS,
        Errno::CONNREFUSED,
        Errno::CONNRESET,
        Errno::HOSTUNREACH,
        Errno::NETUNREACH,
        Errno::TIMEDOUT,
        Errno::ADDRNOTAVAIL,
        Errno::AFNOSUPPORT,
        Errno::PROTONOSUPPORT,
        Errno::NOPROTOOPT,
        Errno::OPNOTSUPP,
    ];
    error.kind() == io::ErrorKind::Unsupported
        || error.raw_os_error().is_some_and(|code| refusals.iter().any(|errno| errno.raw_os_error() == code))
}

fn tried(way: Way, name: &str, to: SocketAddr, links: &[(String, Option<SocketAddr>)]) -> Vec<Finding> {
    let plainly = |led| match led {
        Ok(Led::Nowhere(why)) if to.is_ipv4() => {
            Finding::fail(format!("{to}, {name}: the filter does not answer: {why}"))
        }
        Err(error) if to.is_ipv4() => {
            Finding::fail(format!("{to}, {name}: the filter does not answer: {error}"))
        }
        led => finding(format!("{to}, {name}"), led),
    };
    let v6 = to.is_ipv6();
    match way {
        Way::Plain => vec![plainly(plain(to))],
        Way::Mapped | Way::MappedDevice if v6 => Vec::new(),
        Way::Mapped => vec![finding(format!("{to}, {name}"), mapped(to, None))],
        Way::Multipath => vec![finding(format!("{to}, {name}"), multipath(to, None))],
        Way::Device
        | Way::DeviceLate
        | Way::MappedDevice
        | Way::MultipathDevice
        | Way::SourceAndDevice
        | Way::Datagram => links
            .iter()
            .map(|(link, address)| finding(format!("{to}, {name} {link}"), by_link(way, to, link, *address)))
            .collect(),
    }
}

fn by_link(way: Way, to: SocketAddr, link: &str, address: Option<SocketAddr>) -> io::Result<Led> {
    match way {
        Way::Device => {
            let socket = stream(to)?;
            sys::bind_device(&socket, link)?;
            ask(socket, to, None)
        }
        Way::DeviceLate => ask(stream(to)?, to, Some(link)),
        Way::MappedDevice => mapped(to, Some(link)),
        Way::MultipathDevice => multipath(to, Some(link)),
        Way::SourceAndDevice => {
            let socket = stream(to)?;
            if let Some(address) = address.filter(|address| address.is_ipv4() == to.is_ipv4()) {
                bind(&socket, &address)?;
            }
            sys::bind_device(&socket, link)?;
            ask(socket, to, None)
        }
        Way::Datagram => datagram(to, link),
        Way::Plain | Way::Mapped | Way::Multipath => plain(to),
    }
}

fn made(to: SocketAddr, kind: SocketType, protocol: Option<Protocol>) -> io::Result<OwnedFd> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    Ok(socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, protocol)?)
}

fn stream(to: SocketAddr) -> io::Result<OwnedFd> {
    made(to, SocketType::STREAM, None)
}

fn plain(to: SocketAddr) -> io::Result<Led> {
    ask(stream(to)?, to, None)
}

fn mapped(to: SocketAddr, link: Option<&str>) -> io::Result<Led> {
    let IpAddr::V4(ip) = to.ip() else { return plain(to) };
    let to = SocketAddr::from((ip.to_ipv6_mapped(), to.port()));
    let socket = stream(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)))?;
    sockopt::set_ipv6_v6only(&socket, false)?;
    if let Some(link) = link {
        sys::bind_device(&socket, link)?;
    }
    ask(socket, to, None)
}

fn multipath(to: SocketAddr, link: Option<&str>) -> io::Result<Led> {
    let socket = made(to, SocketType::STREAM, Some(sys::multipath()?))?;
    if let Some(link) = link {
        sys::bind_device(&socket, link)?;
    }
    ask(socket, to, None)
}

/// In a namespace of one's own one has all capabilities, and none that count for the host's network.
fn marked(to: SocketAddr) -> io::Result<Led> {
    let socket = stream(to)?;
    sys::mark(&socket)?;
    ask(socket, to, None)
}

/// What is sent must not leave by the link.
fn datagram(to: SocketAddr, link: &str) -> io::Result<Led> {
    let socket = made(to, SocketType::DGRAM, None)?;
    sys::bind_device(&socket, link)?;
    match sendto(&socket, b"imds-doctor", rustix::net::SendFlags::empty(), &to) {
        Ok(_) => Ok(Led::Past("the datagram was sent".into())),
        Err(errno) => Ok(Led::Nowhere(io::Error::from(errno).to_string())),
    }
}

/// Connects, and asks what only the filter answers so. `late`: a link to bind to when the SYN is under way.
fn ask(socket: OwnedFd, to: SocketAddr, late: Option<&str>) -> io::Result<Led> {
    match connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(errno) => return Err(errno.into()),
    }
    if let Some(link) = late {
        sys::bind_device(&socket, link)?;
    }
    let patience = Timespec::try_from(PATIENCE).map_err(io::Error::other)?;
    if poll(&mut [PollFd::new(&socket, PollFlags::OUT)], Some(&patience))? == 0 {
        return Ok(Led::Nowhere("no connection".into()));
    }
    if let Err(errno) = sockopt::socket_error(&socket)? {
        return Err(errno.into());
    }
    let mut stream = TcpStream::from(socket);
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(REQUEST)?;
    let mut answer = Vec::new();
    // what came before an error counts
    let ended = stream.take(4096).read_to_end(&mut answer);
    let text = String::from_utf8_lossy(&answer);
    Ok(match (text.contains(OURS), text.is_empty(), ended) {
        (true, _, _) => Led::ToTheFilter,
        (false, false, _) => Led::Past(format!("answered {:?}", text.lines().next().unwrap_or(""))),
        (false, true, Ok(_)) => Led::Nowhere("closed without an answer".into()),
        (false, true, Err(error)) => Led::Nowhere(format!("no answer: {error}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_that_could_not_be_tried_is_no_way_that_is_closed() {
        let said = |errno: Errno| finding("a way".into(), Err(errno.into())).to_string();
        assert_eq!(said(Errno::PERM), format!("PASS  a way: {}", io::Error::from(Errno::PERM)));
        let unknown = format!("NOTE  a way: could not be tried: {}", io::Error::from(Errno::NFILE));
        assert_eq!(said(Errno::NFILE), unknown);
    }
}
