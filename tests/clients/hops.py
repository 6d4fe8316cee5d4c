#!/usr/bin/python3
"""Prints how many answers came out of the tun and their hop limits, one line a kind: `KIND COUNT LIMITS`.
Captures them while clients connect, are served, denied, refused, reset and left alone; run as root in a lab.

Kinds: syn (a SYN-ACK), fin, reset, data, ack (none of these)."""

import collections
import socket
import subprocess
import sys

ETH_P_ALL = 3
SERVICE = {4: socket.inet_aton("169.254.169.254"), 6: socket.inet_pton(socket.AF_INET6, "fd00:ec2::254")}
BASES = ["http://169.254.169.254", "http://[fd00:ec2::254]"]


def main():
    tun = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
    tun.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE: none may be missed
    tun.bind(("imds0", ETH_P_ALL))
    for base in BASES:
        token = curl("alice", "-X", "PUT", "-H", "X-aws-ec2-metadata-token-ttl-seconds: 60", base + "/latest/api/token")
        curl("alice", "-H", "X-aws-ec2-metadata-token: " + token, base + "/latest/meta-data/big")
        curl("alice", base + "/latest/meta-data/hostname", base + "/latest/no-such-thing")
        curl("mallory", base + "/latest/meta-data/hostname")
        curl("alice", "-H", "X-Forwarded-For: 10.0.0.1", base + "/latest/meta-data/hostname")
    # with nobody to judge, what is held is reset
    subprocess.run(["imds-lab", "stop", "filterd"], check=True)
    for base in BASES:
        curl("alice", base + "/latest/meta-data/hostname")
    seen = collections.defaultdict(list)
    tun.setblocking(False)
    while True:
        try:
            packet = tun.recv(65536)
        except BlockingIOError:
            break
        for kind, hops in answer(packet):
            seen[kind].append(hops)
    for kind, hops in sorted(seen.items()):
        print(kind, len(hops), ",".join(map(str, sorted(set(hops)))))
    return 0


def curl(user, *arguments):
    command = ["imds-lab", "as", user, "--", "curl", "-sSg", "--max-time", "5", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False).stdout


def answer(packet):
    """Kind and hop limit of a TCP packet that comes from the service."""
    if packet[0] >> 4 == 4 and packet[12:16] == SERVICE[4] and packet[9] == 6:
        hops, segment = packet[8], packet[(packet[0] & 15) * 4 :]
    elif packet[0] >> 4 == 6 and packet[8:24] == SERVICE[6] and packet[6] == 6:
        hops, segment = packet[7], packet[40:]
    else:
        return
    flags = segment[13]
    if flags & 4:
        yield "reset", hops
    elif flags & 2:
        yield "syn", hops
    elif flags & 1:
        yield "fin", hops
    elif len(segment) > (segment[12] >> 4) * 4:
        yield "data", hops
    else:
        yield "ack", hops


if __name__ == "__main__":
    sys.exit(main())
