//! The guard by xfrm: which policies it has, and their exchange without an open moment. Knows no routes.
//!
//! The first policy that matches decides, and all stand at priority 0, the one that comes first. Single policies
//! cannot be put back in their place (the kernel appends at equal priority), so the whole set is exchanged: the new
//! set is appended complete, then the old one removed. Each set has its label, which the kernel stores in the
//! selector's `user` field and uses for nothing.
//!
//! IPv4 clients need no allowance: the tun has disable_xfrm = 1. IPv6 has no such setting, so TCP to the service's port
//! that carries the tun's own address as source is allowed. Any user may bind that address (or any other: IPV6_FREEBIND), hence two bolts,
//! found by an experiment in which a SYN left by eth0 without them while the rules were flushed:
//! * a source-specific prohibit route in the main table (recipe.rs) for sockets bound to no device;
//! * for sockets bound to a device, which skip prohibit routes, a block for each link, before the allowance. (An
//!   allowance for the tun's index alone would not do: the flow of an unbound IPv6 socket carries no link.)
//!
//! Allowed besides, to IPv6 services: our kernel's own neighbour solicitations and advertisements, or a service on the
//! link could not learn our hardware address. Without privileges nobody can send them (ping sockets: echo requests only).

use crate::sys::linux::xfrm::{Direction, Packets, Policies, Policy};
use imds_settings::{Forwarded, Settings};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Upper half of our labels; the lower half numbers the set.
const LABEL: u32 = 0x696d_0000;
const LABEL_MASK: u32 = 0xffff_0000;
/// ICMPv6 types of neighbour discovery (RFC 4861 sections 4.3 and 4.4).
pub(super) const NEIGHBOURS: [u8; 2] = [135, 136];

pub(super) fn ours(policy: &Policy) -> bool {
    policy.label & LABEL_MASK == LABEL
}

/// The set for these settings and `links` (all but the tun), in the order in which it is installed.
pub(super) fn wanted(settings: &Settings, links: &[u32], ipv6: bool) -> Vec<Policy> {
    let services: Vec<SocketAddr> =
        settings.upstreams().filter(|service| service.is_ipv4() || ipv6).collect();
    let addresses: Vec<IpAddr> = services.iter().map(SocketAddr::ip).collect();
    let mut set = Vec::new();
    for service in &services {
        let to = service.ip();
        if to.is_ipv6() {
            let source = settings.capture.address6;
            set.extend(links.iter().map(|link| Policy { link: *link, ..from_tun(to, source, false) }));
            set.push(Policy { packets: Packets::TcpTo(service.port()), ..from_tun(to, source, true) });
            set.extend(NEIGHBOURS.map(|kind| Policy {
                packets: Packets::Icmp6(kind),
                ..Policy::to(to, Direction::Out, true, LABEL)
            }));
        }
        set.push(Policy { mark: Some(settings.capture.mark), ..Policy::to(to, Direction::Out, true, LABEL) });
    }
    set.extend(addresses.iter().map(|to| Policy::to(*to, Direction::Out, false, LABEL)));
    match settings.capture.forwarded {
        Forwarded::Refuse => {
            set.extend(addresses.iter().map(|to| Policy::to(*to, Direction::Forward, false, LABEL)));
        }
        Forwarded::Direct => {}
    }
    set
}

fn from_tun(to: IpAddr, source: Ipv6Addr, allow: bool) -> Policy {
    Policy { from: source.into(), from_length: 128, ..Policy::to(to, Direction::Out, allow, LABEL) }
}

/// Whether exactly the wanted set is installed, whole and once.
pub(super) fn stands(wanted: &[Policy], found: &[Policy]) -> bool {
    let mut rest: Vec<&Policy> = found.iter().filter(|policy| ours(policy)).collect();
    let label = rest.first().map(|policy| policy.label);
    if rest.iter().any(|policy| Some(policy.label) != label) {
        return false;
    }
    for want in wanted {
        let Some(at) = rest.iter().position(|have| same(want, have)) else { return false };
        rest.swap_remove(at);
    }
    rest.is_empty()
}

fn same(want: &Policy, have: &Policy) -> bool {
    *want == Policy { label: want.label, index: want.index, ..have.clone() }
}

/// Installs the wanted set behind what is there, then removes our other sets. At every moment one whole set stands,
/// if one stood before: nothing opens, and nobody is refused.
pub(super) fn exchange(policies: &mut Policies, wanted: &[Policy], found: &[Policy]) -> io::Result<()> {
    let old: Vec<&Policy> = found.iter().filter(|policy| ours(policy)).collect();
    let label = (0..=u32::from(u16::MAX))
        .map(|number| LABEL | number)
        .find(|label| old.iter().all(|policy| policy.label != *label))
        .unwrap_or(LABEL);
    for policy in wanted {
        policies.insert(&Policy { label, ..policy.clone() })?;
    }
    old.into_iter().try_for_each(|policy| policies.remove(policy))
}

/// Removes the guard: allowances first, so that nothing passes that did not before.
pub(super) fn remove(policies: &mut Policies) -> io::Result<()> {
    let (allows, blocks): (Vec<_>, Vec<_>) =
        policies.all()?.into_iter().filter(ours).partition(|policy| policy.allow);
    allows.iter().chain(&blocks).try_for_each(|policy| policies.remove(policy))
}

/// Whether another's policy may let packets to the service out before our block is asked.
pub(in super::super) fn endangers(policy: &Policy, service: IpAddr) -> bool {
    !ours(policy)
        && policy.priority == 0
        && policy.allow
        && policy.direction == Direction::Out
        && policy.covers(service)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_that_lacks_a_policy_or_is_mixed_with_another_does_not_stand() {
        let wanted = wanted(&Settings::default(), &[1, 2], true);
        assert!(stands(&wanted, &wanted));
        for missing in 0..wanted.len() {
            let mut found = wanted.clone();
            let mut policy = found.remove(missing);
            assert!(!stands(&wanted, &found), "{missing}");
            policy.label += 1;
            found.push(policy);
            assert!(!stands(&wanted, &found), "{missing}");
        }
        let twice: Vec<_> = wanted.iter().chain(&wanted).cloned().collect();
        assert!(!stands(&wanted, &twice));
        assert!(!stands(&wanted, &[]));
    }

    #[test]
    fn the_bolts_of_the_links_come_before_the_allowance_and_the_blocks_last() {
        let wanted = wanted(&Settings::default(), &[4, 5], true);
        let allowance = wanted.iter().position(|p| p.allow && p.from_length == 128).unwrap();
        for link in [4, 5] {
            assert!(wanted.iter().position(|p| p.link == link && !p.allow).unwrap() < allowance);
        }
        let first_block = wanted.iter().position(|p| !p.allow && p.link == 0).unwrap();
        assert!(wanted[first_block..].iter().all(|p| !p.allow));
        assert!(wanted[..first_block].iter().all(|p| p.allow || p.link != 0));
    }
}
