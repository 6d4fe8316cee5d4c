#!/bin/sh
# The first process of the machine of machine.sh: its file systems, then systemd. Must not run anywhere else.
set -eu
[ $$ = 1 ] || { echo "init.sh: not the first process of a machine" >&2; exit 1; }
R=/run/lab/root

mount -t proc proc "$R/proc"
# the network's settings are the machine's own, all others everybody's
mount --bind "$R/proc/sys" "$R/proc/sys"
mount --bind "$R/proc/sys/net" "$R/proc/sys/net"
mount -o remount,bind,ro "$R/proc/sys"
[ ! -e "$R/proc/sysrq-trigger" ] || mount --bind /dev/null "$R/proc/sysrq-trigger"
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$R/sys"
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$R/sys/fs/cgroup"
mount -t tmpfs -o mode=0755 tmpfs "$R/dev"
mkdir "$R/dev/net" "$R/dev/pts" "$R/dev/shm"
for device in null zero full random urandom tty; do
    touch "$R/dev/$device"
    mount --bind "/dev/$device" "$R/dev/$device"
done
mknod -m 0666 "$R/dev/net/tun" c 10 200
mount -t devpts -o newinstance,mode=0620,ptmxmode=0666 devpts "$R/dev/pts"
ln -s pts/ptmx "$R/dev/ptmx"
ln -s /proc/self/fd "$R/dev/fd"
mount -t tmpfs -o mode=0755 tmpfs "$R/run"
# emptied at boot, which would take long with the outer machine's
mount -t tmpfs -o mode=1777 tmpfs "$R/tmp"
mount -t tmpfs -o mode=1777 tmpfs "$R/var/tmp"
mkdir -p "$R/run/lab/bin" "$R/run/lab/tests"
mount --bind /run/lab/bin "$R/run/lab/bin"
mount --bind /run/lab/tests "$R/run/lab/tests"
cd "$R"
pivot_root . mnt
umount -l /mnt
exec env -i container=imds-lab PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --unit=machine.target --show-status=no
