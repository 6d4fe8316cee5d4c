//! The packet entry with the real TCP behind it: a few hostile clients, whose bytes say what they send and when.
//! Holds: no panic; nothing leaves but whole packets from the service to a client; limits; in the end all is forgotten.

use crate::source::Source;
use crate::wire::{self, Build, Client};
use imds_interceptor::attribution::{Attributed, Unattributable};
use imds_interceptor::netstack::{Entry, FourTuple, Netstack, Wire};
use imds_ipc::Subject;
use imds_settings::Settings;
use std::time::{Duration, Instant};

/// Ports of the clients, of both families: port 3's owner is not to be found.
const PORTS: u8 = 4;
const CONNECTIONS: u32 = 6;
/// One packet is at most a tun's MTU long and a step has at most this many bytes of payload.
const PAYLOAD: usize = 1400;
/// What a program may do: each step costs some microseconds.
const STEPS: usize = 200;

pub fn run(data: &[u8]) {
    let mut world = World::new();
    let mut source = Source::new(data);
    for _ in 0..STEPS {
        if source.is_empty() {
            break;
        }
        world.step(&mut source);
    }
    world.end();
}

#[derive(Default)]
struct Tray(Vec<Vec<u8>>);

impl Wire for Tray {
    fn send(&mut self, packet: &[u8]) {
        self.0.push(packet.to_vec());
    }
}

struct World {
    stack: Netstack<()>,
    now: Instant,
    tray: Tray,
    clients: Vec<Client>,
    mtu: usize,
}

impl World {
    fn new() -> Self {
        let mut settings = Settings::default();
        settings.limits.connections = CONNECTIONS;
        settings.limits.connections_per_uid = 1;
        let now = Instant::now();
        let clients = (0..PORTS).flat_map(|port| [false, true].map(|v6| Client::new(port, v6))).collect();
        Self {
            stack: Netstack::new(&settings, now),
            now,
            tray: Tray::default(),
            clients,
            mtu: settings.capture.mtu.into(),
        }
    }

    fn step(&mut self, source: &mut Source<'_>) {
        match source.u8() % 8 {
            0 => {
                let length = source.u16();
                let packet = source.piece(usize::from(length));
                self.packet(packet);
            }
            1 => self.owner(source),
            2 => {
                let wait = Duration::from_millis(u64::from(source.u16()));
                self.now += wait;
                self.stack.touch_due(self.now);
                self.settle();
            }
            3 => {
                let (client, mut build) = self.build(source);
                build.options = source.piece(40).to_vec();
                build.window = source.u16();
                self.segment(client, &build);
            }
            4 => {
                let (client, build) = self.build(source);
                let mut packet = self.clients[client].packet(&build);
                for _ in 0..source.u8() % 4 {
                    let (at, value) = (source.u8(), source.u8());
                    if let Some(byte) = packet.get_mut(usize::from(at)) {
                        *byte = value;
                    }
                }
                packet.truncate(packet.len().saturating_sub(usize::from(source.u8())));
                self.packet(&packet);
            }
            _ => {
                let (client, build) = self.build(source);
                self.segment(client, &build);
            }
        }
        self.check();
    }

    /// A segment that fits the connection, but for what the bytes change.
    fn build(&self, source: &mut Source<'_>) -> (usize, Build) {
        let client = usize::from(source.u8()) % self.clients.len();
        let (flags, what) = (source.u8(), source.u8());
        let mut build = self.clients[client].next(flags);
        if what & 1 != 0 {
            build.sequence = build.sequence.wrapping_add_signed(i32::from(source.u8().cast_signed()));
        }
        if what & 2 != 0 {
            build.acknowledgement =
                build.acknowledgement.wrapping_add_signed(i32::from(source.u8().cast_signed()));
        }
        if what & 4 != 0 {
            build.sequence = source.u32();
        }
        if what & 8 != 0 {
            build.acknowledgement = source.u32();
        }
        if what & 16 != 0 {
            build.payload = usize::from(source.u16()) % PAYLOAD;
        }
        if what & 32 != 0 {
            build.window = source.u16();
        }
        (client, build)
    }

