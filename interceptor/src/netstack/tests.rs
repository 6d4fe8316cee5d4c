//! The traps of design section 5, each as a test: packets by hand, time by hand.

use super::client::{Client, Got, Tray, V4, V6, read};
use super::*;
use imds_ipc::Subject;
use std::net::IpAddr;

pub(super) const ISN: u32 = 1_000;

pub(super) struct Bench {
    pub(super) stack: Netstack<()>,
    pub(super) now: Instant,
    pub(super) tray: Tray,
    uid: Result<u32, Unattributable>,
    asked: usize,
}

/// One established connection from the client's side.
#[derive(Clone, Copy)]
struct Open {
    client: Client,
    /// What the client sends next.
    sequence: u32,
    /// What it expects next.
    expected: u32,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::default();
        change(&mut settings);
        let start = Instant::now();
        let stack = Netstack::new(&settings, start);
        Self { stack, now: start, tray: Tray::default(), uid: Ok(2001), asked: 0 }
    }

    pub(super) fn packet_only(&mut self, bytes: &[u8]) -> Entry {
        let (uid, asked) = (self.uid.clone(), &mut self.asked);
        self.stack.packet(bytes, self.now, &mut self.tray, &mut |_| {
            *asked += 1;
            uid.clone().map(|uid| Attributed { subject: Ok(Subject::of_uid(uid)), cookie: 1 })
        })
    }

    /// A packet, and everything that follows from it at once.
    pub(super) fn packet(&mut self, bytes: &[u8]) -> (Entry, Vec<Got>) {
        let entry = self.packet_only(bytes);
        self.settle();
        (entry, self.sent())
    }

    pub(super) fn settle(&mut self) {
        let mut touched = Vec::new();
        self.stack.take_touched(&mut touched);
        for key in touched {
            self.stack.settle(key, self.now, None, &mut self.tray);
        }
        while self.stack.take_gone().is_some() {}
    }

    fn sent(&mut self) -> Vec<Got> {
        std::mem::take(&mut self.tray.0).iter().map(|packet| read(packet)).collect()
    }

    fn connect(&mut self, client: Client) -> Open {
        let (entry, sent) = self.packet(&client.segment("S", ISN, 0, b""));
        assert_eq!(entry, Entry::Taken);
        assert_eq!(sent.len(), 1, "one SYN-ACK");
        assert_eq!((sent[0].flags.as_str(), sent[0].acknowledgement), ("SA", ISN + 1));
        let open = Open { client, sequence: ISN + 1, expected: sent[0].sequence.wrapping_add(1) };
        assert_eq!(self.packet(&open.ack()), (Entry::Taken, vec![]));
        open
    }

    fn only(&self) -> usize {
        assert_eq!(self.stack.len(), 1);
        self.stack.iter().next().unwrap().0
    }

    fn put(&mut self, bytes: &[u8]) {
        let key = self.only();
        self.stack.with(key, |connection| {
            connection.tcp.put(|room| {
                room[..bytes.len()].copy_from_slice(bytes);
                (bytes.len(), ())
            })
        });
        self.stack.touch(key);
    }

    /// Lets time pass, waking only when a timer says so; returns the number of wake-ups and what was sent.
    pub(super) fn pass(
        &mut self,
        seconds: u64,
        mut answer: impl FnMut(&Got) -> Option<Vec<u8>>,
    ) -> (usize, Vec<Got>) {
        let end = self.now + Duration::from_secs(seconds);
        let (mut wakes, mut all) = (0, Vec::new());
        while let Some(at) = self.stack.next_timer().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            wakes += 1;
            assert!(wakes < 10_000, "spinning");
            self.stack.touch_due(self.now);
            self.settle();
            for got in self.sent() {
                if let Some(reply) = answer(&got) {
                    self.packet_only(&reply);
                    self.settle();
                }
                all.push(got);
            }
            all.extend(self.sent());
        }
        self.now = end;
        (wakes, all)
    }
}

impl Open {
    fn ack(&self) -> Vec<u8> {
        self.client.segment("A", self.sequence, self.expected, b"")
    }
}

fn clients() -> [Client; 2] {
    [Client::new(V4, 40_000), Client::new(V6, 40_000)]
}

