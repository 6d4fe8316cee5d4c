//! `imdsctl log`: audit lines for people, chosen and summed. Judges nothing.

use crate::Fault;
use crate::lines::{Line, Source, printable};
use clap::Args;
use imds_settings::exit;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// A file of audit lines, or - for standard input [default: the journal]
    file: Option<PathBuf>,
    /// Wait for what comes
    #[arg(short, long)]
    follow: bool,
    /// Of this user, by name or uid
    #[arg(long, value_name = "NAME|UID")]
    user: Option<String>,
    /// Of this unit
    #[arg(long)]
    unit: Option<String>,
    /// With this verdict: allow, deny, would-deny, refuse, limit or error
    #[arg(long)]
    verdict: Option<String>,
    /// Of paths that begin so
    #[arg(long)]
    path: Option<String>,
    /// Not before this time, as the lines have it or the beginning of that (2026-11-22T03)
    #[arg(long)]
    since: Option<String>,
    /// The lines as they are
    #[arg(long)]
    json: bool,
    /// Sum up what would have been denied in audit mode, by user, unit and path
    #[arg(long, conflicts_with_all = ["follow", "verdict", "json"])]
    would_deny: bool,
}

const WOULD_DENY: &str = "would-deny";

pub(crate) fn run(options: &Options) -> Result<String, Fault> {
    let mut source = Source::open(options.file.as_deref(), options.follow)?;
    if options.would_deny {
        return sum(options, &mut source);
    }
    let mut out = io::stdout();
    while let Some((line, text)) = source.next()? {
        if !chosen(options, &line) {
            continue;
        }
        let written = if options.json {
            out.write_all(text.trim_ascii_end()).and_then(|()| out.write_all(b"\n"))
        } else {
            out.write_all(shown(&line).as_bytes())
        };
        match written.and_then(|()| out.flush()) {
            // a reader who has seen enough
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            other => other.map_err(|error| Fault::new(exit::OS, format!("standard output: {error}")))?,
        }
    }
    Ok(String::new())
}

fn chosen(options: &Options, line: &Line) -> bool {
    let is = |wanted: &Option<String>, found: Option<&str>| {
        wanted.as_deref().is_none_or(|wanted| found == Some(wanted))
    };
    let uid = line.uid.map(|uid| uid.to_string());
    (is(&options.user, line.user.as_deref()) || is(&options.user, uid.as_deref()))
        && is(&options.unit, line.unit.as_deref())
        && is(&options.verdict, Some(&line.verdict))
        && options.path.as_deref().is_none_or(|path| line.path.starts_with(path))
        // of one form and in UTC: their order is that of time
        && options.since.as_deref().is_none_or(|since| line.time.as_str() >= since)
}

fn shown(line: &Line) -> String {
    let unit = line.unit.as_deref().map_or(String::new(), |unit| format!(" ({})", printable(unit)));
    let audit = if line.verdict == WOULD_DENY { "AUDIT " } else { "" };
    let why = if line.why.is_empty() { String::new() } else { format!("  {}", printable(&line.why)) };
    let missing = |count: u64, what| if count == 0 { String::new() } else { format!("  [{count} {what}]") };
    let more = missing(line.more, "more of this user before");
    let lost = missing(line.lost, "lines lost before");
    format!(
        "{} {audit}{} {}  {}{unit}  {} {}{why}{more}{lost}\n",
        printable(&line.time),
        printable(&line.verdict),
        line.status,
        line.who(),
        printable(&line.method),
        printable(&line.path),
    )
}

/// The most frequent first.
fn sum(options: &Options, source: &mut Source) -> Result<String, Fault> {
    let mut counts: HashMap<(String, String, String), u64> = HashMap::new();
    while let Some((line, _)) = source.next()? {
        if line.verdict == WOULD_DENY && chosen(options, &line) {
            let unit = line.unit.as_deref().map_or("-".into(), printable);
            let count = counts.entry((line.who(), unit, printable(&line.path))).or_insert(0);
            *count = count.saturating_add(1);
        }
    }
    if counts.is_empty() {
        return Ok("nothing would have been denied\n".into());
    }
    let mut all: Vec<_> = counts.into_iter().collect();
    all.sort_by(|(a, more), (b, fewer)| fewer.cmp(more).then_with(|| a.cmp(b)));
    let mut out = format!("{:>8}  {:<16} {:<28} path\n", "times", "user", "unit");
    for ((user, unit, path), count) in all {
        // writing to a String cannot fail
        let _ = writeln!(out, "{count:>8}  {user:<16} {unit:<28} {path}");
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_line_of_its_own_is_told_of_with_the_next() {
        let line = r#"{"v":1,"time":"2026-11-22T03:00:00.000Z","verdict":"deny","rule":2,"why":"","uid":33,"user":"www","unit":null,"exe":null,"method":"GET","path":"/latest","status":403"#;
        let shown_with = |rest: &str| shown(&Line::parse(format!("{line}{rest}}}").as_bytes()).unwrap());
        let alone = shown_with("");
        assert!(alone.ends_with("GET /latest\n"), "{alone}");
        let told = shown_with(r#","more":25,"lost":3"#);
        let wanted = "GET /latest  [25 more of this user before]  [3 lines lost before]\n";
        assert!(told.ends_with(wanted), "{told}");
    }
}
