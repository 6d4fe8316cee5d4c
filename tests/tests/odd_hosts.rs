//! Hosts that are not as one expects, and that change while the filter runs: clients are served or told at once, and nobody
//! gets around the filter meanwhile. Both guards. What others break on purpose is in disturbed.rs.

mod ways;

use imds_tests::Lab;
use ways::{NFTABLES, Report, XFRM, attack, with_guard};

const RULES: &str = "Allow user alice \"/\"\n";
const START: &str = "imds-lab start interceptor\nimds-lab start filterd\n";

/// What the scripts use: `alice4` and `alice6` print a status and the seconds it took; `restored` waits until a command
/// succeeds.
const WORDS: &str = r#"
asked() { imds-lab as alice -- curl -sg -o /dev/null -w "%{http_code} %{time_total}\n" --max-time 5 "$1/latest/meta-data/" || :; }
alice4() { asked http://169.254.169.254; }
alice6() { asked 'http://[fd00:ec2::254]'; }
restored() { began=$(date +%s); until "$@" >/dev/null 2>&1; do [ $(($(date +%s) - began)) -lt 10 ]; done; }
routes6() { ip -6 address replace 2001:db8::10/64 dev "$1" nodad; ip -6 route replace default via 2001:db8::1 dev "$1"; }
mallory() { watched imds-lab as mallory -- env ATTACK_UPLINK="$1" /usr/bin/python3 -B bypass.py \
    plain device ifindex device_in_syn_sent source_and_device tun_source_and_device udp_device; }
"#;

fn on_bare_host(guard: &str) -> Lab {
    with_guard(Lab::bare(), guard).rules(RULES)
}

/// What a script printed of alice's requests: the status, and whether it took less than two seconds.
fn answers(text: &str) -> Vec<(u16, bool)> {
    let lines = text.lines().filter_map(|line| {
        let (status, seconds) = line.split_once(' ')?;
        Some((status.parse().ok()?, seconds.parse::<f64>().ok()? < 2.0))
    });
    lines.collect()
}

/// Runs a script for each guard: nothing of mallory's may get around, and alice's requests must be answered so, soon.
fn expect(script: &str, statuses: &[u16]) {
    for guard in [XFRM, NFTABLES] {
        let text = attack(&on_bare_host(guard), &format!("{WORDS}{script}")).expect_success();
        let wanted: Vec<_> = statuses.iter().map(|status| (*status, true)).collect();
        assert_eq!(answers(&text), wanted, "{guard}:\n{text}");
        let report = Report::parse(&text);
        report.expect_closed();
        assert!(!script.contains("mallory") || !report.tried.is_empty(), "nothing was tried:\n{text}");
    }
}

/// curl prints it when there was no connection.
const NONE: u16 = 0;

#[test]
fn without_a_metadata_service_the_start_succeeds_and_clients_are_told_soon() {
    // silence: nobody answers for the address, or something on the way drops
    expect(
        &format!(
            "imds-lab in cloud -- nft 'add table inet t; add chain inet t c {{ type filter hook input priority 0; }};
                add rule inet t c tcp dport 80 drop'
            {START}alice4; alice6
            imds-lab in cloud -- nft flush ruleset
            alice4; alice6"
        ),
        &[504, 504, 200, 200],
    );
    // a host that has the address and no service
    expect(
        &format!("imds-lab stop upstream\n{START}alice4; alice6\nimds-lab start upstream\nalice4; alice6"),
        &[502, 502, 200, 200],
    );
}

#[test]
fn without_ipv6_ipv4_is_served_and_switching_ipv6_on_and_off_and_on_opens_nothing() {
    let on = "echo 0 >/proc/sys/net/ipv6/conf/all/disable_ipv6; routes6 eth0
        restored ip -6 route get fd00:ec2::254 uid 2001\n";
    let off = "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6\n";
    expect(
        &format!(
            "{off}{START}alice4; alice6
            echo 0 >/proc/sys/net/ipv6/conf/eth0/disable_ipv6; routes6 eth0
            mallory eth0
            {on}{CAPTURED6}alice4; alice6; mallory eth0
            {off}alice4; alice6
            {on}{CAPTURED6}alice4; alice6; mallory eth0"
        ),
        &[200, NONE, 200, 200, 200, NONE, 200, 200],
    );
}

/// Waits until IPv6 clients are led into the tun: the rule that does it comes after the route.
const CAPTURED6: &str =
    "restored sh -c 'ip -6 route get fd00:ec2::254 ipproto tcp dport 80 uid 2001 | grep -q imds0'\n";

#[test]
fn without_a_default_route_at_the_start_clients_are_told_soon_and_served_when_it_comes() {
    expect(
        &format!(
            "ip route del default; ip -6 route del default
            echo 1 >/proc/sys/net/ipv4/conf/eth0/rp_filter
            {START}alice4; alice6; mallory eth0
            ip route add default via 10.0.0.1; ip -6 route add default via 2001:db8::1
            restored grep -q 2 /proc/sys/net/ipv4/conf/eth0/rp_filter
            alice4; alice6; mallory eth0"
        ),
        &[502, 502, 200, 200],
    );
}

const SECOND_UPLINK: &str = "
ip link add eth1 type veth peer name eth1 netns cloud
ip link set eth1 up
imds-lab in cloud -- ip link set eth1 up
ip address add 10.2.0.10/24 dev eth1
ip address add 2001:db8:2::10/64 dev eth1 nodad
imds-lab in cloud -- ip address add 10.2.0.1/24 dev eth1
imds-lab in cloud -- ip address add 2001:db8:2::1/64 dev eth1 nodad
";

#[test]
fn a_second_interface_that_takes_the_default_route_is_followed() {
    // the first is gone for good, so an answer came by the second
    expect(
        &format!(
            "echo 1 >/proc/sys/net/ipv4/conf/default/rp_filter
            {START}alice4; alice6
            {SECOND_UPLINK}mallory eth1
            ip route replace default via 10.2.0.1; ip -6 route replace default via 2001:db8:2::1
            restored grep -q 2 /proc/sys/net/ipv4/conf/eth1/rp_filter
            ip link set eth0 down
            alice4; alice6; mallory eth1"
        ),
        &[200, 200, 200, 200],
    );
}

#[test]
fn renamed_interfaces_are_followed() {
    expect(
        &format!(
            "{START}alice4; alice6
            ip link set eth0 down; ip link set eth0 name uplink0; ip link set uplink0 up
            ip route replace default via 10.0.0.1; routes6 uplink0
            mallory uplink0; alice4; alice6
            ip link set imds0 down; ip link set imds0 name other0
            restored sh -c 'ip route show table 169254 | grep -q other0'
            restored sh -c 'ip -6 route show table 169254 | grep -q other0'
            mallory uplink0; alice4; alice6"
        ),
        &[200, 200, 200, 200, 200, 200],
    );
}

#[test]
fn all_rules_flushed_by_another_program_are_back_before_its_own() {
    // what a program does that believes all rules to be its own; the local table's is never flushed
    expect(
        &format!(
            "{START}alice4; alice6
            for round in 1 2 3; do
                ip rule flush; ip -6 rule flush
                ip rule add priority 32766 lookup main; ip -6 rule add priority 32766 lookup main
                restored sh -c '[ $(ip rule | grep -c 169.254.169.254) = 4 ]'
                restored sh -c '[ $(ip -6 rule | grep -c fd00:ec2::254) = 4 ]'
                alice4; alice6
            done
            mallory eth0"
        ),
        &[200; 8],
    );
}
