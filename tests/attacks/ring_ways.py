"""Ways by io_uring, whose requests are carried out by the kernel and not by a system call of ours.
Must not import liburing: the rings are laid out by hand, as in io_uring(7)."""

import ctypes
import mmap
import os
import socket
import struct

import place
from registry import way

LIBC = ctypes.CDLL(None, use_errno=True)
SETUP, ENTER = 425, 426
OP_CONNECT, OP_SEND, OP_RECV = 16, 26, 27


class Ring:
    """One request at a time."""

    def __init__(self, flags=0):
        parameters = ctypes.create_string_buffer(struct.pack("IIIII100x", 0, 0, flags, 0, 0), 120)
        self.fd = LIBC.syscall(SETUP, 4, parameters)
        if self.fd < 0:
            raise place.Unavailable("io_uring: " + os.strerror(ctypes.get_errno()))
        words = struct.unpack("30I", parameters.raw)
        entries, completions = words[0], words[1]
        self.sq, self.cq = words[10:20], words[20:30]
        size = max(self.sq[6] + entries * 4, self.cq[5] + completions * 16)
        self.rings = mmap.mmap(self.fd, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE, offset=0)
        self.entries = mmap.mmap(self.fd, entries * 64, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE, offset=0x10000000)

    def word(self, offset):
        return struct.unpack_from("I", self.rings, offset)[0]

    def run(self, opcode, descriptor, address, length, offset=0):
        """Submits one request and waits for its result, errors negative."""
        entry = struct.pack("BBHiQQIIQ24x", opcode, 0, 0, descriptor, offset, address, length, 0, 1)
        tail, mask = self.word(self.sq[1]), self.word(self.sq[2])
        self.entries[(tail & mask) * 64 : (tail & mask) * 64 + 64] = entry
        struct.pack_into("I", self.rings, self.sq[6] + (tail & mask) * 4, tail & mask)
        struct.pack_into("I", self.rings, self.sq[1], tail + 1)
        if LIBC.syscall(ENTER, self.fd, 1, 1, 1, None, 0) < 0:
            raise OSError(ctypes.get_errno(), "io_uring_enter")
        head, mask = self.word(self.cq[0]), self.word(self.cq[2])
        result = struct.unpack_from("Qi", self.rings, self.cq[5] + (head & mask) * 16)[1]
        struct.pack_into("I", self.rings, self.cq[0], head + 1)
        if result < 0:
            raise OSError(-result, os.strerror(-result))
        return result


def raw_address(v):
    number = socket.inet_pton(place.FAMILY[v], place.SERVICE[v])
    if v == 4:
        return struct.pack("=H", socket.AF_INET) + struct.pack("!H", place.PORT) + number + bytes(8)
    return struct.pack("=H", socket.AF_INET6) + struct.pack("!HI", place.PORT, 0) + number + bytes(4)


def by_ring(sock, v):
    ring = Ring()
    address = ctypes.create_string_buffer(raw_address(v))
    ring.run(OP_CONNECT, sock.fileno(), ctypes.addressof(address), 0, len(address.raw) - 1)
    request = ctypes.create_string_buffer(place.head(v))
    ring.run(OP_SEND, sock.fileno(), ctypes.addressof(request), len(request.raw) - 1)
    answer = ctypes.create_string_buffer(65536)
    got = ring.run(OP_RECV, sock.fileno(), ctypes.addressof(answer), 65536)
    return place.meaning(answer.raw[:got])


@way("reached")
def ring(v):
    return by_ring(place.stream(v), v)


@way("reached")
def ring_device(v):
    sock = place.stream(v)
    place.bind_device(sock)
    return by_ring(sock, v)


@way("reached")
def ring_source_and_device(v):
    sock = place.stream(v)
    sock.bind((place.uplink_address(v), 0))
    place.bind_device(sock)
    return by_ring(sock, v)
