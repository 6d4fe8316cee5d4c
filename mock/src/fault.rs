//! What can be wrong with the data of an instance. Displays it.
//! Finds nothing wrong itself.

use std::fmt;

/// Why there is no tree. Displays where and what was expected.
#[derive(Debug)]
pub enum TreeError {
    Syntax(Box<toml::de::Error>),
    /// Neither table, text, number, truth value nor list of those.
    Kind(String),
    Field(String),
    /// `{{…/…}}` names no value, or one that refers back to it.
    Reference(String),
    /// No path leads to it, or to something else as well; a value named as a numbered listing is, `0=my-key`.
    Name(String),
    /// To be removed and not there.
    Absent(String),
    /// A value stands where the path goes on, or the path is empty.
    Place(String),
}

impl fmt::Display for TreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax(error) => write!(f, "{error}"),
            Self::Kind(key) => write!(f, "{key}: expected a table, a string, a number or a list of those"),
            Self::Field(text) => {
                write!(
                    f,
                    "{{{{{text}: expected role, started, or issued, expires, key-id, secret or token of role or instance"
                )
            }
            Self::Reference(path) => write!(f, "{{{{{path}}}}}: there is no such value"),
            Self::Name(name) => {
                write!(f, "{name:?}: no request could ask for this name, or it could mean two things")
            }
            Self::Absent(path) => write!(f, "{path}: to be removed and not there"),
            Self::Place(path) => {
                write!(f, "{path}: no place for a value, the path is empty or goes through a value")
            }
        }
    }
}

impl std::error::Error for TreeError {}
