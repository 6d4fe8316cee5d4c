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
Before=machine.target
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
        echo lines=$(journal -u imds-filterd | grep -c '"v":1')
        journal -u imds-interceptor -u imds-filterd | grep -v '"v":1'
        for name in imds-filterd imds-interceptor; do
            inside sh -c "nsenter -t \$(systemctl show -P MainPID $name) -m sh" 2>/dev/null <<'END' | sed "s/^/$name:/"
touch /etc/new /usr/new || echo system=closed
echo 60 >/proc/sys/kernel/panic || echo tunables=closed
echo 0 >/proc/sys/net/ipv4/conf/lo/rp_filter && echo network=open
mkdir /sys/fs/cgroup/new || echo cgroups=closed
[ -z "$(ls -A /home)$(ls -A /root)" ] && echo homes=closed
touch /run/imds-filterd/new && echo own=open
[ -e /dev/net/tun ] && echo tun=open
[ -e /proc/1/status ] || echo others=closed
END
        done"#
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
    for name in ["imds-filterd", "imds-interceptor"] {
        for what in ["system", "tunables", "cgroups", "homes"] {
            assert_eq!(said(&text, &format!("{name}:{what}")), "closed", "{text}");
        }
        assert_eq!(said(&text, &format!("{name}:own")), "open", "{text}");
    }
    assert!(text.contains("interceptor:network=open") && text.contains("interceptor:tun=open"), "{text}");
    assert!(!text.contains("filterd:network=open") && !text.contains("filterd:tun=open"), "{text}");
    // what the units forbid is not what the daemons need
    assert!(
        text.contains("identity: full") && !text.contains("sandbox:") && !text.contains("WARN"),
        "{text}"
    );
}

#[test]
fn killed_daemons_come_back_a_stop_is_closed_and_a_release_open() {
    let text = machine(
        r#"make_machine; install_machine; boot_machine; wait_boot; plug
        show() { inside systemctl show -P "$1" $2; }
        back() { [ "$(show NRestarts $name)" = 1 ] && inside systemctl -q is-active $name; }
        for name in imds-filterd imds-interceptor; do
            before=$(show MainPID $name)
            inside systemctl kill -s KILL --kill-who=main $name
            until_true "$name does not come back" back
            [ "$(show MainPID $name)" != "$before" ]
        done
        until_true 'nobody serves' serves
        echo again=$(fetch alice /latest/meta-data/hostname)
        inside systemctl stop imds-filterd imds-interceptor
        until_true 'the tun stays' tun_gone
        as alice python3 -c 'import socket; print("stopped=%d" % socket.socket().connect_ex(("169.254.169.254", 80)))'
        echo notes=$(inside sh -c 'ls /run/imds-filterd/*.lock')
        inside imds-interceptor release
        echo open=$(fetch alice /latest/meta-data/hostname)
        echo 'Allow user bob "/"' >>$ROOT/etc/imds.conf
        make -s -C "$CHECKOUT" uninstall DESTDIR=$ROOT PREFIX=/usr
        inside systemctl daemon-reload
        echo units=$(inside systemctl list-unit-files --plain --no-legend 'imds-*.service')
        echo kept=$(inside sh -c 'ls /etc/imds*')"#,
    );
    // EACCES: closed, and said at once
    assert_eq!(
        (said(&text, "again"), said(&text, "stopped"), said(&text, "open")),
        ("200", "13", "200"),
        "{text}"
    );
    // the directory outlives them, with what a release must know
    assert_eq!(said(&text, "notes"), "/run/imds-filterd/capture.lock", "{text}");
    assert_eq!(said(&text, "kept"), "/etc/imds.conf", "{text}");
    assert!(!said(&text, "units").contains("static"), "{text}");
}

#[test]
fn connections_made_while_interceptor_is_away_wait_in_the_tun_that_systemd_keeps() {
    let text = machine(
        r#"make_machine; install_machine; boot_machine; wait_boot; plug
        pid() { inside systemctl show -P MainPID imds-interceptor; }
        dead() { [ "$(pid)" != "$before" ]; }
        back() { inside systemctl -q is-active imds-interceptor && serves; }
        tun() { ip -n machine -o link show imds0 | cut -d : -f 1; }
        echo tun=$(tun)
        for n in 1 2 3 4 5; do
            before=$(pid)
            inside systemctl kill -s KILL --kill-who=main imds-interceptor
            until_true 'interceptor lives' dead
            echo fetched=$(fetch alice /latest/meta-data/hostname)
            until_true 'interceptor does not come back' back
        done
        inside systemctl restart imds-interceptor
        echo fetched=$(fetch alice /latest/meta-data/hostname)
        echo same=$(tun)
        inside systemctl stop imds-filterd imds-interceptor
        until_true 'the tun stays' tun_gone
        journal -u imds-interceptor"#,
    );
    assert_eq!(text.matches("fetched=200\n").count(), 6, "{text}");
    assert_eq!(said(&text, "tun"), said(&text, "same"), "{text}");
    assert!(!text.contains("refused a connection"), "{text}");
}

