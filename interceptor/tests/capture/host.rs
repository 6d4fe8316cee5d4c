//! Capture while the host changes under it and other programs meddle. See main.rs.

use crate::world::{
    Attempt, Running, Service, assert_closed, assert_same, inside, settings, sh, snapshot, until_up,
};
use crate::{MARKED4, MARKED6, V4, V6, until};
use imds_interceptor::capture::{Event, release};
use std::process::Command;

#[test]
fn answers_come_through_with_rp_filter_0_1_and_2() {
    if !inside("host::answers_come_through_with_rp_filter_0_1_and_2") {
        return;
    }
    let _service = Service::start();
    for (all, own) in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 1)] {
        sh(&format!("sysctl -qw net.ipv4.conf.all.rp_filter={all} net.ipv4.conf.eth0.rp_filter={own}"));
        let before = snapshot();
        let running = Running::start();
        assert_eq!(MARKED4.make(), "connected", "all {all} own {own}");
        if all < 2 {
            // another program tightens it again
            sh("sysctl -qw net.ipv4.conf.eth0.rp_filter=1");
            until("rp_filter loosened again", || sh("sysctl -n net.ipv4.conf.eth0.rp_filter") == "2\n");
        }
        running.down();
        if own != 1 && all == 0 {
            sh(&format!("sysctl -qw net.ipv4.conf.eth0.rp_filter={own}"));
        }
        release(&settings()).unwrap();
        sh(&format!("sysctl -qw net.ipv4.conf.eth0.rp_filter={own}"));
        assert_same(&before, &snapshot());
    }
    // a second uplink appears and takes the default route
    sh("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=1");
    let running = Running::start();
    sh("ip link add eth1 type veth peer name eth1 netns cloud; ip link set eth1 up; ip -n cloud link set eth1 up
        ip addr add 10.1.0.2/24 dev eth1; ip route replace default via 10.1.0.1");
    running.wait_for("eth1 loosened", |event| *event == Event::ReversePathLoosened { link: "eth1".into() });
}

