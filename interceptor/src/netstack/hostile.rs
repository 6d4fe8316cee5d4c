//! Clients that do not play by the rules, and wires that lose, double and reorder: nothing panics, nothing is left over,
//! nothing arrives changed. Packets and time by hand.

use super::client::{Client, V4, V6, read};
use super::tests::{Bench, ISN};
use super::*;
use imds_ipc::Subject;
use proptest::prelude::*;
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::socket::tcp::{self, State};
use smoltcp::wire::{HardwareAddress, IpCidr};
use std::collections::VecDeque;

/// A step of a hostile client: what to send, then what to change in it.
#[derive(Debug, Clone)]
struct Step {
    flags: &'static str,
    port: u16,
    sequence: i64,
    acknowledgement: i64,
    length: usize,
    change: Vec<(usize, u8)>,
    cut: Option<usize>,
    wait_ms: u64,
    take: bool,
    put: usize,
    end: u8,
}

fn step() -> impl Strategy<Value = Step> {
    (
        (prop::sample::select(vec!["S", "A", "PA", "FA", "RA", "R", "SA", "F", "", "SFA"]), 0u16..3),
        (-70_000i64..70_000, -3_000i64..3_000, prop::sample::select(vec![0usize, 1, 100, 1400])),
        (prop::collection::vec((0usize..90, any::<u8>()), 0..3), prop::option::weighted(0.05, 0usize..80)),
        (prop::sample::select(vec![0u64, 1, 20, 3_000, 70_000]), any::<bool>(), 0usize..3_000, 0u8..40),
    )
        .prop_map(
            |(
                (flags, port),
                (sequence, acknowledgement, length),
                (change, cut),
                (wait_ms, take, put, end),
            )| {
                // most numbers are right, or nothing would ever get further than the first check
                let right = |n: i64| if n % 3 == 0 { n } else { 0 };
                let change = if cut.is_some() || put % 4 == 0 { change } else { Vec::new() };
                Step {
                    flags,
                    port,
                    sequence: right(sequence),
                    acknowledgement: right(acknowledgement),
                    length,
                    change,
                    cut,
                    wait_ms,
                    take,
                    put,
                    end,
                }
            },
        )
}

fn apply(bench: &mut Bench, step: &Step, next: &mut [(u32, u32); 3], v6: bool) {
    let client = Client::new(if v6 { V6 } else { V4 }, 40_000 + step.port);
    let (sequence, expected) = next[usize::from(step.port)];
    let shift = |n: u32, by: i64| u32::try_from((i64::from(n) + by) & 0xffff_ffff).unwrap();
    let mut bytes = client.segment(
        step.flags,
        shift(sequence, step.sequence),
        shift(expected, step.acknowledgement),
        &vec![7; step.length],
    );
    for (at, value) in &step.change {
        if let Some(byte) = bytes.get_mut(*at) {
            *byte = *value;
        }
    }
    bytes.truncate(step.cut.unwrap_or(bytes.len()));
    let entry = bench.packet_only(&bytes);
    assert_ne!(entry, Entry::Panicked, "{step:?}");
    let keys: Vec<usize> = bench.stack.iter().map(|entry| entry.0).collect();
    for key in keys {
        let done = bench.stack.with(key, |connection| {
            let tcp = &mut connection.tcp;
            if step.take {
                tcp.take(|bytes| (bytes.len() / 2 + 1, ()));
            }
            if tcp.has_room() {
                tcp.put(|room| (room.len().min(step.put), ()));
            }
            match step.end {
                0 => tcp.finish(),
                1 => tcp.reset(),
                _ => {}
            }
        });
        assert!(done.is_some(), "panicked: {step:?}");
        bench.stack.touch(key);
    }
    let before = bench.stack.len();
    bench.settle();
    assert!(bench.stack.len() <= before);
    for packet in std::mem::take(&mut bench.tray.0) {
        let got = read(&packet);
        let Some(place) = next.get_mut(usize::from(got.to).wrapping_sub(40_000)) else { continue };
        let ends = u32::from(got.flags.contains('S')) + u32::from(got.flags.contains('F'));
        let length = u32::try_from(got.payload.len()).unwrap();
        place.1 = got.sequence.wrapping_add(length).wrapping_add(ends);
        if got.flags.contains('A') {
            place.0 = got.acknowledgement;
        }
    }
    bench.now += Duration::from_millis(step.wait_ms);
    bench.stack.touch_due(bench.now);
    bench.settle();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn no_client_however_hostile_makes_smoltcp_panic_or_leaves_a_timer_behind(
        steps in prop::collection::vec(step(), 1..60), v6 in any::<bool>()
    ) {
        let mut bench = Bench::new();
        let mut next = [(ISN, 0); 3];
        for step in &steps {
            apply(&mut bench, step, &mut next, v6);
        }
        bench.pass(600, |_| None);
        prop_assert!(bench.stack.is_empty());
        prop_assert_eq!(bench.stack.next_timer(), None);
    }

    #[test]
    fn no_bytes_at_all_do(packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 0..20)) {
        let mut bench = Bench::new();
        for packet in &packets {
            prop_assert_ne!(bench.packet(packet).0, Entry::Panicked);
        }
    }
}

/// A client of smoltcp's at the far end of a bad wire; deterministic.
struct FarEnd {
    interface: Interface,
    sockets: SocketSet<'static>,
    socket: smoltcp::iface::SocketHandle,
    scratch: Vec<u8>,
}

/// Loses, doubles and swaps packets.
#[derive(Default)]
struct BadWire {
    packets: VecDeque<Vec<u8>>,
    random: u64,
    harm: u64,
}