#[test]
fn a_client_connects_sends_is_answered_and_leaves_nothing_behind() {
    for client in clients() {
        let mut bench = Bench::new();
        let open = bench.connect(client);
        let key = bench.only();
        bench.packet(&client.segment("PA", open.sequence, open.expected, b"GET / HTTP/1.0\r\n\r\n"));
        let taken = bench.stack.with(key, |connection| {
            assert_eq!(connection.subject, Ok(Subject::of_uid(2001)));
            assert_eq!(connection.four_tuple.client, client.client);
            connection.tcp.take(|bytes| (bytes.len(), bytes.to_vec()))
        });
        assert_eq!(taken.flatten().unwrap(), b"GET / HTTP/1.0\r\n\r\n");
        bench.put(b"answer");
        bench.settle();
        let sent = bench.sent();
        assert_eq!(sent.len(), 1, "the acknowledgement travels with the answer");
        assert_eq!(sent[0].payload, b"answer");
        let (sequence, expected) = (open.sequence + 18, open.expected.wrapping_add(6));
        assert_eq!(sent[0].acknowledgement, sequence);
        bench.packet(&client.segment("FA", sequence, expected, b""));
        assert!(bench.stack.with(key, |c| c.tcp.client_finished()).unwrap());
        bench.stack.with(key, |c| c.tcp.finish());
        bench.stack.touch(key);
        bench.settle();
        assert_eq!(bench.sent().last().unwrap().flags, "FA");
        bench.packet(&client.segment("A", sequence + 1, expected.wrapping_add(1), b""));
        assert!(bench.stack.is_empty());
        assert_eq!(bench.stack.next_timer(), None, "nothing wakes us when nothing is open");
    }
}

#[test]
fn every_answer_carries_the_configured_hop_limit() {
    for client in clients() {
        for hop_limit in [1, 64, 255] {
            let mut bench = Bench::with(|settings| settings.capture.hop_limit = hop_limit);
            let mut all = bench.packet(&client.segment("S", ISN, 0, b"")).1;
            let expected = all[0].sequence.wrapping_add(1);
            bench.packet(&client.segment("A", ISN + 1, expected, b""));
            // out of order: smoltcp's own reply, which has 64 by itself
            all.extend(bench.packet(&client.segment("PA", ISN + 101, expected, b"later")).1);
            bench.put(b"x");
            bench.settle();
            all.extend(bench.sent());
            all.extend(bench.packet(&Client::new(client.service, 9).segment("A", 5, 5, b"")).1);
            all.extend(bench.packet(&client.segment("PA", ISN + 1, expected, &[0; 100])).1);
            let key = bench.only();
            bench.stack.with(key, |c| c.tcp.reset());
            bench.stack.touch(key);
            bench.settle();
            all.extend(bench.sent());
            assert!(all.iter().any(|got| got.flags.contains('R')));
            assert!(all.len() >= 5, "{all:?}");
            assert!(all.iter().all(|got| got.hop_limit == hop_limit), "{all:?}");
        }
    }
}

#[test]
fn a_half_open_connection_is_reset_and_forgotten_after_five_seconds() {
    let mut bench = Bench::new();
    bench.packet(&clients()[0].segment("S", ISN, 0, b""));
    let (wakes, sent) = bench.pass(6, |_| None);
    assert!(bench.stack.is_empty());
    assert!(wakes < 10);
    assert_eq!(sent.last().unwrap().flags, "RA");
    assert!(sent.iter().filter(|got| got.flags == "SA").count() >= 1, "asked again before");
    assert_eq!(bench.stack.next_timer(), None);
}

#[test]
fn a_client_that_resets_in_the_handshake_is_gone_at_once_and_was_not_refused() {
    for client in clients() {
        let mut bench = Bench::with(|settings| settings.limits.half_open_per_uid = 1);
        bench.packet(&client.segment("S", ISN, 0, b""));
        assert_eq!(bench.packet(&client.segment("R", ISN + 1, 0, b"")), (Entry::Taken, vec![]));
        assert!(bench.stack.is_empty());
        assert_eq!(bench.stack.next_timer(), None);
        bench.connect(client);
    }
}

#[test]
fn an_idle_connection_lives_as_long_as_its_client_answers_keep_alives() {
    let mut bench = Bench::new();
    let open = bench.connect(clients()[0]);
    let (wakes, sent) = bench.pass(3600, |_| Some(open.ack()));
    assert_eq!(bench.stack.len(), 1);
    assert!(wakes <= 400, "{wakes} wake-ups in an hour");
    assert!(sent.len() >= 100);
    let (_, sent) = bench.pass(90, |_| None);
    assert!(bench.stack.is_empty(), "a client that is gone is noticed");
    assert_eq!(sent.last().unwrap().flags, "RA");
}

