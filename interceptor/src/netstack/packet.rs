//! An IP packet from the tun as far as it concerns us: whose connection, which TCP flags. Total, bounds-checked.
//! Must not decide: what becomes of a segment is said in the entry.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The two ends of a captured connection, as its packets name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FourTuple {
    pub client: SocketAddr,
    pub service: SocketAddr,
}

/// A TCP segment on its way from a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment<'a> {
    pub four_tuple: FourTuple,
    pub flags: Flags,
    pub sequence: u32,
    pub acknowledgement: u32,
    /// Sequence numbers that it takes: its payload, and one each for SYN and FIN.
    pub length: u32,
    /// The packet without whatever followed it.
    pub packet: &'a [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flags(u8);

impl Flags {
    pub fn fin(self) -> bool {
        self.0 & 0x01 != 0
    }
    pub fn syn(self) -> bool {
        self.0 & 0x02 != 0
    }
    pub fn rst(self) -> bool {
        self.0 & 0x04 != 0
    }
    pub fn ack(self) -> bool {
        self.0 & 0x10 != 0
    }
    /// Whether the segment asks for a new connection.
    pub fn opens(self) -> bool {
        self.syn() && !self.ack() && !self.rst() && !self.fin()
    }
}

/// Why a packet is none of ours. All are dropped without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotOurs {
    /// Lengths that contradict each other, or neither IPv4 nor IPv6.
    Malformed,
    /// A local client's segments fit the tun's MTU, so only a forwarded or forged packet is in pieces.
    Fragment,
    /// IPv6 extension headers: no TCP of an ordinary client has them, and they have hidden segments from filters.
    ExtensionHeader,
    /// Another protocol than TCP.
    NotTcp,
}

const TCP: u8 = 6;
/// RFC 8200 section 4: hop-by-hop, routing, fragment, ESP, AH, destination options, mobility, HIP, shim6.
const EXTENSION_HEADERS: [u8; 9] = [0, 43, 44, 50, 51, 60, 135, 139, 140];

/// # Errors
/// Whatever is not one whole TCP segment.
pub fn parse(bytes: &[u8]) -> Result<Segment<'_>, NotOurs> {
    match bytes.first().map(|first| first >> 4) {
        Some(4) => parse_v4(bytes),
        Some(6) => parse_v6(bytes),
        _ => Err(NotOurs::Malformed),
    }
}

fn parse_v4(bytes: &[u8]) -> Result<Segment<'_>, NotOurs> {
    let (fixed, _) = bytes.split_first_chunk::<20>().ok_or(NotOurs::Malformed)?;
    let [version, _, total0, total1, _, _, fragment0, fragment1, _, protocol, _, _, addresses @ ..] = fixed;
    let header = usize::from(version & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([*total0, *total1]));
    if header < fixed.len() || total < header {
        return Err(NotOurs::Malformed);
    }
    let packet = bytes.get(..total).ok_or(NotOurs::Malformed)?;
    let payload = packet.get(header..).ok_or(NotOurs::Malformed)?;
    // all but "don't fragment": more fragments, or an offset
    if u16::from_be_bytes([*fragment0, *fragment1]) & 0x3fff != 0 {
        return Err(NotOurs::Fragment);
    }
    if *protocol != TCP {
        return Err(NotOurs::NotTcp);
    }
    let [a, b, c, d, e, f, g, h] = *addresses;
    parse_tcp(packet, payload, Ipv4Addr::new(a, b, c, d).into(), Ipv4Addr::new(e, f, g, h).into())
}

fn parse_v6(bytes: &[u8]) -> Result<Segment<'_>, NotOurs> {
    let (fixed, rest) = bytes.split_first_chunk::<40>().ok_or(NotOurs::Malformed)?;
    let [_, _, _, _, length0, length1, next_header, _, addresses @ ..] = fixed;
    let length = usize::from(u16::from_be_bytes([*length0, *length1]));
    let payload = rest.get(..length).ok_or(NotOurs::Malformed)?;
    let packet = bytes.get(..fixed.len() + length).ok_or(NotOurs::Malformed)?;
    if EXTENSION_HEADERS.contains(next_header) {
        return Err(NotOurs::ExtensionHeader);
    }
    if *next_header != TCP {
        return Err(NotOurs::NotTcp);
    }
    let (source, destination) = addresses.split_first_chunk::<16>().ok_or(NotOurs::Malformed)?;
    let destination = destination.first_chunk::<16>().ok_or(NotOurs::Malformed)?;
    parse_tcp(packet, payload, Ipv6Addr::from(*source).into(), Ipv6Addr::from(*destination).into())
}

