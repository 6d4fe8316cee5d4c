#!/usr/bin/python3
"""Ends a handshake that another socket began: run as root, who forges what a socket's owner could not.
Must not go on by guess: what the tun carried is read from it, and nothing heard in time is an error.

A socket of the user FIRST sends its SYN; the answer is kept from it. With `stays` it stays, with `goes` it is closed,
with `taken` it is closed and a socket of SECOND has its port. Then an ACK with a request is made by hand. Prints what
comes back: `reset`, or `answered`."""

import os
import pwd
import signal
import socket
import struct
import subprocess
import sys

SERVICE = ("169.254.169.254", 80)
DEVICE = "imds0"
SYN, RST, ACK = 0x02, 0x04, 0x10
PATIENCE = 5.0
RULES = f"""
table ip handshake {{
    chain input {{ type filter hook input priority 0; iifname "{DEVICE}" drop; }}
    chain output {{ type filter hook output priority 0; }}
}}
"""
# a second SYN is not to arrive: only the one that was attributed
KEEP_SYNS = f"add rule ip handshake output oifname {DEVICE} tcp flags & (syn|ack) == syn drop"


def nft(text):
    subprocess.run(["nft", "-f", "-"], input=text.encode(), check=True)


class Connecting:
    """A process of that user whose socket sends a SYN and then waits."""

    def __init__(self, name, address=("", 0)):
        entry = pwd.getpwnam(name)
        told, tell = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.setgroups([])
            os.setresgid(*[entry.pw_gid] * 3)
            os.setresuid(*[entry.pw_uid] * 3)
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
            sock.setblocking(False)
            sock.connect_ex(SERVICE)
            os.write(tell, b"%d" % sock.getsockname()[1])
            signal.pause()
        os.close(tell)
        self.port = int(os.read(told, 16))

    def end(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def heard(tap, wanted):
    """The next packet of IPv4 and TCP for which `wanted` holds: source, addresses, ports, numbers, flags, payload."""
    while True:
        packet = tap.recv(65535)
        if packet[0] >> 4 != 4 or packet[9] != socket.IPPROTO_TCP:
            continue
        segment = packet[(packet[0] & 15) * 4 :]
        source, target, sequence, acknowledged, offset, flags = struct.unpack_from("!HHIIBB", segment)
        found = {
            "from": (socket.inet_ntoa(packet[12:16]), source),
            "to": (socket.inet_ntoa(packet[16:20]), target),
            "sequence": sequence,
            "acknowledged": acknowledged,
            "flags": flags,
            "payload": segment[(offset >> 4) * 4 :],
        }
        if wanted(found):
            return found


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def forge(client, sequence, acknowledged, payload):
    """An ACK of `client`'s with a payload."""
    source, target = (socket.inet_aton(address) for address in (client[0], SERVICE[0]))
    head = [client[1], SERVICE[1], sequence, acknowledged, 5 << 4, ACK, 65535, 0, 0]
    segment = struct.pack("!HHIIBBHHH", *head) + payload
    head[7] = checksum(source + target + struct.pack("!HH", socket.IPPROTO_TCP, len(segment)) + segment)
    segment = struct.pack("!HHIIBBHHH", *head) + payload
    packet = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 0, 0, 64, socket.IPPROTO_TCP, 0) + source + target
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    raw.sendto(packet + segment, (SERVICE[0], 0))


def main():
    how, first, second, path = sys.argv[1:]
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
    tap.bind((DEVICE, 0))
    tap.settimeout(PATIENCE)
    nft(RULES)
    client = Connecting(first)
    syn = heard(tap, lambda p: p["from"][1] == client.port and p["flags"] & (SYN | ACK) == SYN)
    answer = heard(tap, lambda p: p["to"] == syn["from"] and p["flags"] & (SYN | ACK) == SYN | ACK)
    nft(KEEP_SYNS)
    taker = None
    if how != "stays":
        client.end()
    if how == "taken":
        taker = Connecting(second, syn["from"])
        assert taker.port == client.port
    request = f"GET {path} HTTP/1.1\r\nHost: {SERVICE[0]}\r\n\r\n".encode()
    forge(syn["from"], syn["sequence"] + 1, answer["sequence"] + 1, request)
    came = heard(tap, lambda p: p["to"] == syn["from"] and (p["flags"] & RST or p["payload"]))
    print("reset" if came["flags"] & RST else "answered")
    for one in (taker, client if how == "stays" else None):
        if one:
            one.end()


main()
