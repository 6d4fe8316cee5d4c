//! Peers that misbehave: a filterd towards interceptor, an interceptor towards filterd, clients towards both.
//! Must not test what a well-behaved one gets, but for showing that it still gets it.

use imds_tests::{Lab, Outcome};

const RULES: &str = "Allow user alice \"/\"\nAllow user bob \"/\"\nAllow user mallory \"/\"\n";
const SERVED: &str =
    "imds-lab as alice -- curl -fsS -o /dev/null --max-time 5 http://169.254.169.254/latest/meta-data/\n";

/// Runs the script; a panic of a daemon's, caught or not, is in its log by the words of log.rs.
fn hostile(lab: &Lab, script: &str) -> Outcome {
    let before = "ulimit -n 8192\ncd \"$LAB/tests/hostile\"\npython() { /usr/bin/python3 -B \"$@\"; }\n";
    let after = "\n! grep -E 'internal error|panicked' \"$LAB\"/log/*.log >&2 || exit 1\n";
    lab.script(&format!("{before}{script}{after}"))
}

/// Every line of a program says `NAME ok`, and there are as many as it has ways.
#[track_caller]
fn expect_all_ok(outcome: Outcome, least: usize) {
    let shown = format!("{}{}", outcome.stdout, outcome.stderr);
    let said: Vec<&str> = outcome.stdout.lines().collect();
    let wrong: Vec<_> = said.iter().filter(|line| !line.ends_with(" ok")).collect();
    assert!(wrong.is_empty() && outcome.status == 0, "{shown}");
    assert!(said.len() >= least, "{shown}");
}

#[test]
fn a_hostile_filterd_is_dropped_leaves_nothing_behind_and_the_next_is_served() {
    // the program tells ways and descriptors apart by itself; a daemon that was started anew would have another number
    let script = format!(
        "imds-lab stop filterd
        python filterd.py
        imds-lab start filterd
        {SERVED}
        kill -0 $LAB_INTERCEPTOR_PID"
    );
    let limits = "[limits]\nconnections_per_uid = 1000\n";
    expect_all_ok(hostile(&Lab::new().rules(RULES).config(limits), &script), 23);
}

#[test]
fn a_hostile_interceptor_ends_the_exchange_or_filterd_cleanly() {
    let lab = Lab::bare().rules(RULES).config("[limits]\nconnections = 200\nidle_seconds = 2\n");
    expect_all_ok(hostile(&lab, "python interceptor.py"), 18);
}

#[test]
fn whatever_clients_do_others_are_served_at_once_and_no_established_one_loses_a_request() {
    let lab =
        Lab::new().rules(RULES).config("[limits]\nrequest_burst = 1000000\nrequests_per_second = 1000000\n");
    let script = "python client.py slow_and_endless pipelined half_open flood_of_connections";
    expect_all_ok(hostile(&lab, script), 4);
}

#[test]
fn over_its_limits_a_user_gets_503_with_a_time_and_one_audit_line_each() {
    let limits = "[limits]\nconnections_per_uid = 8\nrequest_burst = 50\nrequests_per_second = 20\n";
    let script = "export LIMIT_CONNECTIONS=8 LIMIT_BURST=50 LIMIT_RATE=20
        python client.py connections_over_the_limit connections_over_twice_the_limit requests_over_the_limit";
    expect_all_ok(hostile(&Lab::new().rules(RULES).config(limits), script), 3);
}

#[test]
fn interceptor_does_not_wait_for_who_reads_its_log_nor_end_with_him() {
    let script = "imds-lab stop filterd
        imds-lab stop interceptor
        python unread.py";
    expect_all_ok(hostile(&Lab::new().rules(RULES), script), 2);
}
