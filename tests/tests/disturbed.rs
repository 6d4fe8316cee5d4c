//! The capture while others interfere: what is destroyed comes back, and nothing gets through meanwhile.
//! Each disturbance is one that real software does; see section 4 of the design.

mod ways;

use imds_tests::Lab;
use ways::{NFTABLES, NOBODY, Report, XFRM, attack, guarded_by, with_guard};

const BYPASS: &str = "imds-lab as mallory -- /usr/bin/python3 -B bypass.py";
const RULES: &str = "Allow user alice \"/\"\n";
const ALICE: &str = "for base in http://169.254.169.254 'http://[fd00:ec2::254]'; do
    imds-lab as alice -- curl -sSg -o /dev/null -w '%{http_code}\\n' --max-time 5 $base/latest/meta-data/
done\n";
/// As promised for what others delete. A single round may fall on a moment when the machine does something else.
const PUT_BACK_WITHIN_MS: u64 = 50;

fn guarded() -> Lab {
    guarded_by(XFRM)
}

/// Leaks of the xfrm guard while the rules are gone: a segment routing header names the service as a mere stop on the way,
/// which that guard does not see, and no metadata service answers such a packet. The nftables guard sees it.
fn expect_closed_but_for_segments(report: &Report) {
    let segments = |name: &str| name.starts_with("segment_routing");
    let excused: Vec<_> = report
        .tried
        .iter()
        .filter(|tried| segments(&tried.name))
        .flat_map(|tried| tried.ports.clone())
        .collect();
    let reached = report
        .tried
        .iter()
        .filter(|tried| tried.outcome == "reached" || (report.arrived(tried) && !segments(&tried.name)));
    let packets = report.seen.iter().filter(|seen| seen.kind != "neighbour" && !excused.contains(&seen.port));
    let leaks = packets.map(|seen| seen.line.clone()).chain(reached.map(|tried| format!("{tried:?}")));
    let leaks: Vec<_> = leaks.collect();
    assert!(leaks.is_empty(), "got around the filter:\n{}", leaks.join("\n"));
}

fn expect_put_back(what: &str) {
    expect_put_back_in(&guarded(), what);
}

fn expect_put_back_in(lab: &Lab, what: &str) {
    let text = attack(lab, &format!("python restored.py {what}")).expect_success();
    let mut times: Vec<u64> =
        text.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse().ok()).collect();
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied();
    assert!(median.is_some_and(|median| median <= PUT_BACK_WITHIN_MS), "{what}: {times:?} ms");
}

#[test]
fn deleted_rules_are_put_back() {
    for what in ["rules4", "rules6", "last_rule4", "first_rule6"] {
        expect_put_back(what);
    }
}

#[test]
fn deleted_routes_are_put_back() {
    for what in ["routes4", "routes6"] {
        expect_put_back(what);
    }
}

#[test]
fn deleted_policies_are_put_back_in_their_order() {
    expect_put_back("policies");
    expect_put_back("everything");
}

#[test]
fn a_flushed_ruleset_is_put_back() {
    expect_put_back_in(&guarded_by(NFTABLES), "ruleset");
}

#[test]
fn the_guards_switch_is_set_back_whichever_way_it_is_written() {
    for what in ["switch_uplink", "switch_all", "switch_default", "switch_elsewhere", "switch_netlink"] {
        expect_put_back(what);
    }
}

#[test]
fn deleted_addresses_of_the_tun_are_put_back() {
    for what in ["tun_address4", "tun_address6", "tun_down"] {
        expect_put_back(what);
    }
}

#[test]
fn nothing_gets_through_while_rules_and_routes_are_flushed_over_and_over() {
    for parts in ["rules4,rules6", "routes4,routes6", "rules4,routes4,rules6,routes6"] {
        let script = format!("watched /usr/bin/python3 -B disturb.py {parts} {BYPASS}");
        expect_closed_but_for_segments(&Report::of(attack(&guarded(), &script)));
    }
}

#[test]
fn nothing_gets_through_the_table_while_rules_and_routes_are_flushed_over_and_over() {
    let script = format!("watched /usr/bin/python3 -B disturb.py rules4,routes4,rules6,routes6 {BYPASS}");
    Report::of(attack(&guarded_by(NFTABLES), &script)).expect_closed();
}

