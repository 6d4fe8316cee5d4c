//! The recipe: what capture installs, in this order; each step with its undo. Decides nothing at run time: a step
//! stands or is put.
//!
//! Why this order: from the guard on, all is closed; only then come the rules and routes, and rule 3, which sends the
//! clients to us, is the last. Undone in reverse.

use super::guard::{self, Guard};
use super::world::{Kernel, World};
use crate::sys::linux::rtnl::{Action, Leads, Link, Route, Rule, TABLE_MAIN};
use crate::sys::linux::sysctl::{self, Family};
use imds_settings::{Forwarded, Settings};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

/// Last resort in our table: whatever is there has a smaller metric.
const LAST_METRIC: u32 = u32::MAX;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// A setting of the tun below net.ipv4 or net.ipv6.
    Setting(Family, &'static str, u32),
    /// The tun is up, with this MTU.
    Up(u32),
    Address(IpAddr),
    Guard(Guard),
    Route(Route),
    Rule(Rule),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setting(Family::V4, key, value) => write!(f, "net.ipv4.conf of the tun: {key} = {value}"),
            Self::Setting(Family::V6, key, value) => write!(f, "net.ipv6.conf of the tun: {key} = {value}"),
            Self::Up(mtu) => write!(f, "tun up, with MTU {mtu}"),
            Self::Address(address) => write!(f, "address {address} of the tun"),
            Self::Guard(guard) => guard.fmt(f),
            Self::Route(route) => route.fmt(f),
            Self::Rule(rule) if rule.ipv6 => write!(f, "IPv6 {rule}"),
            Self::Rule(rule) => write!(f, "IPv4 {rule}"),
        }
    }
}

impl Step {
    pub(super) fn stands(&self, world: &World) -> bool {
        match self {
            Self::Setting(family, key, value) => world
                .tun_link()
                .is_some_and(|tun| sysctl::read(*family, &tun.name, key).is_ok_and(|found| found == *value)),
            Self::Up(mtu) => world.tun_link().is_some_and(|tun| tun.up && tun.mtu == *mtu),
            Self::Address(address) => world.tun_addresses.contains(address),
            Self::Guard(guard) => guard.stands(world),
            Self::Route(route) => world.routes.contains(route),
            Self::Rule(rule) => world.rules.contains(rule),
        }
    }

    /// False if the kernel says that it stood already: a newer kernel may describe a rule with parts we do not know.
    pub(super) fn put(&self, kernel: &mut Kernel, world: &World) -> io::Result<bool> {
        match self {
            Self::Route(route) => return kernel.routing.add_route(route),
            Self::Rule(rule) => return kernel.routing.add_rule(rule),
            Self::Setting(family, key, value) => sysctl::write(*family, &tun(world)?.name, key, *value),
            Self::Up(mtu) => kernel.routing.raise(tun(world)?.index, *mtu),
            Self::Address(address) => kernel.routing.add_address(tun(world)?.index, *address),
            Self::Guard(guard) => guard.put(kernel, world),
        }
        .map(|()| true)
    }

    pub(super) fn take(&self, kernel: &mut Kernel) -> io::Result<()> {
        match self {
            // these go with the tun
            Self::Setting(..) | Self::Up(_) | Self::Address(_) => Ok(()),
            Self::Guard(_) => guard::remove(kernel),
            Self::Route(route) => kernel.routing.remove_route(route),
            Self::Rule(rule) => kernel.routing.remove_rule(rule),
        }
    }

    /// Whether it is taken by a stop. What is left keeps everything closed.
    pub(super) fn leads_in(&self, settings: &Settings) -> bool {
        match self {
            Self::Setting(..) | Self::Up(_) | Self::Address(_) | Self::Guard(_) => false,
            Self::Route(route) => route.table == settings.capture.table,
            Self::Rule(rule) => rule.priority != settings.capture.rule_priority.saturating_add(3),
        }
    }
}

