//! The report for people: what was measured, and beside it what design section 11 asks for.
//! Changes no number.

use crate::report::{Measured, Report, Spread};
use std::fmt::{self, Write};

/// # Errors
/// Never: a String takes everything.
pub(crate) fn render(report: &Report) -> Result<String, fmt::Error> {
    let mut out = String::new();
    writeln!(
        out,
        "{} rounds, {} processors, Linux {}, load average before: {}\n",
        report.rounds, report.processors, report.kernel, report.load_average
    )?;
    let others = report.load_average.split(' ').next().and_then(|word| word.parse().ok());
    if others.is_none_or(|average: f64| average > 0.5) {
        writeln!(out, "OTHERS used the processors too: believe ratios within a round at most\n")?;
    }
    rates(&mut out, report)?;
    latencies(&mut out, report)?;
    costs(&mut out, report)?;
    open(&mut out, report)?;
    crowded(&mut out, report)?;
    budget(&mut out, report)?;
    if let Some(error) = &report.first_error {
        writeln!(out, "\n{} requests FAILED, so this run says nothing. The first: {error}", report.failed)?;
    }
    Ok(out)
}

fn rates(out: &mut String, report: &Report) -> fmt::Result {
    writeln!(out, "a second: median (least - most)")?;
    let columns = ["direct", "nginx", "imds-filterd", "imds-filterd / nginx"];
    let [direct, nginx, filterd, ratio] = columns;
    writeln!(out, "{:<16}{:>5} {direct:>23} {nginx:>23} {filterd:>23} {ratio:>21}", "", "at a")?;
    for row in &report.loads {
        let rate = |spread: Spread| whole(spread, "");
        writeln!(
            out,
            "{:<16}{:>5} {:>23} {:>23} {:>23} {:>21}",
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

fn latencies(out: &mut String, report: &Report) -> fmt::Result {
    writeln!(out, "\nlatency, microseconds: p50 / p99")?;
    for row in &report.loads {
        let both = |p50: Spread, p99: Spread| format!("{:.0} / {:.0}", p50.median, p99.median);
        writeln!(
            out,
            "{:<16}{:>5} {:>23} {:>23} {:>23}",
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
            "{:<16}{:>5} {:>23} {:>16.1}; {:>4.1} {:>16.1}; {:>4.1} {:>22}",
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
            row.p50_us,
            row.processor_us
        )?;
    }
    Ok(())
}

fn crowded(out: &mut String, report: &Report) -> fmt::Result {
    writeln!(out, "\nimds-filterd while other processes run: a request, microseconds: p50, processor")?;
    for row in &report.crowded {
        let (p50, processor) = (row.p50_us.median, row.processor_us.median);
        writeln!(out, "{:<16}{:>6} {p50:>23.0} {processor:>8.1}", "", row.processes)?;
    }
    Ok(())
}

fn budget(out: &mut String, report: &Report) -> fmt::Result {
    writeln!(out, "\nbudget")?;
    let row = |kind: &str, clients| {
        report.loads.iter().find(|row| row.kind == kind && row.clients == clients && row.pace.is_none())
    };
    let at_least = |value: f64, bar: f64| if value >= bar { "reached" } else { "MISSED" };
    let at_most = |value: f64, bar: f64| if value <= bar { "reached" } else { "MISSED" };
    for kind in ["new connection", "keep-alive", "IMDSv2 pair"] {
        let Some(Measured { ratio, .. }) = row(kind, 8) else { continue };
        let judged = at_least(ratio.median, 1.0);
        writeln!(out, "{judged:<8} {kind}, 8 at a time: {:.2} x nginx (at least 1)", ratio.median)?;
    }
    if let Some(one) = row("new connection", 1) {
        let (p50, p99) = (one.added_p50_us.median, one.added_p99_us.median);
        writeln!(out, "{:<8} added p50, one client: {p50:.0} us (at most 100)", at_most(p50, 100.0))?;
        writeln!(out, "{:<8} added p99, one client: {p99:.0} us (at most 500)", at_most(p99, 500.0))?;
    }
    for paced in report.loads.iter().filter(|row| row.pace.is_some()) {
        let p99 = paced.filterd.p99_us.median;
        writeln!(
            out,
            "{:<8} p99, {} clients, {}: {p99:.0} us (at most 1000)",
            at_most(p99, 1000.0),
            paced.clients,
            name(paced)
        )?;
    }
    for kind in ["new connection", "keep-alive"] {
        let Some(Measured { processor_ratio, .. }) = row(kind, 8) else { continue };
        let ratio = processor_ratio.median;
        writeln!(out, "{:<8} processor time, {kind}: {ratio:.2} x nginx (at most 2)", at_most(ratio, 2.0))?;
    }
    if let (Some(few), Some(many)) = (report.crowded.first(), report.crowded.last()) {
        let ratio = many.processor_us.median / few.processor_us.median;
        writeln!(
            out,
            "{:<8} processor time with {} processes: {ratio:.2} x that with {} (at most 1.2)",
            at_most(ratio, 1.2),
            many.processes,
            few.processes
        )?;
    }
    memory(out, report)
}

#[expect(clippy::cast_precision_loss, reason = "memory sizes are far below 2^52")]
fn memory(out: &mut String, report: &Report) -> fmt::Result {
    let ours = |connections| {
        let rows = &report.open_connections;
        rows.iter().find(|row| row.variant == "imds-filterd" && row.connections == connections)
    };
    let judged = |reached| if reached { "reached" } else { "MISSED" };
    if let Some(idle) = ours(0) {
        let mib = idle.resident_bytes as f64 / 1_048_576.0;
        writeln!(out, "{:<8} memory idle: {mib:.1} MiB (at most 10)", judged(mib <= 10.0))?;
    }
    if let (Some(few), Some(many)) = (ours(10), ours(10_000)) {
        let bytes = many.bytes_a_connection.unwrap_or(u64::MAX);
        let text = kib(bytes);
        writeln!(
            out,
            "{:<8} memory for an open connection: {text} KiB (at most 64)",
            judged(bytes <= 65_536)
        )?;
        let ratio = many.processor_us / few.processor_us;
        writeln!(
            out,
            "{:<8} processor time with 10,000 open connections: {ratio:.2} x that with 10 (at most 1.2)",
            judged(ratio <= 1.2)
        )?;
    }
    Ok(())
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
