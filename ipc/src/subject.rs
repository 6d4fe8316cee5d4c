//! Who the kernel says a client is, and how much of that can be said at all.
//! Invents nothing: what was not told is `Unknown`, which is neither "none" nor a number.

use crate::wire::{DecodeError, Reader, Writer};
use std::fmt;

/// Groups of one client, the primary one and 1,024 others. Directories give a user a few hundred.
pub const MAX_GROUPS: usize = 1025;
/// Bytes of the reason why nobody can tell who a client is.
pub(crate) const MAX_WHY: usize = 512;
/// A file's name: a unit's name is that of a cgroup.
const MAX_UNIT: usize = 255;
/// Bytes of the path of a client's program; for the log only.
pub const MAX_EXE: usize = 1024;

/// Who the client is: taken when its SYN arrived, of the credentials that its socket was made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    pub uid: u32,
    pub groups: Groups,
    pub unit: Unit,
    /// For the log; decides nothing.
    pub process: Option<Process>,
}

/// Why nobody can tell who a client is, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unattributed(String);

/// Who the client is, or that nobody can tell: such a client is handed over only where that was asked for.
pub type Who = Result<Subject, Unattributed>;

impl Unattributed {
    /// Longer texts are cut.
    #[must_use]
    pub fn new(why: &str) -> Self {
        Self(why.chars().take(MAX_WHY / char::MAX.len_utf8()).collect())
    }
}

impl Unattributed {
    pub(crate) fn encode(&self, w: &mut Writer<'_>) {
        w.text(&self.0);
    }

    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.text(MAX_WHY).map(Self)
    }
}

impl fmt::Display for Unattributed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The groups that a client is in, the primary one first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Groups {
    /// Nobody asked, or nobody can tell.
    Unknown,
    All(Vec<u32>),
    /// There are more than these.
    Cut(Vec<u32>),
}

/// The unit of the system's service manager that a client belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unit {
    Unknown,
    /// It is in none.
    None,
    Named(String),
}

/// The process that connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    /// The name of its program.
    pub exe: Option<String>,
}

impl Subject {
    /// Where no more than the uid is known.
    #[must_use]
    pub fn of_uid(uid: u32) -> Self {
        Self { uid, groups: Groups::Unknown, unit: Unit::Unknown, process: None }
    }

    /// Bytes, at most.
    pub(crate) fn longest(&self) -> usize {
        const FIXED: usize = 32;
        let gids = match &self.groups {
            Groups::Unknown => 0,
            Groups::All(gids) | Groups::Cut(gids) => gids.len() * 4,
        };
        let unit = match &self.unit {
            Unit::Unknown | Unit::None => 0,
            Unit::Named(name) => name.len(),
        };
        let exe = self.process.as_ref().and_then(|process| process.exe.as_ref()).map_or(0, String::len);
        FIXED + gids + unit + exe
    }

    pub(crate) fn encode(&self, w: &mut Writer<'_>) {
        w.u32(self.uid);
        match &self.groups {
            Groups::Unknown => w.u8(0),
            Groups::All(gids) => numbers(w, 1, gids),
            Groups::Cut(gids) => numbers(w, 2, gids),
        }
        match &self.unit {
            Unit::Unknown => w.u8(0),
            Unit::None => w.u8(1),
            Unit::Named(name) => {
                w.u8(2);
                w.text(name);
            }
        }
        match &self.process {
            None => w.u8(0),
            Some(Process { pid, exe: None }) => {
                w.u8(1);
                w.u32(*pid);
            }
            Some(Process { pid, exe: Some(exe) }) => {
                w.u8(2);
                w.u32(*pid);
                w.text(exe);
            }
        }
    }

    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            uid: r.u32()?,
            groups: match r.u8()? {
                0 => Groups::Unknown,
                1 => Groups::All(read_numbers(r)?),
                2 => Groups::Cut(read_numbers(r)?),
                _ => return Err(DecodeError::Value),
            },
            unit: match r.u8()? {
                0 => Unit::Unknown,
                1 => Unit::None,
                2 => Unit::Named(r.text(MAX_UNIT)?),
                _ => return Err(DecodeError::Value),
            },
            process: match r.u8()? {
                0 => None,
                1 => Some(Process { pid: r.u32()?, exe: None }),
                2 => Some(Process { pid: r.u32()?, exe: Some(r.text(MAX_EXE)?) }),
                _ => return Err(DecodeError::Value),
            },
        })
    }
}

