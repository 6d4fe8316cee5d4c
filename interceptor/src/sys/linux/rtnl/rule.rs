//! Routing rules as rtnetlink(7) writes them. What it does not know about a rule it says with `plain: false`.

use super::super::netlink::{Message, Received, attributes, name, u8_at, u16_at, u32_at};
use super::PROTOCOL_KERNEL;
use super::address::{AF_INET, AF_INET6, address, full_prefix, octets};
use std::fmt;
use std::net::IpAddr;

/// A routing rule; `plain` unless it has a part that is not written here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) ipv6: bool,
    pub(crate) priority: u32,
    /// Destination and its prefix length.
    pub(crate) to: Option<(IpAddr, u8)>,
    pub(crate) mark: Option<u32>,
    /// `iif lo`: only packets made on this host.
    pub(crate) local: bool,
    /// `ipproto tcp dport PORT`.
    pub(crate) port: Option<u16>,
    pub(crate) action: Action,
    pub(crate) kernel: bool,
    pub(crate) plain: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Lookup(u32),
    Prohibit,
    Other(u8),
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {}:", self.priority)?;
        match self.to {
            Some((to, length)) if length == full_prefix(to) => write!(f, " to {to}")?,
            Some((to, length)) => write!(f, " to {to}/{length}")?,
            None if self.ipv6 => f.write_str(" to all of IPv6")?,
            None => f.write_str(" to all of IPv4")?,
        }
        if let Some(mark) = self.mark {
            write!(f, " fwmark {mark:#x}")?;
        }
        if self.local {
            f.write_str(" iif lo")?;
        }
        if let Some(port) = self.port {
            write!(f, " tcp dport {port}")?;
        }
        if !self.plain {
            f.write_str(" and more")?;
        }
        match self.action {
            Action::Lookup(table) => write!(f, " lookup {table}"),
            Action::Prohibit => f.write_str(" prohibit"),
            Action::Other(action) => write!(f, " action {action}"),
        }
    }
}

const FRA_DST: u16 = 1;
pub(super) const FRA_IIFNAME: u16 = 3;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
pub(super) const FRA_TABLE: u16 = 15;
pub(super) const FRA_FWMASK: u16 = 16;
const FRA_PAD: u16 = 18;
const FRA_PROTOCOL: u16 = 21;
const FRA_IP_PROTO: u16 = 22;
const FRA_DPORT_RANGE: u16 = 24;
const FRA_DPORT_MASK: u16 = 29;
const FR_ACT_TO_TBL: u8 = 1;
const FR_ACT_PROHIBIT: u8 = 8;
const FIB_RULE_INVERT: u32 = 2;
const TCP: u8 = 6;

impl Rule {
    pub(super) fn message(&self, kind: u16, flags: u16) -> Message {
        let family = if self.ipv6 { AF_INET6 } else { AF_INET };
        let (action, table) = match self.action {
            Action::Lookup(table) => (FR_ACT_TO_TBL, table),
            Action::Prohibit => (FR_ACT_PROHIBIT, 0),
            Action::Other(action) => (action, 0),
        };
        let length = self.to.map_or(0, |(_, length)| length);
        let mut message = Message::new(kind, flags)
            .body(&[family, length, 0, 0, 0, 0, 0, action, 0, 0, 0, 0])
            .attribute_u32(FRA_PRIORITY, self.priority)
            .attribute(FRA_PROTOCOL, &[PROTOCOL_KERNEL]);
        if table != 0 {
            message = message.attribute_u32(FRA_TABLE, table);
        }
        if let Some((to, _)) = self.to {
            message = message.attribute(FRA_DST, &octets(to));
        }
        if let Some(mark) = self.mark {
            message = message.attribute_u32(FRA_FWMARK, mark).attribute_u32(FRA_FWMASK, u32::MAX);
        }
        if self.local {
            message = message.attribute_name(FRA_IIFNAME, "lo");
        }
        if let Some(port) = self.port {
            let [low, high] = port.to_ne_bytes();
            message =
                message.attribute(FRA_IP_PROTO, &[TCP]).attribute(FRA_DPORT_RANGE, &[low, high, low, high]);
        }
        message
    }

    pub(super) fn read(received: Received<'_>) -> Option<Self> {
        let body = received.payload;
        let ipv6 = u8_at(body, 0)? == AF_INET6;
        let length = u8_at(body, 1)?;
        let plain = u8_at(body, 2)? == 0 && u8_at(body, 3)? == 0 && u32_at(body, 8)? & FIB_RULE_INVERT == 0;
        let action = u8_at(body, 7)?;
        let mut rule = Self {
            ipv6,
            priority: 0,
            to: None,
            mark: None,
            local: false,
            port: None,
            action: Action::Other(action),
            kernel: false,
            plain,
        };
        let mut table = u32::from(u8_at(body, 4)?);
        let mut tcp = false;
        for (kind, value) in attributes(body.get(12..)?) {
            match kind {
                FRA_DST => rule.to = Some((address(value)?, length)),
                FRA_IIFNAME if name(value) == Some("lo") => rule.local = true,
                FRA_PRIORITY => rule.priority = u32_at(value, 0)?,
                FRA_FWMARK => rule.mark = Some(u32_at(value, 0)?),
                FRA_FWMASK => rule.plain &= matches!(u32_at(value, 0)?, 0 | u32::MAX),
                FRA_TABLE => table = u32_at(value, 0)?,
                FRA_PROTOCOL => rule.kernel = u8_at(value, 0)? == PROTOCOL_KERNEL,
                FRA_IP_PROTO => tcp = u8_at(value, 0)? == TCP,
                FRA_DPORT_RANGE if u16_at(value, 0)? == u16_at(value, 2)? => rule.port = u16_at(value, 0),
                // the kernel writes "none" (-1) into every rule
                FRA_SUPPRESS_PREFIXLEN => rule.plain &= u32_at(value, 0)? == u32::MAX,
                FRA_DPORT_MASK => rule.plain &= u16_at(value, 0)? == u16::MAX,
                FRA_PAD => {}
                _ => rule.plain = false,
            }
        }
        rule.plain &= tcp == rule.port.is_some();
        if action == FR_ACT_TO_TBL {
            rule.action = Action::Lookup(table);
        } else if action == FR_ACT_PROHIBIT {
            rule.action = Action::Prohibit;
        }
        Some(rule)
    }
}
