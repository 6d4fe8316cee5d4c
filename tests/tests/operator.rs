//! imdsctl's further commands, in labs: the log read, rules compared with it, the host looked at, and released.

use imds_tests::Lab;

const ASK: &str = r#"
get() { imds-lab as "$1" -- curl -s --max-time 5 -o /dev/null "http://169.254.169.254$2" || true; }
"#;

fn run(lab: &Lab, script: &str) -> String {
    lab.script(&format!("{ASK}{script}")).expect_success()
}

#[test]
fn the_log_is_chosen_summed_and_followed() {
    let rules = "Allow user alice \"/\"\n";
    let text = run(
        &Lab::new().rules(rules).config("[filter]\nmode = \"audit\"\n"),
        r#"get alice /latest/meta-data/; get bob /latest/meta-data/hostname; get bob /latest/meta-data/hostname
        get mallory /latest/dynamic/; get bob /latest/%00
        echo 'not one of ours' >>"$LAB_AUDIT"
        echo ==all; imdsctl log "$LAB_AUDIT"
        echo ==bob; imdsctl log --user bob --verdict would-deny "$LAB_AUDIT"
        echo ==uid; imdsctl log --user 2003 - <"$LAB_AUDIT"
        echo ==path; imdsctl log --path /latest/dyn --json "$LAB_AUDIT"
        echo ==since; imdsctl log --since 9999 "$LAB_AUDIT"
        echo ==sum; imdsctl log --would-deny "$LAB_AUDIT"
        echo ==follow; imdsctl log -f --user alice "$LAB_AUDIT" >"$LAB/followed" & pid=$!
        get alice /latest/dynamic/
        for try in $(seq 200); do grep -q dynamic "$LAB/followed" && break; sleep 0.02; done
        kill "$pid"; cat "$LAB/followed"
        echo ==none; code=0; imdsctl log "$LAB/nothing" 2>&1 || code=$?; echo "code $code""#,
    );
    let part = |name: &str| -> Vec<&str> {
        let part = text.split(&format!("=={name}\n")).nth(1).unwrap();
        part.split("==").next().unwrap().lines().collect()
    };
    assert_eq!(part("all").len(), 5, "{text}");
    assert!(part("all")[0].contains("allow 200  alice  GET /latest/meta-data"), "{text}");
    assert_eq!(part("bob").len(), 2, "{text}");
    assert!(
        part("bob")[0].contains("AUDIT would-deny200  bob")
            || part("bob")[0].contains("AUDIT would-deny 200  bob"),
        "{text}"
    );
    assert_eq!(part("uid").len(), 1, "{text}");
    assert!(part("path").len() == 1 && part("path")[0].starts_with("{\"v\":1,"), "{text}");
    assert!(part("since").is_empty(), "{text}");
    let sum: Vec<Vec<&str>> = part("sum").iter().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(sum[1][..2], ["2", "bob"], "{text}");
    assert_eq!(sum[1].last(), Some(&"/latest/meta-data/hostname"), "{text}");
    assert_eq!((sum.len(), sum[2][1]), (3, "mallory"), "{text}");
    assert_eq!(part("follow").len(), 2, "{text}");
    assert!(part("none").last() == Some(&"code 66"), "{text}");
}

#[test]
fn rules_are_compared_with_what_was_recorded() {
    let text = run(
        &Lab::new().rules("Allow user alice \"/\"\n"),
        r#"get alice /latest/meta-data/hostname; get alice /latest/dynamic/; get bob /latest/meta-data/hostname
        get bob /latest/meta-data/hostname; get bob /latest/%00
        cp "$LAB_RULES" "$LAB/same.conf"
        imdsctl diff --config "$LAB_CONFIG" "$LAB/same.conf" "$LAB_AUDIT"
        printf 'Allow "/"\nDeny user alice "/latest/dynamic"\nAllow user unknown-here "/"\n' >"$LAB/new.conf"
        code=0; imdsctl diff --config "$LAB_CONFIG" "$LAB/new.conf" "$LAB_AUDIT" || code=$?
        echo "code $code"
        echo 'Alow' >"$LAB/wrong.conf"
        code=0; imdsctl diff --config "$LAB_CONFIG" "$LAB/wrong.conf" "$LAB_AUDIT" 2>/dev/null || code=$?
        echo "code $code""#,
    );
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    assert_eq!(
        lines,
        [
            "0 of 4 requests would be judged otherwise",
            "3 of 4 requests would be judged otherwise",
            "2  bob GET /latest/meta-data/hostname: deny -> allow, line 1: Allow \"/\"",
            "1  alice GET /latest/dynamic/: allow by line 1 -> deny, line 2: Deny user alice \"/latest/dynamic\"",
            "code 1",
            "code 78",
        ],
        "{text}"
    );
}

