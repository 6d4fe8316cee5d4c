//! What smoltcp takes for its device: one packet in, any number out to the wire, each with our hop limit.
//! Must not queue: when the tun has no room the packet is lost, as on a wire, and TCP sends it again.

use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

/// Where packets to the clients go.
pub trait Wire {
    /// Sends one IP packet, or loses it.
    fn send(&mut self, packet: &[u8]);
}

/// The shape of the wire, the same for every connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) mtu: usize,
    pub(super) hop_limit: u8,
}

pub(super) struct Link<'a, W> {
    pub(super) shape: Shape,
    pub(super) arrived: Option<&'a [u8]>,
    pub(super) wire: &'a mut W,
    /// One packet is built here at a time.
    pub(super) scratch: &'a mut Vec<u8>,
}

pub(super) struct Arrived<'a>(&'a [u8]);

pub(super) struct Leaving<'a, W> {
    hop_limit: u8,
    wire: &'a mut W,
    scratch: &'a mut Vec<u8>,
}

impl RxToken for Arrived<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

impl<W: Wire> TxToken for Leaving<'_, W> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        // zeroed: smoltcp leaves some header bytes as they are, and those were another client's
        self.scratch.clear();
        self.scratch.resize(length, 0);
        let result = f(self.scratch);
        set_hop_limit(self.scratch, self.hop_limit);
        self.wire.send(self.scratch);
        result
    }
}

impl<W: Wire> Device for Link<'_, W> {
    type RxToken<'b>
        = Arrived<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Leaving<'b, W>
    where
        Self: 'b;

    fn receive(&mut self, _: Instant) -> Option<(Arrived<'_>, Leaving<'_, W>)> {
        let packet = self.arrived.take()?;
        let leaving = Leaving { hop_limit: self.shape.hop_limit, wire: self.wire, scratch: self.scratch };
        Some((Arrived(packet), leaving))
    }

    fn transmit(&mut self, _: Instant) -> Option<Leaving<'_, W>> {
        Some(Leaving { hop_limit: self.shape.hop_limit, wire: self.wire, scratch: self.scratch })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.shape.mtu;
        capabilities
    }
}

/// smoltcp's own replies (acknowledgements of what is out of order, resets) have 64 whatever the socket's setting is.
fn set_hop_limit(packet: &mut [u8], hop_limit: u8) {
    match packet {
        [0x45, _, _, _, _, _, _, _, ttl, protocol, sum0, sum1, ..] => {
            // RFC 1624: HC' = ~(~HC + ~m + m')
            let sum = u32::from(!u16::from_be_bytes([*sum0, *sum1]))
                + u32::from(!u16::from_be_bytes([*ttl, *protocol]))
                + u32::from(u16::from_be_bytes([hop_limit, *protocol]));
            let sum = (sum & 0xffff) + (sum >> 16);
            let [_, _, high, low] = ((sum & 0xffff) + (sum >> 16)).to_be_bytes();
            (*sum0, *sum1) = (!high, !low);
            *ttl = hop_limit;
        }
        [first, _, _, _, _, _, _, limit, ..] if *first >> 4 == 6 => *limit = hop_limit,
        _ => {}
    }
}
