//! The report for people: what was measured, and beside it what design section 11 asks for.
//! Changes no number.

use crate::plot::number;
use crate::report::{Measured, Report, Spread};
use crate::rounds::STOLEN;
use std::fmt::{self, Write};

/// # Errors
/// Never: a String takes everything.
pub(crate) fn render(report: &Report) -> Result<String, fmt::Error> {
    let mut out = String::new();
    writeln!(
        out,
        "{} rounds, {} processors, Linux {}, load average before: {}, stolen by the hypervisor: {}\n",
        report.rounds,
        report.processors,
        report.kernel,
        report.load_average,
        stolen(report)
    )?;
    if !alone(report) {
        writeln!(out, "OTHERS used the processors too: believe ratios within a round at most\n")?;
    }
    if !report.loads.is_empty() {
        rates(&mut out, report)?;
        latencies(&mut out, &report.loads)?;
        costs(&mut out, report)?;
    }
    if !report.ladder.is_empty() {
        latencies(&mut out, &report.ladder)?;
    }
    limits(&mut out, report)?;
    open(&mut out, report)?;
    rules(&mut out, report)?;
    crowded(&mut out, report)?;
    traffic(&mut out, report)?;
    budget(&mut out, report)?;
    if let Some(error) = &report.first_error {
        writeln!(out, "\n{} requests FAILED, so this run says nothing. The first: {error}", report.failed)?;
    }
    Ok(out)
}

/// Nobody else used the processors.
pub(crate) fn alone(report: &Report) -> bool {
    let others = report.load_average.split(' ').next().and_then(|word| word.parse().ok());
    others.is_some_and(|average: f64| average <= 0.5)
        && report.stolen.is_none_or(|stolen| stolen.median <= STOLEN)
}

/// Median and most of the samples.
pub(crate) fn stolen(report: &Report) -> String {
    report.stolen.map_or("unknown".into(), |stolen| {
        format!("{:.0} % of their time (at most {:.0} %)", 100.0 * stolen.median, 100.0 * stolen.most)
    })
}

fn rates(out: &mut String, report: &Report) -> fmt::Result {
    writeln!(out, "a second: median (least - most)")?;
    let columns = ["direct", "nginx", "imds-filterd", "imds-filterd / nginx"];
    let [direct, nginx, filterd, ratio] = columns;
    writeln!(out, "{:<20}{:>5} {direct:>23} {nginx:>23} {filterd:>23} {ratio:>21}", "", "at a")?;
    for row in &report.loads {
        let rate = |spread: Spread| whole(spread, "");
        writeln!(
            out,
            "{:<20}{:>5} {:>23} {:>23} {:>23} {:>21}",
            name(row),
            row.clients,
            rate(row.direct.rate),
            rate(row.nginx.rate),
            rate(row.filterd.rate),
            hundredths(row.ratio)
        )?;
    }
    Ok(())
}

fn latencies(out: &mut String, rows: &[Measured]) -> fmt::Result {
    writeln!(out, "\nlatency, microseconds: p50 / p99")?;
    for row in rows {
        let both = |p50: Spread, p99: Spread| format!("{:.0} / {:.0}", p50.median, p99.median);
        writeln!(
            out,
            "{:<20}{:>5} {:>23} {:>23} {:>23}",
            name(row),
            row.clients,
            both(row.direct.p50_us, row.direct.p99_us),
            both(row.nginx.p50_us, row.nginx.p99_us),
            both(row.filterd.p50_us, row.filterd.p99_us)
        )?;
    }
    Ok(())
}

fn costs(out: &mut String, report: &Report) -> fmt::Result {
    writeln!(out, "\nprocessor time for a request, microseconds; context switches for a request")?;
    for row in &report.loads {
        let (nginx, filterd) = (&row.nginx, &row.filterd);
        writeln!(
            out,
            "{:<20}{:>5} {:>23} {:>16.1}; {:>4.1} {:>16.1}; {:>4.1} {:>22}",
            name(row),
            row.clients,
            "",
            nginx.processor_us.median,
            nginx.switches.median,
            filterd.processor_us.median,
            filterd.switches.median,
            hundredths(row.processor_ratio)
        )?;
    }
    Ok(())
}

