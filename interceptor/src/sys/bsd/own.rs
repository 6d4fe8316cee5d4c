//! Which packets from the tun are our own connections' to the service, by their exact four-tuple. Everything else is a
//! client. Must not let a client through who got a four-tuple that was ours.
//!
//! A client begins with a SYN. A SYN is ours only while our socket is just sending one, which the kernel is asked for
//! then and there: it has no two sockets of one four-tuple. Any other SYN ends the entry, unless our socket still lives:
//! then it is one of its own that was sent twice. So it does no harm that the
//! entry of a connection that filterd has outlives its descriptor, and the last packets of a close still get out.

use crate::netstack::{FourTuple, Segment};
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

/// Above what limits.connections may be; an entry takes some hundred bytes.
const MOST: usize = 16_384;
/// Twice the longest life of a segment: whatever the kernel still sends of a connection, it sends before.
const FAREWELL: Duration = Duration::from_secs(120);

/// What the kernel says of a socket of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// It has sent its SYN and nothing more.
    Connecting,
    /// Its four-tuple is nobody else's yet.
    Connected,
    /// The four-tuple is free, or another's.
    Over,
}

/// Whose packet it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    Ours,
    /// Ours, and of no use any more.
    Late,
    Client,
}

struct Own {
    serial: u64,
    /// The socket that connects; its owner takes it from here before he closes it or gives it away.
    connecting: Option<RawFd>,
    /// It sent its FIN or RST.
    ending: bool,
}

#[derive(Default)]
pub(crate) struct Table {
    own: FxHashMap<FourTuple, Own>,
    /// In the order they came.
    order: VecDeque<(u64, FourTuple)>,
    /// In the order they ended.
    ending: VecDeque<(Instant, u64, FourTuple)>,
    serial: u64,
}

impl Table {
    pub(crate) fn enter(&mut self, four_tuple: FourTuple, socket: RawFd) {
        self.serial += 1;
        self.own.insert(four_tuple, Own { serial: self.serial, connecting: Some(socket), ending: false });
        self.order.push_back((self.serial, four_tuple));
        while self.own.len() > MOST {
            // one that ends is hardly missed; the oldest may be in the middle of an answer
            let ending = self.ending.pop_front().map(|(_, serial, four_tuple)| (serial, four_tuple));
            let Some((serial, goes)) = ending.or_else(|| self.order.pop_front()) else { break };
            if self.is(&goes, serial) {
                self.own.remove(&goes);
            }
        }
        if self.order.len() > 2 * MOST {
            let own = &self.own;
            self.order
                .retain(|(serial, four_tuple)| own.get(four_tuple).is_some_and(|own| own.serial == *serial));
        }
    }

    fn is(&self, four_tuple: &FourTuple, serial: u64) -> bool {
        self.own.get(four_tuple).is_some_and(|own| own.serial == serial)
    }

    /// No SYN of this one is ours any more.
    pub(crate) fn connected(&mut self, four_tuple: &FourTuple) {
        if let Some(own) = self.own.get_mut(four_tuple) {
            own.connecting = None;
        }
    }

    /// Before its socket is closed.
    pub(crate) fn forget(&mut self, four_tuple: &FourTuple) {
        self.own.remove(four_tuple);
    }

    /// `life` asks the kernel.
    pub(crate) fn owns(
        &mut self,
        segment: &Segment<'_>,
        now: Instant,
        life: impl FnOnce(RawFd) -> Life,
    ) -> Whose {
        self.purge(now);
        let Some(own) = self.own.get_mut(&segment.four_tuple) else { return Whose::Client };
        if segment.flags.syn() {
            // ours carry no data: a fast open one is a client's
            let plain = segment.flags.opens() && segment.length == 1;
            return match own.connecting.filter(|_| plain).map(life) {
                Some(Life::Connecting) => Whose::Ours,
                Some(Life::Connected) => Whose::Late,
                Some(Life::Over) | None => {
                    self.own.remove(&segment.four_tuple);
                    Whose::Client
                }
            };
        }
        if (segment.flags.fin() || segment.flags.rst()) && !own.ending {
            own.ending = true;
            self.ending.push_back((now + FAREWELL, own.serial, segment.four_tuple));
        }
        Whose::Ours
    }