fn parse_tcp<'a>(
    packet: &'a [u8],
    payload: &[u8],
    source: IpAddr,
    destination: IpAddr,
) -> Result<Segment<'a>, NotOurs> {
    let (fixed, _) = payload.split_first_chunk::<20>().ok_or(NotOurs::Malformed)?;
    let [s0, s1, d0, d1, q0, q1, q2, q3, a0, a1, a2, a3, offset, flags, ..] = *fixed;
    let header = usize::from(offset >> 4) * 4;
    if header < fixed.len() {
        return Err(NotOurs::Malformed);
    }
    let data = payload.get(header..).ok_or(NotOurs::Malformed)?;
    let (client, service) = (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]));
    if client == 0 || service == 0 {
        return Err(NotOurs::Malformed); // no socket has that port, so nobody could take an answer
    }
    let flags = Flags(flags);
    let data = u32::try_from(data.len()).map_err(|_| NotOurs::Malformed)?;
    Ok(Segment {
        four_tuple: FourTuple {
            client: SocketAddr::new(source, client),
            service: SocketAddr::new(destination, service),
        },
        flags,
        sequence: u32::from_be_bytes([q0, q1, q2, q3]),
        acknowledgement: u32::from_be_bytes([a0, a1, a2, a3]),
        length: data + u32::from(flags.syn()) + u32::from(flags.fin()),
        packet,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netstack::client::{Client, V4, V6};
    use proptest::prelude::*;

    fn both() -> [Vec<u8>; 2] {
        [V4, V6].map(|service| Client::new(service, 40_000).segment("S", 7, 0, b"hello"))
    }

    #[test]
    fn a_segment_is_read_with_its_ends_flags_and_length() {
        for bytes in both() {
            let segment = parse(&bytes).unwrap();
            assert_eq!(segment.four_tuple.client.port(), 40_000);
            assert!(segment.four_tuple.service == V4 || segment.four_tuple.service == V6);
            assert!(segment.flags.opens());
            assert_eq!((segment.sequence, segment.length), (7, 6));
            assert_eq!(segment.packet, bytes);
        }
    }

    #[test]
    fn every_truncation_is_malformed_and_what_follows_the_packet_is_cut_off() {
        for bytes in both() {
            for length in 0..bytes.len() {
                assert_eq!(parse(bytes.get(..length).unwrap()), Err(NotOurs::Malformed), "{length}");
            }
            let mut longer = bytes.clone();
            longer.extend_from_slice(b"junk");
            assert_eq!(parse(&longer).unwrap().packet, bytes);
        }
    }

    #[test]
    fn a_segment_from_or_to_port_0_is_malformed() {
        for port in [20, 22] {
            let [mut v4, _] = both();
            v4[port] = 0;
            v4[port + 1] = 0;
            assert_eq!(parse(&v4), Err(NotOurs::Malformed));
        }
    }

    #[test]
    fn options_are_stepped_over_and_fragments_are_not_taken() {
        let [v4, _] = both();
        let mut with_options = v4.clone();
        with_options.splice(20..20, [1, 1, 1, 0]);
        with_options[0] = 0x46;
        let total = u16::try_from(with_options.len()).unwrap().to_be_bytes();
        with_options[2..4].copy_from_slice(&total);
        assert_eq!(parse(&with_options).unwrap().four_tuple, parse(&v4).unwrap().four_tuple);
        for (byte, bit) in [(6, 0x20), (6, 0x01), (7, 0x01)] {
            let mut fragment = v4.clone();
            fragment[byte] |= bit;
            assert_eq!(parse(&fragment), Err(NotOurs::Fragment));
        }
        let mut unfragmentable = v4.clone();
        unfragmentable[6] |= 0x40;
        assert!(parse(&unfragmentable).is_ok());
    }

    #[test]
    fn extension_headers_and_other_protocols_are_not_taken() {
        let [mut v4, mut v6] = both();
        v4[9] = 17;
        assert_eq!(parse(&v4), Err(NotOurs::NotTcp));
        v6[6] = 58;
        assert_eq!(parse(&v6), Err(NotOurs::NotTcp));
        for header in EXTENSION_HEADERS {
            v6[6] = header;
            assert_eq!(parse(&v6), Err(NotOurs::ExtensionHeader));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_and_what_it_takes_is_inside_the_packet(
            bytes in prop::collection::vec(any::<u8>(), 0..120), version in prop::sample::select(vec![0x45u8, 0x46, 0x4f, 0x60, 0x00])
        ) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() { *first = version; }
            if let Ok(segment) = parse(&bytes) {
                prop_assert!(bytes.starts_with(segment.packet));
            }
        }
    }
}
