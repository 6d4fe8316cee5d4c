//! No process without privileges reaches the metadata service except through the filter: each known way, tried.
//! A way that does not work on a bare lab proves nothing here, so that is tested too.

mod ways;

use imds_tests::Lab;
use ways::{NFTABLES, NOBODY, Report, TUN_BUT_NO_FILTER, XFRM, attack, expect_bare, guarded_by, with_guard};

const BYPASS: &str = "watched imds-lab as mallory -- /usr/bin/python3 -B bypass.py";
/// The gateway of the lab's cloud answers for the service, whatever the container is called.
const CONTAINER: &str = "watched imds-lab in container -- /usr/bin/python3 -B container.py";

#[test]
fn on_a_bare_lab_each_way_does_what_it_claims() {
    let script = format!("{TUN_BUT_NO_FILTER}{BYPASS}");
    let report = Report::of(attack(&Lab::bare(), &script));
    let list = attack(&Lab::bare(), "python bypass.py --list").expect_success();
    expect_bare(&report, &list);
}

#[test]
fn on_a_bare_lab_an_unprivileged_user_can_take_an_ownerless_tun() {
    let script =
        format!("{TUN_BUT_NO_FILTER}imds-lab as mallory -- /usr/bin/python3 -B bypass.py attach_to_the_tun");
    let report = Report::of(attack(&Lab::bare(), &script));
    assert_eq!(report.outcome("attach_to_the_tun", "4"), "reached");
}

#[test]
fn no_way_leads_around_the_filter() {
    expect_no_way(XFRM);
}

#[test]
fn no_way_leads_around_the_filter_with_the_guard_by_nftables() {
    expect_no_way(NFTABLES);
}

fn expect_no_way(guard: &str) {
    let report = Report::of(attack(&guarded_by(guard), BYPASS));
    report.expect_closed();
    for family in ["4", "6"] {
        // the honest client is answered, or nothing at all would be a pass
        assert_eq!(report.outcome("plain", family), "filtered:403");
        assert_eq!(report.outcome("own_root_plain", family), "filtered:403");
    }
    assert_eq!(report.outcome("mapped", "4"), "filtered:403");
    assert_eq!(report.outcome("attach_to_the_tun", "4"), "refused:EPERM");
    assert!(report.outcome("steal_a_descriptor", "4").starts_with("refused:"));
    assert!(report.outcome("pose_as_filterd", "4").starts_with("refused:"));
}

#[test]
fn with_the_interceptor_killed_everything_is_refused_at_once() {
    expect_closed_when_killed(XFRM);
}

#[test]
fn with_the_interceptor_killed_everything_is_refused_at_once_with_the_guard_by_nftables() {
    expect_closed_when_killed(NFTABLES);
}

fn expect_closed_when_killed(guard: &str) {
    let script = format!("imds-lab kill interceptor\n{BYPASS}");
    let report = Report::of(attack(&guarded_by(guard), &script));
    report.expect_closed();
    assert_eq!(report.outcome("plain", "4"), "refused:EACCES");
    assert_eq!(report.outcome("plain", "6"), "refused:EACCES");
}

#[test]
fn with_both_daemons_stopped_everything_is_refused() {
    let script = format!("imds-lab stop filterd; imds-lab stop interceptor\n{BYPASS}");
    let report = Report::of(attack(&guarded_by(XFRM), &script));
    report.expect_closed();
    assert_eq!(report.outcome("plain", "4"), "refused:EACCES");
    assert_eq!(report.outcome("plain", "6"), "refused:EACCES");
}

#[test]
fn after_a_release_everything_is_open_again() {
    // the other side of the tests above: they do not pass because the cloud is broken
    let script = format!(
        "imds-lab stop filterd; imds-lab stop interceptor\nimds-interceptor release --config \"$LAB_CONFIG\"\n{BYPASS} plain device"
    );
    for guard in [XFRM, NFTABLES] {
        let report = Report::of(attack(&guarded_by(guard), &script));
        for family in ["4", "6"] {
            assert_eq!(report.outcome("plain", family), "reached", "{guard}");
            assert_eq!(report.outcome("device", family), "reached", "{guard}");
        }
    }
}

