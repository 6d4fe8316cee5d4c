"""Ways that ask for a privilege the attacker should not have, or make one in a user namespace.
Must not succeed by being root: `bypass.py` refuses to run as root."""

import ctypes
import glob
import os
import socket
import struct
import subprocess

import place
from place import FAMILY, stream, service
from registry import WAYS, way

V4, V6 = 4, 6
LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000


def checked(result):
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def become_root_of_own(flags=0):
    """A user namespace in which we are root; the network namespace is still the host's."""
    uid, gid = os.getuid(), os.getgid()
    try:
        checked(LIBC.unshare(CLONE_NEWUSER | flags))
    except OSError as error:
        raise place.Unavailable("user namespaces: " + place.name_of(error)) from error
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open("/proc/self/" + name, "w", encoding="ascii") as file:
            file.write(text)


@way("refused")
def mark(v):
    """The interceptor's own mark."""
    sock = stream(v)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, place.MARK)
    return place.reach(sock, service(v))


@way("refused")
def mark_of_one_datagram(v):
    """SO_MARK as a control message."""
    sock = place.keep(socket.socket(FAMILY[v], socket.SOCK_DGRAM))
    control = [(socket.SOL_SOCKET, socket.SO_MARK, struct.pack("I", place.MARK))]
    sock.sendmsg([b"x"], control, 0, service(v))
    return "reached"


@way("refused")
def transparent(v):
    sock = stream(v)
    if v == V4:
        sock.setsockopt(socket.IPPROTO_IP, place.IP_TRANSPARENT, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, place.IPV6_TRANSPARENT, 1)
    return place.reach(sock, service(v))


@way("refused")
def repair(v):
    """TCP_REPAIR makes a connection without a handshake."""
    sock = stream(v)
    sock.setsockopt(socket.IPPROTO_TCP, 19, 1)
    return place.reach(sock, service(v))


@way("refused")
def own_policy(v):
    """A policy of the socket's own goes before the system's."""
    sock = stream(v)
    policy = struct.pack("168x")
    if v == V4:
        sock.setsockopt(socket.IPPROTO_IP, place.IP_XFRM_POLICY, policy)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, place.IPV6_XFRM_POLICY, policy)
    return place.reach(sock, service(v))


@way("refused")
def raw(v):
    sock = socket.socket(FAMILY[v], socket.SOCK_RAW, socket.IPPROTO_TCP)
    sock.sendto(bytes(20), (place.SERVICE[v], 0))
    return "reached"


@way("refused", families=(V4,))
def packet(v):
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    return "reached"


@way("refused", families=(V4,))
def packet_express(v):
    """AF_XDP."""
    socket.socket(44, socket.SOCK_RAW, 0)
    return "reached"


@way("any", families=(V4,))
def attach_to_the_tun(v):
    """Whoever holds a queue of the tun answers for the filter. A bare world with an ownerless tun lets us."""
    return attach()


@way("any", families=(V4,))
def attach_to_the_tun_as_own_root(v):
    become_root_of_own()
    return attach()


def attach():
    # The node itself may be closed to us (0600) or open to all (0666, as udev has it): the tun must hold either way.
    tun = os.open("/dev/net/tun", os.O_RDWR)
    for flags in (0x1001, 0x1101, 0x1001 | 0x0200):  # TUN|NO_PI, with MULTI_QUEUE, with ATTACH_QUEUE
        request = ctypes.create_string_buffer(struct.pack("16sH22x", place.DEVICE.encode(), flags))
        if LIBC.ioctl(tun, ctypes.c_ulong(0x400454CA), request) == 0:
            return "reached"
    checked(-1)


@way("refused", families=(V4,))
def change_the_network(v):
    """Deletes rules, routes and policies, as if allowed."""
    return change()


@way("refused", families=(V4,))
def change_the_network_as_own_root(v):
    become_root_of_own()
    return change()