#[test]
fn no_connection_lingers_in_time_wait_and_its_port_can_be_used_again_at_once() {
    let mut bench = Bench::new();
    let open = bench.connect(clients()[0]);
    let key = bench.only();
    bench.stack.with(key, |c| c.tcp.finish());
    bench.stack.touch(key);
    bench.settle();
    assert_eq!(bench.sent()[0].flags, "FA");
    let (_, sent) =
        bench.packet(&open.client.segment("FA", open.sequence, open.expected.wrapping_add(1), b""));
    assert_eq!(sent[0].flags, "A", "the client's FIN is acknowledged before");
    assert!(bench.stack.is_empty());
    assert_eq!(bench.stack.next_timer(), None);
    bench.connect(open.client);
}

#[test]
fn a_client_that_ends_first_or_at_once_with_us_is_not_left_waiting_with_its_port() {
    for (client, together) in clients().into_iter().flat_map(|client| [(client, false), (client, true)]) {
        let mut bench = Bench::new();
        let open = bench.connect(client);
        let (key, fin) = (bench.only(), client.segment("FA", open.sequence, open.expected, b""));
        for first in [!together, together] {
            if first {
                bench.packet(&fin);
            } else {
                bench.stack.with(key, |c| c.tcp.finish());
                bench.stack.touch(key);
                bench.settle();
            }
        }
        let end = open.expected.wrapping_add(1);
        let (_, sent) = bench.packet(&client.segment("A", open.sequence + 1, end, b""));
        assert_eq!(sent.last().map(|got| (got.flags.as_str(), got.sequence)), Some(("R", end)), "{sent:?}");
        assert!(bench.stack.is_empty());
    }
}

#[test]
fn the_clients_end_is_acknowledged_though_bytes_came_just_before_it() {
    for client in clients() {
        let mut bench = Bench::new();
        let open = bench.connect(client);
        let key = bench.only();
        bench.stack.with(key, |c| c.tcp.finish());
        bench.stack.touch(key);
        bench.settle();
        assert_eq!(bench.sent().last().unwrap().flags, "FA");
        let expected = open.expected.wrapping_add(1);
        bench.packet(&client.segment("A", open.sequence, expected, b""));
        // their acknowledgement may wait for more
        bench.packet(&client.segment("PA", open.sequence, expected, b"late"));
        let (_, sent) = bench.packet(&client.segment("FA", open.sequence + 4, expected, b""));
        assert!(bench.stack.is_empty());
        assert_eq!(sent.last().map(|got| got.acknowledgement), Some(open.sequence + 5), "{sent:?}");
    }
}

#[test]
fn a_syn_with_a_new_number_replaces_a_connection_whose_socket_is_no_more() {
    for established in [false, true] {
        let client = clients()[0];
        let mut bench = Bench::new();
        if established {
            bench.connect(client);
        } else {
            bench.packet(&client.segment("S", ISN, 0, b""));
        }
        let first = bench.stack.iter().next().unwrap().1.id;
        // the same SYN again: the same connection, and nobody is asked who it is
        bench.packet(&client.segment("S", ISN, 0, b""));
        assert_eq!(bench.stack.key_of(first), Some(bench.only()));
        assert_eq!(bench.asked, 1);
        bench.uid = Ok(2002);
        let (entry, sent) = bench.packet(&client.segment("S", ISN + 5_000, 0, b""));
        assert_eq!(entry, Entry::Taken);
        assert_eq!((sent[0].flags.as_str(), sent[0].acknowledgement), ("SA", ISN + 5_001));
        assert_eq!(bench.stack.key_of(first), None);
        assert_eq!(bench.stack.iter().next().unwrap().1.subject, Ok(Subject::of_uid(2002)));
        assert_eq!(bench.asked, 2);
    }
}

#[test]
fn a_forged_syn_does_not_replace_a_connection() {
    let mut bench = Bench::new();
    let open = bench.connect(clients()[0]);
    bench.uid = Err(Unattributable::NotConnecting);
    let (entry, sent) = bench.packet(&open.client.segment("S", 77, 0, b""));
    assert!(matches!(entry, Entry::Refused(..)));
    assert_eq!((sent, bench.stack.len()), (vec![], 1));
}