#[test]
fn wrong_settings_hold_up_no_boot_and_are_for_all_to_see() {
    let text = machine(
        r#"make_machine; install_machine
        echo 'no setting' >$ROOT/etc/imds-filterd.toml
        boot_machine; wait_boot; plug
        booted=$(inside systemctl show -P ActiveEnterTimestampMonotonic machine.target)
        before=$(inside systemctl show -P ActiveEnterTimestampMonotonic systemd-sysusers.service)
        echo seconds=$(((booted - before) / 1000000))
        failed() { echo $(inside systemctl --failed --plain --no-legend | cut -d ' ' -f 1 | sort); }
        both() { [ "$(failed)" = 'imds-filterd.service imds-interceptor.service' ]; }
        until_true 'not both are failed' both
        echo failed=$(failed)
        journal -u imds-interceptor -u imds-filterd
        rm $ROOT/etc/imds-filterd.toml
        inside systemctl start imds-interceptor imds-filterd
        echo secret=$(fetch alice /latest/meta-data/iam/security-credentials/)"#,
    );
    assert!(said(&text, "seconds").parse::<u32>().unwrap() < 10, "{text}");
    assert_eq!(said(&text, "failed"), "imds-filterd.service imds-interceptor.service", "{text}");
    assert!(text.contains("imds-filterd.toml") && text.contains("line 1"), "{text}");
    assert_eq!(said(&text, "secret"), "403", "{text}");
}

#[test]
fn interceptor_is_a_user_of_its_own_by_the_drop_in() {
    let text = machine(
        r#"make_machine; install_machine
        # as own-user.conf says itself
        echo 'u imds-interceptor - - / /usr/sbin/nologin' >$ROOT/usr/lib/sysusers.d/own-user.conf
        install -D -m 644 $ROOT/usr/share/doc/imds-filterd/own-user.conf \
            $ROOT/etc/systemd/system/imds-interceptor.service.d/own-user.conf
        boot_machine; wait_boot; plug
        echo owner=$(inside stat -c %U:%G:%a /run/imds-filterd)
        echo user=$(inside sh -c 'stat -c %U /proc/$(systemctl show -P MainPID imds-interceptor)')
        inside systemctl restart imds-interceptor imds-filterd
        inside systemctl reload imds-filterd
        echo root=$(fetch root /latest/meta-data/iam/security-credentials/)
        echo secret=$(fetch alice /latest/meta-data/iam/security-credentials/)
        journal -u imds-interceptor"#,
    );
    assert_eq!(said(&text, "owner"), "imds-interceptor:imds:755", "{text}");
    assert_eq!(
        (said(&text, "user"), said(&text, "root"), said(&text, "secret")),
        ("imds-interceptor", "200", "403"),
        "{text}"
    );
    assert!(text.contains("identity: full") && !text.contains("sandbox:"), "{text}");
}