CHANGES = (
    "ip rule del priority 12",
    "ip -6 rule del priority 12",
    "ip rule add priority 1 lookup main",
    "ip route replace prohibit 169.254.169.254/32 table 169254",
    "ip route add 169.254.169.254/32 dev eth0",
    "ip xfrm policy flush",
    "ip link set imds0 down",
    "ip address add 169.254.169.253/32 dev lo",
    "ip link add attack0 type bridge",
)


def change():
    for line in CHANGES:
        done = subprocess.run(line.split(), capture_output=True, check=False)
        if done.returncode == 0:
            return "reached"
    raise PermissionError(1, "not permitted")


@way("refused")
def own_network(v):
    """A network namespace of one's own has no way out."""
    become_root_of_own(CLONE_NEWNET)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    sock = stream(v)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, place.MARK)
    return place.reach(sock, service(v))


@way("refused", families=(V4,))
def link_from_own_network(v):
    """A veth whose other end would be put into the host's network."""
    host = os.open("/proc/self/ns/net", os.O_RDONLY)
    become_root_of_own(CLONE_NEWNET)
    line = ["ip", "link", "add", "attack0", "type", "veth", "peer", "name", "attack1", "netns", f"/proc/self/fd/{host}"]
    done = subprocess.run(line, capture_output=True, check=False, pass_fds=(host,))
    if done.returncode == 0:
        return "reached"
    raise PermissionError(1, "not permitted")


def as_own_root(name):
    """The same way again from a user namespace in which we are root."""
    inner = WAYS[name]

    def run(v):
        become_root_of_own()
        return inner.run(v)

    run.__name__ = "own_root_" + name
    way(inner.bare, inner.families)(run)


AGAIN = (
    "plain device device_in_syn_sent tun_source_and_device mapped_device multipath_device udp_device "
    "mark mark_of_one_datagram transparent repair own_policy raw packet packet_express"
)


def enter_again():
    """After all other ways are entered."""
    for name in AGAIN.split():
        as_own_root(name)


@way("refused", families=(V4,))
def steal_a_descriptor(v):
    """The interceptor's sockets by pidfd_getfd, its memory by /proc."""
    found = pids_of("imds-interceptor") + pids_of("imds-filterd")
    if not found:
        raise place.Unavailable("no daemon runs")
    for pid in found:
        pidfd = os.pidfd_open(pid)
        for number in range(32):
            if LIBC.syscall(438, pidfd, number, 0) >= 0:
                return "reached"
        for name in ("mem", "maps", "environ", "fd", "ns/net"):
            if os.access(f"/proc/{pid}/{name}", os.R_OK) and can_read(f"/proc/{pid}/{name}"):
                return "reached"
    checked(-1)


def can_read(name):
    try:
        if os.path.isdir(name):
            os.listdir(name)
        else:
            with open(name, "rb") as file:
                file.read(1)
        return True
    except OSError:
        return False


def pids_of(name):
    found = []
    for file in glob.glob("/proc/[0-9]*/comm"):
        try:
            with open(file, encoding="ascii") as comm:
                if comm.read().strip() == name[:15]:
                    found.append(int(file.split("/")[2]))
        except OSError:
            continue
    return found


@way("refused", families=(V4,))
def pose_as_filterd(v):
    """Connects to the daemons' unix sockets; any answer at all is too much."""
    names = socket_names()
    if not names:
        raise place.Unavailable("no unix socket of the daemons")
    error = None
    for name in names:
        for kind in (socket.SOCK_SEQPACKET, socket.SOCK_STREAM, socket.SOCK_DGRAM):
            try:
                with socket.socket(socket.AF_UNIX, kind) as sock:
                    sock.settimeout(1)
                    sock.connect(name)
                    sock.send(bytes(16))
                    if sock.recv(100):
                        return "reached"
                    error = ConnectionResetError(104, "closed")
            except OSError as refused:
                error = refused
    raise error


def socket_names():
    """All named unix sockets below the runtime directories, as the kernel lists them for everybody."""
    with open("/proc/self/net/unix", encoding="ascii", errors="replace") as table:
        names = {line.split()[-1] for line in table if "/imds" in line}
    return ["\0" + name[1:] if name.startswith("@") else name for name in sorted(names)]
