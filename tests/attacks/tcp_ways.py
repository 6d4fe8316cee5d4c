"""Ways of an unprivileged process to reach the service by TCP around the filter.
Must not need privileges: what needs one is in privilege_ways."""

import ctypes
import errno
import os
import socket
import struct

import place
from place import PATIENCE, stream, service
from registry import way

V4, V6 = 4, 6


@way("reached")
def plain(v):
    return place.reach(stream(v), service(v))


@way("reached")
def device(v):
    sock = stream(v)
    place.bind_device(sock)
    return place.reach(sock, service(v))


@way("reached")
def ifindex(v):
    sock = stream(v)
    place.bind_index(sock)
    return place.reach(sock, service(v))


@way("reached")
def device_in_syn_sent(v):
    """The SYN retransmitted after a second is routed anew, by the device bound meanwhile."""
    sock = stream(v)
    place.connect_deaf(sock, v, service(v))
    place.bind_device(sock)
    place.hear_again(sock, v)
    return place.ask(sock)


@way("reached")
def ifindex_in_syn_sent(v):
    sock = stream(v)
    place.connect_deaf(sock, v, service(v))
    place.bind_index(sock)
    place.hear_again(sock, v)
    return place.ask(sock)


@way("reached")
def source_and_device_in_syn_sent(v):
    sock = stream(v)
    sock.bind((place.uplink_address(v), 0))
    place.connect_deaf(sock, v, service(v))
    place.bind_device(sock)
    place.hear_again(sock, v)
    return place.ask(sock)


@way("reached")
def device_when_connected(v):
    """The handshake goes through the tun, the request by the uplink."""
    sock = stream(v)
    sock.settimeout(PATIENCE)
    sock.connect(service(v))
    place.bind_device(sock)
    return place.ask(sock)


@way("reached")
def device_then_other_address(v):
    """Bound and connected elsewhere first, so the route and the device are settled before the service is named."""
    sock = stream(v)
    place.bind_device(sock)
    sock.settimeout(PATIENCE)
    sock.connect_ex(("10.0.0.1" if v == V4 else "2001:db8::1", 9))
    disconnect(sock)
    return place.reach(sock, service(v))


@way("reached")
def reconnected_by_device(v):
    sock = stream(v)
    sock.settimeout(PATIENCE)
    sock.connect_ex(service(v))
    disconnect(sock)
    place.bind_device(sock)
    return place.reach(sock, service(v))


@way("reached")
def source(v):
    sock = stream(v)
    sock.bind((place.uplink_address(v), 0))
    return place.reach(sock, service(v))


@way("reached")
def source_and_device(v):
    sock = stream(v)
    sock.bind((place.uplink_address(v), 0))
    place.bind_device(sock)
    return place.reach(sock, service(v))


@way("sent")
def tun_source(v):
    """The tun's own address as the source; for IPv6 that is the source the guard lets pass."""
    sock = stream(v)
    place.free_bind(sock, v, place.TUN_ADDRESS[v])
    return place.reach(sock, service(v))


@way("sent")
def tun_source_and_device(v):
    sock = stream(v)
    place.free_bind(sock, v, place.TUN_ADDRESS[v])
    place.bind_device(sock)
    return place.reach(sock, service(v))


@way("sent")
def tun_source_and_device_in_syn_sent(v):
    sock = stream(v)
    place.free_bind(sock, v, place.TUN_ADDRESS[v])
    place.connect_deaf(sock, v, service(v))
    place.bind_device(sock)
    place.hear_again(sock, v)
    return place.ask(sock)


@way({V4: "refused", V6: "sent"})
def foreign_source(v):
    sock = stream(v)
    place.free_bind(sock, v, "192.0.2.7" if v == V4 else "2001:db8:7::7")
    return place.reach(sock, service(v))


@way({V4: "refused", V6: "sent"})
def foreign_source_and_device(v):
    sock = stream(v)
    place.free_bind(sock, v, "192.0.2.7" if v == V4 else "2001:db8:7::7")
    place.bind_device(sock)
    return place.reach(sock, service(v))


@way({V4: "refused", V6: "sent"})
def service_as_source(v):
    """From the service's own address: to the kernel neither local nor routable back."""
    sock = stream(v)
    place.free_bind(sock, v, place.SERVICE[v])
    place.bind_device(sock)
    return place.reach(sock, service(v))


@way("reached")
def unicast_interface(v):
    """IP_UNICAST_IF steers the route without binding the socket."""
    sock = stream(v)
    index = struct.pack("!I", place.uplink_index())
    if v == V4:
        sock.setsockopt(socket.IPPROTO_IP, place.IP_UNICAST_IF, index)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, place.IPV6_UNICAST_IF, index)
    return place.reach(sock, service(v))


@way("reached", families=(V6,))
def sticky_pktinfo(v):
    sock = stream(v)
    sticky(sock, place.uplink_address(v))
    return place.reach(sock, service(v))


@way("reached", families=(V6,))
def sticky_pktinfo_tun_source(v):
    """The source the guard allows, the uplink as the way."""
    sock = stream(v)
    sock.setsockopt(socket.IPPROTO_IPV6, place.IPV6_FREEBIND, 1)
    sticky(sock, place.TUN_ADDRESS[V6])
    return place.reach(sock, service(v))