#[test]
fn a_package_starts_nothing_is_upgraded_in_parts_and_removed_without_a_trace() {
    let text = machine(
        r#"make_machine; boot_machine; wait_boot; plug
        mkdir $TMPDIR/programs
        cp /run/lab/bin/imdsctl /run/lab/bin/imds-mock /run/lab/bin/imds-filterd /run/lab/bin/imds-interceptor $TMPDIR/programs
        # `package VERSION`
        package() {
            COMPRESSION=none VERSION=$1 sh "$CHECKOUT/packaging/deb/build.sh" $TMPDIR/programs $TMPDIR/deb >/dev/null
            mv $TMPDIR/deb/*.deb /proc/$PID1/root/run/package.deb
            inside dpkg --force-unsafe-io --no-triggers -i /run/package.deb
        }
        show() { inside systemctl show -P MainPID imds-interceptor imds-filterd | xargs; }
        package 1
        echo first=$(show) $(inside id -u imds >/dev/null && echo user)
        echo direct=$(fetch alice /latest/meta-data/iam/security-credentials/)
        inside systemctl -q enable --now imds-interceptor imds-filterd
        echo started=$(show)
        echo '# ours' >>/proc/$PID1/root/etc/imds.conf
        echo >>$TMPDIR/programs/imds-filterd
        package 2
        echo filterd=$(show)
        echo closed=$(fetch alice /latest/meta-data/iam/security-credentials/)
        echo >>$TMPDIR/programs/imds-interceptor
        package 3
        echo both=$(show)
        echo closed2=$(fetch alice /latest/meta-data/iam/security-credentials/)
        inside dpkg --no-triggers -r imds-filterd
        echo removed=$(fetch alice /latest/meta-data/iam/security-credentials/)
        echo rules=$(inside ip rule | wc -l) $(inside ip xfrm policy | wc -l)
        echo kept=$(inside sh -c 'ls /etc/imds*' | xargs)
        inside dpkg --no-triggers -P imds-filterd
        echo left=$(inside find /etc /usr/sbin /usr/bin /usr/lib/systemd /usr/share/man /usr/share/doc/imds-filterd /run/imds-filterd -name '*imds*' 2>/dev/null)"#,
    );
    let pids = |name: &str| said(&text, name).split(' ').map(str::to_owned).collect::<Vec<_>>();
    assert_eq!((said(&text, "first"), said(&text, "direct")), ("0 0 user", "200"), "{text}");
    let (started, filterd, both) = (pids("started"), pids("filterd"), pids("both"));
    assert!(started[0] != "0" && started[1] != "0", "{text}");
    assert!(filterd[0] == started[0] && filterd[1] != started[1], "only filterd was upgraded:\n{text}");
    assert!(both[0] != filterd[0] && both[1] != filterd[1], "both were upgraded:\n{text}");
    assert_eq!(
        (said(&text, "closed"), said(&text, "closed2"), said(&text, "removed")),
        ("403", "403", "200"),
        "{text}"
    );
    // what every network has
    assert_eq!(said(&text, "rules"), "3 0", "{text}");
    assert_eq!(said(&text, "kept"), "/etc/imds-filterd.toml /etc/imds.conf", "{text}");
    assert!(!said(&text, "left").contains("/usr") && !said(&text, "left").contains("/etc"), "{text}");
}

#[test]
fn a_reload_is_systemctls_too_and_the_watch_of_the_file_is_there_for_who_enables_it() {
    let text = machine(
        r#"make_machine; install_machine; boot_machine; wait_boot; plug
        echo watch=$(inside systemctl is-enabled imds-filterd-reload.path)
        conf=/proc/$PID1/root/etc/imds.conf
        echo 'Deny user mallory "/"' >>$conf
        echo before=$(fetch mallory /latest/meta-data/hostname)
        inside systemctl reload imds-filterd
        echo after=$(fetch mallory /latest/meta-data/hostname)
        echo 'Deny usr' >>$conf
        echo wrong=$(inside systemctl reload imds-filterd 2>/dev/null && echo accepted || echo refused)
        inside systemctl restart imds-filterd
        echo kept=$(fetch mallory /latest/meta-data/hostname)
        inside systemctl -q enable --now imds-filterd-reload.path
        sed -i '$d' $conf
        sed -i '$d' $conf
        allowed() { [ "$(fetch mallory /latest/meta-data/hostname)" = 200 ]; }
        until_true 'the change has no effect' allowed"#,
    );
    assert_eq!(said(&text, "watch"), "disabled", "{text}");
    assert_eq!((said(&text, "before"), said(&text, "after")), ("200", "403"), "{text}");
    assert_eq!((said(&text, "wrong"), said(&text, "kept")), ("refused", "403"), "{text}");
}

#[test]
fn restarts_reloads_and_kills_of_filterd_lose_no_request() {
    let text = machine(
        r#"make_machine; install_machine; boot_machine; wait_boot; plug
        as alice python3 -B /run/lab/tests/booted/load.py >$TMPDIR/load &
        until_true 'no load' grep -qs started $TMPDIR/load
        back() { [ "$(inside systemctl show -P NRestarts imds-filterd)" = 1 ] && inside systemctl -q is-active imds-filterd; }
        for _ in 1 2 3; do
            inside systemctl restart imds-filterd
            inside systemctl reload imds-filterd
            inside systemctl kill -s KILL --kill-who=main imds-filterd
            until_true 'filterd does not come back' back
        done
        touch /proc/$PID1/root/run/enough
        wait $!
        cat $TMPDIR/load"#,
    );
    let number = |name: &str| said(&text, name).parse::<u32>().unwrap();
    assert!(number("failed") == 0 && number("fine") > 20, "{text}");
    // the bound is 800 ms for a wait and some for the rest
    assert!(number("worst") < 900, "{text}");
}

#[test]
fn while_interceptor_is_restarted_or_killed_nobody_gets_past() {
    let text = machine(
        r#"make_machine; install_machine; boot_machine; wait_boot; plug
        as alice python3 -B /run/lab/tests/booted/denied.py >$TMPDIR/load &
        until_true 'no load' grep -qs started $TMPDIR/load
        for _ in 1 2 3; do
            inside systemctl restart imds-interceptor
            until_true 'nobody serves' serves
            inside systemctl kill -s KILL --kill-who=main imds-interceptor
            until_true 'nobody serves' serves
        done
        touch /proc/$PID1/root/run/enough
        wait $!
        cat $TMPDIR/load"#,
    );
    let number = |name: &str| said(&text, name).parse::<u32>().unwrap();
    assert!(number("open") == 0 && number("denied") > 10, "{text}");
}
