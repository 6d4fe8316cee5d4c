//! The order of measuring, inside of the lab: rounds, in each every variant in turn, on each every load; then the parts
//! that are imds-filterd's alone.
//! Judges nothing.

use crate::load::{self, Kind, Load, Outcome};
use crate::part::Part;
use crate::process;
use crate::report::{Crowded, Measured, Open, Report, Sample, Samples, Spread, percentile_us};
use crate::variant::{Up, Variant, run};
use crate::{changed, crowd, idle, traffic};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::process::Command;

/// Bounded by number, so that a slow variant is not given less to do. About a second each.
const LOADS: [Load; 13] = [
    Load { kind: Kind::New, clients: 1, requests: 1500, pace: None },
    Load { kind: Kind::New, clients: 8, requests: 4000, pace: None },
    Load { kind: Kind::New, clients: 64, requests: 4000, pace: None },
    Load { kind: Kind::New, clients: 100, requests: 4000, pace: None },
    // twice what an instance's link-local services take: how long one waits when there is no queue
    Load { kind: Kind::New, clients: 100, requests: 2000, pace: Some(2000) },
    Load { kind: Kind::Closed, clients: 1, requests: 1500, pace: None },
    Load { kind: Kind::Closed, clients: 8, requests: 4000, pace: None },
    Load { kind: Kind::Keep, clients: 1, requests: 2000, pace: None },
    Load { kind: Kind::Keep, clients: 8, requests: 6000, pace: None },
    Load { kind: Kind::Keep, clients: 64, requests: 6000, pace: None },
    Load { kind: Kind::Pair, clients: 1, requests: 750, pace: None },
    Load { kind: Kind::Pair, clients: 8, requests: 1500, pace: None },
    Load { kind: Kind::Pair, clients: 64, requests: 1500, pace: None },
];
/// Open loads: requests come at their pace, however long the others take. Three quarters of a second each.
const LADDER: [Load; 6] = [
    ladder(250, 200),
    ladder(500, 375),
    ladder(1000, 750),
    ladder(2000, 1500),
    ladder(4000, 3000),
    ladder(8000, 6000),
];

const fn ladder(pace: u32, requests: usize) -> Load {
    Load { kind: Kind::New, clients: 32, requests, pace: Some(pace) }
}

/// What is slow once (page faults, caches, first allocations) is not measured.
pub(crate) const WARM_UP: Load = Load { kind: Kind::New, clients: 8, requests: 400, pace: None };
/// Connections held open while others are made.
const OPEN: [usize; 5] = [0, 10, 100, 1_000, 10_000];
pub(crate) const WHILE_OPEN: Load = Load { kind: Kind::New, clients: 1, requests: 1000, pace: None };
/// With each number of them.
const SAMPLES: usize = 5;
/// Ours and, inherited, those of the daemons: two for each of the most open connections.
const DESCRIPTORS: u64 = 65_536;

/// # Errors
/// When a variant cannot be put up or taken down.
pub(crate) fn measure(rounds: usize, nginx: &OsStr, parts: &[Part]) -> io::Result<Report> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = Some(maximum.map_or(DESCRIPTORS, |most| most.min(DESCRIPTORS)));
    setrlimit(Resource::Nofile, Rlimit { current, maximum })?;
    run(Command::new("sh").args(["-c", WIDEN]))?;
    run(Command::new("imds-lab").args(["in", "cloud", "--", "sh", "-c", WIDEN]))?;
    let mut faults = Faults::default();
    let mut report = Report {
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        processors: std::thread::available_parallelism()?.get(),
        load_average: fs::read_to_string("/proc/loadavg")?.trim().to_owned(),
        stolen: None,
        rounds,
        loads: Vec::new(),
        ladder: Vec::new(),
        limits: None,
        open_connections: Vec::new(),
        crowded: Vec::new(),
        rules: Vec::new(),
        traffic: Vec::new(),
        idle: None,
        program_bytes: 0,
        failed: 0,
        first_error: None,
    };
    side_by_side(rounds, nginx, parts, &mut faults, &mut report)?;
    for part in parts {
        match part {
            Part::Rows | Part::Ladder => {} // above: in the same rounds
            Part::Limits => report.limits = changed::limits(rounds, nginx, &mut faults)?,
            Part::Open => report.open_connections = open_connections(nginx, &mut faults)?,
            Part::Rules => report.rules = changed::rules(nginx, &mut faults)?,
            Part::Processes => report.crowded = crowded(nginx, &mut faults)?,
            Part::Traffic => report.traffic = traffic::measure(rounds, nginx)?,
            Part::Idle => report.idle = Some(idle::measure(nginx)?),
        }
    }
    report.stolen = Spread::of(faults.stolen);
    (report.failed, report.first_error) = (faults.failed, faults.first);
    Ok(report)
}

fn side_by_side(
    rounds: usize,
    nginx: &OsStr,
    parts: &[Part],
    faults: &mut Faults,
    report: &mut Report,
) -> io::Result<()> {
    let rows: &[Load] = if parts.contains(&Part::Rows) { &LOADS } else { &[] };
    let ladder: &[Load] = if parts.contains(&Part::Ladder) { &LADDER } else { &[] };
    let loads = [rows, ladder].concat();
    if loads.is_empty() {
        return Ok(());
    }
    let mut samples: Vec<Samples> = loads.iter().map(|_| Samples::default()).collect();
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        let taken = take_round(round, nginx, &loads, faults)?;
        for (all, new) in samples.iter_mut().zip(taken) {
            all.0.push(new);
        }
    }
    let mut measured: Vec<Measured> =
        loads.iter().zip(&samples).filter_map(|(load, samples)| samples.measured(load)).collect();
    report.ladder = measured.split_off(rows.len().min(measured.len()));
    report.loads = measured;
    Ok(())
}