#[test]
fn nothing_gets_through_while_the_ruleset_is_flushed_and_the_rules_stand() {
    for names in [UNBOUND4, UNBOUND6] {
        let script = format!("watched /usr/bin/python3 -B disturb.py ruleset {BYPASS} {names}");
        let mut report = Report::of(attack(&guarded_by(NFTABLES), &script));
        // between a repair and its probe the table may have been flushed again
        report.seen.retain(|seen| seen.kind != "probe");
        report.expect_closed();
    }
}

#[test]
fn nothing_gets_through_while_the_policies_are_flushed_and_the_rules_stand() {
    for names in [UNBOUND4, UNBOUND6] {
        let script = format!("watched /usr/bin/python3 -B disturb.py policies {BYPASS} {names}");
        Report::of(attack(&guarded(), &script)).expect_closed();
    }
}

/// Ways that bind no device: those the rules alone hold, without the guard (design section 4).
const UNBOUND4: &str = "--family 4 plain source unicast_interface mapped multipath fast_open ring";
const UNBOUND6: &str = "--family 6 plain scope_id flow_label multipath fast_open ring";

#[test]
fn with_the_interceptor_dead_flushed_rules_and_routes_open_nothing() {
    let script = format!(
        "imds-lab kill interceptor
        for v in 4 6; do
            for priority in $(ip -$v rule | sed -n '/169.254.169.254\\|fd00:ec2::254/s/:.*//p'); do
                ip -$v rule del priority $priority
            done
            ip -$v route flush table 169254
        done
        watched {BYPASS}"
    );
    expect_closed_but_for_segments(&Report::of(attack(&guarded(), &script)));
    Report::of(attack(&guarded_by(NFTABLES), &script)).expect_closed();
}

