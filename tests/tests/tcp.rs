//! TCP as clients use and misuse it, over the real path: the kernel's TCP on one side, ours on the other.
//! Says nothing of rules or requests; what is served must be served whole, and what is over must leave nothing behind.

use imds_tests::{Lab, Outcome};

const BIG: &str = "/latest/meta-data/big";
/// Each user has one path that the other has not; the big one is for all.
const RULES: &str = r#"
Allow "/latest/meta-data/big"
Allow user alice "/latest/meta-data/hostname"
Allow user bob "/latest/meta-data/local-ipv4"
"#;
const ALICE: &str = "alice:/latest/meta-data/hostname";
const BOB: &str = "bob:/latest/meta-data/local-ipv4";
const BOTH: &str = "alice:/latest/meta-data/hostname bob:/latest/meta-data/local-ipv4";
/// What the service itself gives, by which answers are measured.
const PREPARE: &str = r#"
cd "$LAB/tests/hostile"
python() { /usr/bin/python3 -B "$@"; }
imds-lab in cloud -- curl -sSf http://169.254.169.254/latest/meta-data/big >"$LAB/tmp/big"
chmod 0644 "$LAB/tmp/big"
"#;
const MEBIBYTE: usize = 1 << 20;

/// With a big body, and with limits that are not what is tested.
fn lab(big: usize, limits: &str) -> Lab {
    let limits = format!("[limits]\nrequests_per_second = 0\n{limits}");
    Lab::new().rules(RULES).config(&limits).mock_argument(&format!("--body-size=meta-data/big={big}"))
}

fn run(lab: &Lab, script: &str) -> Outcome {
    lab.script(&format!("{PREPARE}{script}"))
}

/// Runs one of the strange clients as alice, in both families.
fn expect_whole(client: &str) {
    let script = format!("imds-lab as alice -- /usr/bin/python3 -B strange.py {client} {BIG} $LAB/tmp/big");
    let text = run(&lab(MEBIBYTE, ""), &script).expect_success();
    assert_eq!(text, format!("{client} 4 ok\n{client} 6 ok\n"));
}

#[test]
fn an_answer_of_one_mebibyte_arrives_byte_for_byte() {
    let text = run(&lab(MEBIBYTE, ""), "stat -c %s $LAB/tmp/big").expect_success();
    assert_eq!(text.trim(), MEBIBYTE.to_string());
    expect_whole("plain");
}

#[test]
fn a_request_that_comes_byte_by_byte_is_answered() {
    expect_whole("byte_by_byte");
}

#[test]
fn a_client_that_finishes_after_its_request_gets_the_whole_answer() {
    expect_whole("finished_after_the_request");
}

#[test]
fn a_client_that_finishes_at_once_sees_the_end_and_no_reset() {
    expect_whole("finished_before_the_request");
}

#[test]
fn what_a_client_sends_after_the_answers_end_is_taken_and_resets_nothing() {
    expect_whole("sends_on_after_the_answers_end");
}

#[test]
fn a_client_that_reads_nothing_for_seconds_and_then_all_gets_all() {
    expect_whole("closed_window");
}

#[test]
fn a_window_that_opens_unheard_is_asked_for() {
    let script = format!(
        r#"
        mkfifo "$LAB/tmp/there" "$LAB/tmp/back"
        imds-lab as alice -- /usr/bin/python3 -B strange.py lost_opening {BIG} $LAB/tmp/big <"$LAB/tmp/there" >"$LAB/tmp/back" &
        exec 3>"$LAB/tmp/there" 4<"$LAB/tmp/back"
        while read -r word <&4; do
            case $word in
                cut) nft 'add table netdev cut; add chain netdev cut both {{ type filter hook egress device imds0 priority 0; policy drop; }}' ;;
                mend) nft 'delete table netdev cut' ;;
                *) echo "$word"; continue ;;
            esac
            echo done >&3
        done
        wait $!"#
    );
    let text = run(&lab(64 * 1024, ""), &script).expect_success();
    assert_eq!(text, "lost_opening 4 ok\nlost_opening 6 ok\n");
}

