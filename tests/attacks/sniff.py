#!/usr/bin/python3
"""Prints every packet for the service that arrives here: `seen KIND SOURCE PORT SERVICE PORT`, ARP and neighbour questions too.
Must not send anything. Writes `ready` once it listens, ends when its standard input has and nothing has come for a moment.

KIND is syn, tcp (not a SYN), udp, probe (an empty datagram of one hop: the interceptor's look for a way left open), icmp,
fragment (of any protocol, not the first), protocol-NUMBER; arp, which asks for the service's hardware address; or neighbour,
an answer to the service's own such question."""

import select
import socket
import struct
import sys

import place

OUTGOING = 4
# A packet that was sent before the input ended may still be on its way, where processors are busy.
QUIET = 0.1
SERVICE4 = socket.inet_aton(place.SERVICE[4])
SERVICE6 = socket.inet_pton(socket.AF_INET6, place.SERVICE[6])


def main():
    # ETH_P_ALL, on every device there is or will be
    sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
    sniffer.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE: none may be missed
    print("ready", flush=True)
    sources = [sniffer, sys.stdin]
    while ready := select.select(sources, [], [], None if sys.stdin in sources else QUIET)[0]:
        if sniffer in ready:
            print_one(sniffer)
        elif not sys.stdin.readline():
            sources.remove(sys.stdin)
    print("dropped", dropped(sniffer))
    return 0


def dropped(sniffer):
    """How many packets the kernel could not keep for us: a test may trust silence only if it is 0."""
    return struct.unpack("II", sniffer.getsockopt(263, 6, 8))[1]  # SOL_PACKET, PACKET_STATISTICS


def print_one(sniffer):
    packet, (_, protocol, direction, _, _) = sniffer.recvfrom(65536)
    if direction == OUTGOING:
        return
    line = None
    if protocol == 0x0800:
        line = read_v4(packet)
    elif protocol == 0x86DD:
        line = read_v6(packet)
    elif protocol == 0x0806 and packet[24:28] == SERVICE4:
        line = f"arp {socket.inet_ntoa(packet[14:18])} 0 {place.SERVICE[4]} 0"
    if line:
        print("seen", line, flush=True)


def read_v4(packet):
    # Anything that names the service counts, an option (source route) too.
    size = (packet[0] & 15) * 4
    if SERVICE4 not in packet[16:size]:
        return None
    offset = struct.unpack("!H", packet[6:8])[0] & 0x1FFF
    source, target = socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])
    return told(packet[9], packet[size:], source, target, offset, packet[8])


def read_v6(packet):
    source, target = (socket.inet_ntop(socket.AF_INET6, packet[a : a + 16]) for a in (8, 24))
    kind, rest, offset, named = packet[6], packet[40:], 0, packet[24:40] == SERVICE6
    while kind in (0, 43, 44, 60) and len(rest) >= 8:
        if kind == 44:
            offset = struct.unpack("!H", rest[2:4])[0] >> 3
            size = 8
        else:
            size = (rest[1] + 1) * 8
        named = named or (kind == 43 and SERVICE6 in rest[:size])
        kind, rest = rest[0], rest[size:]
    if kind == 58 and rest[:1] == b"\x87" and rest[8:24] == SERVICE6:
        return f"arp {source} 0 {place.SERVICE[6]} 0"
    return told(kind, rest, source, target, offset, packet[7]) if named else None


def told(kind, rest, source, target, offset, hops):
    ports = struct.unpack("!HH", rest[:4]) if kind in (6, 17, 136) and len(rest) >= 4 and not offset else (0, 0)
    if offset:
        name = "fragment"
    elif kind == 6:
        name = "syn" if len(rest) > 13 and rest[13] & 0x12 == 2 else "tcp"
    elif kind == 17 and hops == 1 and rest[4:6] == b"\0\x08":
        name = "probe"
    elif kind == 58 and rest[:1] == b"\x88":
        name = "neighbour"
    else:
        name = {17: "udp", 1: "icmp", 58: "icmp"}.get(kind, f"protocol-{kind}")
    return f"{name} {source} {ports[0]} {target} {ports[1]}"


if __name__ == "__main__":
    sys.exit(main())