fn tun(world: &World) -> io::Result<&Link> {
    world.tun_link().ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// All steps for the world as it is: without a tun those that concern it are left out, without IPv6 in the kernel
/// those of IPv6. IPv6 that is merely switched off gets all but the tun's own: switching it on opens nothing.
pub(super) fn steps(settings: &Settings, world: &World) -> Vec<Step> {
    let services: Vec<SocketAddr> =
        settings.upstreams().filter(|service| service.is_ipv4() || world.ipv6).collect();
    let has = |ipv6: bool| services.iter().any(|service| service.is_ipv6() == ipv6);
    let mut steps = tun_steps(settings, world, has(true));
    steps.push(Step::Guard(guard::wanted(settings, world)));
    let rule = |number: u32| services.iter().map(move |service| Step::Rule(rule(settings, number, *service)));
    steps.extend(rule(4));
    steps.extend(services.iter().filter_map(|service| bolt(settings, *service)).map(Step::Route));
    steps.extend([false, true].into_iter().filter(|ipv6| has(*ipv6)).map(|ipv6| {
        Step::Route(Route {
            table: settings.capture.table,
            ipv6,
            to: None,
            from: None,
            metric: LAST_METRIC,
            leads: Leads::Prohibit,
        })
    }));
    if let Some(index) = world.tun {
        let ready = services.iter().filter(|service| service.is_ipv4() || world.tun_ipv6);
        steps.extend(ready.map(|service| Step::Route(inward(settings, *service, index))));
    }
    steps.extend(rule(2));
    steps.extend(rule(1));
    steps.extend(rule(3));
    steps
}

fn tun_steps(settings: &Settings, world: &World, any_ipv6: bool) -> Vec<Step> {
    if world.tun.is_none() {
        return Vec::new();
    }
    // disable_xfrm: the guard lets IPv4 clients into the tun
    let mut steps = vec![Step::Setting(Family::V4, "disable_xfrm", 1)];
    if world.ipv6 {
        // no link-local address, hence no router solicitations in the tun; nor any routers to believe
        steps.extend([
            Step::Setting(Family::V6, "addr_gen_mode", 1),
            Step::Setting(Family::V6, "accept_ra", 0),
        ]);
    }
    steps.extend([Step::Up(settings.capture.mtu.into()), Step::Address(settings.capture.address.into())]);
    if world.tun_ipv6 && any_ipv6 {
        steps.push(Step::Address(settings.capture.address6.into()));
    }
    steps
}

/// The four rules of a service, by their number.
///
/// IPv6 rules 3 and 4 name protocol and port: firewalld's IPv6_rpfilter looks the answers' way back up without a mark
/// and without ports, and must not find the tun. What they do not match (other ports, fragments) the guard refuses.
fn rule(settings: &Settings, number: u32, service: SocketAddr) -> Rule {
    let capture = &settings.capture;
    let prohibited = number == 2 || number == 4;
    Rule {
        ipv6: service.is_ipv6(),
        priority: capture.rule_priority.saturating_add(number - 1),
        to: Some((service.ip(), if service.is_ipv6() { 128 } else { 32 })),
        mark: (number <= 2).then_some(capture.mark),
        // forwarded packets may carry anybody's mark; rule 4 refuses them too, unless they may pass
        local: number <= 3 || capture.forwarded == Forwarded::Direct,
        port: (service.is_ipv6() && number >= 3).then_some(service.port()),
        action: match number {
            _ if prohibited => Action::Prohibit,
            3 => Action::Lookup(capture.table),
            _ => Action::Lookup(TABLE_MAIN),
        },
        kernel: true,
        plain: true,
    }
}

/// The route into the tun.
fn inward(settings: &Settings, service: SocketAddr, index: u32) -> Route {
    let source = service.is_ipv6().then_some(settings.capture.address6);
    Route {
        table: settings.capture.table,
        ipv6: service.is_ipv6(),
        to: Some(service.ip()),
        from: None,
        // IPv6 routes always have one
        metric: u32::from(service.is_ipv6()),
        leads: Leads::Link { index, source },
    }
}

/// See guard.rs: with the rules gone, packets with the tun's IPv6 source would follow the main table's default route.
/// Seen by no packet with another source, so not by our own.
fn bolt(settings: &Settings, service: SocketAddr) -> Option<Route> {
    service.is_ipv6().then(|| Route {
        table: TABLE_MAIN,
        ipv6: true,
        to: Some(service.ip()),
        from: Some(settings.capture.address6),
        metric: 1,
        leads: Leads::Prohibit,
    })
}

/// What a former run or former settings left, and nobody wants now. Ours is what says it is the kernel's, at one of our
/// priorities, for a single address; everything in our table; and a source-specific prohibit for a service.
pub(super) fn leftovers(settings: &Settings, world: &World, steps: &[Step]) -> Vec<Step> {
    let first = settings.capture.rule_priority;
    let services: Vec<IpAddr> = settings.upstreams().map(|service| service.ip()).collect();
    let own_rule = |rule: &&Rule| {
        let single = rule.to.is_some_and(|(to, length)| length == if to.is_ipv4() { 32 } else { 128 });
        rule.kernel && rule.plain && single && (first..=first.saturating_add(3)).contains(&rule.priority)
    };
    let own_route = |route: &&Route| {
        route.table == settings.capture.table || route.to.is_some_and(|to| services.contains(&to))
    };
    let rules = world.rules.iter().filter(own_rule).cloned().map(Step::Rule);
    let routes = world.routes.iter().filter(own_route).cloned().map(Step::Route);
    rules.chain(routes).filter(|step| !steps.contains(step)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world() -> World {
        World {
            links: Vec::new(),
            tun: Some(9),
            tun_addresses: Vec::new(),
            rules: Vec::new(),
            routes: Vec::new(),
            policies: Vec::new(),
            table: None,
            ipv6: true,
            tun_ipv6: true,
        }
    }

    #[test]
    fn the_guard_closes_before_any_rule_and_the_rule_for_clients_comes_last() {
        let steps = steps(&Settings::default(), &world());
        let at = |wanted: &dyn Fn(&Step) -> bool| steps.iter().position(wanted).unwrap();
        let guard = at(&|step| matches!(step, Step::Guard(_)));
        let rule =
            |priority| move |step: &Step| matches!(step, Step::Rule(rule) if rule.priority == priority);
        let order = [
            at(&|step| matches!(step, Step::Setting(Family::V4, "disable_xfrm", 1))),
            guard,
            at(&rule(13)),
            at(&|step| matches!(step, Step::Route(route) if route.to.is_none())),
            at(&|step| matches!(step, Step::Route(route) if matches!(route.leads, Leads::Link { .. }))),
            at(&rule(11)),
            at(&rule(10)),
            at(&rule(12)),
        ];
        assert!(order.is_sorted(), "{order:?}");
        assert!(matches!(steps.last(), Some(Step::Rule(rule)) if rule.priority == 12));
    }

    #[test]
    fn a_stop_leaves_the_guard_and_rule_4() {
        let settings = Settings::default();
        let left: Vec<_> =
            steps(&settings, &world()).into_iter().filter(|step| !step.leads_in(&settings)).collect();
        assert!(left.iter().any(|step| matches!(step, Step::Guard(_))));
        let rules: Vec<_> =
            left.iter().filter_map(|s| if let Step::Rule(r) = s { Some(r) } else { None }).collect();
        assert_eq!(rules.len(), 2);
        assert!(rules.iter().all(|rule| rule.priority == 13 && rule.action == Action::Prohibit));
    }
}
