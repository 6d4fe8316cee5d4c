//! Looks for what others did that capture cannot put right: rules and policies before ours, ways left open.
//! Changes nothing; sends nothing but, for the nftables guard, an empty datagram by a way that is open.

use super::guard;
use super::world::World;
use crate::capture::Event;
use crate::sys::linux::rtnl::{Action, Rule, TABLE_LOCAL, covers, full_prefix};
use crate::sys::linux::unmarked::{leaves, would_leave};
use imds_settings::{Guard, Settings};
use std::io;
use std::net::{IpAddr, SocketAddr};

/// Rules that are asked before ours and could match packets to a service, and policies that could allow them.
pub(super) fn foreign(settings: &Settings, world: &World) -> Vec<Event> {
    let services: Vec<IpAddr> = settings.upstreams().map(|service| service.ip()).collect();
    let first = settings.capture.rule_priority;
    let single =
        |rule: &Rule| rule.to.is_some_and(|(to, length)| length == full_prefix(to) && services.contains(&to));
    let ours = first..=first.saturating_add(3);
    let own = |rule: &Rule| rule.kernel && single(rule) && ours.contains(&rule.priority);
    let before = |rule: &&Rule| {
        rule.priority < first.saturating_add(3)
            && !own(rule)
            // the kernel's first rule: only addresses of this host
            && !(rule.priority == 0 && rule.to.is_none() && rule.action == Action::Lookup(TABLE_LOCAL))
            && services.iter().any(|service| match rule.to {
                Some((to, length)) => covers(to, length, *service),
                None => rule.ipv6 == service.is_ipv6(),
            })
    };
    let rules = world.rules.iter().filter(before).map(|rule| Event::ForeignRule(rule.to_string()));
    let guarding = match settings.capture.guard {
        Guard::Xfrm => services.as_slice(),
        // policies do not come into it
        Guard::Nftables => &[],
    };
    let policies = guarding.iter().flat_map(|service| {
        let dangers = world.policies.iter().filter(|policy| guard::endangers(policy, *service));
        dangers.map(|policy| Event::ForeignPolicy { to: *service, index: policy.index })
    });
    rules.chain(policies).collect()
}

/// The ways by which a socket without our mark would reach a service now: by each link that is up, and (IPv6, xfrm) with
/// the tun's own address as source, by each link and by none in particular.
pub(super) fn open_ways(settings: &Settings, world: &World) -> io::Result<Vec<String>> {
    let mut open = Vec::new();
    let links =
        || world.links.iter().filter(|link| link.up && !link.loopback && Some(link.index) != world.tun);
    for service in settings.upstreams() {
        for link in links() {
            let way_out = match settings.capture.guard {
                Guard::Xfrm => would_leave(service, Some(link.index), None)?,
                // asked only when a packet is there
                Guard::Nftables => leaves(service, link.index)?,
            };
            if way_out {
                open.push(format!("at {} by {}", service.ip(), link.name));
            }
        }
        if service.is_ipv6() && settings.capture.guard == Guard::Xfrm {
            let names = links().map(|link| (link.index, &*link.name));
            open.extend(open_with_our_source(settings, service, names)?);
        }
    }
    Ok(open)
}

fn open_with_our_source<'a>(
    settings: &Settings,
    service: SocketAddr,
    links: impl Iterator<Item = (u32, &'a str)>,
) -> io::Result<Vec<String>> {
    let source = settings.capture.address6;
    let mut open = Vec::new();
    for (link, name) in links.map(|(link, name)| (Some(link), name)).chain([(None, "any link")]) {
        if would_leave(service, link, Some(source))? {
            open.push(format!("at {} from {source} by {name}", service.ip()));
        }
    }
    Ok(open)
}
