//! Who a client is, whatever it does with sockets, groups, user namespaces and cgroups; uid and gid always differ.
//! The same ways without our daemons reach the service, or the tests could not fail.

mod ways;

use imds_tests::{Lab, Outcome};
use ways::attack;

/// The path that identity.py asks for, and what decides it.
fn rules(more: &str) -> Lab {
    Lab::new().rules(&format!("Allow user root \"/\"\nAllow user bob \"/\"\n{more}"))
}

fn identity(lab: &Lab, names: &[&str]) -> Outcome {
    attack(lab, &format!("python identity.py {}", names.join(" ")))
}

/// Each way with what it must come to.
fn expect(lab: &Lab, wanted: &[(&str, &str)]) {
    let names: Vec<&str> = wanted.iter().map(|(name, _)| *name).collect();
    let text = identity(lab, &names).expect_success();
    let wanted: String = wanted.iter().map(|(name, outcome)| format!("{name} {outcome}\n")).collect();
    assert_eq!(text, wanted);
}

const MADE_BY_ROOT: [&str; 10] = [
    "inherited",
    "inherited_listener",
    "accepted",
    "reconnected",
    "in_flight",
    "mapped",
    "ipv6",
    "mptcp",
    "fast_open",
    "io_uring",
];

#[test]
fn a_socket_that_root_made_and_alice_connects_is_neithers() {
    expect(&rules(""), &MADE_BY_ROOT.map(|name| (name, "ECONNREFUSED")));
}

#[test]
fn without_our_daemons_each_of_these_reaches_the_service() {
    let lab = Lab::bare();
    let text = identity(&lab, &MADE_BY_ROOT).expect_success();
    for line in text.lines() {
        assert!(line.ends_with(" 200") || line.ends_with(" reached"), "{line}\n{text}");
    }
}

#[test]
fn where_connects_cannot_be_watched_the_maker_is_the_subject_and_the_start_says_so() {
    let lab = rules("").config("[capture]\ncgroup = \"none\"\n");
    expect(&lab, &[("inherited", "200"), ("plain", "200")]);
    let log = lab.script("cat /run/lab/log/interceptor.log").expect_success();
    assert!(log.contains("identity: partial"), "{log}");
    let log = rules("").script("cat /run/lab/log/interceptor.log").expect_success();
    assert!(log.contains("identity: full"), "{log}");
}

#[test]
fn set_uid_programs_and_effective_uids_are_who_they_are() {
    let wanted = [("plain", "200"), ("plain_mptcp", "200"), ("effective", "200"), ("set_uid_program", "200")];
    expect(&rules(""), &wanted);
}

#[test]
fn a_set_gid_program_has_its_group_and_one_that_inherits_the_socket_has_not() {
    let wanted = [("set_gid_program", "200"), ("set_gid_program_inherits", "403")];
    expect(&rules("Allow group wheel \"/\"\n"), &wanted);
}

#[test]
fn groups_are_those_of_the_process_up_to_1024_and_beyond_a_deny_by_group_refuses() {
    let allowed = [("many_groups", "200"), ("most_groups", "200"), ("other_groups", "403")];
    expect(&rules("Allow group wheel \"/\"\n"), &allowed);
    let cut = [("too_many_groups", "403"), ("too_many_other_groups", "403")];
    expect(&rules("Allow group wheel \"/\"\n"), &cut);
    // wheel may be among those cut off
    let denied = [
        ("other_groups", "200"),
        ("many_groups", "403"),
        ("too_many_groups", "403"),
        ("too_many_other_groups", "403"),
    ];
    expect(&rules("Allow \"/\"\nDeny group wheel \"/\"\n"), &denied);
}

#[test]
fn groups_of_the_account_database_count_only_where_the_settings_say_so() {
    // bob is in wheel by /etc/group, and his process is not
    let rules = "Allow group wheel \"/\"\n";
    let by_kernel = Lab::new().rules(rules);
    expect(&by_kernel, &[("plain", "403")]);
    expect(&by_kernel.config("[filter]\ngroups = \"database\"\n"), &[("plain", "200")]);
}

