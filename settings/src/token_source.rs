//! Who gives clients their IMDSv2 tokens.
//! Decides nothing.

use serde::Deserialize;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenSource {
    /// The service: its tokens are relayed, and open for whoever has one.
    #[default]
    Forward,
    /// filterd: a token opens for the user who asked for it.
    Bound,
}
