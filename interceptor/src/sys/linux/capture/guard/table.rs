//! The guard by nftables: which rules our table has. Knows no routes.
//!
//! A packet that any base chain drops is dropped, whatever other tables accept. Ours comes after all others of its hook,
//! so it sees the destination after address translation and the link after re-routing, as the packet leaves. Every
//! packet is asked, also each retransmission, so a socket that is bound to a device later changes nothing.
//!
//! A dropped SYN would be sent again in silence (connect(2) is not told), so TCP is answered with a reset: the client
//! has ECONNREFUSED at once. Everything else gets EPERM. The reset goes to the packet's source, which any user can make
//! up (IPV6_FREEBIND), so only to addresses of this host, or it would leave by the uplink.
//!
//! Allowed are the mark, what leaves by the tun, and neighbour discovery of our own kernel (see policies.rs). The tun is
//! named by index and name: after its death a new link may get the one, and only root can give it both.
//!
//! The IP header of a packet with an IPv6 routing header names the next stop; its last stop stands in the header, and
//! both are asked. Forwarded packets are refused whatever their mark and port, since fragments have none.

use super::policies::NEIGHBOURS;
use crate::sys::linux::nftables::{Chain, Hook, Match, Rule, Verdict, Wanted};
use imds_settings::{Forwarded, Mode, Settings};
use std::net::IpAddr;

/// Of the table, in family inet; by it leftovers are recognised.
pub(in super::super) const NAME: &str = "imds_filterd";
const OUTPUT: &str = "output";
pub(super) const FORWARD: &str = "forward";
const JUDGE: &str = "to_service";
/// After everybody else.
const LAST: i32 = i32::MAX;

/// The table for these settings and `tun`, if it is there.
pub(super) fn wanted(settings: &Settings, tun: Option<(u32, &str)>, ipv6: bool) -> Wanted {
    let services: Vec<IpAddr> =
        settings.upstreams().map(|service| service.ip()).filter(|ip| ip.is_ipv4() || ipv6).collect();
    let to_services = |chain, verdict| {
        services.iter().flat_map(ways_to).map(move |way| Rule { chain, matches: vec![way], verdict })
    };
    let mut chains = vec![Chain { name: JUDGE.into(), place: None }, base(OUTPUT, Hook::Output)];
    let mut rules = judgement(settings, tun);
    // packets to others pay one comparison or two for each service
    rules.extend(to_services(OUTPUT, Verdict::Goto(JUDGE)));
    match settings.capture.forwarded {
        Forwarded::Refuse => {
            chains.push(base(FORWARD, Hook::Forward));
            rules.extend(to_services(FORWARD, Verdict::Drop));
        }
        Forwarded::Direct => match settings.filter.mode {
            Mode::Enforce => {}
            Mode::Audit => {
                chains.push(base(FORWARD, Hook::Forward));
                rules.extend(to_services(FORWARD, Verdict::Count));
            }
        },
    }
    Wanted { chains, rules }
}

fn base(name: &str, hook: Hook) -> Chain {
    Chain { name: name.into(), place: Some((hook, LAST)) }
}

fn ways_to(service: &IpAddr) -> Vec<Match> {
    match *service {
        IpAddr::V4(_) => vec![Match::To(*service)],
        IpAddr::V6(address) => vec![Match::To(*service), Match::RoutedTo(address)],
    }
}

/// What becomes of a packet of this host to a service.
fn judgement(settings: &Settings, tun: Option<(u32, &str)>) -> Vec<Rule> {
    let rule = |matches, verdict| Rule { chain: JUDGE, matches, verdict };
    let mut rules = vec![rule(vec![Match::Mark(settings.capture.mark)], Verdict::Accept)];
    rules.extend(tun.map(|(index, name)| rule(vec![Match::By(index, name.into())], Verdict::Accept)));
    rules.extend(NEIGHBOURS.map(|kind| rule(vec![Match::Icmp6(kind)], Verdict::Accept)));
    rules.extend([rule(vec![Match::Tcp, Match::FromHere], Verdict::Reset), rule(Vec::new(), Verdict::Drop)]);
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_packet_to_a_service_is_not_allowed_by_name_it_is_refused() {
        let wanted = wanted(&Settings::default(), Some((9, "imds0")), true);
        let texts: Vec<String> = wanted.rules.iter().map(|rule| format!("{}: {rule}", rule.chain)).collect();
        assert_eq!(
            texts,
            [
                "to_service: mark 0x1068 pass",
                "to_service: by imds0 (9) pass",
                "to_service: icmpv6 135 pass",
                "to_service: icmpv6 136 pass",
                "to_service: tcp from here reset",
                "to_service: drop",
                "output: to 169.254.169.254 judge by to_service",
                "output: to fd00:ec2::254 judge by to_service",
                "output: routed to fd00:ec2::254 judge by to_service",
                "forward: to 169.254.169.254 drop",
                "forward: to fd00:ec2::254 drop",
                "forward: routed to fd00:ec2::254 drop",
            ]
        );
    }

    #[test]
    fn forwarded_packets_that_may_pass_meet_no_chain_of_ours() {
        let mut settings = Settings::default();
        settings.capture.forwarded = Forwarded::Direct;
        let wanted = wanted(&settings, None, false);
        assert!(wanted.chains.iter().all(|chain| chain.name != FORWARD));
        assert!(wanted.rules.iter().all(|rule| rule.chain != FORWARD));
        assert!(wanted.rules.iter().all(|rule| !rule.to_string().contains("by imds0")), "there is no tun");
    }
}