impl Wire for BadWire {
    fn send(&mut self, packet: &[u8]) {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        match (self.random >> 33) % 100 {
            n if n < self.harm => {}
            n if n < 2 * self.harm => self.packets.extend([packet.to_vec(), packet.to_vec()]),
            n if n < 3 * self.harm => self.packets.push_front(packet.to_vec()),
            _ => self.packets.push_back(packet.to_vec()),
        }
    }
}

impl FarEnd {
    fn new(client: Client) -> Self {
        let mut scratch = Vec::new();
        let mut wire = BadWire::default();
        let shape = Shape { mtu: 1500, hop_limit: 64 };
        let mut link = Link { shape, arrived: None, wire: &mut wire, scratch: &mut scratch };
        let start = smoltcp::time::Instant::ZERO;
        let mut interface = Interface::new(Config::new(HardwareAddress::Ip), &mut link, start);
        let ip = client.client.ip();
        interface.update_ip_addrs(|all| {
            all.push(IpCidr::new(ip.into(), if ip.is_ipv4() { 32 } else { 128 })).unwrap();
        });
        interface.routes_mut().add_default_ipv4_route([10, 0, 0, 1].into()).unwrap();
        interface.routes_mut().add_default_ipv6_route([0xfd00, 0, 0, 0, 0, 0, 0, 9].into()).unwrap();
        let buffer = || tcp::SocketBuffer::new(vec![0; 20_000]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.connect(interface.context(), client.service, client.client.port()).unwrap();
        let mut sockets = SocketSet::new(Vec::new());
        let socket = sockets.add(socket);
        Self { interface, sockets, socket, scratch }
    }

    fn turn(&mut self, now: smoltcp::time::Instant, arrived: &mut VecDeque<Vec<u8>>, wire: &mut BadWire) {
        let shape = Shape { mtu: 1500, hop_limit: 64 };
        while let Some(packet) = arrived.pop_front() {
            let mut link = Link { shape, arrived: Some(&packet), wire, scratch: &mut self.scratch };
            self.interface.poll_ingress_single(now, &mut link, &mut self.sockets);
        }
        let mut link = Link { shape, arrived: None, wire, scratch: &mut self.scratch };
        self.interface.poll(now, &mut link, &mut self.sockets);
    }
}

/// Sends everything through us and back; returns what came back, and what is then left of the connection.
fn echo_through(harm: u64, client: Client, random: u64, bytes: &[u8]) -> (Vec<u8>, usize) {
    let mut bench = Bench::new();
    let mut far = FarEnd::new(client);
    let mut there = BadWire { random, harm, ..BadWire::default() };
    let mut back = BadWire { random: random + 1, harm, ..BadWire::default() };
    let (mut sent, mut got, mut echo) = (0, Vec::new(), Vec::new());
    for millisecond in 0..600_000 {
        let now = smoltcp::time::Instant::from_millis(millisecond);
        far.turn(now, &mut back.packets, &mut there);
        let socket = far.sockets.get_mut::<tcp::Socket<'_>>(far.socket);
        if socket.can_send() && sent < bytes.len() {
            sent += socket.send_slice(&bytes[sent..]).unwrap();
        }
        while socket.can_recv() {
            socket
                .recv(|bytes| {
                    got.extend_from_slice(bytes);
                    (bytes.len(), ())
                })
                .unwrap();
        }
        if sent == bytes.len() && socket.may_send() {
            socket.close();
        }
        let over = matches!(socket.state(), State::Closed | State::TimeWait);
        bench.now += Duration::from_millis(1);
        while let Some(packet) = there.packets.pop_front() {
            bench.stack.packet(&packet, bench.now, &mut back, &mut |_| {
                Ok(Attributed { subject: Ok(Subject::of_uid(1)), cookie: 1 })
            });
        }
        bench.stack.touch_due(bench.now);
        serve_echo(&mut bench, &mut back, &mut echo);
        if over && bench.stack.is_empty() {
            break;
        }
    }
    (got, bench.stack.len())
}

fn serve_echo(bench: &mut Bench, back: &mut BadWire, echo: &mut Vec<u8>) {
    let mut touched = Vec::new();
    bench.stack.take_touched(&mut touched);
    for key in touched {
        bench.stack.with(key, |connection| {
            let tcp = &mut connection.tcp;
            // no more than the room is sure to take: what is not taken must hold the client back
            while tcp.has_bytes() && echo.len() < 4_000 {
                tcp.take(|bytes| {
                    let length = bytes.len().min(1_000);
                    echo.extend_from_slice(&bytes[..length]);
                    (length, ())
                });
            }
            while !echo.is_empty() && tcp.has_room() {
                tcp.put(|room| {
                    let length = room.len().min(echo.len());
                    room[..length].copy_from_slice(&echo[..length]);
                    echo.drain(..length);
                    (length, ())
                });
            }
            if tcp.client_finished() && echo.is_empty() {
                tcp.finish();
            }
        });
        bench.stack.settle(key, bench.now, None, back);
    }
}

#[test]
fn bytes_arrive_whole_and_in_order_over_wires_that_lose_double_and_reorder() {
    let bytes: Vec<u8> = (0..50_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    for (seed, harm) in [(1, 0), (2, 1), (3, 3), (4, 8)] {
        for service in [V4, V6] {
            let (got, left) = echo_through(harm, Client::new(service, 40_000), seed, &bytes);
            assert!(got == bytes, "{} of {} bytes with {harm}% harm", got.len(), bytes.len());
            assert_eq!(left, 0, "the connection is gone, {harm}% harm");
        }
    }
}