/// Ports enough for all connections of a run, in both namespaces.
const WIDEN: &str = "echo 10000 65535 >/proc/sys/net/ipv4/ip_local_port_range
    echo 1 >/proc/sys/net/ipv4/tcp_tw_reuse
    echo 4096 >/proc/sys/net/core/somaxconn";

/// Of the processors' time; above it a sample says more of the hypervisor's other guests than of us.
pub(crate) const STOLEN: f64 = 0.05;
/// Such a sample is taken again, so often at most, whatever it says otherwise; the least disturbed one counts.
const TAKES: usize = 4;

#[derive(Default)]
pub(crate) struct Faults {
    /// In the samples that count.
    stolen: Vec<f64>,
    failed: usize,
    first: Option<String>,
}

impl Faults {
    pub(crate) fn note(&mut self, variant: Variant, load: &Load, outcome: &Outcome) {
        self.failed += outcome.failed;
        if let Some(error) = &outcome.first_error {
            let what = format!(
                "{}, {}, {} at a time: {} of {} failed: {error}",
                variant.name(),
                load.kind.name(),
                load.clients,
                outcome.failed,
                load.requests
            );
            eprintln!("{what}");
            self.first.get_or_insert(what);
        }
    }
}

/// Each variant is first in one round of three, so that none always follows the same one.
fn take_round(
    round: usize,
    nginx: &OsStr,
    loads: &[Load],
    faults: &mut Faults,
) -> io::Result<Vec<[Sample; 3]>> {
    let mut columns = Variant::ALL.map(|_| Vec::new());
    for turn in 0..Variant::ALL.len() {
        let at = (round + turn) % Variant::ALL.len();
        let (Some(variant), Some(column)) = (Variant::ALL.get(at), columns.get_mut(at)) else { continue };
        let up = variant.put_up(nginx)?;
        faults.note(*variant, &WARM_UP, &load::run(&WARM_UP));
        for load in loads {
            column.push(sample(*variant, &up, load, faults)?);
        }
        up.take_down()?;
    }
    let [direct, nginx, filterd] = columns;
    Ok(direct.into_iter().zip(nginx).zip(filterd).map(|((d, n), f)| [d, n, f]).collect())
}

pub(crate) fn sample(variant: Variant, up: &Up, load: &Load, faults: &mut Faults) -> io::Result<Sample> {
    let (mut sample, mut stolen) = take(variant, up, load, faults)?;
    for _ in 1..TAKES {
        if stolen <= STOLEN {
            break;
        }
        let another = take(variant, up, load, faults)?;
        if another.1 < stolen {
            (sample, stolen) = another;
        }
    }
    faults.stolen.push(stolen);
    Ok(sample)
}

/// With the part of the processors' time that was stolen meanwhile.
#[expect(clippy::cast_precision_loss, reason = "numbers of requests are far below 2^52")]
fn take(variant: Variant, up: &Up, load: &Load, faults: &mut Faults) -> io::Result<(Sample, f64)> {
    let pids = up.pids()?;
    let (before, ticks) = (process::used(&pids)?, process::ticks()?);
    let outcome = load::run(load);
    let used = process::used(&pids)?.since(before);
    let stolen = process::ticks()?.stolen_since(ticks);
    faults.note(variant, load, &outcome);
    let served = outcome.latencies.len() as f64;
    let percentile = |share| {
        let nothing = || io::Error::other(format!("{}: no request was answered", variant.name()));
        percentile_us(&outcome.latencies, share).ok_or_else(nothing)
    };
    let sample = Sample {
        rate: served / outcome.elapsed.as_secs_f64(),
        p50_us: percentile(50)?,
        p99_us: percentile(99)?,
        processor_us: used.processor.as_secs_f64() * 1e6 / served,
        switches: used.switches as f64 / served,
    };
    Ok((sample, stolen))
}

fn open_connections(nginx: &OsStr, faults: &mut Faults) -> io::Result<Vec<Open>> {
    let mut rows = Vec::new();
    for variant in [Variant::Nginx, Variant::Filterd] {
        eprintln!("open connections: {}", variant.name());
        let up = variant.put_up(nginx)?;
        let pids = up.pids()?;
        let idle = process::resident(&pids)?;
        let mut open = Vec::new();
        for wanted in OPEN {
            open.extend(load::idle_connections(wanted.saturating_sub(open.len()))?);
            let resident = process::resident(&pids)?;
            let mut taken = Vec::new();
            for _ in 0..SAMPLES {
                taken.push(sample(variant, &up, &WHILE_OPEN, faults)?);
            }
            let spread = |value: fn(&Sample) -> f64| Spread::of(taken.iter().map(value).collect());
            let nothing = || io::Error::other("no sample was taken");
            let each =
                u64::try_from(open.len()).ok().and_then(|n| resident.saturating_sub(idle).checked_div(n));
            rows.push(Open {
                variant: variant.name().into(),
                connections: open.len(),
                resident_bytes: resident,
                bytes_a_connection: each,
                p50_us: spread(|sample| sample.p50_us).ok_or_else(nothing)?,
                processor_us: spread(|sample| sample.processor_us).ok_or_else(nothing)?,
            });
        }
        drop(open);
        up.take_down()?;
    }
    Ok(rows)
}

fn crowded(nginx: &OsStr, faults: &mut Faults) -> io::Result<Vec<Crowded>> {
    let up = Variant::Filterd.put_up(nginx)?;
    faults.note(Variant::Filterd, &WARM_UP, &load::run(&WARM_UP));
    let rows = crowd::measure(|| sample(Variant::Filterd, &up, &WHILE_OPEN, faults))?;
    up.take_down()?;
    Ok(rows)
}
