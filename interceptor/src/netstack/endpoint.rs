//! One connection's TCP: an smoltcp interface and a set with one socket, its buffers and its limits in time.
//! Must not know whose connection it is, nor where its bytes go.

use super::link::{Link, Wire};
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{self, State};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{HardwareAddress, IpCidr, IpListenEndpoint};
use std::net::SocketAddr;

/// A request's head and most answers fit; about 17 KiB a connection (design section 5).
const BUFFER: usize = 8 * 1024;
/// Sent at one moment: a client may take one byte in each packet, and some more carry none. Who would be sent more is reset.
const MOST_PACKETS: usize = BUFFER + 16;
// smoltcp 0.14 panics on crafted segments when the receive buffer is 65,536 or more
const _: () = assert!(BUFFER < 65_536);

/// A local client completes the handshake at once; who has not after two retransmissions of our SYN-ACK never will.
const HALF_OPEN: Duration = Duration::from_secs(5);
/// A client that answers nothing for so long is gone. smoltcp counts idle time too, therefore the keep-alives.
const SILENCE: Duration = Duration::from_secs(60);
const KEEP_ALIVE: Duration = Duration::from_secs(20);
const _: () = assert!(KEEP_ALIVE.total_micros() * 2 < SILENCE.total_micros());

/// An acknowledgement waits so long for an answer to travel with.
const ACK_DELAY: Duration = Duration::from_millis(10);

/// How far a connection has come, as far as others act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Our SYN-ACK is not yet acknowledged.
    HalfOpen,
    /// Bytes may flow, at least one way.
    Open,
    /// Nothing will come or go any more.
    Over,
}

pub struct Endpoint {
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
}

impl Endpoint {
    /// Ready for the SYN to `service`.
    ///
    /// # Errors
    /// When the OS gives no random number: smoltcp's own sequence numbers can be foretold from a known seed.
    pub(super) fn listening(
        service: SocketAddr,
        now: Instant,
        link: &mut Link<'_, impl Wire>,
    ) -> Result<Self, getrandom::Error> {
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = getrandom::u64()?;
        let mut interface = Interface::new(config, link, now);
        interface.update_ip_addrs(|addresses| {
            // cannot fail: the list has room for several
            let _ =
                addresses.push(IpCidr::new(service.ip().into(), if service.is_ipv4() { 32 } else { 128 }));
        });
        let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(Some(ACK_DELAY));
        socket.set_timeout(Some(HALF_OPEN));
        // now: set on an open connection it sends the first one at once
        socket.set_keep_alive(Some(KEEP_ALIVE));
        // cannot fail: the port is not zero and the socket is new
        let _ = socket.listen(IpListenEndpoint { addr: Some(service.ip().into()), port: service.port() });
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let socket = sockets.add(socket);
        Ok(Self { interface, sockets, socket })
    }

