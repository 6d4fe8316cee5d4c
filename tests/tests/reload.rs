//! The operator changes rules under running daemons, breaks files and creates users: nothing is lost, nothing opens.

use imds_tests::Lab;

/// `is UID STATUS`: what a user's request is answered with; `soon` waits for it.
const ASK: &str = r#"
status() {
    imds-lab as "$1" -- curl -s --max-time 5 -o /dev/null -w '%{http_code}' http://169.254.169.254/latest/meta-data/ || true
}
is() {
    found=$(status "$1")
    [ "$found" = "$2" ] || { echo "$1: $found instead of $2"; cat "$LAB/log/filterd.log"; exit 1; }
}
soon() {
    for try in $(seq 200); do [ "$(status "$1")" = "$2" ] && return; sleep 0.02; done
    is "$1" "$2"
}
"#;

fn expect(lab: &Lab, script: &str) -> String {
    lab.script(&format!("{ASK}{script}")).expect_success()
}

fn alice() -> Lab {
    Lab::new().rules("Allow user alice \"/\"\n")
}

#[test]
fn a_reload_says_what_is_in_force_and_a_wrong_one_keeps_the_old_rules() {
    let text = expect(
        &alice(),
        r#"is alice 200; is bob 403
        echo 'Allow user bob "/"' >"$LAB_RULES"
        imdsctl reload --config "$LAB_CONFIG"
        sha256sum "$LAB_RULES"
        is alice 403; is bob 200
        echo 'Alow user alice "/"' >"$LAB_RULES"
        code=0; imdsctl reload --config "$LAB_CONFIG" 2>&1 || code=$?
        echo "code $code"
        printf 'Allow "/"\nDeny user nobody-here "/"\n' >"$LAB_RULES"
        code=0; imdsctl reload --config "$LAB_CONFIG" 2>&1 || code=$?
        echo "code $code"
        is alice 403; is bob 200
        chmod g+w "$LAB_RULES"
        code=0; imdsctl reload --config "$LAB_CONFIG" --allow-unknown 2>&1 || code=$?
        echo "code $code"
        chmod g-w "$LAB_RULES"
        imdsctl reload --config "$LAB_CONFIG" --allow-unknown
        is alice 200
        echo 'Deny "/"' >"$LAB/other.conf"
        imdsctl reload --config "$LAB_CONFIG" "$LAB/other.conf"
        is alice 403
        code=0; imds-lab as alice -- imdsctl reload --config "$LAB_CONFIG" "$LAB/other.conf" 2>&1 || code=$?
        echo "code $code""#,
    );
    let digest = text.lines().nth(1).unwrap().split(' ').next().unwrap();
    assert!(text.starts_with("in force: /run/lab/imds.conf, 1 rule, sha256 "), "{text}");
    assert!(text.lines().next().unwrap().contains(digest), "{text}");
    for said in [
        "imds.conf:1:1: error",
        "    ^^^^ expected",
        "imds.conf:2:11: error: unknown user",
        "writable by",
        "root",
    ] {
        assert!(text.contains(said), "{text} lacks {said}");
    }
    let codes: Vec<&str> = text.lines().filter(|line| line.starts_with("code ")).collect();
    assert_eq!(codes, ["code 78", "code 78", "code 78", "code 77"], "{text}");
}