#[test]
fn answers_pass_firewalld_and_its_look_at_the_way_back() {
    if !inside("host::answers_pass_firewalld_and_its_look_at_the_way_back") {
        return;
    }
    let _service = Service::start();
    let _running = Running::start();
    // its IPv6_rpfilter, to the letter
    sh("nft 'add table inet firewalld; add chain inet firewalld c { type filter hook prerouting priority -140; };
        add rule inet firewalld c icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept;
        add rule inet firewalld c meta nfproto ipv6 fib saddr . mark . iif oif missing drop'");
    assert_eq!((MARKED4.make(), MARKED6.make()), ("connected".into(), "connected".into()));
}

#[test]
fn disable_xfrm_on_a_link_or_on_all_is_noticed_and_corrected() {
    if !inside("host::disable_xfrm_on_a_link_or_on_all_is_noticed_and_corrected") {
        return;
    }
    let _service = Service::start();
    let bound = Attempt { device: "eth0", ..V4 };
    for link in ["eth0", "all", "default"] {
        let setting = format!("net.ipv4.conf.{link}.disable_xfrm");
        sh(&format!("sysctl -qw {setting}=1"));
        let running = Running::start();
        running
            .wait_for("correction at the start", |event| *event == Event::GuardWasOff { link: link.into() });
        assert_eq!(bound.make(), "EPERM", "{link}");
        sh(&format!("sysctl -qw {setting}=1"));
        running.wait_for("correction", |event| *event == Event::GuardWasOff { link: link.into() });
        assert_eq!(bound.make(), "EPERM", "{link}");
        running.down();
        release(&settings()).unwrap();
        assert_eq!(sh(&format!("sysctl -n {setting}")), "1\n");
        sh(&format!("sysctl -qw {setting}=0"));
    }
}

#[test]
fn policies_and_rules_of_others_before_ours_are_noticed() {
    if !inside("host::policies_and_rules_of_others_before_ours_are_noticed") {
        return;
    }
    let _service = Service::start();
    // before ours: the only order in which it does harm
    sh("ip xfrm policy add dst 169.254.0.0/16 dir out priority 0");
    let running = Running::start();
    running.wait_for("the policy", |event| matches!(event, Event::ForeignPolicy { .. }));
    running.wait_for("the probe", |event| matches!(event, Event::Open { way } if way.contains("eth0")));
    assert!(!running.health().guarded);
    assert_eq!(Attempt { device: "eth0", ..V4 }.make(), "connected", "the alarm is a true one");
    sh("ip xfrm policy del dst 169.254.0.0/16 dir out");
    running.wait_for("the all-clear", |event| matches!(event, Event::Closed { .. }));
    until("guarded again", || running.health().guarded);

    sh("ip rule add pref 5 lookup main");
    running.wait_for(
        "the rule",
        |event| matches!(event, Event::ForeignRule(rule) if rule.contains("lookup 254")),
    );
    assert_closed(&["eth0"], "a rule of others before ours");
    // harmless ones are not told
    sh("ip rule del pref 5; ip rule add pref 5 to 192.0.2.0/24 lookup main; ip rule add pref 100 lookup main
        ip xfrm policy add dst 192.0.2.0/24 dir out; ip xfrm policy add dst 169.254.0.0/16 dir out priority 9");
    until("quiet", || running.health().foreign.is_empty());
}

#[test]
fn a_deleted_tun_is_told_and_its_index_in_other_hands_opens_nothing() {
    if !inside("host::a_deleted_tun_is_told_and_its_index_in_other_hands_opens_nothing") {
        return;
    }
    let _service = Service::start();
    let running = Running::start();
    let index = sh("ip -o link show imds0 | cut -d: -f1");
    sh("ip link del imds0");
    running.wait_for("the loss", |event| *event == Event::TunGone);
    assert!(!running.health().tun);
    // a second uplink that has the tun's index
    sh(&format!(
        "ip link add eth1 index {} type veth peer name eth1 netns cloud
         ip link set eth1 up; ip -n cloud link set eth1 up
         ip addr add 10.1.0.2/24 dev eth1; ip addr add 2001:db8:1::2/64 dev eth1 nodad
         ip -n cloud addr add 10.1.0.1/24 dev eth1; ip -n cloud addr add 2001:db8:1::1/64 dev eth1 nodad
         ip route replace default via 10.1.0.1; ip -6 route replace default via 2001:db8:1::1",
        index.trim()
    ));
    until("followed", || sh("ip xfrm policy | grep -c 'dev eth1' || :") == "1\n");
    assert_eq!(sh("sysctl -n net.ipv4.conf.eth1.disable_xfrm"), "0\n");
    assert_closed(&["eth0", "eth1"], "the tun's index reused");
    for rule in [10, 11, 12, 13] {
        sh(&format!("ip rule del pref {rule}"));
    }
    assert_closed(&["eth0", "eth1"], "the tun's index reused");
}

#[test]
fn a_renamed_tun_and_uplink_are_followed() {
    if !inside("host::a_renamed_tun_and_uplink_are_followed") {
        return;
    }
    let _service = Service::start();
    sh("sysctl -qw net.ipv4.conf.eth0.rp_filter=1");
    let running = Running::start();
    sh("ip link set imds0 down; ip link set imds0 name other0; ip link set eth0 down; ip link set eth0 name uplink
        ip link set uplink up; ip route replace default via 10.0.0.1; ip -6 addr add 2001:db8::2/64 dev uplink nodad
        ip -6 route replace default via 2001:db8::1");
    until("the tun under its new name", || sh("ip route show table 169254 | grep -c other0 || :") == "1\n");
    until("captured again", || V4.make() == "timeout" && V6.make() == "timeout");
    until("marked", || MARKED4.make() == "connected" && MARKED6.make() == "connected");
    assert_closed(&["uplink"], "renamed");
    running.down();
    release(&settings()).unwrap();
    assert_eq!(sh("sysctl -n net.ipv4.conf.uplink.rp_filter"), "1\n");
}

#[test]
fn without_a_default_route_our_own_sockets_do_not_fall_into_the_tun() {
    if !inside("host::without_a_default_route_our_own_sockets_do_not_fall_into_the_tun") {
        return;
    }
    let _service = Service::start();
    let running = Running::start();
    sh("ip route del default; ip -6 route del default");
    assert_eq!((MARKED4.make(), MARKED6.make()), ("EACCES".into(), "EACCES".into()));
    assert_closed(&["eth0"], "no default route");
    assert_eq!((V4.make(), V6.make()), ("timeout".into(), "timeout".into()));
    sh("ip route add default via 10.0.0.1; ip -6 route add default via 2001:db8::1");
    assert_eq!((MARKED4.make(), MARKED6.make()), ("connected".into(), "connected".into()));
    assert!(running.health().tun);
    running.down();
    sh("ip route del default; ip -6 route del default");
    let running = Running::start();
    assert_closed(&["eth0"], "started without a default route");
    sh("sysctl -qw net.ipv4.conf.eth0.rp_filter=1; ip route add default via 10.0.0.1");
    running.wait_for("loosened", |event| matches!(event, Event::ReversePathLoosened { .. }));
    assert_eq!(MARKED4.make(), "connected");
}

#[test]
fn ipv6_switched_on_later_opens_nothing_and_is_captured() {
    if !inside("host::ipv6_switched_on_later_opens_nothing_and_is_captured") {
        return;
    }
    let _service = Service::start();
    sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
    let before = snapshot();
    let running = Running::start();
    assert_eq!(V4.make(), "timeout");
    assert!(!running.health().ipv6);
    sh("sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0
        ip addr add 2001:db8::2/64 dev eth0 nodad; ip -6 route add default via 2001:db8::1");
    until("the uplink's IPv6", || MARKED6.make() == "connected");
    assert_closed(&["eth0"], "IPv6 on, but not on the tun");
    sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=0");
    until("captured", || V6.make() == "timeout" && running.health().ipv6);
    sh("ip -6 addr replace 2001:db8::2/64 dev eth0 nodad; ip -6 route replace default via 2001:db8::1");
    assert_eq!(MARKED6.make(), "connected");
    assert_closed(&["eth0"], "IPv6 on");
    sh("sysctl -qw net.ipv6.conf.all.disable_ipv6=1");
    until("IPv6 off again", || !running.health().ipv6);
    assert_eq!(V4.make(), "timeout");
    running.down();
    release(&settings()).unwrap();
    assert_same(&before, &snapshot());
}

#[test]
fn an_unprivileged_user_cannot_attach_to_the_tun() {
    if !inside("host::an_unprivileged_user_cannot_attach_to_the_tun") {
        return;
    }
    sh("chmod 666 /dev/net/tun");
    let _running = Running::start();
    let attach = |flags: u32| {
        let program = format!(
            "import errno, fcntl, os, struct
os.setgroups([]); os.setgid(65533); os.setuid(65534)
f = os.open('/dev/net/tun', os.O_RDWR)
try:
    fcntl.ioctl(f, 0x400454ca, struct.pack('16sH22x', b'imds0', {flags})); print('attached')
except OSError as e: print(errno.errorcode[e.errno])"
        );
        let output = Command::new("python3").args(["-c", &program]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    for flags in [0x1001, 0x1101] {
        assert!(
            matches!(attach(flags).as_str(), "EPERM" | "EBUSY" | "EINVAL"),
            "{flags:#x}: {}",
            attach(flags)
        );
    }
    assert!(!sh("ip -d link show imds0").contains("persist on"));
}

#[test]
fn a_device_of_the_same_name_refuses_the_start_with_advice() {
    if !inside("host::a_device_of_the_same_name_refuses_the_start_with_advice") {
        return;
    }
    sh("ip tuntap add imds0 mode tun user 65534");
    let Err(error) = Running::try_start(&settings()).map(|_| ()) else {
        panic!("attached to somebody's tun")
    };
    assert!(error.to_string().contains("choose another capture.device"), "{error}");
    assert_eq!(error.exit_code(), imds_settings::exit::OS);
}

/// A routed namespace behind br0.
pub(crate) fn container() {
    sh("ip netns add container; ip netns exec container sysctl -qw net.ipv6.conf.default.accept_dad=0; sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
        ip link add br0 type veth peer name eth0 netns container; ip link set br0 up
        ip addr add 172.17.0.1/24 dev br0; ip addr add 2001:db8:17::1/64 dev br0 nodad
        ip -n container link set eth0 up; ip -n container addr add 172.17.0.2/24 dev eth0
        ip -n container addr add 2001:db8:17::2/64 dev eth0 nodad
        ip -n container route add default via 172.17.0.1; ip -n container -6 route add default via 2001:db8:17::1
        ip -n cloud route add 172.17.0.0/24 via 10.0.0.2; ip -n cloud -6 route add 2001:db8:17::/64 via 2001:db8::2");
    until_up(&["br0", "-n container eth0"]);
}

/// Whether the container reaches the service.
pub(crate) fn reaches(to: &str) -> bool {
    let connect = format!(
        "ip netns exec container timeout 1 bash -c 'exec 3<>/dev/tcp/{to}/80' 2>/dev/null && echo yes || echo no"
    );
    sh(&connect).trim() == "yes"
}

#[test]
fn packets_of_a_container_behind_this_host_are_refused() {
    if !inside("host::packets_of_a_container_behind_this_host_are_refused") {
        return;
    }
    let _service = Service::start();
    container();
    assert_eq!((reaches("169.254.169.254"), reaches("fd00:ec2::254")), (true, true), "an open host forwards");
    let closed = |when: &str| {
        assert_eq!((reaches("169.254.169.254"), reaches("fd00:ec2::254")), (false, false), "{when}");
    };
    // a firewall gives forwarded packets our very mark
    sh("nft 'add table inet t; add chain inet t c { type filter hook prerouting priority -150; };
        add rule inet t c meta iifname br0 meta mark set 0x1068'");
    let (_capture, _tun, _) = Running::start().halt();
    closed("capture up");
    sh("for p in 10 11 12 13; do ip rule del pref $p; ip -6 rule del pref $p; done");
    closed("rules gone");
    drop((_capture, _tun));
    let (_capture, _tun, _) = Running::start().halt();
    sh("ip xfrm policy flush");
    closed("guard gone, rules there");
}