    fn tcp(&self) -> &tcp::Socket<'static> {
        self.sockets.get(self.socket)
    }

    fn tcp_mut(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.socket)
    }

    /// The packet that the link holds goes in; at most one answer comes out at once.
    pub(super) fn ingress(&mut self, now: Instant, link: &mut Link<'_, impl Wire>) {
        let was_half_open = self.phase() == Phase::HalfOpen;
        self.interface.poll_ingress_single(now, link, &mut self.sockets);
        if was_half_open && self.phase() == Phase::Open {
            self.tcp_mut().set_timeout(Some(SILENCE));
        }
    }

    /// Sends all that may be sent now.
    pub(super) fn egress(&mut self, now: Instant, link: &mut Link<'_, impl Wire>) {
        // after this we are over: an acknowledgement that still waits would never be sent, and the client's FIN come again
        let now = if self.tcp().state() == State::TimeWait { now + ACK_DELAY } else { now };
        for _ in 0..MOST_PACKETS {
            if self.interface.poll_egress(now, link, &mut self.sockets) == PollResult::None {
                return;
            }
            if self.acknowledges_without_end(now) {
                break;
            }
        }
        self.tcp_mut().abort();
        self.interface.poll_egress(now, link, &mut self.sockets);
    }

    /// smoltcp 0.14 leaves its zero-window probe armed when a client whose window is closed acknowledges the last bytes
    /// together with our FIN, and sends one empty acknowledgement after the other from when the probe is due. The
    /// client has everything by then, so a reset takes nothing from it.
    fn acknowledges_without_end(&mut self, now: Instant) -> bool {
        self.tcp().state() == State::FinWait2 && self.poll_at(now).is_some_and(|at| at <= now)
    }

    /// When [`Self::egress`] has something to do again if nothing arrives.
    pub(super) fn poll_at(&mut self, now: Instant) -> Option<Instant> {
        self.interface.poll_at(now, &self.sockets)
    }

    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.tcp().state() {
            State::Listen | State::SynSent | State::SynReceived => Phase::HalfOpen,
            State::Established
            | State::FinWait1
            | State::FinWait2
            | State::CloseWait
            | State::Closing
            | State::LastAck => Phase::Open,
            // TIME-WAIT would keep the buffers for 10 s and swallow a new SYN of the same four-tuple; a tun does not
            // reorder, so nothing old can arrive
            State::Closed | State::TimeWait => Phase::Over,
        }
    }

    /// Whether the SYN was taken.
    pub(super) fn answered(&self) -> bool {
        self.tcp().state() != State::Listen
    }

    #[must_use]
    pub fn has_bytes(&self) -> bool {
        self.tcp().can_recv()
    }

    /// The client has sent its FIN and all before it was taken.
    #[must_use]
    pub fn client_finished(&self) -> bool {
        let socket = self.tcp();
        !socket.can_recv()
            && matches!(
                socket.state(),
                State::CloseWait | State::Closing | State::LastAck | State::TimeWait | State::Closed
            )
    }

    /// Both ends are sent, the client's before it had ours: it is the one that has to wait when all is over.
    pub(super) fn client_ended_first(&self) -> bool {
        matches!(self.tcp().state(), State::LastAck | State::Closing)
    }

    /// Whether [`Self::put`] would be offered room.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let socket = self.tcp();
        socket.can_send() && socket.send_queue() < socket.send_capacity()
    }

    /// How many bytes of the client's wait.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.tcp().recv_queue()
    }

    /// Copies bytes of the client's that wait, and leaves them where they are. Returns how many.
    pub fn look_at_bytes(&mut self, room: &mut [u8]) -> usize {
        self.tcp_mut().peek_slice(room).unwrap_or(0)
    }

    /// Takes so many bytes of the client's, piece by piece.
    pub fn take_bytes(&mut self, count: usize, mut f: impl FnMut(&[u8])) {
        let mut left = count;
        while left > 0 {
            let taken = self.take(|bytes| {
                let bytes = bytes.get(..left).unwrap_or(bytes);
                f(bytes);
                (bytes.len(), bytes.len())
            });
            match taken {
                Some(taken) if taken > 0 => left -= taken,
                Some(_) | None => return,
            }
        }
    }

    /// Whether so many bytes to the client find room at once.
    #[must_use]
    pub fn has_room_for(&self, count: usize) -> bool {
        let socket = self.tcp();
        socket.can_send() && socket.send_capacity() - socket.send_queue() >= count
    }

    /// Puts all of these, for which there is room. Whether it did.
    pub fn put_all(&mut self, mut bytes: &[u8]) -> bool {
        if !self.has_room_for(bytes.len()) {
            return false;
        }
        // twice where the room lies in two pieces
        while !bytes.is_empty() {
            let put = self.put(|room| {
                let count = room.len().min(bytes.len());
                let (now, _) = bytes.split_at(count);
                if let Some(room) = room.get_mut(..count) {
                    room.copy_from_slice(now);
                }
                (count, count)
            });
            match put {
                Some(put) if put > 0 => bytes = bytes.get(put..).unwrap_or(&[]),
                Some(_) | None => return false,
            }
        }
        true
    }

    /// Offers bytes of the client, as many as lie together; `f` says how many it took.
    pub fn take<R>(&mut self, f: impl FnOnce(&[u8]) -> (usize, R)) -> Option<R> {
        self.tcp_mut()
            .recv(|bytes| {
                let (taken, result) = f(bytes);
                (taken.min(bytes.len()), result)
            })
            .ok()
    }

    /// Offers room for bytes to the client; `f` says how many it wrote there.
    pub fn put<R>(&mut self, f: impl FnOnce(&mut [u8]) -> (usize, R)) -> Option<R> {
        self.tcp_mut()
            .send(|room| {
                let (put, result) = f(room);
                (put.min(room.len()), result)
            })
            .ok()
    }

    /// No more bytes to the client: a FIN after those already put.
    pub fn finish(&mut self) {
        self.tcp_mut().close();
    }

    /// A RST, at the next egress.
    pub fn reset(&mut self) {
        self.tcp_mut().abort();
    }
}