    fn segment(&mut self, client: usize, build: &Build) {
        let packet = self.clients[client].packet(build);
        self.packet(&packet);
    }

    fn packet(&mut self, packet: &[u8]) {
        let entry = self.stack.packet(packet, self.now, &mut self.tray, &mut owner_of);
        assert_ne!(entry, Entry::Panicked);
        self.settle();
    }

    /// What the owner of the connections does: takes bytes, gives bytes, ends them.
    fn owner(&mut self, source: &mut Source<'_>) {
        let (what, take, put) = (source.u8(), source.u16(), source.u16());
        let keys: Vec<usize> = self.stack.iter().map(|(key, _)| key).collect();
        for key in keys.into_iter().skip(usize::from(what >> 5)) {
            let done = self.stack.with(key, |connection| {
                let tcp = &mut connection.tcp;
                if what & 1 != 0 && tcp.has_bytes() {
                    tcp.take(|bytes| (bytes.len().min(take.into()), ()));
                }
                if what & 2 != 0 && tcp.has_room() {
                    tcp.put(|room| (room.len().min(put.into()), ()));
                }
                if what & 4 != 0 {
                    tcp.finish();
                }
                if what & 24 == 24 {
                    tcp.reset();
                }
            });
            assert!(done.is_some());
            self.stack.touch(key);
        }
        self.settle();
    }

    fn settle(&mut self) {
        let mut keys = Vec::new();
        self.stack.take_touched(&mut keys);
        for key in keys {
            self.stack.settle(key, self.now, None, &mut self.tray);
        }
        self.bury();
    }

    fn bury(&mut self) {
        while self.stack.take_gone().is_some() {}
    }

    /// What has left, and what is held.
    fn check(&mut self) {
        for packet in std::mem::take(&mut self.tray.0) {
            assert!(packet.len() <= self.mtu, "{} bytes", packet.len());
            let read = wire::read(&packet);
            let to = self.clients.iter_mut().find(|client| client.is(read.to, read.from));
            // a packet of arbitrary bytes may have come from anybody; what answers it is a reset
            match to {
                Some(client) => client.hear(&read),
                None => assert!(read.resets() || wire::is_service(read.from), "to {}", read.to),
            }
            assert!(wire::is_service_ip(read.from.ip()), "from {}", read.from);
        }
        assert!(!self.stack.is_empty() || self.stack.next_timer().is_none(), "a timer of nobody's");
        assert!(self.stack.len() <= usize::try_from(CONNECTIONS).unwrap_or(0));
        for client in 0..u32::from(PORTS) {
            let held = self.stack.iter().filter(|(_, connection)| connection.uid() == Some(client)).count();
            assert!(held <= 2, "uid {client} holds {held}");
        }
    }

    /// Nobody says anything any more: every connection ends by itself, and its timer with it. Then there is room again
    /// for as many as at first.
    fn end(&mut self) {
        self.fall_silent();
        for client in 0..2 * (usize::from(PORTS) - 1) {
            for flags in [wire::SYN, wire::ACK] {
                let packet = self.clients[client].packet(&self.clients[client].next(flags));
                let entry = self.stack.packet(&packet, self.now, &mut self.tray, &mut owner_of);
                assert_eq!(entry, Entry::Taken, "client {client}");
                self.settle();
                self.check();
            }
        }
        self.fall_silent();
    }

    fn fall_silent(&mut self) {
        for _ in 0..10_000 {
            let Some(next) = self.stack.next_timer() else { break };
            self.now = self.now.max(next);
            self.stack.touch_due(self.now);
            self.settle();
            self.check();
        }
        assert_eq!(self.stack.next_timer(), None, "a timer is left");
        assert!(self.stack.is_empty(), "{} connections are left", self.stack.len());
    }
}

fn owner_of(four_tuple: &FourTuple) -> Result<Attributed, Unattributable> {
    match four_tuple.client.port() % u16::from(PORTS) {
        3 => Err(Unattributable::NoSocket),
        uid => Ok(Attributed { subject: Ok(Subject::of_uid(uid.into())), cookie: uid.into() }),
    }
}
