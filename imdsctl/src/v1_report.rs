//! `imdsctl v1-report`: who still sends IMDSv1, from audit lines. Judges nothing.

use crate::Fault;
use crate::lines::{Line, Source, printable};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;

/// Rows that are told apart: clients choose their paths, and a log of theirs must not fill the memory.
const MAX_ROWS: usize = 10_000;

/// What is told apart. Printable already.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Who {
    user: String,
    unit: String,
    exe: String,
    path: String,
}

#[derive(Debug, Default)]
struct Seen {
    count: u64,
    last: String,
}

impl Seen {
    fn add(&mut self, line: &Line) {
        self.count = self.count.saturating_add(1);
        // of one form and in UTC: their order is that of time
        if line.time > self.last {
            self.last.clone_from(&line.time);
        }
    }
}

#[derive(Debug, Default)]
struct Report {
    rows: HashMap<Who, Seen>,
    others: Seen,
}

impl Report {
    fn add(&mut self, line: &Line) {
        // where it is not known whether a token came, or is not asked, this is not IMDSv1
        if line.token != Some(false) {
            return;
        }
        let or_none = |text: &Option<String>| text.as_deref().map_or("-".into(), printable);
        let who = Who {
            user: line.who(),
            unit: or_none(&line.unit),
            exe: or_none(&line.exe),
            path: printable(&line.path),
        };
        let full = self.rows.len() >= MAX_ROWS;
        match self.rows.get_mut(&who) {
            Some(seen) => seen.add(line),
            None if full => self.others.add(line),
            None => self.rows.entry(who).or_default().add(line),
        }
    }

    /// The most frequent first.
    fn shown(self) -> String {
        if self.rows.is_empty() {
            return "nobody sent IMDSv1\n".into();
        }
        let mut all: Vec<(Who, Seen)> = self.rows.into_iter().collect();
        all.sort_by(|(a, more), (b, fewer)| fewer.count.cmp(&more.count).then_with(|| a.cmp(b)));
        if self.others.count > 0 {
            let rest = || "...".to_owned();
            all.push((Who { user: rest(), unit: rest(), exe: rest(), path: rest() }, self.others));
        }
        let mut out =
            format!("{:>8}  {:<24}  {:<16} {:<28} {:<16} path\n", "times", "last", "user", "unit", "exe");
        for (Who { user, unit, exe, path }, Seen { count, last }) in all {
            let last = printable(&last);
            // writing to a String cannot fail
            let _ = writeln!(out, "{count:>8}  {last:<24}  {user:<16} {unit:<28} {exe:<16} {path}");
        }
        out
    }
}

pub(crate) fn run(file: Option<&Path>) -> Result<String, Fault> {
    let mut source = Source::open(file, false)?;
    let mut report = Report::default();
    while let Some((line, _)) = source.next()? {
        report.add(&line);
    }
    Ok(report.shown())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(user: &str, path: &str, token: &str, time: &str) -> Line {
        let text = format!(
            r#"{{"v":1,"time":"{time}","verdict":"allow","rule":2,"why":"","uid":33,"user":"{user}","unit":null,"pid":7,"exe":"old-agent","token":{token},"translate":null,"method":"GET","path":"{path}","status":200,"bytes":1,"ms":0,"client":"10.0.0.5:1","service":"ec2"}}"#
        );
        Line::parse(text.as_bytes()).expect("a line")
    }

    fn rows(report: Report) -> Vec<Vec<String>> {
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
        report.shown().lines().skip(1).map(words).collect()
    }

    #[test]
    fn requests_without_a_token_are_counted_with_their_last_time_the_most_frequent_first() {
        let mut report = Report::default();
        report.add(&line("a", "/x", "false", "2026-11-22T03:00:00.000Z"));
        report.add(&line("b", "/x", "false", "2026-11-22T03:00:02.000Z"));
        report.add(&line("b", "/x", "false", "2026-11-22T03:00:01.000Z"));
        report.add(&line("b", "/x", "true", "2026-11-22T03:00:09.000Z"));
        report.add(&line("b", "/latest/api/token", "null", "2026-11-22T03:00:09.000Z"));
        assert_eq!(
            rows(report),
            [
                ["2", "2026-11-22T03:00:02.000Z", "b", "-", "old-agent", "/x"],
                ["1", "2026-11-22T03:00:00.000Z", "a", "-", "old-agent", "/x"]
            ]
        );
    }

    #[test]
    fn where_nobody_did_it_says_so() {
        let mut report = Report::default();
        report.add(&line("b", "/x", "true", "2026-11-22T03:00:09.000Z"));
        assert_eq!(report.shown(), "nobody sent IMDSv1\n");
    }

    #[test]
    fn rows_are_bounded_and_what_is_over_is_counted() {
        let mut report = Report::default();
        for n in 0..MAX_ROWS + 5 {
            report.add(&line("a", &format!("/{n}"), "false", "2026-11-22T03:00:00.000Z"));
        }
        assert_eq!(report.rows.len(), MAX_ROWS);
        let rows = rows(report);
        assert_eq!(rows.last().unwrap()[..3], ["5", "2026-11-22T03:00:00.000Z", "..."]);
    }

    #[test]
    fn no_control_character_of_a_log_reaches_the_terminal() {
        let mut report = Report::default();
        report.add(&line(r"a\u001b[2J", r"/\u0007", "false", r"\u001b2026"));
        assert!(!report.shown().chars().any(|c| c.is_control() && c != '\n'));
    }
}
