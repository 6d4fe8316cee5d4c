"""Asks without a pause until /run/enough is there, on a connection that is kept and on a new one in turn. Then says how many
answers there were, how many requests failed, and the longest wait in milliseconds. Must not repeat what failed."""

import http.client
import os
import time

ADDRESS = "169.254.169.254"


def main():
    fine, failed, worst = 0, 0, 0
    kept = http.client.HTTPConnection(ADDRESS, timeout=5)
    print("started", flush=True)
    while not os.path.exists("/run/enough"):
        new = http.client.HTTPConnection(ADDRESS, timeout=5)
        for connection in new, kept:
            began = time.monotonic()
            try:
                connection.request("GET", "/latest/meta-data/hostname")
                answer = connection.getresponse()
                answer.read()
                if answer.status == 200:
                    fine += 1
                else:
                    print(answer.status, flush=True)
                    failed += 1
            except (OSError, http.client.HTTPException) as error:
                print(repr(error), flush=True)
                failed += 1
                connection.close()
            worst = max(worst, time.monotonic() - began)
        new.close()
    print("fine=%d\nfailed=%d\nworst=%d" % (fine, failed, worst * 1000))


main()
