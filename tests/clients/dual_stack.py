#!/usr/bin/python3
"""Fetches a path by an IPv6 socket from the IPv4 service, `::ffff:169.254.169.254`, as Java does; prints the status.
Must not fall back to an IPv4 socket. Asks several times on one connection if several paths are given."""

import http.client
import socket
import sys


class DualStack(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        self.sock.settimeout(5)
        self.sock.connect(("::ffff:169.254.169.254", 80))


def main():
    connection = DualStack("169.254.169.254")
    for path in sys.argv[1:]:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        print(answer.status)
    return 0


if __name__ == "__main__":
    sys.exit(main())
