//! TCP/IP segments as a client's kernel writes them, and what comes back, by the RFCs' offsets.
//! Must not share code with the parser and the TCP under test.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const SERVICE4: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), 80);
const SERVICE6: SocketAddr =
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)), 80);
pub(crate) const ACK: u8 = 0x10;
const RST: u8 = 0x04;
pub(crate) const SYN: u8 = 0x02;
const FIN: u8 = 0x01;
const TCP: u8 = 6;

pub(crate) fn is_service(end: SocketAddr) -> bool {
    end == SERVICE4 || end == SERVICE6
}

pub(crate) fn is_service_ip(ip: IpAddr) -> bool {
    ip == SERVICE4.ip() || ip == SERVICE6.ip()
}

/// A segment to be written.
#[derive(Clone)]
pub(crate) struct Build {
    pub(crate) flags: u8,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    pub(crate) window: u16,
    pub(crate) payload: usize,
    pub(crate) options: Vec<u8>,
}

/// One end of a connection, with the numbers that come next.
pub(crate) struct Client {
    end: SocketAddr,
    service: SocketAddr,
    sequence: u32,
    acknowledgement: u32,
}

/// A packet that came back.
pub(crate) struct Read {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    flags: u8,
    sequence: u32,
    acknowledgement: u32,
    length: u32,
}

impl Read {
    pub(crate) fn resets(&self) -> bool {
        self.flags & RST != 0
    }
}

impl Client {
    pub(crate) fn new(port: u8, v6: bool) -> Self {
        let (ip, service): (IpAddr, _) = if v6 {
            (Ipv6Addr::new(0xfdc9, 0x1d5f, 0x11d3, 0, 0, 0, 0, 1).into(), SERVICE6)
        } else {
            (Ipv4Addr::new(169, 254, 169, 1).into(), SERVICE4)
        };
        let end = SocketAddr::new(ip, 40_000 + u16::from(port));
        Self { end, service, sequence: 1_000_000, acknowledgement: 0 }
    }

    pub(crate) fn is(&self, end: SocketAddr, service: SocketAddr) -> bool {
        self.end == end && self.service == service
    }

    /// What a well-behaved client would send with these flags.
    pub(crate) fn next(&self, flags: u8) -> Build {
        let options = if flags & SYN != 0 { vec![2, 4, 5, 180, 3, 3, 7, 0] } else { Vec::new() };
        Build {
            flags,
            sequence: self.sequence,
            acknowledgement: self.acknowledgement,
            window: 64_000,
            payload: 0,
            options,
        }
    }

    pub(crate) fn packet(&self, build: &Build) -> Vec<u8> {
        let mut options = build.options.clone();
        options.truncate(40);
        options.resize(options.len().next_multiple_of(4), 0);
        let words = u8::try_from(5 + options.len() / 4).unwrap_or(15);
        let mut tcp = Vec::new();
        tcp.extend(self.end.port().to_be_bytes());
        tcp.extend(self.service.port().to_be_bytes());
        tcp.extend(build.sequence.to_be_bytes());
        tcp.extend(build.acknowledgement.to_be_bytes());
        tcp.extend([words << 4, build.flags]);
        tcp.extend(build.window.to_be_bytes());
        tcp.extend([0; 4]);
        tcp.extend(options);
        tcp.resize(tcp.len() + build.payload, b'x');
        let sum = !sum(&[&pseudo(self.end.ip(), self.service.ip(), tcp.len()), &tcp]);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        ip(self.end.ip(), self.service.ip(), &tcp)
    }

    /// Takes the numbers that the next segment must have.
    pub(crate) fn hear(&mut self, read: &Read) {
        if read.flags & ACK != 0 {
            self.sequence = read.acknowledgement;
        }
        self.acknowledgement = read.sequence.wrapping_add(read.length);
    }
}

/// RFC 1071.
fn sum(pieces: &[&[u8]]) -> u16 {
    let mut total = 0_u32;
    for piece in pieces {
        for pair in piece.chunks(2) {
            total += u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from);
        }
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    u16::try_from(total).unwrap_or(0)
}

fn pseudo(from: IpAddr, to: IpAddr, length: usize) -> Vec<u8> {
    let mut bytes = octets(from);
    bytes.extend(octets(to));
    bytes.extend(u32::try_from(length).unwrap_or(0).to_be_bytes());
    bytes.extend([0, 0, 0, TCP]);
    bytes
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn ip(from: IpAddr, to: IpAddr, payload: &[u8]) -> Vec<u8> {
    let mut bytes = match from {
        IpAddr::V4(_) => {
            let total = u16::try_from(20 + payload.len()).unwrap_or(0).to_be_bytes();
            let mut header = vec![0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, TCP, 0, 0];
            header.extend(octets(from));
            header.extend(octets(to));
            let sum = !sum(&[&header]);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            header
        }
        IpAddr::V6(_) => {
            let length = u16::try_from(payload.len()).unwrap_or(0).to_be_bytes();
            let mut header = vec![0x60, 0, 0, 0, length[0], length[1], TCP, 64];
            header.extend(octets(from));
            header.extend(octets(to));
            header
        }
    };
    bytes.extend_from_slice(payload);
    bytes
}

/// Panics unless it is one whole TCP segment with right lengths and checksums.
pub(crate) fn read(packet: &[u8]) -> Read {
    let (from, to, tcp): (IpAddr, IpAddr, &[u8]) = match packet[0] >> 4 {
        4 => {
            assert_eq!((packet[0], packet[9]), (0x45, TCP));
            assert_eq!(usize::from(u16::from_be_bytes([packet[2], packet[3]])), packet.len());
            assert_eq!(sum(&[&packet[..20]]), 0xffff, "IPv4 checksum");
            let address = |at: usize| packet[at..].first_chunk::<4>().map(|four| IpAddr::from(*four));
            (address(12).unwrap_or(SERVICE6.ip()), address(16).unwrap_or(SERVICE6.ip()), &packet[20..])
        }
        version => {
            assert_eq!((version, packet[6]), (6, TCP));
            assert_eq!(usize::from(u16::from_be_bytes([packet[4], packet[5]])) + 40, packet.len());
            let address = |at: usize| packet[at..].first_chunk::<16>().map(|all| IpAddr::from(*all));
            (address(8).unwrap_or(SERVICE4.ip()), address(24).unwrap_or(SERVICE4.ip()), &packet[40..])
        }
    };
    assert_eq!(sum(&[&pseudo(from, to, tcp.len()), tcp]), 0xffff, "TCP checksum");
    let header = usize::from(tcp[12] >> 4) * 4;
    assert!(header >= 20 && header <= tcp.len(), "TCP header of {header} bytes");
    let flags = tcp[13];
    let number = |at: usize| u32::from_be_bytes([tcp[at], tcp[at + 1], tcp[at + 2], tcp[at + 3]]);
    let ends = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
    Read {
        from: SocketAddr::new(from, u16::from_be_bytes([tcp[0], tcp[1]])),
        to: SocketAddr::new(to, u16::from_be_bytes([tcp[2], tcp[3]])),
        flags,
        sequence: number(4),
        acknowledgement: number(8),
        length: u32::try_from(tcp.len() - header).unwrap_or(0) + ends,
    }
}
