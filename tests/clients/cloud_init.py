"""Crawls the service as cloud-init does at boot, by its own EC2 data source; prints all that it found.
Must start nothing and write nothing: it is a library here. --v1 asks as on the clouds that have no tokens. The endpoint
mode is read here, as the SDKs do: cloud-init tries both."""

import json
import logging
import os
import sys

from cloudinit import helpers
from cloudinit.sources.DataSourceEc2 import CloudNames, DataSourceEc2

# The data source tries each of its addresses; one alone shows which answered.
IPV4 = "http://169.254.169.254"
IPV6 = "http://[fd00:ec2::254]"


def main():
    logging.basicConfig(stream=sys.stdout, level=logging.WARNING, format="%(message)s", force=True)
    address = IPV6 if os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE") == "IPv6" else IPV4
    # It asks without a token again and again, whatever the answer, by default for two minutes.
    settings = {"metadata_urls": [address], "max_wait": 3, "timeout": 5}
    source = DataSourceEc2({"datasource": {"Ec2": settings}}, None, helpers.Paths({}))
    # as it finds it by the machine's DMI tables, which a lab has not
    source._cloud_name = CloudNames.UNKNOWN if "--v1" in sys.argv else CloudNames.AWS
    found = source.crawl_metadata()
    print(json.dumps(found, default=repr, indent=1, sort_keys=True))
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main())
