//! Links as rtnetlink(7) writes them, with the two IPv4 settings that capture depends on. Changes nothing.

use super::super::netlink::{Received, attributes, name, u32_at};
use super::address::AF_INET;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) up: bool,
    pub(crate) loopback: bool,
    pub(crate) mtu: u32,
    /// net.ipv4.conf.NAME.disable_xfrm and rp_filter; none where the link has no IPv4 state.
    pub(crate) disable_xfrm: Option<u32>,
    pub(crate) rp_filter: Option<u32>,
}

pub(super) fn link(received: Received<'_>) -> Option<Link> {
    const IFLA_IFNAME: u16 = 3;
    const IFLA_MTU: u16 = 4;
    const IFLA_AF_SPEC: u16 = 26;
    const IFLA_INET_CONF: u16 = 1;
    // IPV4_DEVCONF_RP_FILTER and _NOXFRM of linux/ip.h are 8 and 15, counted from 1, four bytes each
    const RP_FILTER: usize = (8 - 1) * 4;
    const NOXFRM: usize = (15 - 1) * 4;
    let body = received.payload;
    let flags = u32_at(body, 8)?;
    let mut link = Link {
        index: u32_at(body, 4)?,
        name: String::new(),
        up: flags & 1 != 0,
        loopback: flags & 8 != 0,
        mtu: 0,
        disable_xfrm: None,
        rp_filter: None,
    };
    for (kind, value) in attributes(body.get(16..)?) {
        match kind {
            IFLA_IFNAME => link.name = name(value)?.to_owned(),
            IFLA_MTU => link.mtu = u32_at(value, 0)?,
            IFLA_AF_SPEC => {
                let inet = attributes(value).find(|(family, _)| *family == u16::from(AF_INET));
                let settings =
                    inet.and_then(|(_, inet)| attributes(inet).find(|(kind, _)| *kind == IFLA_INET_CONF));
                let (_, settings) = settings.unwrap_or((0, &[]));
                link.rp_filter = u32_at(settings, RP_FILTER);
                link.disable_xfrm = u32_at(settings, NOXFRM);
            }
            _ => {}
        }
    }
    Some(link)
}
