//! The status of an answer by which filterd refuses: one of three, so that no client is told to log in or to come again.
//! Decides nothing.

use serde::Deserialize;
use std::fmt;

/// 403, unless clients of another filter expect its 400, or are to see nothing there (404).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u16")]
pub struct RefuseStatus(u16);

impl RefuseStatus {
    #[must_use]
    pub fn number(self) -> u16 {
        self.0
    }
}

impl Default for RefuseStatus {
    fn default() -> Self {
        Self(403)
    }
}

/// Displays what was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRefuseStatus(u16);

impl fmt::Display for NoRefuseStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refuse_status = {}: expected 400, 403 or 404", self.0)
    }
}

impl TryFrom<u16> for RefuseStatus {
    type Error = NoRefuseStatus;

    fn try_from(number: u16) -> Result<Self, NoRefuseStatus> {
        if [400, 403, 404].contains(&number) { Ok(Self(number)) } else { Err(NoRefuseStatus(number)) }
    }
}