/// The program has opened its connections when the first line comes; it uses them when it gets one.
const HELD_OPEN: &str = r#"
mkfifo "$LAB/tmp/out" "$LAB/tmp/go"
imds-lab as mallory -- /usr/bin/python3 -B before_start.py <"$LAB/tmp/go" >"$LAB/tmp/out" &
exec 3>"$LAB/tmp/go" 4<"$LAB/tmp/out"
read -r ready <&4
[ "$ready" = ready ]
"#;
const GO_ON: &str = "watched sh -c 'echo >&3; cat <&4'";

#[test]
fn a_connection_opened_before_the_start_works_on_a_bare_lab() {
    let report = Report::of(attack(&Lab::bare(), &format!("{HELD_OPEN}{GO_ON}")));
    for name in
        ["connected", "connected_by_device", "multipath_connected", "syn_sent", "connected_half_asked"]
    {
        assert_eq!(report.outcome(name, "4"), "reached", "{name}");
        assert_eq!(report.outcome(name, "6"), "reached", "{name}");
    }
    assert!(report.seen.iter().any(|seen| seen.kind == "udp"), "{report:?}");
}

#[test]
fn a_connection_opened_before_the_start_is_cut_off() {
    let script = format!("{HELD_OPEN}imds-lab start interceptor\nimds-lab start filterd\n{GO_ON}");
    for guard in [XFRM, NFTABLES] {
        let lab = with_guard(Lab::bare(), guard).rules(NOBODY);
        Report::of(attack(&lab, &script)).expect_closed();
    }
}

#[test]
fn on_a_bare_lab_a_container_reaches_the_service_in_each_way() {
    for how in ["bridge", "masquerade"] {
        let lab = Lab::bare().container(how);
        let report = Report::of(attack(&lab, CONTAINER));
        let list = attack(&lab, "imds-lab in container -- /usr/bin/python3 -B container.py --list");
        expect_bare(&report, &list.expect_success());
    }
}

#[test]
fn a_container_is_refused_whatever_it_tries() {
    for (how, guard) in
        [("bridge", XFRM), ("masquerade", XFRM), ("bridge", NFTABLES), ("masquerade", NFTABLES)]
    {
        Report::of(attack(&guarded_by(guard).container(how), CONTAINER)).expect_closed();
    }
}

#[test]
fn a_container_is_refused_with_the_interceptor_killed() {
    let script = format!("imds-lab kill interceptor\n{CONTAINER}");
    for guard in [XFRM, NFTABLES] {
        Report::of(attack(&guarded_by(guard).container("masquerade"), &script)).expect_closed();
    }
}

#[test]
fn a_container_is_refused_by_the_guard_alone() {
    let script = format!(
        "imds-lab kill interceptor
        for v in 4 6; do ip -$v rule del priority 13; ip -$v rule del priority 12; done
        {CONTAINER}"
    );
    for guard in [XFRM, NFTABLES] {
        Report::of(attack(&guarded_by(guard).container("bridge"), &script)).expect_closed();
    }
}

#[test]
fn a_container_that_may_go_directly_is_answered_by_the_service_and_the_host_is_filtered_still() {
    let config = "[capture]\nguard = \"nftables\"\nforwarded = \"direct\"\n";
    for how in ["bridge", "masquerade"] {
        let lab = Lab::new().config(config).rules(NOBODY).container(how);
        let report = Report::of(attack(&lab, &format!("{CONTAINER} plain\n")));
        assert_eq!(
            (report.outcome("plain", "4"), report.outcome("plain", "6")),
            ("reached", "reached"),
            "{how}"
        );
        if how == "bridge" {
            let report = Report::of(attack(&lab, &format!("{BYPASS} plain device")));
            report.expect_closed();
            assert_eq!(report.outcome("plain", "4"), "filtered:403");
        }
    }
}