#[test]
fn a_port_is_good_for_a_new_connection_as_soon_as_the_old_one_is_over() {
    let script =
        format!("imds-lab as alice -- /usr/bin/python3 -B strange.py port_taken_again {BIG} $LAB/tmp/big");
    let text = run(&lab(100, ""), &script).expect_success();
    assert_eq!(text, "port_taken_again 4 ok\nport_taken_again 6 ok\n");
}

#[test]
fn multipath_clients_are_served_as_the_user_they_are() {
    let script = format!(
        r#"
        echo 1 >/proc/sys/net/mptcp/enabled
        for user in alice bob; do
            imds-lab as $user -- /usr/bin/python3 -B strange.py multipath {BIG} $LAB/tmp/big
        done
        cat "$LAB_AUDIT""#
    );
    let text = run(&lab(100, ""), &script).expect_success();
    let served = "multipath 4 ok\nmultipath 6 ok\n";
    assert!(text.starts_with(&format!("{served}{served}")), "{text}");
    let uids: Vec<u64> = text
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()?["uid"].as_u64())
        .collect();
    assert_eq!(uids, [2001, 2001, 2002, 2002], "{text}");
}

#[test]
fn nothing_is_left_over_of_connections_that_are_reset_at_any_stage() {
    // the limit is what resets.py counts on; the delay holds the daemons between request and answer
    let lab = lab(MEBIBYTE, "half_open_per_uid = 16").mock_argument("--delay=5");
    let text = run(&lab, &format!("python resets.py {ALICE} {BIG}")).expect_success();
    assert!(text.contains("reset 1920 connections\n"), "{text}");
}

#[test]
fn two_thousand_connections_of_two_users_at_once_are_all_served() {
    let limits = "connections_per_uid = 1100\nhalf_open_per_uid = 1100";
    let text = run(&lab(100, limits), &format!("python crowd.py 2000 {BOTH}")).expect_success();
    for round in ["first", "second"] {
        for name in ["alice", "bob"] {
            let wanted = format!("{round} {name} served=500 refused=500\n");
            assert!(text.contains(&wanted), "{text}");
        }
    }
}

#[test]
fn connections_that_come_and_go_leave_neither_memory_nor_descriptors() {
    // a short while in `make test`; IMDS_CHURN_SECONDS=30 for a thorough one
    let seconds = std::env::var("IMDS_CHURN_SECONDS").unwrap_or_else(|_| "8".into());
    let seconds: u32 = seconds.parse().expect("IMDS_CHURN_SECONDS is a number of seconds");
    let text = run(&lab(100, ""), &format!("python churn.py {seconds} {BOTH}")).expect_success();
    let count = text.lines().find_map(|line| line.strip_prefix("churned ")?.split(' ').next()?.parse().ok());
    assert!(count.is_some_and(|count: u32| count >= 400 * seconds), "{text}");
}

#[test]
fn clients_that_ask_read_or_close_never_are_let_go_in_time_and_hold_nobody_up() {
    let lab = lab(4 * MEBIBYTE, "idle_seconds = 3");
    let text = run(&lab, &format!("python silent.py 16 {ALICE} {BIG} {BOB}")).expect_success();
    for kind in ["never_asks", "never_finishes_asking", "never_reads", "never_closes"] {
        assert!(text.contains(&format!("{kind} 6 let go")), "{text}");
    }
    assert!(text.contains("a slow reader got 200\n"), "{text}");
}

#[test]
fn over_a_wire_that_loses_doubles_and_reorders_every_byte_is_right() {
    let script = format!(
        ". ./bad_wire.sh
        spoil
        python over_bad_wire.py {BIG} $LAB/tmp/big {BOTH}
        harm_done"
    );
    let text = run(&lab(64 * 1024, ""), &script).expect_success();
    for harm in
        ["lost_to_us", "doubled_to_us", "late_to_us", "lost_from_us", "doubled_from_us", "late_from_us"]
    {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("harm {harm} ")));
        let packets: u64 = line.and_then(|packets| packets.parse().ok()).unwrap_or(0);
        assert!(packets > 0, "the wire was too good, {harm}:\n{text}");
    }
}
