//! What the kernel answers to and tells of routes, rules, links, addresses and policies.
//! Holds: reading ends, and what was read as one of our own kinds is read the same after we wrote it.

pub fn run(data: &[u8]) {
    imds_interceptor::fuzzing::netlink(data);
}
