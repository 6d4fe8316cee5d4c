//! Upstream sockets and the way past our own tun: their packets come back by it and leave as Ethernet frames to the router
//! that the service is behind. Answers arrive by the interface itself.
//! Must not send a packet of anybody else's: `bsd::own` says whose it is.

use super::bpf::Frames;
use super::capture::former;
use super::control::Control;
use super::routing;
use crate::netstack::{FourTuple, parse};
use crate::sys::bsd::frame::{self, Ethernet};
use crate::sys::bsd::own::{Life, Table, Whose};
use crate::sys::bsd::way::{self, Hop};
use imds_settings::Settings;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendFlags, SocketFlags, SocketType, bind, getsockname, ipproto, sendto, socket_with,
    sockopt,
};
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Routes and routers are looked at again before a dial if the last look is older than this: five system calls.
const FRESH: Duration = Duration::from_millis(500);
/// How long a start waits for the routers' hardware addresses.
const AT_START: Duration = Duration::from_secs(1);
/// How long a dial does, once in `FRESH`: a router on the link answers in well under a millisecond.
const AT_RUN_TIME: Duration = Duration::from_millis(10);
const BETWEEN: Duration = Duration::from_millis(1);
/// The discard service: an empty datagram to a router makes the kernel look for its hardware address.
const DISCARD: u16 = 9;
/// netinet/tcp_fsm.h
const CLOSED: u8 = 0;
const SYN_SENT: u8 = 2;

/// How packets to one service leave.
struct Exit {
    hop: Hop,
    /// The last that was known; routers change, and the kernel forgets.
    router: Option<Ethernet>,
    frames: Frames,
}

/// The way to the services past our own tun.
pub(crate) struct Outward {
    services: Vec<SocketAddr>,
    device: String,
    directory: PathBuf,
    exits: Vec<Option<Exit>>,
    looked: Option<Instant>,
    own: Table,
}

/// A socket's way out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way(FourTuple);

impl Outward {
    /// While it connects we must be able to ask whose SYN that is.
    pub(crate) const LETS_GO: bool = false;

    pub(crate) fn new(settings: &Settings) -> Self {
        let services: Vec<_> = settings.upstreams().collect();
        let mut outward = Self {
            exits: services.iter().map(|_| None).collect(),
            services,
            device: settings.capture.device.clone(),
            directory: settings.runtime_dir.clone(),
            looked: None,
            own: Table::default(),
        };
        outward.look(Instant::now(), AT_START);
        for (service, exit) in outward.services.iter().zip(&outward.exits) {
            match exit {
                None => tracing::warn!("there is no way to {} by an Ethernet interface", service.ip()),
                Some(Exit { hop, router: None, .. }) => tracing::warn!(
                    "the hardware address of {} on {}, the router to {}, is not known yet",
                    hop.router,
                    hop.name,
                    service.ip()
                ),
                Some(Exit { hop, router: Some(_), .. }) => {
                    tracing::info!("{} is reached by {} on {}", service.ip(), hop.router, hop.name);
                }
            }
        }
        outward
    }

    /// A TCP socket for `address`, not blocking, without Nagle's delay, with the source that the service's answers find.
    pub(crate) fn socket(&mut self, address: SocketAddr) -> Result<OwnedFd, Errno> {
        let now = Instant::now();
        if self.looked.is_none_or(|looked| now.duration_since(looked) > FRESH) {
            self.look(now, AT_RUN_TIME);
        }
        let at = self.services.iter().position(|service| *service == address).ok_or(Errno::HOSTUNREACH)?;
        let exit = self.exits.get(at).and_then(Option::as_ref).ok_or(Errno::HOSTUNREACH)?;
        if exit.router.is_none() {
            return Err(Errno::HOSTUNREACH);
        }
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        bind(&socket, &SocketAddr::new(exit.hop.source, 0))?;
        Ok(socket)
    }

    /// Its SYN waits in the tun already, and is not looked at before this.
    pub(crate) fn dialled(&mut self, socket: &OwnedFd, address: SocketAddr) -> Result<Way, Errno> {
        let client = SocketAddr::try_from(getsockname(socket)?).map_err(|_| Errno::AFNOSUPPORT)?;
        let four_tuple = FourTuple { client: plain(client), service: address };
        self.own.enter(four_tuple, socket.as_raw_fd());
        Ok(Way(four_tuple))
    }

    pub(crate) fn connected(&mut self, way: Way) {
        self.own.connected(&way.0);
    }

    pub(crate) fn forget(&mut self, way: Way) {
        self.own.forget(&way.0);
    }

