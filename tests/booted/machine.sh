#!/bin/sh
# A machine that boots with systemd, in namespaces of a bare lab: the lab's own root as an overlay, a network of its own
# that has no link until `plug`, the lab's cloud behind it. Sourced by scripts in a lab; all of it ends with the lab.
# Must not run anywhere else, nor let the machine change what namespaces do not separate: /proc/sys but its network,
# clocks, modules.
set -eu
[ "$(cat /proc/1/comm)" = imds-lab ] || { echo "machine.sh: not inside a lab" >&2; exit 1; }
[ -x /lib/systemd/systemd ] || { echo "machine.sh: no systemd: run make deps" >&2; exit 69; }

ROOT=/run/lab/root
# as capabilities(7) has them; none of them is the machine's own business
TAKEN=-sys_module,-sys_time,-sys_rawio,-syslog,-audit_control,-audit_read,-audit_write,-mac_admin,-mac_override
TAKEN=$TAKEN,-wake_alarm,-block_suspend,-sys_tty_config,-linux_immutable
HIERARCHY=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
export HIERARCHY ROOT

# Files of the machine, below $ROOT. It boots sysinit, basic and what is enabled in it, nothing of the outer machine's.
make_machine() {
    mkdir -p "$ROOT" /run/lab/machine/upper /run/lab/machine/work
    mount -t overlay -o lowerdir=/,upperdir=/run/lab/machine/upper,workdir=/run/lab/machine/work machine "$ROOT"
    rm -rf "$ROOT/etc/systemd/system" "$ROOT/etc/fstab" "$ROOT/etc/imds.conf" "$ROOT/etc/imds-filterd.toml"
    mkdir -p "$ROOT/etc/systemd/system"
    # of these a machine of ours needs none, and they would try to change what is not its own
    for unit in systemd-sysctl.service systemd-modules-load.service systemd-random-seed.service systemd-firstboot.service \
        kmod-static-nodes.service sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount \
        sys-fs-fuse-connections.mount dev-hugepages.mount proc-sys-fs-binfmt_misc.automount \
        systemd-journald-audit.socket; do
        ln -s /dev/null "$ROOT/etc/systemd/system/$unit"
    done
    printf '[Unit]\nRequires=basic.target\nAfter=basic.target network.target\nWants=network.target\n' \
        >"$ROOT/etc/systemd/system/machine.target"
    for user in alice bob mallory; do
        grep "^$user:" /etc/passwd >>"$ROOT/etc/passwd"
        grep "^$user:" /etc/group >>"$ROOT/etc/group"
    done
    # names are asked of nobody
    cp --remove-destination /etc/resolv.conf /etc/hosts /etc/nsswitch.conf "$ROOT/etc/"
    # the user that sysusers makes at boot
    sed -i '/^imds:/d' "$ROOT/etc/passwd" "$ROOT/etc/group" "$ROOT/etc/shadow" "$ROOT/etc/gshadow"
}

# What an administrator does, before the first boot; from the checkout.
install_machine() {
    make -s -C "$CHECKOUT" install DESTDIR="$ROOT" PREFIX=/usr RELEASE=/run/lab/bin
    systemctl --root="$ROOT" -q enable imds-interceptor imds-filterd
}

# Ends at once; `wait_boot` waits.
boot_machine() {
    ip netns add machine
    # a new namespace takes the outer machine's values
    # shellcheck disable=SC2016  # expanded by the shell inside
    nsenter --net=/run/netns/machine sh -c 'for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 >"$f"; done'
    mkdir "$HIERARCHY/machine.slice"
    (
        echo 0 >"$HIERARCHY/machine.slice/cgroup.procs"
        exec nsenter --net=/run/netns/machine setpriv --bounding-set="$TAKEN" \
            unshare --mount --propagation=private --pid --fork --kill-child --cgroup --ipc --uts \
            sh /run/lab/tests/booted/init.sh
    ) </dev/null >/run/lab/log/machine.log 2>&1 &
}

# Until the machine has booted, whatever became of its units.
wait_boot() {
    until_true 'the machine does not boot' runs
    mkdir -p "$HIERARCHY/machine.slice/tests.slice"
    until_true 'the machine does not boot' inside systemctl -q is-active machine.target
}

runs() {
    PID1=$(pgrep -x systemd | head -n 1)
    [ -n "$PID1" ] && [ -S "/proc/$PID1/root/run/systemd/private" ]
}

# `until_true WHAT COMMAND...`: waits until COMMAND succeeds; ends all if it does not within 30 seconds, and says WHAT.
until_true() {
    what=$1
    shift
    began=$(date +%s)
    until "$@"; do
        [ $(($(date +%s) - began)) -lt 30 ] || { echo "$what" >&2; cat /run/lab/log/machine.log >&2; exit 1; }
        sleep 0.05
    done
}

# As root of the machine, in all its namespaces.
inside() {
    (
        echo 0 >"$HIERARCHY/machine.slice/tests.slice/cgroup.procs"
        exec nsenter -t "$PID1" --mount --uts --ipc --net --pid --cgroup --root --wd=/ \
            env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 SYSTEMD_PAGER=cat "$@"
    )
}

# `as USER COMMAND...`
as() {
    user=$1
    shift
    inside setpriv --reuid="$user" --regid="$user" --init-groups "$@"
}

# `fetch USER PATH`: the status, or what curl says.
fetch() {
    as "$1" curl -sS -o /dev/null -w '%{http_code}' --max-time 5 "http://169.254.169.254$2" 2>&1 || true
    echo
}

# Whether root is served.
serves() {
    [ "$(fetch root /latest/meta-data/hostname)" = 200 ]
}

# systemd closes what it kept of a service some time after the service has stopped.
tun_gone() {
    ! ip -n machine link show imds0 >/dev/null 2>&1
}

# `journal -u UNIT...`: all that was said since the boot. journald writes when it has time, unless it is asked to.
journal() {
    inside journalctl --sync
    inside journalctl -q -b -o cat "$@"
}

# The link to the cloud, which the machine did not have so far. Both of its ends carry packets some time after they are up.
plug() {
    ip -n instance link set eth0 netns machine
    ip -n machine -batch - <<END
link set eth0 up
address add 10.0.0.10/24 dev eth0
address add 2001:db8::10/64 dev eth0 nodad
route add default via 10.0.0.1
route add default via 2001:db8::1
END
    until_true 'no carrier' plugged
}

plugged() {
    ip -n machine link show eth0 | grep -q 'state UP' && ip -n cloud link show eth0 | grep -q 'state UP'
}
