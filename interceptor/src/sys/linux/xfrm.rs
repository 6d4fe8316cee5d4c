//! Policies of the kernel's IPsec layer (xfrm), of the two kinds we install: allow and block, without a transformation.
//! Decides nothing. The shapes are those of linux/xfrm.h.

use super::netlink::{
    CREATE, Message, Notifications, Received, Requests, Subsystem, attributes, u8_at, u16_at, u32_at,
};
use super::rtnl::{covers, family, full_prefix, octets};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const XFRM_MSG_NEWPOLICY: u16 = 0x13;
const XFRM_MSG_DELPOLICY: u16 = 0x14;
const XFRM_MSG_GETPOLICY: u16 = 0x15;
/// Policies expired, policies changed.
const GROUPS: [u32; 2] = [2, 4];
const XFRMA_TMPL: u16 = 5;
const XFRMA_MARK: u16 = 21;
const XFRMA_IF_ID: u16 = 31;
const SELECTOR: usize = 56;
const POLICY: usize = 168;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Out,
    Forward,
    Other(u8),
}

/// Which packets to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packets {
    All,
    TcpTo(u16),
    /// Of this ICMPv6 type.
    Icmp6(u8),
}

impl Packets {
    /// Destination port and mask, source port and mask, as the selector has them: an ICMP type stands for a source port.
    fn ports(self) -> [u16; 4] {
        match self {
            Self::All => [0; 4],
            Self::TcpTo(port) => [port, u16::MAX, 0, 0],
            Self::Icmp6(kind) => [0, 0, kind.into(), u16::MAX],
        }
    }

    fn protocol(self) -> u8 {
        match self {
            Self::All => 0,
            Self::TcpTo(_) => 6,
            Self::Icmp6(_) => 58,
        }
    }

    /// `None`: what we never install.
    fn read(ports: [u16; 4], protocol: u8) -> Option<Self> {
        match (protocol, ports) {
            (0, [0, 0, 0, 0]) => Some(Self::All),
            (6, [port, u16::MAX, 0, 0]) => Some(Self::TcpTo(port)),
            (58, [0, 0, kind, u16::MAX]) => u8::try_from(kind).ok().map(Self::Icmp6),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) direction: Direction,
    pub(crate) to: IpAddr,
    pub(crate) to_length: u8,
    pub(crate) from: IpAddr,
    pub(crate) from_length: u8,
    pub(crate) packets: Packets,
    /// Only for sockets bound to the link of this index; 0 is any.
    pub(crate) link: u32,
    /// The selector's `user`: carried, compared and shown by the kernel, used by nothing in it.
    pub(crate) label: u32,
    pub(crate) mark: Option<u32>,
    pub(crate) allow: bool,
    pub(crate) priority: u32,
    /// The kernel's number for it; 0 before it is installed.
    pub(crate) index: u32,
    /// Without other selections, transformations, partial marks.
    pub(crate) plain: bool,
}

impl Policy {
    /// A policy for all packets to `to`, at the priority that comes first.
    pub(crate) fn to(to: IpAddr, direction: Direction, allow: bool, label: u32) -> Self {
        let from = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        Self {
            direction,
            to,
            to_length: full_prefix(to),
            from,
            from_length: 0,
            packets: Packets::All,
            link: 0,
            label,
            mark: None,
            allow,
            priority: 0,
            index: 0,
            plain: true,
        }
    }

    pub(crate) fn covers(&self, service: IpAddr) -> bool {
        covers(self.to, self.to_length, service)
    }

    fn selector(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(SELECTOR);
        for address in [self.to, self.from] {
            let octets = octets(address);
            bytes.extend(&octets);
            bytes.resize(bytes.len() + 16 - octets.len(), 0);
        }
        bytes.extend(self.packets.ports().into_iter().flat_map(u16::to_be_bytes));
        bytes.extend(u16::from(family(self.to)).to_ne_bytes());
        bytes.extend([self.to_length, self.from_length, self.packets.protocol(), 0, 0, 0]);
        bytes.extend(self.link.to_ne_bytes());
        bytes.extend(self.label.to_ne_bytes());
        bytes
    }

    fn direction(&self) -> u8 {
        match self.direction {
            Direction::Out => 1,
            Direction::Forward => 2,
            Direction::Other(number) => number,
        }
    }

    pub(super) fn insertion(&self) -> Message {
        let mut body = self.selector();
        body.extend([0xff; 32]); // no limit of bytes or packets
        body.extend([0; 32]); // no limit of time
        body.extend([0; 32]); // nothing used yet
        body.extend(self.priority.to_ne_bytes());
        body.extend([0; 4]); // the kernel chooses the index
        body.extend([self.direction(), u8::from(!self.allow), 0, 0]);
        body.resize(POLICY, 0);
        self.marked(Message::new(XFRM_MSG_NEWPOLICY, CREATE).body(&body))
    }

