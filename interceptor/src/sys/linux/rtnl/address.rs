//! Addresses and prefixes in the form of netlink. Decides nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(super) const AF_INET: u8 = 2;
pub(super) const AF_INET6: u8 = 10;

pub(crate) fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => AF_INET,
        IpAddr::V6(_) => AF_INET6,
    }
}

pub(crate) fn full_prefix(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

pub(super) fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(four).into());
    }
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into())
}

/// Whether `prefix`/`length` holds `address`; prefixes longer than the address hold nothing.
pub(crate) fn covers(prefix: IpAddr, length: u8, address: IpAddr) -> bool {
    let length = u32::from(length);
    match (prefix, address) {
        (IpAddr::V4(prefix), IpAddr::V4(address)) => {
            length <= 32 && (prefix.to_bits() ^ address.to_bits()).checked_shr(32 - length).unwrap_or(0) == 0
        }
        (IpAddr::V6(prefix), IpAddr::V6(address)) => {
            length <= 128
                && (prefix.to_bits() ^ address.to_bits()).checked_shr(128 - length).unwrap_or(0) == 0
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_covers_what_begins_with_it() {
        let cases = [
            ("0.0.0.0", 0, "169.254.169.254", true),
            ("169.254.0.0", 16, "169.254.169.254", true),
            ("169.253.0.0", 16, "169.254.169.254", false),
            ("169.254.169.254", 32, "169.254.169.254", true),
            ("169.254.169.254", 33, "169.254.169.254", false),
            ("::", 0, "fd00:ec2::254", true),
            ("fd00:ec2::", 64, "fd00:ec2::254", true),
            ("fd00:ec2::253", 128, "fd00:ec2::254", false),
            ("::", 0, "169.254.169.254", false),
        ];
        for (prefix, length, address, yes) in cases {
            let covered = covers(prefix.parse().unwrap(), length, address.parse().unwrap());
            assert_eq!(covered, yes, "{prefix}/{length} {address}");
        }
    }
}
