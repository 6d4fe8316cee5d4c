//! imds-soak: clients ask at a steady pace while filterd is killed and restarted and rules are reloaded, and while interceptor
//! is restarted. Runs inside a lab, as root; says what was lost.
//! Must not try a failed request again, nor call a late one in time.

#![forbid(unsafe_code)]

mod client;
mod crowd;
mod trouble;

use clap::{Parser, Subcommand};
use client::Done;
use crowd::{Crowd, Manner};
use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use trouble::{Counts, trouble};

/// Each client asks so often: eight make 200 requests a second.
const PACE: Duration = Duration::from_millis(40);
const CLIENTS_OF_EACH: u32 = 4;
const FLOODS: Duration = Duration::from_secs(3);
/// Interceptor holds a client for 800 ms. One who waited so long in vain was not lost, if the machine did not let a filterd
/// come for as long.
const HELD: Duration = Duration::from_millis(750);

#[derive(Debug, Parser)]
#[command(name = "imds-soak", version)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Lets it all happen
    Run {
        /// kill -9 of filterd
        #[arg(long, default_value_t = 100)]
        kills: u32,
        /// imdsctl reload
        #[arg(long, default_value_t = 100)]
        reloads: u32,
        /// Clean restarts of filterd
        #[arg(long, default_value_t = 100)]
        restarts: u32,
        /// Go on until so many requests were made
        #[arg(long, default_value_t = 10_000)]
        requests: u32,
        /// The worst request may take so long
        #[arg(long, value_name = "MILLISECONDS")]
        worst: Option<u64>,
    },
    /// One user's clients, until standard input ends
    #[command(hide = true)]
    Crowd {
        #[arg(long)]
        manner: Manner,
        #[arg(long)]
        clients: u32,
        #[arg(long)]
        pace: u64,
        /// Requests of each client
        #[arg(long)]
        least: u32,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().what {
        What::Crowd { manner, clients, pace, least } => {
            crowd::be(manner, clients, Duration::from_millis(pace), least);
            Ok(true)
        }
        What::Run { kills, reloads, restarts, requests, worst } => {
            soak(Counts { kills, reloads, restarts }, requests, worst.map(Duration::from_millis))
                .and_then(|good| Ok(flooded()? && good))
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("imds-soak: {error}");
            ExitCode::from(71)
        }
    }
}

fn soak(counts: Counts, least: u32, worst: Option<Duration>) -> io::Result<bool> {
    let begun = Instant::now();
    let least_of_each = least.div_ceil(2 * CLIENTS_OF_EACH);
    let gather = |user| Crowd::gather(user, "mixed", CLIENTS_OF_EACH, PACE, least_of_each);
    let crowds = [gather("alice")?, gather("bob")?];
    let mut absences = trouble(counts)?;
    let mut all = Done::default();
    for crowd in crowds {
        all.add(crowd.done()?);
    }
    let made = all.latencies.len() + all.failures.len();
    let took = begun.elapsed();
    println!(
        "{made} requests in {:.1} s, {} kills, {} reloads, {} restarts: {} failed; {}",
        took.as_secs_f64(),
        counts.kills,
        counts.reloads,
        counts.restarts,
        all.failures.len(),
        spread(&mut all.latencies),
    );
    for failure in all.failures.iter().take(20) {
        println!("{failure}");
    }
    println!("from the start of a filterd until it serves: {}", spread(&mut absences.starts));
    let lost =
        all.failures.iter().filter(|failure| failure.after < HELD || absences.by_the_machine < HELD).count();
    if lost < all.failures.len() {
        println!(
            "the machine kept filterd away for {:?}: longer than anybody may be held",
            absences.by_the_machine
        );
    }
    let slowest = all.latencies.last().copied().map(Duration::from_micros);
    Ok(lost == 0 && slowest.is_some_and(|slowest| worst.is_none_or(|worst| slowest < worst)))
}

/// Sorts, and says how the times lie.
fn spread(latencies: &mut [u64]) -> String {
    latencies.sort_unstable();
    let at = |percent: usize| {
        let place = latencies.len().saturating_sub(1) * percent / 100;
        latencies.get(place).map_or(0.0, |micros| Duration::from_micros(*micros).as_secs_f64() * 1000.0)
    };
    format!("median {:.2} ms, p99 {:.1} ms, worst {:.1} ms", at(50), at(99), at(100))
}

/// What a flood by another user, who is allowed nothing, costs an honest one: measured, and nothing of it may fail.
fn flooded() -> io::Result<bool> {
    let mut good = true;
    for flood in [false, true] {
        let flooder = flood.then(|| Crowd::gather("mallory", "flood", 4, PACE, 0)).transpose()?;
        let honest = Crowd::gather("alice", "new", 2, PACE, 0)?;
        client::wait_until(Instant::now() + FLOODS);
        let mut done = honest.done()?;
        if let Some(flooder) = flooder {
            flooder.done()?;
        }
        let what = if flood { "while another user floods" } else { "with nobody else" };
        println!("{what}: {} failed; {}", done.failures.len(), spread(&mut done.latencies));
        for failure in done.failures.iter().take(5) {
            println!("{failure}");
        }
        good &= done.failures.is_empty();
    }
    Ok(good)
}
