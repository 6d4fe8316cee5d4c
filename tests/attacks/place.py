"""The place an attack happens in: addresses, the uplink, and what an answer means.
Must not open anything to the service itself: the ways do that."""

import errno
import fcntl
import os
import select
import socket
import struct

SERVICE = {4: "169.254.169.254", 6: "fd00:ec2::254"}
PORT = 80
UPLINK = os.environ.get("ATTACK_UPLINK", "eth0")
DEVICE = os.environ.get("ATTACK_DEVICE", "imds0")
MARK = int(os.environ.get("ATTACK_MARK", "0x1068"), 0)
# The tun's own addresses; the IPv6 one is what the guard allows as a source.
TUN_ADDRESS = {4: "169.254.169.1", 6: os.environ.get("ATTACK_S6", "fdc9:1d5f:11d3::1")}
PATH = "/latest/meta-data/"
# A retransmitted SYN leaves after one second; whoever waits for one waits longer than that.
PATIENCE = float(os.environ.get("ATTACK_PATIENCE", "3"))

# Not in Python's socket module on every version.
SO_BINDTOIFINDEX = 62
IP_UNICAST_IF = 50
IPV6_UNICAST_IF = 76
IPV6_FREEBIND = 78
IPV6_TRANSPARENT = 75
IP_FREEBIND = 15
IP_TRANSPARENT = 19
IP_XFRM_POLICY = 17
IPV6_XFRM_POLICY = 35
TCP_FASTOPEN_CONNECT = 30
MSG_FASTOPEN = 0x20000000
IPPROTO_MPTCP = 262
IP_MINTTL = 21
IPV6_MINHOPCOUNT = 73

FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
OPENED = []


class Unavailable(Exception):
    """This kernel or place lacks what the way needs; says what."""


def service(version, port=PORT):
    """The service as connect() takes it."""
    return (SERVICE[version], port)


def mapped(port=PORT):
    """The IPv4 service as an IPv6 socket names it."""
    return ("::ffff:" + SERVICE[4], port)


def uplink_index():
    return socket.if_nametoindex(UPLINK)


def uplink_address(version):
    """The uplink's global address, as any user can find it."""
    if version == 4:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            request = struct.pack("16s24x", UPLINK.encode())
            answer = fcntl.ioctl(probe, 0x8915, request)  # SIOCGIFADDR
        return socket.inet_ntoa(answer[20:24])
    with open("/proc/self/net/if_inet6", encoding="ascii") as table:
        for line in table:
            number, _, _, scope, _, name = line.split()
            if name == UPLINK and scope == "00":
                return socket.inet_ntop(socket.AF_INET6, bytes.fromhex(number))
    raise Unavailable(f"{UPLINK} has no global IPv6 address")


def keep(sock):
    """Keeps a socket open until the way's process ends, so that its port can be told and its last packets are sent."""
    OPENED.append(sock)
    return sock


def stream(version, protocol=0):
    return keep(socket.socket(FAMILY[version], socket.SOCK_STREAM, protocol))


def bind_device(sock, name=None):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, (name or UPLINK).encode())


def bind_index(sock, index=None):
    sock.setsockopt(socket.SOL_SOCKET, SO_BINDTOIFINDEX, index or uplink_index())


def free_bind(sock, version, address, port=0):
    """Binds a source address that may not be ours."""
    if version == 4:
        sock.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
    sock.bind((address, port))


def connect_deaf(sock, version, address):
    """Begins a connection whose SYN-ACK our own socket drops for its hop limit, so it stays in SYN_SENT.

    Makes "late" ways certain: however fast the SYN is answered, the next SYN is a retransmission."""
    set_least_hops(sock, version, 255)
    sock.setblocking(False)
    result = sock.connect_ex(address)
    if result not in (0, errno.EINPROGRESS):
        raise OSError(result, os.strerror(result))


def hear_again(sock, version):
    """Lets answers in again and waits for that to the retransmitted SYN."""
    set_least_hops(sock, version, 0)
    wait_connected(sock)


def set_least_hops(sock, version, hops):
    if version == 4:
        sock.setsockopt(socket.IPPROTO_IP, IP_MINTTL, hops)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MINHOPCOUNT, hops)


def wait_connected(sock):
    """Waits until a connection begun without blocking stands, or raises what became of it."""
    _, ready, _ = select.select([], [sock], [], PATIENCE)
    if not ready:
        raise TimeoutError
    result = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if result:
        raise OSError(result, os.strerror(result))
    sock.setblocking(True)
    sock.settimeout(PATIENCE)


def reach(sock, address):
    """Connects, asks, and says who answered."""
    sock.settimeout(PATIENCE)
    sock.connect(address)
    return ask(sock)


def head(version, path=PATH):
    host = SERVICE[version] if version == 4 else f"[{SERVICE[version]}]"
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()


def ask(sock, request=None):
    """Sends a request over a connection that stands and says who answered."""
    sock.settimeout(PATIENCE)
    sock.sendall(request or head(6 if is_v6(sock) else 4))
    return meaning(read_answer(sock))


def is_v6(sock):
    peer = sock.getpeername()
    return ":" in peer[0] and not peer[0].startswith("::ffff:")


def read_answer(sock):
    answer = b""
    while b"\r\n\r\n" not in answer:
        piece = sock.recv(65536)
        if not piece:
            break
        answer += piece
    return answer


def meaning(answer):
    """`reached` if the service itself spoke or anything at all was granted; `filtered:STATUS` if the filter refused.

    The service signs with `Server: EC2ws`, a refusal of the filter's own does not."""
    first, _, rest = answer.partition(b"\r\n")
    words = first.split()
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        return "refused:EOF" if not answer else "reached"
    status = int(words[1])
    if b"server: ec2ws" in rest.lower() or status < 400:
        return "reached"
    return f"filtered:{status}"


def name_of(error):
    """An OSError as its name, `EACCES`."""
    return errno.errorcode.get(error.errno, str(error.errno or error))