#[test]
fn small_answers_do_not_wait_for_each_others_acknowledgement() {
    let mut bench = Bench::new();
    bench.connect(clients()[0]);
    for answer in [b"one", b"two"] {
        bench.put(answer);
        bench.settle();
        assert_eq!(bench.sent()[0].payload, answer);
    }
}

#[test]
fn initial_sequence_numbers_are_not_repeated() {
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..100 {
        let mut bench = Bench::new();
        seen.insert(bench.connect(clients()[0]).expected);
    }
    assert!(seen.len() >= 99);
}

#[test]
fn nothing_sent_is_larger_than_the_mtu_and_the_mss_says_so() {
    for (client, headers) in clients().into_iter().zip([40, 60]) {
        for mtu in [1280, 1500] {
            let mut bench = Bench::with(|settings| settings.capture.mtu = mtu);
            let sent = bench.packet(&client.segment("S", ISN, 0, b"")).1;
            assert_eq!(sent[0].mss, Some(mtu - headers));
            let expected = sent[0].sequence.wrapping_add(1);
            bench.packet(&client.segment("A", ISN + 1, expected, b""));
            bench.put(&[7; 5_000]);
            bench.settle();
            let sent = bench.sent();
            assert!(sent.iter().all(|got| got.length <= usize::from(mtu)));
            assert_eq!(sent.iter().map(|got| got.payload.len()).sum::<usize>(), 5_000);
        }
    }
}

#[test]
fn a_stray_segment_is_reset_but_never_a_reset_nor_a_syn_ack_nor_one_for_elsewhere() {
    for client in clients() {
        let mut bench = Bench::new();
        let (entry, sent) = bench.packet(&client.segment("A", 5, 9, b"data"));
        assert_eq!(entry, Entry::Unknown);
        assert_eq!((sent[0].flags.as_str(), sent[0].sequence, sent[0].to), ("R", 9, 40_000));
        let (_, sent) = bench.packet(&client.segment("F", 5, 0, b"four"));
        assert_eq!((sent[0].flags.as_str(), sent[0].acknowledgement), ("RA", 10));
        assert_eq!(bench.packet(&client.segment("R", 5, 0, b"")), (Entry::Unknown, vec![]));
        assert_eq!(bench.packet(&client.segment("SA", 5, 9, b"")), (Entry::Stray, vec![]));
        let elsewhere: IpAddr = if client.service.is_ipv4() {
            [10, 0, 0, 1].into()
        } else {
            [0xfd00, 0, 0, 0, 0, 0, 0, 1].into()
        };
        let elsewhere = Client { service: SocketAddr::new(elsewhere, 80), ..client };
        assert_eq!(bench.packet(&elsewhere.segment("S", 5, 0, b"")), (Entry::Stray, vec![]));
        let other_port = Client { service: SocketAddr::new(client.service.ip(), 443), ..client };
        let (entry, sent) = bench.packet(&other_port.segment("S", 5, 0, b""));
        assert_eq!((entry, sent[0].flags.as_str()), (Entry::Unknown, "RA"));
        assert_eq!((bench.asked, bench.stack.len()), (0, 0), "nobody was asked and nothing is kept");
    }
}

#[test]
fn a_client_nobody_knows_is_refused_at_once() {
    for client in clients() {
        let mut bench = Bench::new();
        bench.uid = Err(Unattributable::NoSocket);
        let (entry, sent) = bench.packet(&client.segment("S", ISN, 0, b""));
        let why = Refused::Unattributable(Unattributable::NoSocket);
        let four_tuple = FourTuple { client: client.client, service: client.service };
        assert_eq!(entry, Entry::Refused(four_tuple, why));
        assert_eq!((sent[0].flags.as_str(), sent[0].acknowledgement), ("RA", ISN + 1));
        assert!(bench.stack.is_empty());
    }
}

#[test]
fn over_its_limit_a_uid_is_refused_and_another_is_not() {
    let mut bench = Bench::with(|settings| settings.limits.connections_per_uid = 2);
    for port in 0..4 {
        let client = Client::new(V4, 50_000 + port);
        bench.packet(&client.segment("S", ISN, 0, b""));
    }
    let (entry, sent) = bench.packet(&clients()[0].segment("S", ISN, 0, b""));
    assert!(matches!(entry, Entry::Refused(_, Refused::Crowded(Crowded::Uid(Some(2001))))));
    assert_eq!(sent[0].flags, "RA");
    bench.uid = Ok(2002);
    bench.connect(clients()[0]);
}

