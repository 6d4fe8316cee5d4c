"""One exchange with the service over TCP: the request's bytes, and the whole answer or nothing.
Must not mend anything: an answer that is cut, too long or out of form is an error."""

import asyncio
import socket
import struct

SERVICE = {4: "169.254.169.254", 6: "fd00:ec2::254"}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
VERSIONS = (4, 6)
PORT = 80
# Of a single wait. Generous: what is slow is seen by those who measure.
PATIENCE = 30


class Wrong(Exception):
    """What came is not what must come; says what."""


def service(version):
    return (SERVICE[version], PORT)


def request(version, path, keep=False):
    host = SERVICE[version] if version == 4 else f"[{SERVICE[version]}]"
    end = "" if keep else "Connection: close\r\n"
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{end}\r\n".encode()


def connected(version, protocol=0, port=0, room=None):
    """A socket that stands. `room`: bytes of its receive buffer, so that its window closes early."""
    sock = socket.socket(FAMILY[version], socket.SOCK_STREAM, protocol)
    sock.settimeout(PATIENCE)
    if room:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    if port:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("", port))
    sock.connect(service(version))
    return sock


def read_to_end(sock):
    """All until the service has finished; a reset is an error here."""
    pieces = []
    while piece := sock.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)


def whole(answer):
    """Status and body of an answer's bytes, which must be all of them and no more."""
    head, mark, body = answer.partition(b"\r\n\r\n")
    status, length = head_of(head)
    if not mark or len(body) != length:
        raise Wrong(f"{len(body)} bytes of body where {length} were announced")
    return status, body


def head_of(head):
    """Status and announced length."""
    first, *fields = head.split(b"\r\n")
    words = first.split(b" ", 2)
    lengths = [field.split(b":")[1] for field in fields if field.lower().startswith(b"content-length:")]
    if len(words) != 3 or words[0] != b"HTTP/1.1" or len(lengths) != 1:
        raise Wrong(f"not an answer: {head[:200]!r}")
    return int(words[1]), int(lengths[0])


def reset(sock):
    """Closes with a RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class Connection:
    """One of many at once."""

    def __init__(self, version, reader, writer):
        self.version, self.reader, self.writer = version, reader, writer

    @classmethod
    async def to(cls, version):
        opening = asyncio.open_connection(SERVICE[version], PORT, limit=1 << 21)
        return cls(version, *await asyncio.wait_for(opening, PATIENCE))

    async def ask(self, path, keep=False):
        """Status and body. Without `keep` the service must finish after its answer."""
        return await asyncio.wait_for(self._ask(path, keep), PATIENCE)

    async def _ask(self, path, keep):
        self.writer.write(request(self.version, path, keep))
        head = await self.reader.readuntil(b"\r\n\r\n")
        status, length = head_of(head[:-4])
        body = await self.reader.readexactly(length)
        if not keep and await self.reader.read(1):
            raise Wrong("more than was announced")
        return status, body

    async def close(self):
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            pass  # closed all the same

    def reset(self):
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


async def once(version, path):
    """A connection for one exchange."""
    connection = await Connection.to(version)
    try:
        return await connection.ask(path)
    finally:
        await connection.close()
