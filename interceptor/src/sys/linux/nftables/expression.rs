//! What rules of ours ask of a packet, as expressions of nftables. Decides nothing.
//!
//! Each match loads a part of the packet into the first register and compares; the rule ends where one does not hold.

use super::super::netlink::{attributes, name, push_attribute};
use super::super::rtnl::octets;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// Set on attributes that hold attributes (netlink(7)).
pub(super) const NESTED: u16 = 0x8000;
const ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
const REGISTER_VERDICT: u32 = 0;
const REGISTER: u32 = 1;
const EQUAL: u32 = 0;
const META_MARK: u32 = 3;
const META_OIF: u32 = 5;
const META_OIFNAME: u32 = 7;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const ROUTING_HEADER: u8 = 43;
const ICMP6: u8 = 58;
const TCP: u8 = 6;
const TCP_RESET: u32 = 1;
const FIB_ADDRESS_TYPE: u32 = 3;
const FIB_OF_SOURCE: u32 = 1;
const RTN_LOCAL: u32 = 2;
const COUNTER: &str = "counter";
const COUNTER_PACKETS: u16 = 2;
const DROP: i32 = 0;
const ACCEPT: i32 = 1;
const GOTO: i32 = -4;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Match {
    /// The destination, as the IP header has it now.
    To(IpAddr),
    /// The last stop of a routing header (RFC 8754; RFC 6275 section 6.4 has its only one in the same place).
    RoutedTo(Ipv6Addr),
    Mark(u32),
    /// Leaves by this link: by index and name, since either may come to mean another link.
    By(u32, String),
    /// Of this ICMPv6 type.
    Icmp6(u8),
    Tcp,
    /// From an address of this host; a socket may be bound to any.
    FromHere,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accept,
    /// Whoever sends is told EPERM, but for connect(2) of TCP, which tries again in silence.
    Drop,
    /// Drops, and answers with a reset.
    Reset,
    /// This chain's rules decide.
    Goto(&'static str),
    /// The packet goes on.
    Count,
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::To(to) => write!(f, "to {to}"),
            Self::RoutedTo(to) => write!(f, "routed to {to}"),
            Self::Mark(mark) => write!(f, "mark {mark:#x}"),
            Self::By(index, name) => write!(f, "by {name} ({index})"),
            Self::Icmp6(kind) => write!(f, "icmpv6 {kind}"),
            Self::Tcp => f.write_str("tcp"),
            Self::FromHere => f.write_str("from here"),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("pass"),
            Self::Drop => f.write_str("drop"),
            Self::Reset => f.write_str("reset"),
            Self::Goto(chain) => write!(f, "judge by {chain}"),
            Self::Count => f.write_str("count"),
        }
    }
}

/// A rule's list of expressions.
pub(super) fn all(matches: &[Match], verdict: Verdict) -> Vec<u8> {
    let mut list = Vec::new();
    for part in matches {
        part.push(&mut list);
    }
    verdict.push(&mut list);
    list
}

impl Match {
    fn push(&self, list: &mut Vec<u8>) {
        match self {
            Self::To(to) => {
                let (family, offset) = if to.is_ipv4() { (2, 16) } else { (10, 24) };
                meta(list, META_NFPROTO, &[family]);
                payload(list, NETWORK_HEADER, offset, &octets(*to));
            }
            Self::RoutedTo(to) => {
                meta(list, META_NFPROTO, &[10]);
                extension(list, ROUTING_HEADER, 8, &to.octets());
            }
            Self::Mark(mark) => meta(list, META_MARK, &mark.to_ne_bytes()),
            Self::By(index, name) => {
                meta(list, META_OIF, &index.to_ne_bytes());
                let mut padded = name.as_bytes().to_vec();
                padded.resize(16, 0);
                meta(list, META_OIFNAME, &padded);
            }
            Self::Icmp6(kind) => {
                meta(list, META_NFPROTO, &[10]);
                meta(list, META_L4PROTO, &[ICMP6]);
                payload(list, TRANSPORT_HEADER, 0, &[*kind]);
            }
            Self::Tcp => meta(list, META_L4PROTO, &[TCP]),
            Self::FromHere => {
                let parts: [(u16, &[u8]); 3] = [
                    (1, &REGISTER.to_be_bytes()),
                    (2, &FIB_ADDRESS_TYPE.to_be_bytes()),
                    (3, &FIB_OF_SOURCE.to_be_bytes()),
                ];
                expression(list, "fib", &parts);
                equals(list, &RTN_LOCAL.to_ne_bytes());
            }
        }
    }
}

