"""Ways by streams that are not plain TCP sockets of the service's family: v4-mapped, multipath, fast open, SMC.
Must not need privileges: what needs one is in privilege_ways."""

import socket
import struct

import place
from place import PATIENCE, service, stream
from registry import way

V4, V6 = 4, 6


@way("reached", families=(V4,))
def mapped(v):
    return place.reach(stream(V6), place.mapped())


@way("reached", families=(V4,))
def mapped_device(v):
    sock = stream(V6)
    place.bind_device(sock)
    return place.reach(sock, place.mapped())


@way("reached", families=(V4,))
def mapped_device_in_syn_sent(v):
    sock = stream(V6)
    place.connect_deaf(sock, V4, place.mapped())
    place.bind_device(sock)
    place.hear_again(sock, v)
    return place.ask(sock)


@way("reached", families=(V4,))
def mapped_unicast_interface(v):
    sock = stream(V6)
    sock.setsockopt(socket.IPPROTO_IPV6, place.IPV6_UNICAST_IF, struct.pack("!I", place.uplink_index()))
    return place.reach(sock, place.mapped())


@way("reached", families=(V4,))
def mapped_source_and_device(v):
    sock = stream(V6)
    sock.bind(("::ffff:" + place.uplink_address(V4), 0))
    place.bind_device(sock)
    return place.reach(sock, place.mapped())


@way("reached")
def multipath(v):
    return place.reach(multipath_stream(v), service(v))


@way("reached")
def multipath_device(v):
    sock = multipath_stream(v)
    place.bind_device(sock)
    return place.reach(sock, service(v))


@way("reached")
def multipath_ifindex(v):
    sock = multipath_stream(v)
    place.bind_index(sock)
    return place.reach(sock, service(v))


@way("reached", families=(V4,))
def multipath_mapped_device(v):
    sock = multipath_stream(V6)
    place.bind_device(sock)
    return place.reach(sock, place.mapped())


@way("reached")
def multipath_source(v):
    sock = multipath_stream(v)
    sock.bind((place.uplink_address(v), 0))
    return place.reach(sock, service(v))


@way("reached")
def fast_open(v):
    sock = stream(v)
    sock.settimeout(PATIENCE)
    return open_fast(sock, v)


@way("reached")
def fast_open_device(v):
    sock = stream(v)
    place.bind_device(sock)
    sock.settimeout(PATIENCE)
    return open_fast(sock, v)


@way("reached")
def fast_open_connect_device(v):
    """The SYN is put off until the first write; the device is bound in between."""
    sock = stream(v)
    sock.settimeout(PATIENCE)
    sock.setsockopt(socket.IPPROTO_TCP, place.TCP_FASTOPEN_CONNECT, 1)
    sock.connect(service(v))
    place.bind_device(sock)
    return place.ask(sock, place.head(v))


@way("any", families=(V4,))
def smc(v):
    """AF_SMC falls back to a TCP socket that the kernel makes."""
    try:
        sock = place.keep(socket.socket(43, socket.SOCK_STREAM, 0))
    except OSError as error:
        raise place.Unavailable("AF_SMC: " + place.name_of(error)) from error
    place.bind_device(sock)
    return place.reach(sock, service(v))


def open_fast(sock, v):
    try:
        sent = sock.sendto(place.head(v), place.MSG_FASTOPEN, service(v))
    except BlockingIOError:
        sent = 0  # EINPROGRESS: no cookie yet, so an ordinary SYN went out
    place.wait_connected(sock)
    return place.ask(sock, place.head(v)[sent:])


def multipath_stream(v):
    try:
        return place.stream(v, place.IPPROTO_MPTCP)
    except OSError as error:
        raise place.Unavailable("MPTCP: " + place.name_of(error)) from error
