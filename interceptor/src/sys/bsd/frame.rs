//! An IP packet as an Ethernet frame. Reads no more of it than its version; sends nothing.

/// An Ethernet address.
pub(crate) type Ethernet = [u8; 6];

pub(crate) const HEADER: usize = 14;
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];

/// The frame's header; `None` for what is no IP packet.
pub(crate) fn header(packet: &[u8], from: Ethernet, to: Ethernet) -> Option<[u8; HEADER]> {
    let kind = match packet.first()? >> 4 {
        4 => IPV4,
        6 => IPV6,
        _ => return None,
    };
    let mut header = [0; HEADER];
    let parts = to.into_iter().chain(from).chain(kind);
    header.iter_mut().zip(parts).for_each(|(place, byte)| *place = byte);
    Some(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_names_receiver_sender_and_version() {
        let (from, to) = ([1; 6], [2; 6]);
        assert_eq!(header(&[0x45, 0], from, to), Some([2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 8, 0]));
        assert_eq!(header(&[0x60], from, to), Some([2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 0x86, 0xdd]));
        assert_eq!(header(&[0x35], from, to), None);
        assert_eq!(header(&[], from, to), None);
    }
}
