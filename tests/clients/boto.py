#!/usr/bin/python3
"""Fetches credentials and the region as boto3 does for any program on an instance; prints what it got.
Must not read configuration or credentials from anywhere else. --ipv6 uses the IPv6 service."""

import os
import sys

for name in [name for name in os.environ if name.startswith("AWS_")]:
    del os.environ[name]
os.environ["AWS_CONFIG_FILE"] = os.environ["AWS_SHARED_CREDENTIALS_FILE"] = "/nonexistent"
if "--ipv6" in sys.argv:
    os.environ["AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE"] = "IPv6"

import boto3  # noqa: E402  reads the environment
from botocore.utils import InstanceMetadataRegionFetcher  # noqa: E402


def main():
    credentials = boto3.Session().get_credentials()
    if credentials is None:
        print("no credentials")
        return 1
    frozen = credentials.get_frozen_credentials()
    # The source is told, the secret is not.
    print(credentials.method, frozen.access_key, len(frozen.secret_key), bool(frozen.token))
    print("region", InstanceMetadataRegionFetcher().retrieve_region())
    return 0


if __name__ == "__main__":
    sys.exit(main())
