//! The kernel's answer to "who owns the socket that sends this SYN?".
//! Holds: a uid comes out only of an answer about exactly that socket, connecting, with a file; read here by offsets.

use crate::source::Source;
use imds_interceptor::fuzzing::owner_in;
use imds_interceptor::netstack::FourTuple;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

const DEVICE: u32 = 9;

pub fn run(data: &[u8]) {
    let mut source = Source::new(data);
    let asked = match source.u8() % 2 {
        0 => ["169.254.169.1:40000", "169.254.169.254:80"],
        _ => ["[fdc9:1d5f:11d3::1]:40000", "[fd00:ec2::254]:80"],
    };
    let [Ok(client), Ok(service)] = asked.map(str::parse::<SocketAddr>) else { return };
    let asked = FourTuple { client, service };
    let answer = source.rest();
    if let Some((uid, cookie)) = owner_in(answer, &asked, DEVICE) {
        expect(answer, &asked, uid, cookie);
    }
}

/// linux/inet_diag.h: an nlmsghdr, then an inet_diag_msg.
fn expect(answer: &[u8], asked: &FourTuple, uid: u32, cookie: u64) {
    assert_eq!(answer.get(4..6), Some(&20_u16.to_ne_bytes()[..]), "SOCK_DIAG_BY_FAMILY");
    let body = answer.get(16..).unwrap_or(&[]);
    assert_eq!(body.get(1), Some(&2), "SYN_SENT");
    assert_eq!(body.get(4..6), Some(&asked.client.port().to_be_bytes()[..]));
    assert_eq!(body.get(6..8), Some(&asked.service.port().to_be_bytes()[..]));
    let family = body.first().copied();
    assert!(names(family, body.get(8..24), asked.client.ip()), "client's address");
    assert!(names(family, body.get(24..40), asked.service.ip()), "service's address");
    let number =
        |at: usize| body.get(at..).and_then(|rest| rest.first_chunk()).copied().map(u32::from_ne_bytes);
    assert!(matches!(number(40), Some(0 | DEVICE)), "bound to another device");
    let halves = (number(44), number(48));
    assert!(matches!(halves, (Some(low), Some(high)) if cookie == u64::from(high) << 32 | u64::from(low)));
    assert_eq!(number(64), Some(uid));
    assert!(number(68).is_some_and(|inode| inode != 0), "no file");
}

fn names(family: Option<u8>, bytes: Option<&[u8]>, ip: IpAddr) -> bool {
    let mapped = match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    match (family, bytes) {
        (Some(2), Some(bytes)) => matches!(ip, IpAddr::V4(ip) if bytes.starts_with(&ip.octets())),
        (Some(10), Some(bytes)) => <[u8; 16]>::try_from(bytes).is_ok_and(|b| Ipv6Addr::from(b) == mapped),
        _ => false,
    }
}
