"""Fetches what an instance knows of itself by the ec2-metadata package; prints what it got.
Must not fetch anything by other means. The endpoint mode is read here, as the SDKs do: the package knows none."""

import os
import sys

from ec2_metadata import EC2Metadata

NAMES = (
    "instance_id",
    "instance_type",
    "region",
    "security_groups",
    "public_keys",
    "network_interfaces",
    "tags",
    "user_data",
    "iam_info",
    "iam_security_credentials",
)


# Of what fetches its parts only when they are read.
PARTS = {
    "PublicKey": ("openssh_key",),
    "NetworkInterface": ("mac", "subnet_id", "vpc_id", "private_ipv4s", "ipv4_associations", "security_group_ids"),
}


def whole(value):
    """With everything that is still to be fetched."""
    if hasattr(value, "keys"):
        return {key: whole(value[key]) for key in sorted(value)}
    parts = PARTS.get(type(value).__name__)
    return {part: getattr(value, part) for part in parts} if parts else value


def main():
    metadata = EC2Metadata()
    if os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE") == "IPv6":
        for name in ("service_url", "dynamic_url", "metadata_url", "userdata_url"):
            setattr(metadata, name, getattr(metadata, name).replace("169.254.169.254", "[fd00:ec2::254]"))
    for name in NAMES:
        try:
            print(name, whole(getattr(metadata, name)))
        except Exception as error:
            print("failed:", name, type(error).__name__, error)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
