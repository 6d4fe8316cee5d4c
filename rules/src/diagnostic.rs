//! What is wrong with a file of rules, shown at its place. Decides nothing.

use std::fmt;
use std::sync::Arc;

/// Characters of a line that are shown around the place.
const SHOWN: usize = 160;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// It can, but hardly says what was meant.
    Warning,
}

/// Displays as `file:line:column: error: message`, the line, and a caret with what was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    pub file: Arc<str>,
    /// From 1.
    pub line: u32,
    /// In characters, from 1.
    pub column: usize,
    /// Characters.
    pub width: usize,
    /// Empty when the fault has no line to show.
    pub source: Arc<str>,
    pub message: String,
    /// What would have been right, or what to do; may be empty.
    pub expected: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let (file, message) = (printable(&self.file), printable(&self.message));
        write!(f, "{file}:{}:{}: {severity}: {message}", self.line, self.column)?;
        if self.source.is_empty() {
            return if self.expected.is_empty() { Ok(()) } else { write!(f, "; {}", self.expected) };
        }
        let before = self.column.saturating_sub(1);
        let cut = before.saturating_sub(SHOWN / 2);
        let shown: String = printable(&self.source).chars().skip(cut).take(SHOWN).collect();
        let room: String =
            shown.chars().take(before - cut).map(|c| if c == '\t' { c } else { ' ' }).collect();
        let caret = "^".repeat(self.width.clamp(1, SHOWN / 2));
        write!(f, "\n    {shown}\n    {room}{caret} {}", printable(&self.expected))
    }
}

/// A file may hold what moves a terminal's cursor; one character stays one character.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { char::REPLACEMENT_CHARACTER } else { c }).collect()
}