    fn deletion(&self) -> Message {
        let mut body = self.selector();
        body.extend(self.index.to_ne_bytes());
        body.extend([self.direction(), 0, 0, 0]);
        self.marked(Message::new(XFRM_MSG_DELPOLICY, 0).body(&body))
    }

    fn marked(&self, message: Message) -> Message {
        match self.mark {
            Some(mark) => {
                let mut value = mark.to_ne_bytes().to_vec();
                value.extend(u32::MAX.to_ne_bytes());
                message.attribute(XFRMA_MARK, &value)
            }
            None => message,
        }
    }

    pub(super) fn read(received: Received<'_>) -> Option<Self> {
        let body = received.payload;
        let six = u16_at(body, 40)? == 10;
        let address = |at: usize| -> Option<IpAddr> {
            let bytes: &[u8; 16] = body.get(at..)?.first_chunk()?;
            let four: &[u8; 4] = bytes.first_chunk()?;
            Some(if six { Ipv6Addr::from(*bytes).into() } else { Ipv4Addr::from(*four).into() })
        };
        let port = |at: usize| Some(u16::from_be_bytes(*body.get(at..)?.first_chunk()?));
        let ports = [port(32)?, port(34)?, port(36)?, port(38)?];
        let packets = Packets::read(ports, u8_at(body, 44)?);
        let mut policy = Self {
            direction: match u8_at(body, 160)? {
                1 => Direction::Out,
                2 => Direction::Forward,
                number => Direction::Other(number),
            },
            to: address(0)?,
            from: address(16)?,
            to_length: u8_at(body, 42)?,
            from_length: u8_at(body, 43)?,
            packets: packets.unwrap_or(Packets::All),
            link: u32_at(body, 48)?,
            label: u32_at(body, 52)?,
            mark: None,
            allow: u8_at(body, 161)? == 0,
            priority: u32_at(body, 152)?,
            index: u32_at(body, 156)?,
            plain: packets.is_some(),
        };
        for (kind, value) in attributes(body.get(POLICY..)?) {
            match kind {
                XFRMA_MARK if u32_at(value, 4)? == u32::MAX => policy.mark = u32_at(value, 0),
                XFRMA_MARK => policy.plain = false,
                XFRMA_TMPL | XFRMA_IF_ID => policy.plain = false,
                _ => {}
            }
        }
        Some(policy)
    }
}

/// The policies of our network namespace.
pub(crate) struct Policies(Requests);

impl Policies {
    /// # Errors
    /// `EPROTONOSUPPORT` where the kernel has no xfrm.
    pub(crate) fn open() -> io::Result<Self> {
        Requests::open(Subsystem::Xfrm).map(Self)
    }

    pub(crate) fn all(&mut self) -> io::Result<Vec<Policy>> {
        self.0.list(|| Message::new(XFRM_MSG_GETPOLICY, 0), Policy::read)
    }

    /// Behind those of the same priority.
    pub(crate) fn insert(&mut self, policy: &Policy) -> io::Result<()> {
        self.0.change(policy.insertion())
    }

    /// By its index, as listed.
    pub(crate) fn remove(&mut self, policy: &Policy) -> io::Result<()> {
        match self.0.change(policy.deletion()) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other,
        }
    }
}

pub(crate) fn notifications() -> io::Result<Notifications> {
    Notifications::open(Subsystem::Xfrm, &GROUPS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::linux::netlink::messages;

    #[test]
    fn a_policy_is_read_as_it_is_written() {
        for (to, packets) in [
            ("169.254.169.254", Packets::All),
            ("fd00:ec2::254", Packets::TcpTo(80)),
            ("fd00:ec2::254", Packets::Icmp6(136)),
        ] {
            let mut policy = Policy::to(to.parse().unwrap(), Direction::Forward, true, 77);
            policy.packets = packets;
            policy.mark = Some(5);
            policy.link = 3;
            let written = policy.insertion().into_bytes();
            assert_eq!(messages(&written).find_map(Policy::read), Some(policy.clone()));
            for end in 16..written.len() {
                let mut cut = written[..end].to_vec();
                cut[..4].copy_from_slice(&u32::try_from(end).unwrap().to_ne_bytes());
                let read = messages(&cut).find_map(Policy::read);
                assert!(read.is_none_or(|read| read.mark.is_none()), "{end}");
            }
        }
    }
}
