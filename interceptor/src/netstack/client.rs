//! For tests: segments as a client's kernel would send them, and what came back, read with smoltcp's own parser.
//! Must not share code with the parser under test.

use super::link::Wire;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    IpAddress, IpProtocol, IpRepr, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr, TcpControl, TcpPacket,
    TcpRepr, TcpSeqNumber,
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub(crate) const V4: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), 80);
pub(crate) const V6: SocketAddr =
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)), 80);

/// Keeps every packet that leaves.
#[derive(Default)]
pub(crate) struct Tray(pub(crate) Vec<Vec<u8>>);

impl Wire for Tray {
    fn send(&mut self, packet: &[u8]) {
        self.0.push(packet.to_vec());
    }
}

/// A packet to a client, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Got {
    pub(crate) flags: String,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    pub(crate) window: u16,
    pub(crate) hop_limit: u8,
    pub(crate) payload: Vec<u8>,
    pub(crate) length: usize,
    pub(crate) mss: Option<u16>,
    pub(crate) to: u16,
}

/// Reads a packet and checks lengths and checksums.
pub(crate) fn read(packet: &[u8]) -> Got {
    let checksums = ChecksumCapabilities::default();
    let (ip, payload) = if packet[0] >> 4 == 4 {
        let v4 = Ipv4Packet::new_checked(packet).unwrap();
        assert!(v4.verify_checksum(), "IPv4 checksum");
        (IpRepr::Ipv4(Ipv4Repr::parse(&v4, &checksums).unwrap()), v4.payload())
    } else {
        let v6 = Ipv6Packet::new_checked(packet).unwrap();
        (IpRepr::Ipv6(Ipv6Repr::parse(&v6).unwrap()), v6.payload())
    };
    let tcp = TcpPacket::new_checked(payload).unwrap();
    assert!(tcp.verify_checksum(&ip.src_addr(), &ip.dst_addr()), "TCP checksum");
    let repr = TcpRepr::parse(&tcp, &ip.src_addr(), &ip.dst_addr(), &checksums).unwrap();
    let names = [(tcp.syn(), 'S'), (tcp.fin(), 'F'), (tcp.rst(), 'R'), (tcp.psh(), 'P'), (tcp.ack(), 'A')];
    Got {
        flags: names.iter().filter(|flag| flag.0).map(|flag| flag.1).collect(),
        sequence: tcp.seq_number().0.cast_unsigned(),
        acknowledgement: if tcp.ack() { tcp.ack_number().0.cast_unsigned() } else { 0 },
        window: tcp.window_len(),
        hop_limit: ip.hop_limit(),
        payload: tcp.payload().to_vec(),
        length: packet.len(),
        mss: repr.max_seg_size,
        to: tcp.dst_port(),
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Client {
    pub(crate) client: SocketAddr,
    pub(crate) service: SocketAddr,
}

impl Client {
    pub(crate) fn new(service: SocketAddr, port: u16) -> Self {
        let ip: IpAddr = if service.is_ipv4() {
            Ipv4Addr::new(169, 254, 169, 1).into()
        } else {
            Ipv6Addr::new(0xfdc9, 0x1d5f, 0x11d3, 0, 0, 0, 0, 1).into()
        };
        Self { client: SocketAddr::new(ip, port), service }
    }

    /// A segment with these flags (S, F, R, P, A).
    pub(crate) fn segment(
        &self,
        flags: &str,
        sequence: u32,
        acknowledgement: u32,
        payload: &[u8],
    ) -> Vec<u8> {
        self.segment_offering(64_000, flags, sequence, acknowledgement, payload)
    }

    /// A segment that offers this window, scaled by 7 but in a SYN.
    pub(crate) fn segment_offering(
        &self,
        window: u16,
        flags: &str,
        sequence: u32,
        acknowledgement: u32,
        payload: &[u8],
    ) -> Vec<u8> {
        let has = |flag| flags.contains(flag);
        let number = |n: u32| TcpSeqNumber(n.cast_signed());
        let control = match (has('S'), has('F'), has('R'), has('P')) {
            (true, ..) => TcpControl::Syn,
            (_, true, ..) => TcpControl::Fin,
            (_, _, true, _) => TcpControl::Rst,
            (_, _, _, true) => TcpControl::Psh,
            _ => TcpControl::None,
        };
        let repr = TcpRepr {
            src_port: self.client.port(),
            dst_port: self.service.port(),
            control,
            seq_number: number(sequence),
            ack_number: has('A').then(|| number(acknowledgement)),
            window_len: window,
            window_scale: has('S').then_some(7),
            max_seg_size: has('S').then_some(1460),
            sack_permitted: has('S'),
            sack_ranges: [None; 3],
            timestamp: None,
            payload,
        };
        let (source, destination) = (IpAddress::from(self.client.ip()), IpAddress::from(self.service.ip()));
        let ip = IpRepr::new(source, destination, IpProtocol::Tcp, repr.buffer_len(), 64);
        let checksums = ChecksumCapabilities::default();
        let mut bytes = vec![0; ip.buffer_len()];
        ip.emit(&mut bytes[..], &checksums);
        let start = ip.header_len();
        repr.emit(&mut TcpPacket::new_unchecked(&mut bytes[start..]), &source, &destination, &checksums);
        bytes
    }
}
