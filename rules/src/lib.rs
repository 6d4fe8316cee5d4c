//! Who may read what: imds.conf, canonical requests, and the verdict over both. The same code decides in imds-filterd
//! and explains in imdsctl. Pure: no I/O, no clock, no account database; names are resolved by whoever loads the rules.
#![forbid(unsafe_code)]

mod clauses;
mod condition;
mod decide;
mod diagnostic;
mod directive;
mod explain;
mod fields;
mod head;
mod key;
mod known;
mod language;
mod lexer;
mod names;
mod percent;
mod print;
mod refusal;
mod request;
mod rules;
mod secret;
mod subject;
mod table;
mod target;
mod tree;
mod warnings;

pub use decide::{Denial, Mode, Permit, Verdict, Why, decide, decide_unattributed};
pub use diagnostic::{Diagnostic, Severity};
pub use explain::{Explanation, explain};
pub use head::{Head, Method, Profile, Version};
pub use language::{GroupName, Parsed, UserName, Verb, parse};
pub use names::{Members, Name, Names};
pub use refusal::Refusal;
pub use request::{Request, TOKEN_HEADER};
pub use rules::{RuleRef, Rules, Unresolved};
pub use secret::Secret;
pub use subject::{Groups, Subject, Unit};
