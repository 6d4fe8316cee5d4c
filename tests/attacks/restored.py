#!/usr/bin/python3
"""Destroys a part of the capture and measures how long it was not back: `WHAT ROUND MILLISECONDS`, or `never` after ten seconds.
Must not look into the daemons: what counts is what the kernel has."""

import argparse
import glob
import re
import socket
import struct
import subprocess
import sys

from stopwatch import Stopwatch

# two programs that run beside each other: each further one would make the measure coarser
PARTS = (
    ("ip -o -force -batch -", "address show dev imds0\nrule\nroute show table 169254\nxfrm policy\n"),
    ("ip -6 -o -force -batch -", "rule\nroute show table 169254\n"),
)
TABLES = "nft list ruleset"
SWITCH = "/proc/sys/net/ipv4/conf/{}/disable_xfrm"
# a mount of its own, as services with ProtectProc= and containers have: another file of the same setting
ELSEWHERE = "unshare --pid --fork --mount-proc sysctl -qw net.ipv4.conf.eth0.disable_xfrm=1"


def ours(version):
    """The priorities at which the rules are, however they are numbered."""
    lines = output(f"ip -{version} rule").splitlines()
    service = {4: "169.254.169.254", 6: "fd00:ec2::254"}[version]
    return [line.split(":")[0] for line in lines if service in line]


def delete_rules(version):
    for priority in ours(version):
        run(f"ip -{version} rule del priority {priority}")


DISTURBANCES = {
    "rules4": lambda: delete_rules(4),
    "rules6": lambda: delete_rules(6),
    "last_rule4": lambda: run(f"ip -4 rule del priority {ours(4)[-1]}"),
    "first_rule6": lambda: run(f"ip -6 rule del priority {ours(6)[0]}"),
    "routes4": lambda: run("ip -4 route flush table 169254"),
    "routes6": lambda: run("ip -6 route flush table 169254"),
    "policies": lambda: run("ip xfrm policy flush"),
    "ruleset": lambda: run("nft flush ruleset"),
    "tun_address4": lambda: run("ip -4 address flush dev imds0"),
    "tun_address6": lambda: run("ip -6 address flush dev imds0"),
    "tun_down": lambda: run("ip link set imds0 down"),
    "switch_uplink": lambda: switch_off("eth0"),
    "switch_all": lambda: switch_off("all"),
    "switch_default": lambda: switch_off("default"),
    "switch_netlink": lambda: switch_off_by_netlink("eth0"),
    "switch_elsewhere": lambda: run(ELSEWHERE),
    "everything": lambda: (delete_rules(4), delete_rules(6), run("ip xfrm policy flush")),
}


def run(line):
    subprocess.run(line.split(), check=True, stdout=subprocess.DEVNULL)


def switch_off(link):
    with open(SWITCH.format(link), "w") as file:
        file.write("1")


def switch_off_by_netlink(link):
    """RTM_SETLINK with IFLA_AF_SPEC, AF_INET, IFLA_INET_CONF, IPV4_DEVCONF_NOXFRM: no file is written."""
    nested = struct.pack("=HHI", 8, 15, 1)
    for kind in (1, socket.AF_INET, 26):
        nested = struct.pack("=HH", 4 + len(nested), kind) + nested
    body = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, socket.if_nametoindex(link), 0, 0) + nested
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.send(struct.pack("=IHHII", 16 + len(body), 19, 5, 1, 0) + body)
        (error,) = struct.unpack_from("=i", kernel.recv(4096), 16)
        if error != 0:
            raise OSError(-error, "RTM_SETLINK")


def switches():
    values = []
    for path in sorted(glob.glob(SWITCH.format("*"))):
        with open(path) as file:
            values.append(path + " " + file.read().strip())
    return "\n".join(values)


def output(line):
    return subprocess.run(line.split(), check=True, capture_output=True, text=True).stdout


def asked(line, words):
    program = subprocess.Popen(line.split(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    program.stdin.write(words.encode())
    program.stdin.close()
    return program


def snapshot():
    """What the capture consists of, link-local addresses aside, which the kernel makes up anew."""
    programs = [asked(*part) for part in PARTS]
    lines = "".join(program.stdout.read().decode() for program in programs).splitlines()
    for program in programs:
        program.wait()
    if "ruleset" in sys.argv:
        lines += output(TABLES).splitlines()
    # A policy's `uid` is a label that the kernel does not look at; a set put back may bear another.
    kept = [re.sub(r" uid \d+", "", line) for line in lines if "fe80" not in line]
    for name in ("flags", "mtu"):
        with open(f"/sys/class/net/imds0/{name}") as file:
            kept.append(file.read())
    return "\n".join(kept) + switches()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="+", choices=DISTURBANCES)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    whole = snapshot()
    good = True
    for what in arguments.what:
        for number in range(arguments.rounds):
            DISTURBANCES[what]()
            # The disturbance itself takes time; what is put back meanwhile was put back early enough.
            good = report(what, number, whole) and good
    return 0 if good else 1


def report(what, number, whole):
    waited, missed = Stopwatch(), 0
    while waited.on_the_wall() < 10:
        if snapshot() == whole:
            print(what, number, round(1000 * missed), flush=True)
            return True
        missed = waited.elapsed()
    print(what, number, "never", flush=True)
    print(snapshot(), "--- was\n" + whole, sep="\n", file=sys.stderr)
    return False


if __name__ == "__main__":
    sys.exit(main())