    /// Sends what is ours on its way; a frame that is lost is sent again, as on any wire.
    pub(crate) fn carries(&mut self, packet: &[u8]) -> bool {
        let Ok(segment) = parse(packet) else { return false };
        match self.own.owns(&segment, Instant::now(), life) {
            Whose::Ours => {}
            Whose::Late => return true,
            Whose::Client => return false,
        }
        let service = segment.four_tuple.service;
        let at = self.services.iter().position(|known| *known == service);
        let exit = at.and_then(|at| self.exits.get(at)).and_then(Option::as_ref);
        if let Some(Exit { hop, router: Some(router), frames }) = exit
            && let Some(header) = frame::header(segment.packet, hop.hardware, *router)
            && frames.send(&header, segment.packet).is_err()
        {
            // the interface may be another one by now
            self.looked = None;
        }
        true
    }

    /// Looks for the ways to all services, and waits as long as `patience` for routers that are not known.
    fn look(&mut self, now: Instant, patience: Duration) {
        self.looked = Some(now);
        if let Err(error) = self.find_exits() {
            tracing::error!("looking for the way to the service: {error}");
            return;
        }
        let until = Instant::now() + patience;
        loop {
            match self.find_routers() {
                Ok(true) => return,
                Ok(false) if Instant::now() >= until => return,
                Ok(false) => wait(),
                Err(error) => {
                    tracing::error!("looking for the router's hardware address: {error}");
                    return;
                }
            }
        }
    }

    fn find_exits(&mut self) -> io::Result<()> {
        let table = routing::table(routing::own_fib()?)?;
        let links = routing::links()?;
        let former = former(&self.directory, &links);
        let tun = Control::open()?.index(&self.device).unwrap_or(0);
        for (service, exit) in self.services.iter().zip(&mut self.exits) {
            let Some(hop) = way::hop(service.ip(), &table, &former, &links, tun) else {
                *exit = None;
                continue;
            };
            match exit {
                Some(known) if known.hop == hop => {}
                _ => {
                    let frames = Frames::open(&hop.name)?;
                    *exit = Some(Exit { hop, router: None, frames });
                }
            }
        }
        Ok(())
    }

    /// Whether all of them are known. Asks for those that are not.
    fn find_routers(&mut self) -> io::Result<bool> {
        let neighbours = routing::neighbours()?;
        let mut known = true;
        for exit in self.exits.iter_mut().flatten() {
            let hop = &exit.hop;
            let found = neighbours.iter().find(|(ip, index, _)| (*ip, *index) == (hop.router, hop.index));
            match found {
                Some((_, _, hardware)) => exit.router = Some(*hardware),
                None => {
                    nudge(hop);
                    known &= exit.router.is_some();
                }
            }
        }
        Ok(known)
    }
}

#[expect(clippy::disallowed_methods, reason = "the kernel does not tell when a router has answered")]
fn wait() {
    std::thread::sleep(BETWEEN);
}

/// Makes the kernel look for the router. What is missing then is told by its absence.
fn nudge(hop: &Hop) {
    let to = match hop.router {
        IpAddr::V4(_) => SocketAddr::new(hop.router, DISCARD),
        IpAddr::V6(ip) => {
            let scope = if ip.is_unicast_link_local() { hop.index.into() } else { 0 };
            SocketAddrV6::new(ip, DISCARD, 0, scope).into()
        }
    };
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    if let Ok(socket) = socket_with(family, SocketType::DGRAM, flags, None) {
        let _ = sendto(&socket, &[], SendFlags::DONTWAIT, &to);
    }
}

/// Without scope and flow: as packets name it.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port())
}

/// A socket that is over has given its four-tuple back, whoever still has a descriptor of it; then the kernel says CLOSED
/// or an error.
fn life(socket: RawFd) -> Life {
    // struct tcp_info begins with the state
    let mut info = [0_u8; 512];
    let mut length = libc::socklen_t::try_from(info.len()).unwrap_or(0);
    // SAFETY: writes at most `length` bytes to `info` and then `length`; keeps nothing.
    let result = unsafe {
        libc::getsockopt(socket, libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut length)
    };
    match info.first() {
        Some(&SYN_SENT) if result == 0 && length > 0 => Life::Connecting,
        None | Some(&CLOSED) => Life::Over,
        Some(_) if result == 0 && length > 0 => Life::Connected,
        Some(_) => Life::Over,
    }
}

/// Routes, the tun, /dev/bpf and getcred are root's.
pub(crate) fn may_capture() -> bool {
    rustix::process::geteuid().is_root()
}

/// Of who connected or listened at the other end.
pub(crate) fn peer_uid(socket: &OwnedFd) -> io::Result<u32> {
    let (mut uid, mut gid) = (0, 0);
    // SAFETY: writes the two numbers; keeps nothing.
    let result = unsafe { libc::getpeereid(socket.as_raw_fd(), &raw mut uid, &raw mut gid) };
    if result == 0 { Ok(uid) } else { Err(io::Error::last_os_error()) }
}