#[test]
fn the_doctor_finds_a_healthy_host_healthy() {
    for guard in ["xfrm", "nftables"] {
        let lab =
            Lab::new().rules("Allow user alice \"/\"\n").config(&format!("[capture]\nguard = \"{guard}\"\n"));
        let text = lab.script("imdsctl doctor --config \"$LAB_CONFIG\"").expect_success();
        assert!(!text.contains("FAIL"), "{text}");
        for said in [
            "PASS  both daemons run and are well",
            "PASS  169.254.169.254:80, a plain connection: ends at the filter",
            "PASS  [fd00:ec2::254]:80, a plain connection: ends at the filter",
            "PASS  169.254.169.254:80, bound to a link eth0: ",
            "PASS  169.254.169.254:80, by an IPv6 socket (v4-mapped): ends at the filter",
            "PASS  169.254.169.254:80, a datagram, bound to a link eth0: ",
            "with the mark, from a user namespace: ",
        ] {
            assert!(text.contains(said), "{text} lacks {said}");
        }
    }
}

#[test]
fn the_doctor_finds_what_is_open_broken_or_outside() {
    // without our daemons every way leads past the filter
    let text =
        Lab::bare().script("imdsctl doctor --config \"$LAB_CONFIG\" || echo \"code $?\"").expect_success();
    assert!(text.ends_with("code 1\n"), "{text}");
    for said in [
        "FAIL  imds-filterd does not run",
        "FAIL  imds-interceptor does not run",
        "FAIL  169.254.169.254:80, a plain connection: PAST THE FILTER: answered",
        "FAIL  169.254.169.254:80, bound to a link eth0: PAST THE FILTER",
        "FAIL  169.254.169.254:80, by multipath TCP, bound to a link eth0: PAST THE FILTER",
        "FAIL  169.254.169.254:80, a datagram, bound to a link eth0: PAST THE FILTER",
        "FAIL  [fd00:ec2::254]:80, bound to a link eth0: PAST THE FILTER",
    ] {
        assert!(text.contains(said), "{text} lacks {said}");
    }
    let script = r#"chmod 0777 /run/imds-filterd/control
        echo 'Allow user nobody-here "/"' >"$LAB_RULES"
        unshare --net sleep 60 & inside=$!
        for try in $(seq 200); do
            [ "$(readlink /proc/$inside/ns/net)" != "$(readlink /proc/self/ns/net)" ] && break; sleep 0.02
        done
        ip link add link eth0 name m0 netns "$inside" type macvlan
        imdsctl doctor --config "$LAB_CONFIG" || echo "code $?"
        imds-lab as alice -- imdsctl doctor --config "$LAB_CONFIG" || echo "code $?""#;
    let text = Lab::new().script(script).expect_success();
    for said in [
        "FAIL  the control directory is root's alone: /run/imds-filterd/control has mode 777",
        "unknown user `nobody-here`",
        "NOTE  outside of the filter: net:[",
        "m0 (macvlan)",
    ] {
        assert!(text.contains(said), "{text} lacks {said}");
    }
    let codes: Vec<&str> = text.lines().filter(|line| line.starts_with("code ")).collect();
    assert_eq!(codes, ["code 1", "code 77"], "{text}");
}

#[test]
fn a_release_stops_the_services_and_opens_the_way_and_one_that_cannot_stop_them_says_so() {
    // the lab has no service manager: one of our own that does what the lab would
    let text = run(
        &Lab::new().rules("Allow user alice \"/\"\n"),
        r#"mkdir "$LAB/services"; PATH="$LAB/services:$PATH"
        printf '#!/bin/sh\nexit 1\n' >"$LAB/services/service"; chmod +x "$LAB/services/service"
        code=0; imdsctl release --config "$LAB_CONFIG" 2>/dev/null || code=$?
        echo "code $code"
        imds-lab as bob -- curl -s -o /dev/null -w '%{http_code}\n' http://169.254.169.254/latest/meta-data/
        printf '#!/bin/sh\n[ "$2" = onestop ] && exec imds-lab stop "${1#imds_}"\n' >"$LAB/services/service"
        imdsctl release --config "$LAB_CONFIG"
        imds-lab as bob -- curl -s -o /dev/null -w '%{http_code}\n' http://169.254.169.254/latest/meta-data/
        imds-lab as bob -- imdsctl release || echo "code $?""#,
    );
    let lines: Vec<&str> = text.lines().collect();
    assert_ne!(lines[0], "code 0", "{text}");
    assert_eq!(lines[1], "403", "{text}");
    assert!(lines[2].starts_with("released"), "{text}");
    assert_eq!(lines[3..], ["200", "code 77"], "{text}");
}
