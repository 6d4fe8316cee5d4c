"""Ways that send no TCP: datagrams, pings, other protocols. The guard takes the whole address, not a port.
Must not take a lost packet for a refusal: the sniffer in the cloud namespace has the last word."""

import errno
import socket
import struct

import place
from place import FAMILY, service
from registry import way

V4, V6 = 4, 6
# Nothing answers a datagram at the service's port but "port unreachable": that answer proves arrival, its
# absence nothing, for it is limited in rate.
WAIT = min(place.PATIENCE, 1.0)


def datagram(v, protocol=0):
    return place.keep(socket.socket(FAMILY[v], socket.SOCK_DGRAM, protocol))


def sent(sock, v=None, address=None, payload=b"x"):
    """Sends, then waits for the ICMP error that only the service's own host would send."""
    sock.settimeout(WAIT)
    if address is None:
        sock.send(payload)
    else:
        receive_errors(sock, v)
        sock.sendto(payload, address)
    return wait_for_refusal(sock)


def wait_for_refusal(sock):
    try:
        sock.recv(100)
    except ConnectionRefusedError:
        pass
    return "reached"


def receive_errors(sock, v):
    """An unconnected socket hears of ICMP errors only if it asks to (IP_RECVERR, IPV6_RECVERR)."""
    if v == V4:
        sock.setsockopt(socket.IPPROTO_IP, 11, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, 25, 1)


@way("sent")
def udp(v):
    return sent(datagram(v), v, service(v))


@way("sent")
def udp_other_port(v):
    return sent(datagram(v), v, service(v, 53))


@way("sent")
def udp_device(v):
    sock = datagram(v)
    place.bind_device(sock)
    return sent(sock, v, service(v))


@way("sent")
def udp_connected(v):
    sock = datagram(v)
    sock.connect(service(v))
    return sent(sock)


@way("sent")
def udp_connected_device(v):
    sock = datagram(v)
    place.bind_device(sock)
    sock.connect(service(v))
    return sent(sock)


@way("sent")
def udp_connected_then_device(v):
    sock = datagram(v)
    sock.connect(service(v))
    place.bind_device(sock)
    return sent(sock)


@way("sent")
def udp_source_and_device(v):
    sock = datagram(v)
    sock.bind((place.uplink_address(v), 0))
    place.bind_device(sock)
    return sent(sock, v, service(v))


@way("sent")
def udp_tun_source_and_device(v):
    sock = datagram(v)
    place.free_bind(sock, v, place.TUN_ADDRESS[v])
    place.bind_device(sock)
    return sent(sock, v, service(v))


@way("sent", families=(V6,))
def udp_pktinfo_tun_source(v):
    """One datagram's own source and device: the source the guard allows, by the uplink."""
    sock = datagram(v)
    sock.setsockopt(socket.IPPROTO_IPV6, place.IPV6_FREEBIND, 1)
    return with_pktinfo(sock, v, place.TUN_ADDRESS[v])


@way("sent")
def udp_pktinfo(v):
    return with_pktinfo(datagram(v), v, place.uplink_address(v))


@way("sent")
def udp_unicast_interface(v):
    sock = datagram(v)
    index = struct.pack("!I", place.uplink_index())
    if v == V4:
        sock.setsockopt(socket.IPPROTO_IP, place.IP_UNICAST_IF, index)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, place.IPV6_UNICAST_IF, index)
    return sent(sock, v, service(v))


@way("sent", families=(V4,))
def udp_mapped(v):
    sock = datagram(V6)
    receive_errors(sock, V4)
    return sent(sock, V6, place.mapped())


@way("sent", families=(V4,))
def udp_mapped_device(v):
    sock = datagram(V6)
    receive_errors(sock, V4)
    place.bind_device(sock)
    return sent(sock, V6, place.mapped())


@way("sent")
def udp_in_fragments(v):
    """Larger than the link carries: the fragments after the first name no port."""
    sock = datagram(v)
    place.bind_device(sock)
    return sent(sock, v, service(v), b"x" * 5000)


@way("sent")
def udp_corked_then_device(v):
    """Begun by one route, ended after the device was bound."""
    sock = datagram(v)
    sock.connect(service(v))
    sock.send(b"x", socket.MSG_MORE)
    place.bind_device(sock)
    return sent(sock)


@way("sent", families=(V4,))
def udp_record_route(v):
    """IP options of one's own."""
    sock = datagram(v)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, bytes([7, 7, 4, 0, 0, 0, 0, 0]))
    place.bind_device(sock)
    return sent(sock, v, service(v))


@way("reached")
def ping(v):
    return ping_by(v, None)


@way("reached")
def ping_device(v):
    return ping_by(v, place.UPLINK)


def ping_by(v, device):
    protocol = socket.IPPROTO_ICMP if v == V4 else socket.IPPROTO_ICMPV6
    try:
        sock = datagram(v, protocol)
    except PermissionError as error:
        raise place.Unavailable("ping_group_range") from error
    if device:
        place.bind_device(sock, device)
    sock.settimeout(WAIT)
    kind = 8 if v == V4 else 128
    sock.sendto(struct.pack("!BBHHH", kind, 0, 0, 1, 1) + b"x" * 8, (place.SERVICE[v], 0))
    sock.recv(100)
    return "reached"


def with_pktinfo(sock, v, source):
    receive_errors(sock, v)
    sock.settimeout(WAIT)
    index = place.uplink_index()
    if v == V4:
        level, kind = socket.IPPROTO_IP, 8  # IP_PKTINFO
        info = struct.pack("I", index) + socket.inet_aton(source) + bytes(4)
    else:
        level, kind = socket.IPPROTO_IPV6, socket.IPV6_PKTINFO
        info = socket.inet_pton(FAMILY[v], source) + struct.pack("I", index)
    sock.sendmsg([b"x"], [(level, kind, info)], 0, service(v))
    return wait_for_refusal(sock)


# Protocols a kernel may or may not offer to everybody, each with a way to name the peer.
OTHERS = {
    "sctp": (socket.SOCK_STREAM, 132),
    "sctp_packets": (socket.SOCK_SEQPACKET, 132),
    "dccp": (6, 33),
    "udplite": (socket.SOCK_DGRAM, 136),
    "l2tp": (socket.SOCK_DGRAM, 115),
}


def other_protocol(name, kind, number):
    def run(v):
        try:
            sock = place.keep(socket.socket(FAMILY[v], kind, number))
        except OSError as error:
            raise place.Unavailable(place.name_of(error)) from error
        place.bind_device(sock)
        sock.settimeout(WAIT)
        if kind == socket.SOCK_DGRAM:
            return sent(sock, v, service(v))
        try:
            sock.connect(service(v))
        except OSError as error:
            if error.errno == errno.ECONNREFUSED:
                return "reached"
            raise
        return "reached"

    run.__name__ = name
    way("any")(run)


for _name, (_kind, _number) in OTHERS.items():
    other_protocol(_name, _kind, _number)
