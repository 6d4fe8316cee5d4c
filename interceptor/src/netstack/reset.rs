//! The RST for a segment that belongs to no connection, or asks for one it may not have (RFC 9293 section 3.5.2).
//! Must not answer a RST.

use super::link::Shape;
use super::packet::Segment;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpAddress, IpProtocol, IpRepr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber};

/// Builds the answer in `out`; `None` if the segment may not be answered.
pub(super) fn reset(segment: &Segment<'_>, shape: Shape, out: &mut Vec<u8>) -> Option<()> {
    if segment.flags.rst() {
        return None;
    }
    let (sequence, acknowledgement) = if segment.flags.ack() {
        (segment.acknowledgement, None)
    } else {
        (0, Some(segment.sequence.wrapping_add(segment.length)))
    };
    let number = |n: u32| TcpSeqNumber(n.cast_signed());
    let tcp = TcpRepr {
        src_port: segment.four_tuple.service.port(),
        dst_port: segment.four_tuple.client.port(),
        control: TcpControl::Rst,
        seq_number: number(sequence),
        ack_number: acknowledgement.map(number),
        window_len: 0,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    };
    let source = IpAddress::from(segment.four_tuple.service.ip());
    let destination = IpAddress::from(segment.four_tuple.client.ip());
    let ip = IpRepr::new(source, destination, IpProtocol::Tcp, tcp.buffer_len(), shape.hop_limit);
    out.clear();
    out.resize(ip.buffer_len(), 0);
    let checksums = ChecksumCapabilities::default();
    ip.emit(out.as_mut_slice(), &checksums);
    let payload = out.get_mut(ip.header_len()..)?;
    tcp.emit(&mut TcpPacket::new_unchecked(payload), &source, &destination, &checksums);
    Some(())
}
