"""Asks for what its user is denied, on new connections, until /run/enough is there. Then says how often it was denied, how
often it got it, and what else came of it."""

import collections
import http.client
import os

found = collections.Counter()
print("started", flush=True)
while not os.path.exists("/run/enough"):
    # short: what was under way when its end went away is not answered any more
    connection = http.client.HTTPConnection("169.254.169.254", timeout=0.3)
    try:
        connection.request("GET", "/latest/meta-data/iam/security-credentials/")
        found[connection.getresponse().status] += 1
    except (OSError, http.client.HTTPException):
        found["none"] += 1
    connection.close()
print("denied=%d\nopen=%d" % (found.pop(403, 0), found.pop(200, 0)))
print(dict(found))
