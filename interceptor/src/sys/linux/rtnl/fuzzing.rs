//! The readers of routes, rules, links and addresses, for the fuzz target of netlink.
//! Must not read anything itself.

use super::super::netlink::{CREATE, Received, messages};
use super::rule::{FRA_FWMASK, FRA_IIFNAME, FRA_TABLE};
use super::{Leads, RTM_NEWROUTE, RTM_NEWRULE, Route, Rule, address, attributes, concerns, link, next_hops};

pub(in crate::sys::linux) fn read(received: Received<'_>) {
    let _ = (link(received), concerns(received, 169_254, 9, &[[169, 254, 169, 254].into()]));
    for (_, value) in attributes(received.payload) {
        let _ = (address(value), next_hops(value));
    }
    if let Some(rule) = Rule::read(received).filter(|rule| rule.plain && rule.kernel) {
        let again = rule.message(RTM_NEWRULE, CREATE).into_bytes();
        let Some(written) = messages(&again).next() else { panic!("{rule:?} is no message") };
        assert_eq!(Rule::read(written).as_ref(), Some(&rule));
        expect_said(received, written, &rule);
    }
    if let Some(route) = Route::read(received).filter(|route| !matches!(route.leads, Leads::Elsewhere(_))) {
        let again = route.message(RTM_NEWROUTE, CREATE).into_bytes();
        assert_eq!(messages(&again).find_map(Route::read), Some(route));
    }
}

/// What we wrote was said before, and not made up. The table and "none" may have been said in another place.
fn expect_said(before: Received<'_>, after: Received<'_>, rule: &Rule) {
    let said = |received: Received<'_>| -> Vec<(u16, Vec<u8>)> {
        let attributes = attributes(received.payload.get(12..).unwrap_or(&[]));
        attributes.map(|(kind, value)| (kind, value.to_vec())).collect()
    };
    let before = said(before);
    for (kind, value) in said(after) {
        let elsewhere = matches!(kind, FRA_TABLE | FRA_FWMASK | FRA_IIFNAME) || value == [0; 4];
        let same = |(old, bytes): &(u16, Vec<u8>)| *old == kind && bytes.starts_with(&value);
        assert!(elsewhere || before.iter().any(same), "{rule:?}: attribute {kind} is {value:?}");
    }
}
