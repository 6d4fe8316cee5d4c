//! Clients of one user in a process that is this user: made, told to stop, asked what they did. And that process itself.
//! Must not know what happens to the daemons meanwhile.

use crate::client::{self, Done, Failure};
use std::io::{self, Read};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Connections of a flood, at most: a bound for a machine that is quick.
const FLOOD: usize = 20_000;

/// What the clients of a crowd do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Manner {
    /// Half of them on one connection each.
    Mixed,
    /// On connections of their own, all of them.
    New,
    /// Connects and leaves, as fast as it goes.
    Flood,
}

/// A process with clients, until it is asked.
pub(crate) struct Crowd(Child);

impl Crowd {
    pub(crate) fn gather(
        user: &str,
        manner: &str,
        clients: u32,
        pace: Duration,
        least: u32,
    ) -> io::Result<Self> {
        let mut command = Command::new("imds-lab");
        command.args(["as", user, "--", "imds-soak", "crowd", "--manner", manner]);
        command.args(["--clients", &clients.to_string(), "--pace", &pace.as_millis().to_string()]);
        command.args(["--least", &least.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map(Self)
    }

    /// Stops them.
    pub(crate) fn done(self) -> io::Result<Done> {
        let output = self.0.wait_with_output()?; // closes its standard input
        if !output.status.success() {
            return Err(io::Error::other(format!("a crowd ended: {}", output.status)));
        }
        Ok(Done::parse(&String::from_utf8_lossy(&output.stdout)))
    }
}

/// The process: goes on until its standard input ends, and each client has asked `least` times.
pub(crate) fn be(manner: Manner, clients: u32, pace: Duration, least: u32) {
    let stop = AtomicBool::new(false);
    let stop = &stop;
    let mut all = Done::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..clients)
            .map(|number| {
                scope.spawn(move || match manner {
                    // two of four keep theirs, one of each family
                    Manner::Mixed => client::ask_on(number, number % 4 < 2, pace, least, stop),
                    Manner::New => client::ask_on(number, false, pace, least, stop),
                    Manner::Flood => flood(stop),
                })
            })
            .collect();
        let _ = io::stdin().read_to_end(&mut Vec::new()); // an error is an end, too
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            all.add(thread.join().unwrap_or_else(|_| Done {
                latencies: Vec::new(),
                failures: vec![Failure { after: Duration::ZERO, what: "a client panicked".into() }],
            }));
        }
    });
    all.print();
}

fn flood(stop: &AtomicBool) -> Done {
    let address = ([169, 254, 169, 254], 80).into();
    let begun = Instant::now();
    let mut made = 0;
    while !stop.load(Ordering::Relaxed) && made < FLOOD {
        // whatever comes of it
        let _ = TcpStream::connect_timeout(&address, Duration::from_millis(50));
        made += 1;
    }
    eprintln!("flood: {made} connections in {:?}", begun.elapsed());
    Done::default()
}