fn numbers(w: &mut Writer<'_>, kind: u8, all: &[u32]) {
    w.u8(kind);
    // whoever makes a list keeps to MAX_GROUPS; a longer one is refused by who reads it
    w.u16(u16::try_from(all.len()).unwrap_or(u16::MAX));
    all.iter().for_each(|number| w.u32(*number));
}

fn read_numbers(r: &mut Reader<'_>) -> Result<Vec<u32>, DecodeError> {
    let count = usize::from(r.u16()?);
    if count > MAX_GROUPS {
        return Err(DecodeError::Value);
    }
    (0..count).map(|_| r.u32()).collect()
}

/// Why something is not told of clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// The kernel does not describe its types, or has other ones.
    NoTypes,
    NotPermitted,
    /// It refused the program that would tell.
    Refused,
    NoCgroups,
    /// The settings say so.
    Configured,
    /// No kernel of this system tells it.
    System,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoTypes => {
                "the kernel does not describe the types that this needs (/sys/kernel/btf/vmlinux)"
            }
            Self::NotPermitted => {
                "BPF programs are not permitted (privileges of imds-interceptor, or lockdown)"
            }
            Self::Refused => "the kernel refused the BPF program that tells it",
            Self::NoCgroups => "there is no cgroup v2 hierarchy",
            Self::Configured => "the settings switch it off",
            Self::System => "this operating system does not tell it",
        })
    }
}

/// What interceptor can tell of clients besides their uids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    pub groups: Result<(), Lack>,
    pub unit: Result<(), Lack>,
    /// Whether a socket that one user made and another connects is found out.
    pub connecting: Result<(), Lack>,
}

impl Identity {
    /// Uids alone, for one reason.
    #[must_use]
    pub fn partial(lack: Lack) -> Self {
        Self { groups: Err(lack), unit: Err(lack), connecting: Err(lack) }
    }

    pub(crate) fn encode(self, w: &mut Writer<'_>) {
        for told in [self.groups, self.unit, self.connecting] {
            w.u8(match told {
                Ok(()) => 0,
                Err(Lack::NoTypes) => 1,
                Err(Lack::NotPermitted) => 2,
                Err(Lack::Refused) => 3,
                Err(Lack::NoCgroups) => 4,
                Err(Lack::Configured) => 5,
                Err(Lack::System) => 6,
            });
        }
    }

    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut told = || match r.u8()? {
            0 => Ok(Ok(())),
            1 => Ok(Err(Lack::NoTypes)),
            2 => Ok(Err(Lack::NotPermitted)),
            3 => Ok(Err(Lack::Refused)),
            4 => Ok(Err(Lack::NoCgroups)),
            5 => Ok(Err(Lack::Configured)),
            6 => Ok(Err(Lack::System)),
            _ => Err(DecodeError::Value),
        };
        Ok(Self { groups: told()?, unit: told()?, connecting: told()? })
    }
}

/// What the rules in force ask of clients besides their uids; no more than that is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    pub groups: bool,
    pub unit: bool,
}

impl Needs {
    pub(crate) fn encode(self, w: &mut Writer<'_>) {
        w.u8(u8::from(self.groups) | u8::from(self.unit) << 1);
    }

    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match r.u8()? {
            bits @ 0..=3 => Ok(Self { groups: bits & 1 != 0, unit: bits & 2 != 0 }),
            _ => Err(DecodeError::Value),
        }
    }
}
