//! The services under a real systemd that boots a machine of its own (tests/booted): with all that the units forbid, before
//! there is a network, through restarts, upgrades and removal.
//! Needs root, and systemd's programs; systemd need not run the outer machine.

use imds_tests::Lab;

/// Runs in a bare lab, whose cloud the machine is plugged into.
fn machine(script: &str) -> String {
    let checkout = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    Lab::bare()
        .script(&format!("CHECKOUT={checkout}\n. $LAB/tests/booted/machine.sh\n{script}"))
        .expect_success()
}

/// What follows `name=` in its line.
#[track_caller]
fn said<'a>(text: &'a str, name: &str) -> &'a str {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    lines.next().unwrap_or_else(|| panic!("no {name}= in:\n{text}"))
}

/// cloud-init's own unit is not there: what it would see when it is started, and what a network service would.
const WATCHERS: &str = r#"
for name in cloud-init-local network-software; do
    order=Before=network-pre.target
    [ $name = cloud-init-local ] || order=After=network-pre.target
    cat >$ROOT/etc/systemd/system/$name.service <<END
[Unit]
DefaultDependencies=no
$order
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=sh -c '{ systemctl is-active imds-interceptor imds-filterd | xargs; ls /sys/class/net | xargs; } >/run/$name'
[Install]
WantedBy=machine.target
END
    systemctl --root=$ROOT -q enable $name
done
"#;

#[test]
fn a_boot_without_a_link_is_filtered_before_anything_can_ask() {
    let text = machine(&format!(
        r#"make_machine; install_machine {WATCHERS}
        boot_machine; wait_boot
        echo early=$(inside cat /run/cloud-init-local)
        echo network=$(inside cat /run/network-software)
        echo failed=$(inside systemctl --failed --plain --no-legend)
        echo alone=$(fetch alice /latest/meta-data/hostname)
        plug
        echo alice=$(fetch alice /latest/meta-data/hostname)
        echo secret=$(fetch alice /latest/meta-data/iam/security-credentials/)
        echo root=$(fetch root /latest/meta-data/iam/security-credentials/)
        clients=/run/lab/bin/clients
        inside env PYTHONPATH=$clients/cloud-init $clients/python/bin/python -B /run/lab/tests/clients/cloud_init.py >$TMPDIR/crawled
        echo crawled=$(grep -c -e '"hostname"' -e '"instance-id"' $TMPDIR/crawled)
        echo lines=$(inside journalctl -q -b -o cat -u imds-filterd | grep -c '"v":1')
        inside journalctl -q -b -o cat -u imds-interceptor -u imds-filterd | grep -v '"v":1'"#
    ));
    for name in ["early", "network"] {
        assert_eq!(said(&text, name), "active active imds0 lo", "{text}");
    }
    assert_eq!(said(&text, "failed"), "", "{text}");
    // nobody is there, and that is told at once
    assert!(["502", "504"].contains(&said(&text, "alone")), "{text}");
    assert_eq!((said(&text, "alice"), said(&text, "secret"), said(&text, "root")), ("200", "403", "200"));
    assert_eq!(said(&text, "crawled"), "2", "{text}");
    assert!(said(&text, "lines").parse::<u32>().unwrap() > 10, "{text}");
    // what the units forbid is not what the daemons need
    assert!(
        text.contains("identity: full") && !text.contains("sandbox:") && !text.contains("WARN"),
        "{text}"
    );
}
