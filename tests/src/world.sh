#!/bin/sh
# Builds the lab's world: accounts, two or three network namespaces, addresses, routes. Run once, by pid 1 of the lab.
# Must not run anywhere else: it changes mounts and network of wherever it runs, hence the first test.
#
# Wants: BIN, TESTS  numbers of pid 1's descriptors of the directories shown as /run/lab/bin and /run/lab/tests
#        CONTAINER   none, bridge or masquerade
#        CGROUP_MOUNT, CGROUP  where the cgroup v2 hierarchy is mounted, and the lab's own cgroup in it; both empty without one
set -eu
if [ $$ -ge 100 ] || [ "$(cat /proc/1/comm)" != imds-lab ]; then
    echo "world.sh: not inside a lab" >&2
    exit 1
fi

# --- files: everything that a lab writes lies in this tmpfs and vanishes with it
mount -t tmpfs -o mode=0755 imds-lab /run
mkdir -p /run/lab/bin /run/lab/tests /run/lab/log /run/lab/notify /run/lab/etc/upper /run/lab/etc/work /run/lab/cgroup
mkdir -p /run/lab/home/root /run/lab/home/alice /run/lab/home/bob /run/lab/home/mallory /run/lock
mkdir -m 1777 /run/lab/tmp
# by descriptor and --no-canonicalize: the directories may have been below /run themselves
mount --no-canonicalize --bind "/proc/1/fd/$BIN" /run/lab/bin
mount --no-canonicalize --bind "/proc/1/fd/$TESTS" /run/lab/tests
mount -o remount,bind,ro /run/lab/bin
mount -o remount,bind,ro /run/lab/tests

# --- accounts: laid over /etc as a whole, so that useradd and editors, which rename, work and change nothing outside
install -m 0644 /run/lab/tests/src/etc/* /run/lab/etc/upper/
mount -t overlay -o lowerdir=/etc,upperdir=/run/lab/etc/upper,workdir=/run/lab/etc/work imds-lab /etc
for user in alice bob mallory; do chown "$user:" "/run/lab/home/$user"; done

# --- network namespaces; no router advertisements and no waiting for duplicate address detection.
# rp_filter is set because a new namespace takes the machine's value. The address of the service is on eth0 and not on
# lo, since IPv6 answers neighbour solicitations only there: clients bound to a device rely on an answer.
# shellcheck disable=SC2016  # expanded by the shell inside
calm='for f in /proc/sys/net/ipv6/conf/*/accept_dad /proc/sys/net/ipv6/conf/*/accept_ra /proc/sys/net/ipv4/conf/*/rp_filter
do echo 0 >"$f"; done'
for name in cloud instance; do
    ip netns add "$name"
    nsenter --net="/run/netns/$name" sh -c "$calm"
done
ip link add eth0 netns cloud type veth peer name eth0 netns instance
ip -n cloud -batch - <<END
link set lo up
link set eth0 up
address add 10.0.0.1/24 dev eth0
address add 2001:db8::1/64 dev eth0 nodad
address add 169.254.169.254/32 dev eth0
address add fd00:ec2::254/128 dev eth0 nodad
END
ip -n instance -batch - <<END
link set lo up
link set eth0 up
address add 10.0.0.10/24 dev eth0
address add 2001:db8::10/64 dev eth0 nodad
route add default via 10.0.0.1
route add default via 2001:db8::1
END

# --- /sys of the instance, or /sys/class/net would show the machine's devices; with the cgroups that were there
mount --rbind /sys/fs/cgroup /run/lab/cgroup
nsenter --net=/run/netns/instance mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
mount --rbind /run/lab/cgroup /sys/fs/cgroup
umount -l /run/lab/cgroup
# of the cgroups the lab's own: to the lab it is the hierarchy's root
[ -z "$CGROUP" ] || mount --bind "$CGROUP" "$CGROUP_MOUNT"

# --- a container behind a bridge of the instance
[ "$CONTAINER" != none ] || exit 0
ip netns add container
nsenter --net=/run/netns/container sh -c "$calm"
ip -n instance -batch - <<END
link add br0 type bridge
link set br0 up
address add 10.1.0.1/24 dev br0
address add 2001:db8:1::1/64 dev br0 nodad
link add vcontainer type veth peer name eth0 netns container
link set vcontainer master br0
link set vcontainer up
END
ip -n container -batch - <<END
link set lo up
link set eth0 up
address add 10.1.0.2/24 dev eth0
address add 2001:db8:1::2/64 dev eth0 nodad
route add default via 10.1.0.1
route add default via 2001:db8:1::1
END
# the way back, for what is not masqueraded
ip -n cloud route add 10.1.0.0/24 via 10.0.0.10
ip -n cloud route add 2001:db8:1::/64 via 2001:db8::10
nsenter --net=/run/netns/instance sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding'
[ "$CONTAINER" != masquerade ] || nsenter --net=/run/netns/instance nft -f - <<END
table inet lab {
    chain postrouting {
        type nat hook postrouting priority srcnat
        ip saddr 10.1.0.0/24 oifname "eth0" masquerade
        ip6 saddr 2001:db8:1::/64 oifname "eth0" masquerade
    }
}
END