fn open(out: &mut String, report: &Report) -> fmt::Result {
    if report.open_connections.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "\nopen connections: resident memory, KiB a connection; a request meanwhile, microseconds: p50, processor"
    )?;
    for row in &report.open_connections {
        let each = row.bytes_a_connection.map_or(String::new(), kib);
        writeln!(
            out,
            "{:<16}{:>6} {:>9} KiB {each:>9} {:>8.0} {:>8.1}",
            row.variant,
            row.connections,
            kib(row.resident_bytes),
            row.p50_us.median,
            row.processor_us.median
        )?;
    }
    Ok(())
}

fn crowded(out: &mut String, report: &Report) -> fmt::Result {
    if report.crowded.is_empty() {
        return Ok(());
    }
    writeln!(out, "\nimds-filterd while other processes run: a request, microseconds: p50, processor")?;
    for row in &report.crowded {
        let (p50, processor) = (row.p50_us.median, row.processor_us.median);
        writeln!(out, "{:<16}{:>6} {p50:>23.0} {processor:>8.1}", "", row.processes)?;
    }
    Ok(())
}

fn limits(out: &mut String, report: &Report) -> fmt::Result {
    let Some(limited) = &report.limits else { return Ok(()) };
    writeln!(out, "\nlimits that are on and not reached, 8 at a time, to off: rate; processor time")?;
    writeln!(out, "{:<22} {}; {}", "", hundredths(limited.rate_ratio), hundredths(limited.processor_ratio))
}

fn rules(out: &mut String, report: &Report) -> fmt::Result {
    if report.rules.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "\nimds-filterd by so many rules: a request, microseconds: p50, processor; a verdict, nanoseconds"
    )?;
    for row in &report.rules {
        let (p50, processor) = (row.p50_us.median, row.processor_us.median);
        writeln!(
            out,
            "{:<16}{:>6} {p50:>23.0} {processor:>8.1} {:>8.0}",
            "", row.rules, row.verdict_ns.median
        )?;
    }
    Ok(())
}

fn traffic(out: &mut String, report: &Report) -> fmt::Result {
    if report.traffic.is_empty() {
        return Ok(());
    }
    writeln!(out, "\ntraffic of others: without the daemons; with them by either guard, to without")?;
    for row in &report.traffic {
        writeln!(
            out,
            "{:<30} {:>12} {:<15} xfrm {}   nftables {}",
            row.what,
            number(row.without.median),
            row.unit,
            hundredths(row.xfrm_ratio),
            hundredths(row.nftables_ratio)
        )?;
    }
    Ok(())
}

fn budget(out: &mut String, report: &Report) -> fmt::Result {
    writeln!(out, "\nbudget")?;
    for bar in bars(report) {
        let judged = if bar.reached { "reached" } else { "MISSED" };
        writeln!(out, "{judged:<8} {}: {} ({})", bar.what, bar.measured, bar.aim)?;
    }
    Ok(())
}

/// A line of the budget.
pub(crate) struct Bar {
    pub(crate) what: String,
    pub(crate) measured: String,
    pub(crate) aim: String,
    pub(crate) reached: bool,
}

fn at_least(what: impl Into<String>, value: f64, bar: f64, unit: &str) -> Bar {
    let aim = format!("at least {bar}{unit}");
    Bar { what: what.into(), measured: format!("{value:.2}{unit}"), aim, reached: value >= bar }
}

fn at_most(what: impl Into<String>, value: f64, bar: f64, unit: &str) -> Bar {
    let shown = if value >= 20.0 || value == 0.0 { format!("{value:.0}") } else { format!("{value:.2}") };
    let aim = format!("at most {}{unit}", number(bar));
    Bar { what: what.into(), measured: format!("{shown}{unit}"), aim, reached: value <= bar }
}

/// Design section 11, as far as it was measured.
pub(crate) fn bars(report: &Report) -> Vec<Bar> {
    let mut bars = Vec::new();
    loads(&mut bars, report);
    memory(&mut bars, report);
    growth(&mut bars, report);
    for row in report.traffic.iter().filter(|row| row.unit == "MB/s" || row.unit == "/s") {
        bars.push(at_least(format!("{} of others", row.what), row.xfrm_ratio.median, 0.99, " x without"));
    }
    if let Some(idle) = &report.idle {
        bars.push(at_most(
            format!("wake-ups in {:.0} idle seconds", idle.seconds),
            whole_number(idle.wake_ups),
            0.0,
            "",
        ));
    }
    if report.program_bytes > 0 {
        bars.push(at_most("both programs, stripped", mib(report.program_bytes), 8.0, " MiB"));
    }
    bars
}

