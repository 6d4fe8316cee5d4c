//! Routes of the kinds we install, as rtnetlink(7) writes them; others are only recognised as others.

use super::super::netlink::{Message, Received, attributes, u8_at, u32_at};
use super::PROTOCOL_KERNEL;
use super::address::{AF_INET, AF_INET6, address, octets};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// A route of the two kinds we install.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) table: u32,
    pub(crate) ipv6: bool,
    /// None is the default route.
    pub(crate) to: Option<IpAddr>,
    /// Only for packets from this source (IPv6 only).
    pub(crate) from: Option<Ipv6Addr>,
    pub(crate) metric: u32,
    pub(crate) leads: Leads,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leads {
    /// Into the link of this index; packets without a source get `source`.
    Link {
        index: u32,
        source: Option<Ipv6Addr>,
    },
    Prohibit,
    /// Not a kind of ours.
    Elsewhere(u8),
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to {
            Some(to) => write!(f, "route to {to}")?,
            None if self.ipv6 => f.write_str("IPv6 default route")?,
            None => f.write_str("IPv4 default route")?,
        }
        if let Some(from) = self.from {
            write!(f, " from {from}")?;
        }
        match self.leads {
            Leads::Link { index, .. } => write!(f, " into link {index}")?,
            Leads::Prohibit => f.write_str(" prohibit")?,
            Leads::Elsewhere(kind) => write!(f, " of kind {kind}")?,
        }
        write!(f, " in table {}", self.table)
    }
}

pub(super) const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
pub(super) const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
pub(super) const RTA_MULTIPATH: u16 = 9;
pub(super) const RTA_MARK: u16 = 16;
pub(super) const RTA_TABLE: u16 = 15;
const RTN_UNICAST: u8 = 1;
pub(super) const RTN_PROHIBIT: u8 = 8;
pub(super) const SCOPE_UNIVERSE: u8 = 0;
pub(super) const SCOPE_LINK: u8 = 253;
pub(super) const RTM_F_FIB_MATCH: u32 = 0x2000;

impl Route {
    pub(super) fn message(&self, kind: u16, flags: u16) -> Message {
        let (family, full) = if self.ipv6 { (AF_INET6, 128) } else { (AF_INET, 32) };
        let (route_kind, scope) = match self.leads {
            // IPv6 knows no scopes
            Leads::Link { .. } if self.ipv6 => (RTN_UNICAST, SCOPE_UNIVERSE),
            Leads::Link { .. } => (RTN_UNICAST, SCOPE_LINK),
            Leads::Prohibit => (RTN_PROHIBIT, SCOPE_UNIVERSE),
            Leads::Elsewhere(kind) => (kind, SCOPE_UNIVERSE),
        };
        let length = if self.to.is_some() { full } else { 0 };
        let source_length = if self.from.is_some() { full } else { 0 };
        let mut message = Message::new(kind, flags)
            .body(&[family, length, source_length, 0, 0, PROTOCOL_KERNEL, scope, route_kind, 0, 0, 0, 0])
            .attribute_u32(RTA_TABLE, self.table);
        if let Some(to) = self.to {
            message = message.attribute(RTA_DST, &octets(to));
        }
        if let Some(from) = self.from {
            message = message.attribute(RTA_SRC, &from.octets());
        }
        if self.metric != 0 {
            message = message.attribute_u32(RTA_PRIORITY, self.metric);
        }
        if let Leads::Link { index, source } = self.leads {
            message = message.attribute_u32(RTA_OIF, index);
            if let Some(source) = source {
                message = message.attribute(RTA_PREFSRC, &source.octets());
            }
        }
        message
    }

    pub(super) fn read(received: Received<'_>) -> Option<Self> {
        let body = received.payload;
        let ipv6 = u8_at(body, 0)? == AF_INET6;
        let full = if ipv6 { 128 } else { 32 };
        let (length, source_length, kind) = (u8_at(body, 1)?, u8_at(body, 2)?, u8_at(body, 7)?);
        let (mut to, mut from, mut metric, mut link, mut source) = (None, None, 0, None, None);
        let mut table = u32::from(u8_at(body, 4)?);
        let mut plain =
            matches!((length, source_length), (l, s) if (l == 0 || l == full) && (s == 0 || s == full));
        for (attribute, value) in attributes(body.get(12..)?) {
            match attribute {
                RTA_DST => to = address(value),
                RTA_SRC => from = address(value),
                RTA_OIF => link = u32_at(value, 0),
                RTA_PRIORITY => metric = u32_at(value, 0)?,
                RTA_PREFSRC => source = address(value),
                RTA_TABLE => table = u32_at(value, 0)?,
                RTA_GATEWAY | RTA_MULTIPATH => plain = false,
                _ => {}
            }
        }
        let six = |address: Option<IpAddr>| match address {
            Some(IpAddr::V6(address)) => Some(address),
            Some(IpAddr::V4(_)) | None => None,
        };
        let leads = match (kind, link) {
            (RTN_PROHIBIT, _) if plain => Leads::Prohibit,
            (RTN_UNICAST, Some(index)) if plain => Leads::Link { index, source: six(source) },
            _ => Leads::Elsewhere(kind),
        };
        Some(Self { table, ipv6, to, from: six(from), metric, leads })
    }
}