#[test]
fn in_a_user_namespace_mallory_stays_mallory_with_and_without_the_kernels_word() {
    let ways = ["mapped_uid", "dropped_groups", "nested_namespaces"];
    let denied = "Allow \"/\"\nDeny user mallory \"/\"\n";
    expect(&rules(denied), &ways.map(|name| (name, "403")));
    expect(&rules(denied), &[("mapped_elsewhere", "403")]);
    let without = "mount -t tmpfs none /sys/kernel/btf\nimds-lab start interceptor\nimds-lab start filterd\n";
    let text = attack(
        &Lab::bare().rules(denied),
        &format!("{without}grep 'identity: partial' /run/lab/log/interceptor.log >/dev/null\npython identity.py {}", ways.join(" ")),
    )
    .expect_success();
    let wanted: String = ways.iter().map(|name| format!("{name} 403\n")).collect();
    assert_eq!(text, wanted);
    // a group that was dropped, or might have been
    expect(&rules("Allow \"/\"\nDeny group docker \"/\"\n"), &ways.map(|name| (name, "403")));
    expect(&rules("Allow user mallory \"/\"\n"), &ways.map(|name| (name, "200")));
}

#[test]
fn a_unit_is_the_system_managers_and_nobody_elses_of_that_name() {
    let wanted = [
        ("unit_nginx", "200"),
        ("unit_nginx_worker", "200"),
        ("unit_restarted", "200"),
        ("unit_of_user_manager", "403"),
        ("unit_in_container", "403"),
        ("unit_other", "403"),
        ("unit_none", "403"),
        ("unit_too_deep", "403"),
    ];
    expect(&rules("Allow unit nginx.service \"/\"\n"), &wanted);
    let wanted =
        [("unit_nginx", "403"), ("unit_other", "200"), ("unit_none", "200"), ("unit_too_deep", "403")];
    expect(&rules("Allow \"/\"\nDeny unit nginx.service \"/\"\n"), &wanted);
}

#[test]
fn rules_that_ask_for_what_the_kernel_cannot_tell_end_the_start_with_the_reason() {
    for (rule, what) in [("Allow group wheel \"/\"", "groups"), ("Deny unit a.service \"/\"", "units")] {
        let script = "mount -t tmpfs none /sys/kernel/btf; imds-lab start interceptor
            imds-lab start filterd 2>&1 && exit 1; true";
        let text = Lab::bare().rules(&format!("{rule}\n")).script(script).expect_success();
        for word in ["line 1", rule, what, "cannot be told", "/sys/kernel/btf/vmlinux"] {
            assert!(text.contains(word), "{text} lacks {word}");
        }
    }
}

/// Stops interceptor and lets it go on, at first often and then less and less.
const NUDGE: &str = r#"cat >"$LAB/nudge.py" <<'EOF'
import os, signal, time
pause = 0.01
while pause < 0.2:
    try:
        with open("/run/lab/interceptor.pid", encoding="ascii") as file:
            pid = int(file.read())
        for word in signal.SIGSTOP, signal.SIGCONT:
            os.kill(pid, word)
        pause *= 1.5
    except (OSError, ValueError):
        pass  # not there yet
    time.sleep(pause)
EOF
"#;

#[test]
fn who_is_stopped_for_moments_while_it_starts_tells_all_the_same() {
    let script = format!(
        r#"{NUDGE}for start in 1 2 3; do
            python3 "$LAB/nudge.py" & nudge=$!
            imds-lab start interceptor
            wait $nudge
            imds-lab stop interceptor
        done
        grep -o 'identity: .*;' "$LAB/log/interceptor.log""#
    );
    let text = Lab::bare().rules("Allow \"/\"\n").script(&script).expect_success();
    assert_eq!(text, "identity: full;\n".repeat(3));
}

#[test]
fn the_audit_line_names_unit_and_process() {
    let script = "echo $$ >\"$LAB_CGROUPS/cgroup.procs\"; mkdir -p \"$LAB_CGROUPS/system.slice/a.service\"
        echo $$ >\"$LAB_CGROUPS/system.slice/a.service/cgroup.procs\"
        curl -fsS http://169.254.169.254/latest/meta-data/hostname >/dev/null; tail -n 1 \"$LAB_AUDIT\"";
    let text = rules("Allow unit a.service \"/latest\"\n").script(script).expect_success();
    let line: serde_json::Value = serde_json::from_str(text.trim()).unwrap();
    assert_eq!(line["unit"], "a.service", "{line}");
    assert!(line["pid"].as_u64().unwrap() > 1, "{line}");
    assert_eq!(line["exe"], "curl", "{line}");
}