fn loads(bars: &mut Vec<Bar>, report: &Report) {
    let row = |kind: &str, clients| {
        report.loads.iter().find(|row| row.kind == kind && row.clients == clients && row.pace.is_none())
    };
    for kind in ["new connection", "new, service closes", "keep-alive", "IMDSv2 pair"] {
        if let Some(Measured { ratio, .. }) = row(kind, 8) {
            bars.push(at_least(format!("{kind}, 8 at a time"), ratio.median, 1.0, " x nginx"));
        }
    }
    if let Some(one) = row("new connection", 1) {
        bars.push(at_most("added p50, one client", one.added_p50_us.median, 100.0, " us"));
        bars.push(at_most("added p99, one client", one.added_p99_us.median, 500.0, " us"));
    }
    for paced in report.loads.iter().filter(|row| row.pace.is_some()) {
        let what = format!("p99, {} clients, {}", paced.clients, name(paced));
        bars.push(at_most(what, paced.filterd.p99_us.median, 1000.0, " us"));
    }
    for kind in ["new connection", "new, service closes", "keep-alive"] {
        if let Some(Measured { processor_ratio, .. }) = row(kind, 8) {
            bars.push(at_most(format!("processor time, {kind}"), processor_ratio.median, 2.0, " x nginx"));
        }
    }
}

fn memory(bars: &mut Vec<Bar>, report: &Report) {
    let ours = |connections| {
        let rows = &report.open_connections;
        rows.iter().find(|row| row.variant == "imds-filterd" && row.connections == connections)
    };
    if let Some(idle) = ours(0) {
        bars.push(at_most("memory of both, idle", mib(idle.resident_bytes), 10.0, " MiB"));
    }
    if let (Some(few), Some(many)) = (ours(10), ours(10_000)) {
        let each = many.bytes_a_connection.map_or(f64::INFINITY, whole_number) / 1024.0;
        bars.push(at_most("memory for an open connection, at 10,000", each, 64.0, " KiB"));
        let ratio = many.processor_us.median / few.processor_us.median;
        bars.push(at_most("processor time, 10,000 open connections", ratio, 1.2, " x with 10"));
    }
}

fn growth(bars: &mut Vec<Bar>, report: &Report) {
    if let (Some(few), Some(many)) = (report.rules.first(), report.rules.last()) {
        let ratio = many.verdict_ns.median / few.verdict_ns.median;
        bars.push(at_most(
            format!("verdict, {} rules", number(count(many.rules))),
            ratio,
            1.2,
            &format!(" x with {}", few.rules),
        ));
        bars.push(at_most(
            format!("a verdict, {} rules", number(count(many.rules))),
            many.verdict_ns.median,
            1000.0,
            " ns",
        ));
    }
    if let (Some(few), Some(many)) = (report.crowded.first(), report.crowded.last()) {
        let ratio = many.processor_us.median / few.processor_us.median;
        let what = format!("processor time, {} processes", number(count(many.processes)));
        bars.push(at_most(what, ratio, 1.2, &format!(" x with {}", few.processes)));
    }
}

fn count(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::INFINITY, f64::from)
}

#[expect(clippy::cast_precision_loss, reason = "what is counted is far below 2^52")]
fn whole_number(number: u64) -> f64 {
    number as f64
}

fn mib(bytes: u64) -> f64 {
    whole_number(bytes) / 1_048_576.0
}

fn name(row: &Measured) -> String {
    row.pace.map_or_else(|| row.kind.clone(), |pace| format!("new, {pace} /s"))
}

fn kib(bytes: u64) -> String {
    (bytes / 1024).to_string()
}

fn whole(spread: Spread, unit: &str) -> String {
    format!("{:.0}{unit} ({:.0} - {:.0})", spread.median, spread.least, spread.most)
}

fn hundredths(spread: Spread) -> String {
    format!("{:.2} ({:.2} - {:.2})", spread.median, spread.least, spread.most)
}
