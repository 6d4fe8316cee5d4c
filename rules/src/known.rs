//! Names that the EC2 metadata service is known to have (instance metadata categories of the vendor's documentation).
//! Only warnings come from here, never a verdict: the service may have others.

use crate::language::Segment;

/// Sorted.
const NAMES: [&str; 104] = [
    "accelerator",
    "active-keys",
    "ami",
    "ami-id",
    "ami-launch-index",
    "ami-manifest-path",
    "ancestor-ami-ids",
    "api",
    "associations",
    "autoscaling",
    "availability-zone",
    "availability-zone-id",
    "block-device-mapping",
    "configured",
    "device-number",
    "document",
    "domain",
    "dynamic",
    "ebs",
    "ec2",
    "ec2-instance",
    "elastic-gpus",
    "elastic-inference",
    "events",
    "fws",
    "group-name",
    "hibernation",
    "history",
    "host-id",
    "hostname",
    "iam",
    "identity-credentials",
    "info",
    "instance",
    "instance-action",
    "instance-id",
    "instance-identity",
    "instance-life-cycle",
    "instance-monitoring",
    "instance-type",
    "interface-id",
    "interfaces",
    "ipv4-associations",
    "ipv4-prefix",
    "ipv6",
    "ipv6-prefix",
    "ipv6s",
    "kernel-id",
    "latest",
    "local-hostname",
    "local-ipv4",
    "local-ipv4s",
    "mac",
    "macs",
    "maintenance",
    "managed-ssh-keys",
    "meta-data",
    "metrics",
    "network",
    "network-card",
    "network-card-index",
    "openssh-key",
    "owner-id",
    "partition",
    "partition-number",
    "pkcs7",
    "placement",
    "product-codes",
    "profile",
    "public-hostname",
    "public-ipv4",
    "public-ipv4s",
    "public-keys",
    "ramdisk-id",
    "rebalance",
    "recommendations",
    "region",
    "reservation-id",
    "root",
    "rsa2048",
    "scheduled",
    "security-credentials",
    "security-group-ids",
    "security-groups",
    "services",
    "signature",
    "signer-cert",
    "signer-ocsp",
    "spot",
    "subnet-id",
    "subnet-ipv4-cidr-block",
    "subnet-ipv6-cidr-blocks",
    "swap",
    "system",
    "tags",
    "target-lifecycle-state",
    "termination-time",
    "token",
    "user-data",
    "vhostmd",
    "vpc-id",
    "vpc-ipv4-cidr-block",
    "vpc-ipv4-cidr-blocks",
    "vpc-ipv6-cidr-blocks",
];

/// What stands below these is the instance's own: role names, addresses, tags, disks, users.
const FREE_BELOW: [&str; 8] = [
    "active-keys",
    "associations",
    "block-device-mapping",
    "instance",
    "ipv4-associations",
    "macs",
    "public-keys",
    "security-credentials",
];

/// Whether the service may have `last` below `before`.
pub(crate) fn is_known(before: &[Segment], last: &str) -> bool {
    match before {
        [] => last == "latest" || is_dated_version(last),
        [.., Segment::Name(parent)] if FREE_BELOW.contains(&&**parent) => true,
        [..] => NAMES.binary_search(&last).is_ok(),
    }
}

/// `2021-07-15`, or the very first, `1.0`.
fn is_dated_version(segment: &str) -> bool {
    segment == "1.0"
        || segment.len() == 10
            && segment.bytes().enumerate().all(|(at, byte)| match at {
                4 | 7 => byte == b'-',
                _ => byte.is_ascii_digit(),
            })
}

/// Known names of which `start` is the beginning.
pub(crate) fn beginning_with(start: &str) -> impl Iterator<Item = &'static str> {
    NAMES.into_iter().filter(move |name| name.starts_with(start)).take(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_sorted() {
        assert!(NAMES.is_sorted());
    }
}
