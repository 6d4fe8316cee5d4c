"""The messages of ipc, both ways, as bytes; and sockets that carry descriptors. Written from the protocol, not from its code.
Must not correct anything: whatever a test wants sent is sent."""

import array
import ipaddress
import os
import pwd
import socket
import struct

MAJOR = 1
HELLO, CONNECTION, DIALLED, DIAL_FAILED, IDENTITY, DIAL, CLOSE, NEEDS = 1, 2, 3, 4, 5, 16, 17, 18
# since minor 1
ANSWERED, RESET, LEAVING, MODE, KEEP = 19, 20, 21, 22, 28
# since minor 2
ASKED, OPENED, GONE, ANSWER, OPEN = 9, 10, 11, 23, 24
MAX_MESSAGE = 8192
# A test that waits for longer has failed.
PATIENCE = 10


def message(kind, fields=b"", major=MAJOR, length=None):
    size = len(fields) + 8 if length is None else length
    return struct.pack("<IHH", size, major, kind) + fields


def hello(minor=0, oldest=0):
    return message(HELLO, bytes([minor, oldest]))


def identity(lack=5):
    """What can be told of clients besides the uid: nothing, since the settings switch it off."""
    return message(IDENTITY, bytes([lack] * 3))


def needs(bits=0):
    return message(NEEDS, bytes([bits]))


def dial(number, upstream=0):
    return message(DIAL, struct.pack("<QH", number, upstream))


def close(connection):
    return message(CLOSE, struct.pack("<Q", connection))


def answered(number, count, end, closes=0):
    return message(ANSWERED, struct.pack("<QIQB", number, count, end, closes))


def reset(number):
    return message(RESET, struct.pack("<Q", number))


def keep(blob):
    return message(KEEP, struct.pack("<H", len(blob)) + blob)


def address(ip, port):
    packed = ipaddress.ip_address(ip).packed
    return bytes([4 if len(packed) == 4 else 6]) + packed + struct.pack("<H", port)


def connection(number, uid=2001, service=("169.254.169.254", 80), upstream=0):
    subject = struct.pack("<I", uid) + bytes(3)
    fields = struct.pack("<Q", number) + subject + address("10.0.0.10", 40000) + address(*service)
    return message(CONNECTION, fields + struct.pack("<H", upstream))


def asked(number, data, uid=2001, service=("169.254.169.254", 80), upstream=0, place=1):
    subject = b"\1" + struct.pack("<I", uid) + bytes(3)
    fields = struct.pack("<Q", number) + subject + address("10.0.0.10", 40000) + address(*service)
    return message(ASKED, fields + struct.pack("<HI", upstream, place) + data)


def answer(number, data, closes=0):
    return message(ANSWER, struct.pack("<QB", number, closes) + data)


def about(kind, number):
    return message(kind, struct.pack("<Q", number))


def dialled(number):
    return message(DIALLED, struct.pack("<Q", number))


def dial_failed(number, why=1):
    return message(DIAL_FAILED, struct.pack("<QB", number, why))


def read(record):
    """Kind and fields of a whole message."""
    size, major, kind = struct.unpack_from("<IHH", record)
    assert (size, major) == (len(record), MAJOR), record
    return kind, record[8:]


def number_in(fields):
    return struct.unpack_from("<Q", fields)[0]


def send(sock, record, descriptors=()):
    ancillary = []
    if descriptors:
        numbers = array.array("i", [one if isinstance(one, int) else one.fileno() for one in descriptors])
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)]
    return sock.sendmsg([record], ancillary)


def receive(sock):
    """A record and the descriptors with it; None at the end, however it came."""
    try:
        record, descriptors, _, _ = socket.recv_fds(sock, MAX_MESSAGE + 1, 8)
    except ConnectionError:
        return None
    return (record, descriptors) if record else None


def path():
    return os.environ.get("FILTER_SOCKET", "/run/imds-filterd/filter.sock")


def seqpacket():
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(PATIENCE)
    return sock


class User:
    """For a moment: sockets made and connected meanwhile are this user's."""

    def __init__(self, name):
        self.entry = pwd.getpwnam(name)

    def __enter__(self):
        os.setegid(self.entry.pw_gid)
        os.seteuid(self.entry.pw_uid)

    def __exit__(self, *_):
        os.seteuid(0)
        os.setegid(0)
