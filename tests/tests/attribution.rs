//! Nobody is taken for another user, whatever he does with ports, listeners and closed sockets.
//! Each attack is first shown to mix users up where nobody is told apart.

mod ways;

use imds_tests::{Lab, Outcome};
use ways::{Report, attack};

const RULES: &str = r#"
Allow user root "/latest/meta-data/instance-id"
Allow user alice "/latest/meta-data/hostname"
Allow user bob "/latest/meta-data/local-ipv4"
"#;
const ALICE: &str = "alice:/latest/meta-data/hostname";
const BOB: &str = "bob:/latest/meta-data/local-ipv4";
const ROOT: &str = "root:/latest/meta-data/instance-id";

fn attribution(lab: &Lab, arguments: &str) -> Outcome {
    attack(lab, &format!("python attribution.py {arguments}"))
}

/// The program says itself whether anybody was mixed up, and whether anybody was served at all.
fn expect_no_mix_up(arguments: &str) {
    let outcome = attribution(&Lab::new().rules(RULES), arguments);
    assert_eq!(outcome.status, 0, "{}{}", outcome.stdout, outcome.stderr);
}

#[test]
fn where_nobody_is_told_apart_each_attack_sees_a_mix_up() {
    for name in ["interleaved", "listener", "reuse", "inherited"] {
        let outcome = attribution(&Lab::bare(), &format!("{name} {ALICE} {BOB} --count 16"));
        assert_eq!(outcome.status, 1, "{name}: {}{}", outcome.stdout, outcome.stderr);
        assert!(outcome.stdout.contains("mixed up"), "{name}: {}", outcome.stdout);
    }
}

#[test]
fn two_users_on_a_thousand_interleaved_connections_are_never_mixed_up() {
    let text = attribution(&Lab::new().rules(RULES), &format!("interleaved {ALICE} {BOB} --count 1000"))
        .expect_success();
    for name in ["alice", "bob"] {
        // told apart, and neither refused out of doubt
        assert!(
            text.contains(&format!("interleaved {name} ok served=250 refused=250 reset=0 mixed=0")),
            "{text}"
        );
    }
}

#[test]
fn a_process_that_listens_on_the_clients_port_is_not_the_client() {
    expect_no_mix_up(&format!("listener {ALICE} {BOB}"));
}

#[test]
fn a_client_that_is_gone_at_once_is_neither_root_nor_the_listener() {
    let script = format!(
        "python attribution.py closer {ALICE} {BOB}
        # what comes after it in the same queue is answered, so all before was looked at
        imds-lab as alice -- curl -fsS --max-time 5 http://169.254.169.254/latest/meta-data/hostname >/dev/null
        cat \"$LAB_AUDIT\""
    );
    let text = attack(&Lab::new().rules(RULES), &script).expect_success();
    let lines = audit_lines(&text);
    assert!(!lines.is_empty(), "no audit line:\n{text}");
    for line in &lines {
        assert_eq!(line["uid"], 2001, "{line}");
    }
}

#[test]
fn a_port_taken_over_at_once_belongs_to_the_new_user() {
    expect_no_mix_up(&format!("reuse {ALICE} {BOB} --count 200"));
    expect_no_mix_up(&format!("reuse {ROOT} {BOB} --count 200"));
}

#[test]
fn a_socket_made_by_one_user_does_not_become_anothers() {
    // alice makes it, bob connects it: bob's path stays closed
    expect_no_mix_up(&format!("inherited {ALICE} {BOB}"));
}

#[test]
fn only_the_socket_that_began_a_handshake_can_end_it() {
    for (how, came) in [("stays", "answered"), ("goes", "reset"), ("taken", "reset")] {
        let script =
            format!("python handshake.py {how} alice bob /latest/meta-data/hostname; cat \"$LAB_AUDIT\"");
        let text = attack(&Lab::new().rules(RULES), &script).expect_success();
        assert_eq!(text.lines().next(), Some(came), "{how}:\n{text}");
        assert_eq!(audit_lines(&text).is_empty(), came == "reset", "{how}:\n{text}");
    }
}

/// Root's idle connection is bound to the uplink's address, which is what masquerading makes of a container's.
const CONTAINER_TAKES_ROOTS_PORT: &str = r#"
mkfifo "$LAB/tmp/hold" "$LAB/tmp/idle"
python attribution.py idle root:/latest/meta-data/instance-id <"$LAB/tmp/hold" >"$LAB/tmp/idle" &
exec 3>"$LAB/tmp/hold" 4<"$LAB/tmp/idle"
read -r ready port status <&4
[ "$ready $status" = "ready 200" ]
take() { watched imds-lab in container -- env ATTACK_SOURCE_PORT=$port /usr/bin/python3 -B container.py --family 4 plain; }
take
"#;

#[test]
fn a_container_on_the_port_of_roots_idle_connection_is_not_root() {
    let lab = Lab::new().rules(RULES).container("masquerade");
    let report = Report::of(attack(&lab, CONTAINER_TAKES_ROOTS_PORT));
    report.expect_closed();
}

#[test]
fn nor_is_it_after_a_restart_of_the_interceptor() {
    let lab = Lab::new().rules(RULES).container("masquerade");
    for how in ["stop", "kill"] {
        let script = format!(
            "{CONTAINER_TAKES_ROOTS_PORT}imds-lab {how} interceptor\nimds-lab start interceptor\ntake\n"
        );
        Report::of(attack(&lab, &script)).expect_closed();
    }
}

fn audit_lines(text: &str) -> Vec<serde_json::Value> {
    text.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(serde_json::Value::is_object)
        .collect()
}
