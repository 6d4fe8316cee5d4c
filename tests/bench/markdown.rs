//! The report as README.md takes it: tables, and the charts.
//! Changes no number.

use crate::plot::number;
use crate::report::{Measured, Report, Spread};
use crate::table;
use std::fmt::{self, Write};

/// `charts`: their names in docs/bench, and titles.
///
/// # Errors
/// Never: a String takes everything.
pub(crate) fn render(report: &Report, charts: &[(&str, &str)]) -> Result<String, fmt::Error> {
    let mut out = String::new();
    writeln!(
        out,
        "Linux {}, {} processors, medians of {} rounds and in brackets the least and the most; load average before: {}; stolen by the hypervisor meanwhile: {}.{}\n",
        report.kernel,
        report.processors,
        report.rounds,
        report.load_average.split(' ').next().unwrap_or(""),
        table::stolen(report),
        if table::alone(report) {
            ""
        } else {
            " **Others used the processors too: the ratios count, not the numbers.**"
        }
    )?;
    side_by_side(&mut out, report)?;
    traffic(&mut out, report)?;
    budget(&mut out, report)?;
    for (name, title) in charts {
        writeln!(out, "\n![{title}](docs/bench/{name})")?;
    }
    Ok(out)
}

fn hundredths(spread: Spread) -> String {
    format!("{:.2} ({:.2} to {:.2})", spread.median, spread.least, spread.most)
}

fn side_by_side(out: &mut String, report: &Report) -> fmt::Result {
    if report.loads.is_empty() {
        return Ok(());
    }
    writeln!(out, "| | direct | nginx | imds-filterd | to nginx |\n|---|---|---|---|---|")?;
    for row in report.loads.iter().filter(|row| row.pace.is_none()) {
        let rates = [&row.direct, &row.nginx, &row.filterd].map(|figures| number(figures.rate.median));
        writeln!(out, "| {}, /s | {} | {} |", what(row), rates.join(" | "), hundredths(row.ratio))?;
    }
    for row in report.loads.iter().filter(|row| row.clients == 1 || row.pace.is_some()) {
        let both = [&row.direct, &row.nginx, &row.filterd]
            .map(|figures| format!("{}, {}", number(figures.p50_us.median), number(figures.p99_us.median)));
        writeln!(out, "| {}: p50, p99, us | {} | |", what(row), both.join(" | "))?;
    }
    for row in report.loads.iter().filter(|row| row.clients == 8) {
        let (nginx, filterd) = (row.nginx.processor_us.median, row.filterd.processor_us.median);
        let ratio = hundredths(row.processor_ratio);
        writeln!(out, "| {}: processor time, us | | {nginx:.0} | {filterd:.0} | {ratio} |", what(row))?;
    }
    writeln!(out)
}

fn what(row: &Measured) -> String {
    let clients = if row.clients == 1 { "1 client".to_owned() } else { format!("{} clients", row.clients) };
    let kind = match &*row.kind {
        "new connection" => "new connection a request",
        "new, service closes" => "the same, with a service that closes each (EC2's does)",
        "IMDSv2 pair" => "IMDSv2 pair (PUT and GET)",
        other => other,
    };
    match row.pace {
        None => format!("{kind}, {clients}"),
        Some(pace) => format!("{kind}, {clients}, {} /s", number(pace.into())),
    }
}

fn traffic(out: &mut String, report: &Report) -> fmt::Result {
    if report.traffic.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "| traffic of others | without | `guard = \"xfrm\"`, to without | `guard = \"nftables\"`, to without |"
    )?;
    writeln!(out, "|---|---|---|---|")?;
    for row in &report.traffic {
        writeln!(
            out,
            "| {}, {} | {} | {} | {} |",
            row.what,
            row.unit,
            number(row.without.median),
            hundredths(row.xfrm_ratio),
            hundredths(row.nftables_ratio)
        )?;
    }
    writeln!(out)
}

fn budget(out: &mut String, report: &Report) -> fmt::Result {
    let bars = table::bars(report);
    if bars.is_empty() {
        return Ok(());
    }
    writeln!(out, "| aim | measured | bar | |\n|---|---|---|---|")?;
    for bar in bars {
        let judged = if bar.reached { "reached" } else { "missed" };
        writeln!(out, "| {} | {} | {} | {judged} |", bar.what, bar.measured, bar.aim)?;
    }
    Ok(())
}
