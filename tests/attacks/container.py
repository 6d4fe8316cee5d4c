#!/usr/bin/python3
"""Tries to reach the service from a network namespace routed by the instance, as root of that namespace; prints as runner.py says.
Must not run in the instance itself: it changes routes and neighbours of the namespace it is in.

Where the instance masquerades, the source in the sniffer's lines is the instance's, with the port mostly kept."""

import fcntl
import os
import socket
import struct
import subprocess
import sys

import place
import runner
from place import service, stream
from registry import Way

GATEWAY = {4: "10.1.0.1", 6: "2001:db8:1::1"}
INSTANCE = {4: "10.0.0.10", 6: "2001:db8::10"}
# Chosen by the test to be a port that somebody in the instance uses.
SOURCE_PORT = int(os.environ.get("ATTACK_SOURCE_PORT", "0"))
WAYS = {}


def way(bare, families=(4, 6)):
    def enter(run):
        WAYS[run.__name__] = Way(run, bare, families)
        return run

    return enter


@way("reached")
def plain(v):
    sock = stream(v)
    if SOURCE_PORT:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("", SOURCE_PORT))
    return place.reach(sock, service(v))


@way("reached")
def device(v):
    sock = stream(v)
    place.bind_device(sock)
    return place.reach(sock, service(v))


@way("reached")
def mark(v):
    """The interceptor's mark, set by the root of the container."""
    sock = stream(v)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, place.MARK)
    return place.reach(sock, service(v))


@way("reached")
def many_hops(v):
    sock = stream(v)
    if v == 4:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 255)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 255)
    return place.reach(sock, service(v))


@way("reached")
def on_link(v):
    """As if the service were on the bridge, its hardware address that of the instance."""
    address = place.SERVICE[v]
    ip(v, "route", "replace", address, "dev", place.UPLINK)
    ip(v, "neigh", "replace", address, "lladdr", gateway_hardware(v), "dev", place.UPLINK)
    return place.reach(stream(v), service(v))


@way("sent")
def udp(v):
    sock = place.keep(socket.socket(place.FAMILY[v], socket.SOCK_DGRAM))
    sock.settimeout(1)
    sock.connect(service(v))
    sock.send(b"x")
    sock.recv(1)
    return "reached"


@way("sent")
def udp_in_fragments(v):
    sock = place.keep(socket.socket(place.FAMILY[v], socket.SOCK_DGRAM))
    sock.settimeout(1)
    sock.connect(service(v))
    sock.send(b"x" * 5000)
    sock.recv(1)
    return "reached"


@way("sent")
def syn_in_fragments(v):
    """A SYN whose ports and flags are in different fragments, and whose later ones name no port."""
    source = own_address(v)
    segment = syn(v, source, 43210)
    for offset in range(0, len(segment), 8):
        more = offset + 8 < len(segment)
        send_raw(v, source, segment[offset : offset + 8], offset, more)
    return sent_by_hand(v, source, 43210)


@way({4: "any", 6: "sent"})
def instance_as_source(v):
    """A SYN that says it comes from the instance itself; for IPv4 that is a martian."""
    send_raw(v, INSTANCE[v], syn(v, INSTANCE[v], 43211))
    return sent_by_hand(v, INSTANCE[v], 43211)


@way("sent")
def tun_as_source(v):
    """A SYN from the address that the guard lets pass for IPv6."""
    send_raw(v, place.TUN_ADDRESS[v], syn(v, place.TUN_ADDRESS[v], 43212))
    return sent_by_hand(v, place.TUN_ADDRESS[v], 43212)


def own_address(v):
    return place.uplink_address(v)


def syn(v, source, port):
    """A whole TCP SYN with a good checksum."""
    parts = [port, place.PORT, 0x01020304, 0, 6 << 4, 2, 64240, 0, 0, b"\x02\x04\x05\xb4"]
    packed = struct.pack("!HHIIBBHHH4s", *parts)
    family = place.FAMILY[v]
    ends = socket.inet_pton(family, source) + socket.inet_pton(family, place.SERVICE[v])
    parts[7] = checksum(ends + struct.pack("!II", 6, len(packed)) + packed)
    return struct.pack("!HHIIBBHHH4s", *parts)


def checksum(text):
    total = sum(struct.unpack(f"!{len(text) // 2}H", text))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def send_raw(v, source, payload, offset=0, more=False):
    """One packet by hand, by the bridge to the instance."""
    family = place.FAMILY[v]
    ends = socket.inet_pton(family, source) + socket.inet_pton(family, place.SERVICE[v])
    fragment = (offset >> 3, more)
    packet = v4(ends, payload, *fragment) if v == 4 else v6(ends, payload, *fragment)
    frame = hardware(gateway_hardware(v)) + hardware(own_hardware()) + struct.pack("!H", {4: 0x0800, 6: 0x86DD}[v])
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind((place.UPLINK, 0))
        sock.send(frame + packet)


def v4(ends, payload, offset, more):
    flags = offset | (0x2000 if more else 0)
    start = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(payload), 7, flags, 64, 6)
    return start + struct.pack("!H", checksum(start + b"\0\0" + ends)) + ends + payload


def v6(ends, payload, offset, more):
    if not offset and not more:
        return struct.pack("!IHBB", 6 << 28, len(payload), 6, 64) + ends + payload
    header = struct.pack("!BBHI", 6, 0, (offset << 3) | more, 7)
    return struct.pack("!IHBB", 6 << 28, 8 + len(payload), 44, 64) + ends + header + payload


def sent_by_hand(v, source, port):
    """There is no socket to tell the local end of; a datagram socket on the same port stands for it."""
    place.free_bind(place.keep(socket.socket(place.FAMILY[v], socket.SOCK_DGRAM)), v, source, port)
    raise TimeoutError


def hardware(text):
    return bytes.fromhex(text.replace(":", ""))


def own_hardware():
    # Not from /sys, which shows the namespace it was mounted in.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        answer = fcntl.ioctl(sock, 0x8927, struct.pack("16s24x", place.UPLINK.encode()))  # SIOCGIFHWADDR
    return answer[18:24].hex()


def gateway_hardware(v):
    """Asks the kernel, after a datagram that made it ask the gateway."""
    with socket.socket(place.FAMILY[v], socket.SOCK_DGRAM) as sock:
        sock.settimeout(1)
        sock.connect((GATEWAY[v], 9))
        sock.send(b"x")
        try:
            sock.recv(1)  # "port unreachable" means that the gateway is known
        except OSError:
            pass
    words = ip(v, "neigh", "show", GATEWAY[v]).split()
    return words[words.index("lladdr") + 1]


def ip(v, *words):
    return subprocess.run(["ip", f"-{v}", *words], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    if any(name in (place.DEVICE, "br0") for _, name in socket.if_nameindex()):
        sys.exit("container.py: this is the instance, not a container")
    sys.exit(runner.main(WAYS, __doc__))
