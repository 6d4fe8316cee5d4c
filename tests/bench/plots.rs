//! The charts of a report. Those whose part was not measured are not made.
//! Changes no number.

use crate::plot::{Axis, BLUE, GREY, Line, ORANGE, Plot, Scale};
use crate::report::{Figures, Measured, Open, Report, Spread};
use std::fs;
use std::io;
use std::path::Path;

const MICROSECONDS: &str = "microseconds";

/// Writes each as a file of its own. Returns their names and titles.
///
/// # Errors
/// When one cannot be written.
pub(crate) fn write(report: &Report, directory: &Path) -> io::Result<Vec<(&'static str, &'static str)>> {
    let plots = [
        ("latency.svg", latency(report)),
        ("open.svg", open(report)),
        ("memory.svg", memory(report)),
        ("rules.svg", rules(report)),
        ("processes.svg", processes(report)),
    ];
    let mut written = Vec::new();
    for (name, plot) in plots {
        if plot.lines.iter().all(|line| line.points.is_empty()) {
            continue;
        }
        fs::write(directory.join(name), plot.svg().map_err(io::Error::other)?)?;
        written.push((name, plot.title));
    }
    Ok(written)
}

#[expect(clippy::cast_precision_loss, reason = "what is counted is far below 2^52")]
fn count(number: usize) -> f64 {
    number as f64
}

fn line(name: &str, colour: &'static str, dashed: bool, points: Vec<(f64, Spread)>) -> Line {
    Line { name: name.into(), colour, dashed, points }
}

fn latency(report: &Report) -> Plot {
    let of = |name: &str, colour, figures: fn(&Measured) -> &Figures| {
        let share = |share: &str, dashed, spread: fn(&Figures) -> Spread| {
            let points =
                report.ladder.iter().filter_map(|row| Some((f64::from(row.pace?), spread(figures(row)))));
            line(&format!("{name} {share}"), colour, dashed, points.collect())
        };
        [share("p50", false, |figures| figures.p50_us), share("p99", true, |figures| figures.p99_us)]
    };
    let lines = [
        of("direct", GREY, |row| &row.direct),
        of("nginx", ORANGE, |row| &row.nginx),
        of("imds-filterd", BLUE, |row| &row.filterd),
    ];
    Plot {
        title: "Latency of a request on a new connection, against load",
        x: Axis { title: "requests begun each second, by 32 clients", scale: Scale::Decades },
        y: Axis { title: MICROSECONDS, scale: Scale::Decades },
        lines: lines.into_iter().flatten().collect(),
    }
}

/// By who serves; without the row of no connections, which has no place on an axis of powers of ten.
fn against_open(report: &Report, value: impl Fn(&Open) -> Spread, what: &str, dashed: bool) -> Vec<Line> {
    let variants = [("nginx", ORANGE), ("imds-filterd", BLUE)];
    let line_of = |(variant, colour): (&str, &'static str)| {
        let rows = report.open_connections.iter();
        let own = rows.filter(|row| row.variant == variant && row.connections > 0);
        let name = if what.is_empty() { variant.to_owned() } else { format!("{variant}: {what}") };
        line(&name, colour, dashed, own.map(|row| (count(row.connections), value(row))).collect())
    };
    variants.map(line_of).into()
}

fn open(report: &Report) -> Plot {
    let mut lines = against_open(report, |row| row.processor_us, "processor time", false);
    lines.extend(against_open(report, |row| row.p50_us, "median latency", true));
    Plot {
        title: "What a request costs while connections are open",
        x: Axis { title: "open, idle connections", scale: Scale::Decades },
        y: Axis { title: MICROSECONDS, scale: Scale::Linear },
        lines,
    }
}

fn memory(report: &Report) -> Plot {
    #[expect(clippy::cast_precision_loss, reason = "memory sizes are far below 2^52")]
    let mib = |row: &Open| {
        let mib = row.resident_bytes as f64 / 1_048_576.0;
        Spread { median: mib, least: mib, most: mib }
    };
    Plot {
        title: "Resident memory, all processes together",
        x: Axis { title: "open, idle connections", scale: Scale::Decades },
        y: Axis { title: "MiB", scale: Scale::Decades },
        lines: against_open(report, mib, "", false),
    }
}

fn rules(report: &Report) -> Plot {
    let of = |value: fn(&crate::report::Ruled) -> Spread| {
        report.rules.iter().map(|row| (count(row.rules), value(row))).collect()
    };
    Plot {
        title: "What a request costs, against rules",
        x: Axis { title: "rules", scale: Scale::Decades },
        y: Axis { title: MICROSECONDS, scale: Scale::Linear },
        lines: vec![
            line("processor time", BLUE, false, of(|row| row.processor_us)),
            line("median latency", BLUE, true, of(|row| row.p50_us)),
            line("verdict alone", ORANGE, false, of(|row| row.verdict_ns.each(|ns| ns / 1000.0))),
        ],
    }
}

fn processes(report: &Report) -> Plot {
    let of = |value: fn(&crate::report::Crowded) -> Spread| {
        report.crowded.iter().map(|row| (count(row.processes), value(row))).collect()
    };
    Plot {
        title: "What a request costs, against running processes",
        x: Axis { title: "other processes on the host", scale: Scale::Decades },
        y: Axis { title: MICROSECONDS, scale: Scale::Linear },
        lines: vec![
            line("processor time", BLUE, false, of(|row| row.processor_us)),
            line("median latency", BLUE, true, of(|row| row.p50_us)),
        ],
    }
}