impl Verdict {
    fn push(self, list: &mut Vec<u8>) {
        let (code, chain) = match self {
            Self::Accept => (ACCEPT, None),
            Self::Drop => (DROP, None),
            Self::Goto(chain) => (GOTO, Some(chain)),
            Self::Count => return expression(list, COUNTER, &[]),
            Self::Reset => return expression(list, "reject", &[(1, &TCP_RESET.to_be_bytes()), (2, &[0])]),
        };
        let mut verdict = Vec::new();
        push_attribute(&mut verdict, VERDICT_CODE, &code.to_be_bytes());
        if let Some(chain) = chain {
            let mut name = chain.as_bytes().to_vec();
            name.push(0);
            push_attribute(&mut verdict, VERDICT_CHAIN, &name);
        }
        let mut data = Vec::new();
        push_attribute(&mut data, DATA_VERDICT | NESTED, &verdict);
        expression(list, "immediate", &[(1, &REGISTER_VERDICT.to_be_bytes()), (2 | NESTED, &data)]);
    }
}

/// Packets that a rule's counters have seen.
pub(super) fn counted(list: &[u8]) -> u64 {
    let part = |bytes, wanted| attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let packets = |element| {
        let counter = part(element, EXPRESSION_NAME).and_then(name) == Some(COUNTER);
        let packets = part(part(element, EXPRESSION_DATA)?, COUNTER_PACKETS)?;
        counter.then(|| packets.first_chunk().map(|packets| u64::from_be_bytes(*packets))).flatten()
    };
    attributes(list).filter_map(|(_, element)| packets(element)).fold(0, u64::saturating_add)
}

fn expression(list: &mut Vec<u8>, name: &str, parts: &[(u16, &[u8])]) {
    let mut data = Vec::new();
    for (kind, value) in parts {
        push_attribute(&mut data, *kind, value);
    }
    let mut whole = Vec::new();
    push_attribute(&mut whole, EXPRESSION_NAME, format!("{name}\0").as_bytes());
    push_attribute(&mut whole, EXPRESSION_DATA | NESTED, &data);
    push_attribute(list, ELEMENT | NESTED, &whole);
}

fn equals(list: &mut Vec<u8>, value: &[u8]) {
    let mut data = Vec::new();
    push_attribute(&mut data, DATA_VALUE, value);
    let parts: [(u16, &[u8]); 3] =
        [(1, &REGISTER.to_be_bytes()), (2, &EQUAL.to_be_bytes()), (3 | NESTED, &data)];
    expression(list, "cmp", &parts);
}

/// What the kernel knows about the packet; numbers are in the host's order.
fn meta(list: &mut Vec<u8>, key: u32, value: &[u8]) {
    expression(list, "meta", &[(1, &REGISTER.to_be_bytes()), (2, &key.to_be_bytes())]);
    equals(list, value);
}

fn payload(list: &mut Vec<u8>, base: u32, offset: u32, value: &[u8]) {
    let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
    let parts: [(u16, &[u8]); 4] = [
        (1, &REGISTER.to_be_bytes()),
        (2, &base.to_be_bytes()),
        (3, &offset.to_be_bytes()),
        (4, &length.to_be_bytes()),
    ];
    expression(list, "payload", &parts);
    equals(list, value);
}

/// A part of an IPv6 extension header.
fn extension(list: &mut Vec<u8>, header: u8, offset: u32, value: &[u8]) {
    let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
    let parts: [(u16, &[u8]); 4] = [
        (1, &REGISTER.to_be_bytes()),
        (2, &[header]),
        (3, &offset.to_be_bytes()),
        (4, &length.to_be_bytes()),
    ];
    expression(list, "exthdr", &parts);
    equals(list, value);
}