#[test]
fn too_many_half_open_connections_drop_the_syn_and_finishing_one_makes_room() {
    let mut bench = Bench::with(|settings| settings.limits.half_open_per_uid = 1);
    let first = Client::new(V4, 50_000);
    let syn_ack = bench.packet(&first.segment("S", ISN, 0, b"")).1.remove(0);
    let second = Client::new(V4, 50_001).segment("S", ISN, 0, b"");
    let (entry, sent) = bench.packet(&second);
    assert!(matches!(entry, Entry::Refused(_, Refused::Crowded(Crowded::HalfOpen(Some(2001))))));
    assert_eq!(sent, vec![]);
    bench.packet(&first.segment("A", ISN + 1, syn_ack.sequence.wrapping_add(1), b""));
    assert_eq!(bench.packet(&second).0, Entry::Taken);
}

#[test]
fn a_full_buffer_closes_the_window_and_reading_opens_it() {
    let mut bench = Bench::new();
    let open = bench.connect(clients()[0]);
    let key = bench.only();
    let mut sequence = open.sequence;
    for _ in 0..8 {
        bench.packet(&open.client.segment("A", sequence, open.expected, &[7; 1024]));
        sequence += 1024;
    }
    let (_, sent) = bench.packet(&open.client.segment("A", sequence, open.expected, &[8; 100]));
    assert_eq!(sent.last().unwrap().window, 0);
    assert_eq!(sent.last().unwrap().acknowledgement, sequence, "what does not fit is not taken");
    bench.stack.with(key, |c| c.tcp.take(|bytes| (bytes.len(), ())));
    bench.stack.touch(key);
    bench.settle();
    assert!(bench.sent().last().unwrap().window > 4_000);
}

#[test]
fn a_client_that_takes_the_last_bytes_and_the_fin_with_its_window_closed_is_not_answered_without_end() {
    for client in clients() {
        let mut bench = Bench::new();
        let open = bench.connect(client);
        bench.put(&[7; 1000]);
        let key = bench.only();
        bench.stack.with(key, |c| c.tcp.finish());
        bench.settle();
        assert_eq!(bench.sent().last().unwrap().flags, "FA");
        // some of it, which starts smoltcp's zero-window probe; then all of it, which does not stop it
        for taken in [10, 1001] {
            let ack = client.segment_offering(0, "A", open.sequence, open.expected.wrapping_add(taken), b"");
            assert_eq!(bench.packet(&ack).1, vec![]);
        }
        let (_, sent) = bench.pass(30, |_| None);
        assert!(sent.len() < 10, "{} packets", sent.len());
        assert!(bench.stack.is_empty());
    }
}

/// Panics when told to.
struct Trap(bool);
impl Wire for Trap {
    fn send(&mut self, _: &[u8]) {
        assert!(!self.0, "as planned");
    }
}

#[test]
fn a_panic_costs_one_connection_and_no_other() {
    let mut bench = Bench::new();
    bench.connect(Client::new(V4, 50_000));
    let victim = bench.connect(Client::new(V4, 50_001));
    let (out_of_order, in_place) = (
        victim.client.segment("PA", victim.sequence + 50, victim.expected, b"x"),
        victim.client.segment("PA", victim.sequence, victim.expected, b"x"),
    );
    let mut nobody = |_: &FourTuple| Err(Unattributable::NoSocket);
    assert_eq!(bench.stack.packet(&out_of_order, bench.now, &mut Trap(true), &mut nobody), Entry::Panicked);
    assert_eq!(bench.stack.len(), 1);
    assert_eq!(bench.packet(&in_place).1[0].flags, "R", "its client is told");
    // in the egress, and in what the owner does with it
    let victim = bench.connect(Client::new(V4, 50_002));
    let key = bench.stack.iter().find(|c| c.1.four_tuple.client == victim.client.client).unwrap().0;
    bench.stack.with(key, |c| c.tcp.reset());
    bench.stack.settle(key, bench.now, None, &mut Trap(true));
    assert_eq!(bench.stack.len(), 1);
    let key = bench.only();
    assert_eq!(bench.stack.with(key, |_| -> () { panic!("as planned") }), None);
    assert!(bench.stack.is_empty());
    assert_eq!(bench.stack.next_timer(), None);
}