    fn purge(&mut self, now: Instant) {
        while let Some((until, serial, four_tuple)) = self.ending.front().copied() {
            if until > now && self.ending.len() <= MOST {
                break;
            }
            self.ending.pop_front();
            if self.is(&four_tuple, serial) {
                self.own.remove(&four_tuple);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netstack::parse;

    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;
    const FIN: u8 = 0x11;
    const RST: u8 = 0x04;

    /// An IPv4 packet from that port of ours to the service.
    fn packet(port: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(40 + payload.len()).unwrap();
        let mut bytes = vec![0x45, 0];
        bytes.extend(length.to_be_bytes());
        bytes.extend([0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 5, 169, 254, 169, 254]);
        bytes.extend(port.to_be_bytes());
        bytes.extend([0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        bytes.extend(payload);
        bytes
    }

    fn four_tuple(port: u16) -> FourTuple {
        parse(&packet(port, ACK, &[])).unwrap().four_tuple
    }

    /// The kernel says that our socket sends its SYN, or (`false`) that it is no more.
    fn owns(table: &mut Table, bytes: &[u8], now: Instant, sends_syn: bool) -> bool {
        let life = if sends_syn { Life::Connecting } else { Life::Over };
        table.owns(&parse(bytes).unwrap(), now, |_| life) == Whose::Ours
    }

    #[test]
    fn a_syn_that_our_socket_sent_twice_is_late_and_no_clients() {
        let now = Instant::now();
        let mut table = Table::default();
        table.enter(four_tuple(1), 7);
        let syn = packet(1, SYN, &[]);
        assert_eq!(table.owns(&parse(&syn).unwrap(), now, |_| Life::Connected), Whose::Late);
        assert!(owns(&mut table, &packet(1, ACK, &[]), now, false), "the connection goes on");
    }

    #[test]
    fn a_syn_is_ours_only_while_our_socket_sends_one() {
        let now = Instant::now();
        let mut table = Table::default();
        assert!(!owns(&mut table, &packet(1, SYN, &[]), now, true), "nobody's");
        table.enter(four_tuple(1), 7);
        assert!(owns(&mut table, &packet(1, SYN, &[]), now, true));
        assert!(owns(&mut table, &packet(1, SYN, &[]), now, true), "sent again");
        // the kernel closed it meanwhile, and a client has the port
        assert!(!owns(&mut table, &packet(1, SYN, &[]), now, false));
        assert!(!owns(&mut table, &packet(1, ACK, &[]), now, false), "it is the client's for good");
    }

    #[test]
    fn a_client_that_reuses_the_four_tuple_of_a_connection_is_a_client() {
        let now = Instant::now();
        let mut table = Table::default();
        table.enter(four_tuple(1), 7);
        table.connected(&four_tuple(1));
        assert!(owns(&mut table, &packet(1, ACK, b"GET"), now, true));
        assert!(
            !owns(&mut table, &packet(1, SYN, &[]), now, true),
            "also if descriptor 7 connects elsewhere now"
        );
        assert!(!owns(&mut table, &packet(1, ACK, b"GET"), now, true));
    }

    #[test]
    fn a_syn_with_data_is_a_clients() {
        let mut table = Table::default();
        table.enter(four_tuple(1), 7);
        assert!(!owns(&mut table, &packet(1, SYN, b"GET"), Instant::now(), true));
    }

    #[test]
    fn what_is_forgotten_is_a_clients_at_once_and_another_port_always_was() {
        let now = Instant::now();
        let mut table = Table::default();
        table.enter(four_tuple(1), 7);
        assert!(!owns(&mut table, &packet(2, ACK, &[]), now, true));
        table.forget(&four_tuple(1));
        for flags in [SYN, ACK, FIN, RST] {
            assert!(!owns(&mut table, &packet(1, flags, &[]), now, true));
        }
    }

    #[test]
    fn after_a_fin_the_last_packets_get_out_and_then_the_entry_goes() {
        let now = Instant::now();
        let mut table = Table::default();
        table.enter(four_tuple(1), 7);
        table.connected(&four_tuple(1));
        assert!(owns(&mut table, &packet(1, FIN, &[]), now, false));
        assert!(owns(&mut table, &packet(1, ACK, &[]), now + Duration::from_secs(100), false));
        assert!(!owns(&mut table, &packet(1, ACK, &[]), now + Duration::from_secs(121), false));
    }

    #[test]
    fn connections_that_ended_take_no_place_of_one_that_lives() {
        let now = Instant::now();
        let mut table = Table::default();
        table.enter(four_tuple(1), 7);
        table.connected(&four_tuple(1));
        for port in 2..=60_000 {
            table.enter(four_tuple(port), 7);
            table.connected(&four_tuple(port));
            assert!(owns(&mut table, &packet(port, FIN, &[]), now, true));
        }
        assert!(owns(&mut table, &packet(1, ACK, &[]), now, true));
        assert!(table.own.len() <= MOST && table.ending.len() <= MOST + 1);
    }

    #[test]
    fn the_table_is_bounded_and_the_oldest_goes_first() {
        let now = Instant::now();
        let mut table = Table::default();
        for port in 1..=u16::try_from(MOST).unwrap() + 1 {
            table.enter(four_tuple(port), 7);
        }
        assert!(!owns(&mut table, &packet(1, ACK, &[]), now, true));
        assert!(owns(&mut table, &packet(2, ACK, &[]), now, true));
        for _ in 0..5 * MOST {
            table.enter(four_tuple(1), 7);
            table.forget(&four_tuple(1));
        }
        assert!(table.order.len() <= 2 * MOST && table.own.len() <= MOST);
    }
}
