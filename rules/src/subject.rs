//! Who asks, as the kernel said, and what of it is not known.
//! Must not take what was not said for "none": a rule that it could make match would be dodged.

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    pub uid: u32,
    pub groups: Groups,
    pub unit: Unit,
}

/// The groups of a client, its primary one among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Groups {
    /// As the account database had them when the rules were loaded.
    Database,
    /// By the kernel: these and no others.
    All(Vec<u32>),
    /// By the kernel: these, and perhaps others. Nothing known at all is an empty list of this kind.
    AtLeast(Vec<u32>),
}

/// The unit of the service manager that a client belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unit {
    Unknown,
    /// It is in none.
    None,
    Named(String),
}

impl Subject {
    /// A user who is in the groups that the account database says, and in no unit.
    #[must_use]
    pub fn of_uid(uid: u32) -> Self {
        Self { uid, groups: Groups::Database, unit: Unit::None }
    }
}