#[test]
fn a_policy_switch_set_on_the_uplink_is_set_back_and_then_holds() {
    for link in ["eth0", "all"] {
        let script = format!(
            "echo 1 >/proc/sys/net/ipv4/conf/{link}/disable_xfrm
            began=$(date +%s)
            until [ \"$(cat /proc/sys/net/ipv4/conf/{link}/disable_xfrm)\" = 0 ]; do
                [ $(($(date +%s) - began)) -lt 10 ]
            done
            watched {BYPASS}"
        );
        Report::of(attack(&guarded(), &script)).expect_closed();
    }
}

#[test]
fn a_policy_switch_set_before_the_start_is_set_back() {
    let script = format!(
        "echo 1 >/proc/sys/net/ipv4/conf/all/disable_xfrm
        echo 1 >/proc/sys/net/ipv4/conf/eth0/disable_xfrm
        imds-lab start interceptor
        imds-lab start filterd
        watched {BYPASS}"
    );
    Report::of(attack(&Lab::bare().rules(NOBODY), &script)).expect_closed();
}

#[test]
fn a_link_that_comes_later_does_not_open_a_way() {
    // a second uplink, by which the cloud can be reached as well
    let script = format!(
        "echo 1 >/proc/sys/net/ipv4/conf/default/disable_xfrm
        {SECOND_UPLINK}
        began=$(date +%s)
        until [ \"$(cat /proc/sys/net/ipv4/conf/eth1/disable_xfrm)\" = 0 ]; do
            [ $(($(date +%s) - began)) -lt 10 ]
        done
        watched imds-lab as mallory -- env ATTACK_UPLINK=eth1 /usr/bin/python3 -B bypass.py"
    );
    Report::of(attack(&guarded(), &script)).expect_closed();
}

const SECOND_UPLINK: &str = r"
ip link add eth1 ${INDEX:+index $INDEX} type veth peer name eth1 netns cloud
ip link set eth1 up
imds-lab in cloud -- ip link set eth1 up
ip address add 10.2.0.10/24 dev eth1
ip address add 2001:db8:2::10/64 dev eth1 nodad
imds-lab in cloud -- ip address add 10.2.0.1/24 dev eth1
imds-lab in cloud -- ip address add 2001:db8:2::1/64 dev eth1 nodad
ip route append default via 10.2.0.1 dev eth1 metric 10
ip -6 route append default via 2001:db8:2::1 dev eth1 metric 10
";

#[test]
fn on_a_bare_lab_the_second_uplink_is_a_way() {
    let script = format!(
        "{SECOND_UPLINK}watched imds-lab as mallory -- env ATTACK_UPLINK=eth1 /usr/bin/python3 -B bypass.py plain device"
    );
    let report = Report::of(attack(&Lab::bare(), &script));
    for family in ["4", "6"] {
        assert_eq!(report.outcome("plain", family), "reached");
        assert_eq!(report.outcome("device", family), "reached");
    }
}

#[test]
fn another_link_with_the_number_of_the_dead_tun_opens_nothing() {
    let script = format!(
        "INDEX=$(cat /sys/class/net/imds0/ifindex)
        imds-lab kill interceptor
        {SECOND_UPLINK}
        [ \"$(cat /sys/class/net/eth1/ifindex)\" = $INDEX ]
        watched imds-lab as mallory -- env ATTACK_UPLINK=eth1 /usr/bin/python3 -B bypass.py"
    );
    for guard in [XFRM, NFTABLES] {
        Report::of(attack(&guarded_by(guard), &script)).expect_closed();
    }
}

#[test]
fn a_foreign_policy_of_the_same_priority_opens_nothing() {
    let script = format!(
        "ip xfrm policy add src 0.0.0.0/0 dst 169.254.169.254/32 proto tcp dir out priority 0 action allow
        ip xfrm policy add src ::/0 dst fd00:ec2::254/128 proto tcp dir out priority 0 action allow
        watched {BYPASS}"
    );
    Report::of(attack(&guarded(), &script)).expect_closed();
}

#[test]
fn a_foreign_policy_that_came_before_ours_is_noticed() {
    // only possible while the guard is gone and the interceptor cannot put it back; the kernel asks the older first
    let script = "
        kill -STOP $LAB_INTERCEPTOR_PID
        ip xfrm policy flush
        ip xfrm policy add src 0.0.0.0/0 dst 169.254.169.254/32 proto tcp dir out priority 0 action allow
        kill -CONT $LAB_INTERCEPTOR_PID
        began=$(date +%s)
        until grep 'xfrm policy of others' $LAB/log/interceptor.log; do [ $(($(date +%s) - began)) -lt 10 ]; done";
    let line = attack(&guarded(), script).expect_success();
    assert!(line.contains("ERROR") && line.contains("169.254.169.254"), "{line}");
}

#[test]
fn a_foreign_rule_before_ours_opens_nothing() {
    let script = format!(
        "ip rule add priority 1 lookup main
        ip -6 rule add priority 1 lookup main
        watched {BYPASS}"
    );
    expect_closed_but_for_segments(&Report::of(attack(&guarded(), &script)));
}

#[test]
fn a_lost_default_route_neither_opens_a_way_nor_hangs() {
    let lost = "ip route del default; ip -6 route del default\n";
    let found = "ip route add default via 10.0.0.1; ip -6 route add default via 2001:db8::1\n";
    let text = Lab::new().rules(RULES).script(&format!("{lost}{ALICE}{found}{ALICE}")).expect_success();
    // no upstream: said at once; the route is back: served
    let statuses: Vec<&str> = text.lines().collect();
    assert!(matches!(statuses[..], ["502" | "504", "502" | "504", "200", "200"]), "{statuses:?}");
    Report::of(attack(&guarded(), &format!("{lost}watched {BYPASS}"))).expect_closed();
}

#[test]
fn answers_of_the_service_come_back_whatever_the_reverse_path_filter() {
    for (all, uplink) in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 1)] {
        let script = format!(
            "echo {all} >/proc/sys/net/ipv4/conf/all/rp_filter
            echo {uplink} >/proc/sys/net/ipv4/conf/eth0/rp_filter
            imds-lab start interceptor
            imds-lab start filterd
            {ALICE}"
        );
        let text = Lab::bare().rules(RULES).script(&script).expect_success();
        assert_eq!(text, "200\n200\n", "all {all}, uplink {uplink}");
    }
}

#[test]
fn answers_come_back_though_the_service_must_ask_for_our_hardware_address() {
    // IPv6 asks from the service's own address, and the guard must let the answer out. The first exchange makes us know
    // the gateway, or our own question for it would tell the cloud all it wants to know.
    let script = format!("{ALICE}imds-lab in cloud -- ip -6 neigh flush all\n{ALICE}");
    for guard in [XFRM, NFTABLES] {
        let lab = with_guard(Lab::new(), guard).rules(RULES);
        assert_eq!(lab.script(&script).expect_success(), "200\n200\n200\n200\n", "{guard}");
    }
}