@way("reached", families=(V6,))
def scope_id(v):
    return place.reach(stream(v), (place.SERVICE[v], place.PORT, 0, place.uplink_index()))


@way("reached", families=(V6,))
def flow_label(v):
    sock = stream(v)
    sock.setsockopt(socket.IPPROTO_IPV6, 33, 1)  # IPV6_FLOWINFO_SEND
    return place.reach(sock, (place.SERVICE[v], place.PORT, socket.htonl(0x0FF00000), 0))


@way("sent", families=(V6,))
def segment_routing(v):
    """An SRv6 header that names the service as first stop and a neighbour as the end."""
    sock = stream(v)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RTHDR, segments("2001:db8::1", place.SERVICE[v]))
    place.bind_device(sock)
    return place.reach(sock, ("2001:db8::1", place.PORT))


@way("sent", families=(V6,))
def segment_routing_no_device(v):
    sock = stream(v)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RTHDR, segments("2001:db8::1", place.SERVICE[v]))
    return place.reach(sock, ("2001:db8::1", place.PORT))


@way("sent", families=(V6,))
def segment_routing_by_neighbour(v):
    """The neighbour as first stop, the service as the end: on the wire the packet is for the neighbour."""
    sock = stream(v)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RTHDR, segments(place.SERVICE[v], "2001:db8::1"))
    return place.reach(sock, service(v))


@way("reached")
def dont_route(v):
    """As if the service were a neighbour."""
    sock = stream(v)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_DONTROUTE, 1)
    if v == V4:
        place.bind_device(sock)
    return place.reach(sock, service(v))


@way("reached")
def every_tos_and_priority(v):
    """Rules can choose by TOS; ours must hold for each."""
    sock = stream(v)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 6)
    if v == V4:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0x1C)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, 0x1C)
    place.bind_device(sock)
    return place.reach(sock, service(v))


@way("refused", families=(V4,))
def loose_source_route(v):
    """LSRR by the gateway to the service."""
    sock = stream(v)
    hops = socket.inet_aton("10.0.0.1") + socket.inet_aton(place.SERVICE[v])
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, bytes([131, 3 + len(hops), 4]) + hops + b"\0")
    return place.reach(sock, service(v))


@way("any")
def device_of_the_tun(v):
    """No bypass: by the tun the filter is met."""
    sock = stream(v)
    place.bind_device(sock, place.DEVICE)
    return place.reach(sock, service(v))


@way("any")
def device_of_loopback(v):
    sock = stream(v)
    place.bind_device(sock, "lo")
    return place.reach(sock, service(v))


@way("any")
def loopback_source_and_device_in_syn_sent(v):
    """Answers to 127.0.0.1 are lost as martians, so the SYN is sent again, by the uplink."""
    sock = stream(v)
    sock.bind(("127.0.0.1" if v == V4 else "::1", 0))
    place.connect_deaf(sock, v, service(v))
    place.bind_device(sock)
    place.hear_again(sock, v)
    return place.ask(sock)


@way("any")
def address_of_the_tun(v):
    """The tun's own address offers nothing."""
    return place.reach(stream(v), (place.TUN_ADDRESS[v], place.PORT))


@way("sent")
def other_port(v):
    """The whole address is taken, not only the service's port."""
    sock = stream(v)
    return place.reach(sock, service(v, 8080))


@way("sent")
def other_port_device(v):
    sock = stream(v)
    place.bind_device(sock)
    return place.reach(sock, service(v, 8080))


@way("sent")
def other_port_tun_source_and_device(v):
    """What the guard lets pass for the tun's source should be no more than clients need."""
    sock = stream(v)
    place.free_bind(sock, v, place.TUN_ADDRESS[v])
    place.bind_device(sock)
    return place.reach(sock, service(v, 8080))


@way("reached")
def inherited_by_child(v):
    """Connected and bound by one process, used by its child."""
    sock = stream(v)
    place.bind_device(sock)
    sock.settimeout(PATIENCE)
    sock.connect(service(v))
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            outcome = place.ask(sock)
        except OSError as error:
            outcome = "refused:" + place.name_of(error)
        os.write(writer, outcome.encode())
        os._exit(0)
    os.close(writer)
    sock.close()
    os.waitpid(child, 0)
    return os.read(reader, 100).decode()


def disconnect(sock):
    """connect(AF_UNSPEC), which Python's socket has no word for."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.connect(sock.fileno(), struct.pack("H14x", socket.AF_UNSPEC), 16) != 0:
        number = ctypes.get_errno()
        if number != errno.ENOTCONN:
            raise OSError(number, os.strerror(number))


def sticky(sock, address):
    info = socket.inet_pton(socket.AF_INET6, address) + struct.pack("I", place.uplink_index())
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, info)


def segments(*path_reversed):
    """A segment routing header (RFC 8754): the last stop first."""
    count = len(path_reversed)
    stops = b"".join(socket.inet_pton(socket.AF_INET6, stop) for stop in path_reversed)
    return bytes([0, 2 * count, 4, count - 1, count - 1, 0, 0, 0]) + stops