#[test]
fn a_broken_file_and_a_killed_filterd_leave_the_old_rules_in_force() {
    let lab = Lab::bare().rules("Allow user bob \"/\"\n");
    let text = expect(
        &lab,
        r#"imds-lab start interceptor
        echo 'Alow' >"$LAB_RULES"
        imds-lab start filterd 2>&1 && exit 1
        echo 'Allow user bob "/"' >"$LAB_RULES"
        imds-lab start filterd
        is bob 200
        # those of the start
        echo 'Alow' >"$LAB_RULES"
        imds-lab kill filterd; imds-lab start filterd
        is bob 200; is alice 403
        # those of a reload count more
        echo 'Allow user alice "/"' >"$LAB/good.conf"
        imdsctl reload --config "$LAB_CONFIG" "$LAB/good.conf"
        imds-lab kill filterd; imds-lab start filterd
        is bob 403; is alice 200
        rm "$LAB_RULES"
        imds-lab kill filterd; imds-lab start filterd
        is bob 403; is alice 200
        stat -c '%U %a %n' /run/imds-filterd/control/*
        # what is left by somebody else is not used
        echo 'garbage' >/run/imds-filterd/control/last-good
        imds-lab kill filterd; imds-lab start filterd 2>&1 && exit 1
        cat "$LAB/log/filterd.log""#,
    );
    assert!(text.contains("root 600 /run/imds-filterd/control/last-good"), "{text}");
    assert!(text.contains("imds.conf:1:1: error"), "{text}");
    assert!(text.contains("the last good rules are used instead: 1 rules of /run/lab/good.conf"), "{text}");
    assert!(text.contains("the last good rules cannot be used"), "{text}");
}

#[test]
fn rules_that_interceptor_cannot_serve_do_not_become_the_last_good_ones() {
    let lab = Lab::bare().rules("Allow user bob \"/\"\n");
    expect(
        &lab,
        r#"mount -t tmpfs none /sys/kernel/btf
        imds-lab start interceptor; imds-lab start filterd
        is bob 200
        echo 'Allow group staff "/"' >"$LAB_RULES"
        for time in 1 2 3; do
            imds-lab kill filterd; imds-lab start filterd
            is bob 200
        done
        grep 'cannot be told' "$LAB/log/filterd.log" >/dev/null"#,
    );
}

#[test]
fn a_user_who_is_created_later_is_allowed_without_a_restart_and_one_who_is_removed_no_longer() {
    let lab = Lab::new().rules("Allow user deploy \"/\"\nAllow user bob \"/\"\n");
    let text = expect(
        &lab,
        r#"is 2050:3050 403; is bob 200
        useradd --uid 2050 --no-create-home deploy 2>/dev/null
        soon deploy 200
        tail -n 1 "$LAB_AUDIT"
        # a reload is followed up as well
        echo 'Allow user another "/"' >"$LAB_RULES"
        imdsctl reload --config "$LAB_CONFIG" --allow-unknown
        is deploy 403
        echo 'another:x:2051:3051::/:/bin/sh' >>/etc/passwd
        soon another 200
        userdel deploy; userdel another
        soon 2051:3051 403
        # who gets the number of somebody removed does not get what that one had
        useradd --uid 2051 --no-create-home third 2>/dev/null
        is third 403"#,
    );
    assert!(text.contains("\"user\":\"deploy\""), "{text}");
}

#[test]
fn the_watcher_of_names_has_no_privileges_and_ends_with_filterd() {
    let text = expect(
        &alice(),
        r#"watcher=$(pgrep -P "$(cat "$LAB/filterd.pid")")
        # filterd does not wait until it has given up what it does not need; the last of that is system calls
        for try in $(seq 200); do grep -q '^Seccomp:.*2' "/proc/$watcher/status" && break; sleep 0.02; done
        sed 's/^/status /' "/proc/$watcher/status"
        stat -c 'memory %u' "/proc/$watcher/mem"
        readlink "/proc/$watcher/ns/net"; readlink /proc/self/ns/net
        ids=$(awk '/^Uid:/ { u = $3 } /^Gid:/ { print u, $3 }' "/proc/$watcher/status")
        setpriv --reuid "${ids% *}" --regid "${ids#* }" --clear-groups /usr/bin/python3 -c \
            'import socket; print("door", socket.socket(1, 5).connect_ex("/run/imds-filterd/filter.sock"))'
        imds-lab kill filterd
        for try in $(seq 200); do [ -e "/proc/$watcher" ] || exit 0; sleep 0.02; done
        exit 1"#,
    );
    let lines: Vec<String> =
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for wanted in [
        "status Uid: 991 991 991 991",
        "status Gid: 65534 65534 65534 65534",
        "status Groups:",
        "status CapPrm: 0000000000000000",
        "status CapBnd: 0000000000000000",
        "status NoNewPrivs: 1",
        "status Seccomp: 2",
        "memory 0",
        "door 13",
    ] {
        assert!(lines.iter().any(|line| line == wanted), "{text} lacks {wanted}");
    }
    let networks: Vec<_> = lines.iter().filter(|line| line.starts_with("net:")).collect();
    assert!(matches!(networks.as_slice(), [watcher, ours] if watcher != ours), "{text}");
}
