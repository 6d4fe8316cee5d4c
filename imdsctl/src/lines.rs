//! The lines that imds-filterd logged, from a file, standard input or the journal. Total: what is no such line is
//! skipped, since logs hold other things too.

use crate::Fault;
use imds_settings::exit;
use serde::Deserialize;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A line is cut by nobody at this length; a longer one is none of ours.
const MAX_LINE: u64 = 1 << 20;
/// The unit whose lines the journal is asked for.
const UNIT: &str = "imds-filterd.service";

/// Of a line, what is shown and judged.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Line {
    v: u32,
    pub(crate) time: String,
    pub(crate) verdict: String,
    pub(crate) rule: Option<u64>,
    pub(crate) why: String,
    pub(crate) uid: Option<u32>,
    pub(crate) user: Option<String>,
    pub(crate) unit: Option<String>,
    pub(crate) exe: Option<String>,
    /// Whether an IMDSv2 token came; older lines do not say.
    #[serde(default)]
    pub(crate) token: Option<bool>,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) status: u16,
    /// Requests of the same user before it that have no line.
    #[serde(default)]
    pub(crate) more: u64,
    /// Lines of anybody before it that could not be written.
    #[serde(default)]
    pub(crate) lost: u64,
}

impl Line {
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok().filter(|line: &Self| line.v == 1)
    }

    pub(crate) fn who(&self) -> String {
        match (&self.user, self.uid) {
            (Some(user), _) => printable(user),
            (None, Some(uid)) => uid.to_string(),
            (None, None) => "?".into(),
        }
    }
}

/// A log may hold what moves a terminal's cursor.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Where lines come from. Waited for when dropped, if that is a program.
pub(crate) struct Source {
    reader: BufReader<Box<dyn Read>>,
    program: Option<Child>,
}

impl Source {
    /// Of `file` (`-`: standard input), or of the journal. `follow`: and what comes.
    pub(crate) fn open(file: Option<&Path>, follow: bool) -> Result<Self, Fault> {
        match file {
            Some(file) if file == Path::new("-") => Ok(Self::of(Box::new(io::stdin()))),
            Some(file) => {
                let unreadable = |error| Fault::new(exit::NO_INPUT, format!("{}: {error}", file.display()));
                let opened = File::open(file).map_err(unreadable)?;
                if !follow {
                    return Ok(Self::of(Box::new(opened)));
                }
                // it knows files that are rotated
                Self::run(Command::new("tail").args(["-n", "+1", "-F"]).arg("--").arg(file))
            }
            None => {
                let mut journal = Command::new("journalctl");
                journal.args(["--output=cat", "--quiet", "--no-pager", "--unit", UNIT]);
                if follow {
                    journal.args(["--follow", "--lines=all"]);
                }
                Self::run(&mut journal)
            }
        }
    }

    fn of(reader: Box<dyn Read>) -> Self {
        Self { reader: BufReader::new(reader), program: None }
    }

    fn run(command: &mut Command) -> Result<Self, Fault> {
        let name = command.get_program().to_string_lossy().into_owned();
        let failed =
            |error| Fault::new(exit::NO_INPUT, format!("{name}: {error}; give a file of audit lines"));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(failed)?;
        let output = child.stdout.take().ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
        let mut source = Self::of(Box::new(output));
        source.program = Some(child);
        Ok(source)
    }

    /// The next line of ours, and its text.
    pub(crate) fn next(&mut self) -> Result<Option<(Line, Vec<u8>)>, Fault> {
        loop {
            let mut text = Vec::new();
            let read = self.reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut text);
            match read {
                Ok(0) => return self.ended().map(|()| None),
                Ok(_) => {}
                Err(error) => return Err(Fault::new(exit::NO_INPUT, error)),
            }
            if let Some(line) = Line::parse(&text) {
                return Ok(Some((line, text)));
            }
        }
    }

    fn ended(&mut self) -> Result<(), Fault> {
        let Some(mut program) = self.program.take() else { return Ok(()) };
        match program.wait() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(Fault::new(exit::NO_INPUT, format!("reading the log: {status}"))),
            Err(error) => Err(Fault::new(exit::OS, error)),
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if let Some(mut program) = self.program.take() {
            let _ = program.kill(); // it may have ended by itself
            let _ = program.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"v":1,"time":"2026-11-22T03:00:00.000Z","verdict":"deny","rule":2,"why":"denied by rule line 2","uid":33,"user":"www-data","unit":null,"pid":7,"exe":null,"method":"GET","path":"/latest","status":403,"bytes":1,"ms":0,"client":"10.0.0.5:1","service":"ec2","new":true}"#;

    #[test]
    fn a_line_is_understood_and_what_is_none_is_not() {
        let line = Line::parse(LINE.as_bytes()).unwrap();
        assert_eq!((line.who().as_str(), line.rule, line.status), ("www-data", Some(2), 403));
        let nobodys = LINE.replace("33", "null").replace("\"www-data\"", "null");
        assert_eq!(Line::parse(nobodys.as_bytes()).unwrap().who(), "?");
        for other in ["", "{}", "INFO attached", &LINE.replace("\"v\":1", "\"v\":2"), &LINE[..100]] {
            assert_eq!(Line::parse(other.as_bytes()), None, "{other}");
        }
    }
}
