//! Programs in the kernel that tell more of a socket: FreeBSD has none, and getcred tells the groups. Never made here.

use crate::attribution::Pace;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

/// What a program would say of a SYN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub cookie: u64,
    pub uid: u32,
    pub connecting: Option<Connecting>,
    pub namespace_owner: Option<u32>,
    pub groups: Option<GroupList>,
    pub cgroups: Option<Vec<Vec<u8>>>,
}

impl Record {
    /// How many cgroups are named at most.
    pub const LEVELS: usize = 8;
}

/// The task that connects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connecting {
    pub uid: u32,
    pub pid: u32,
    pub exe: Option<Vec<u8>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupList {
    /// The primary one first.
    pub gids: Vec<u32>,
    /// There were more.
    pub cut: bool,
}

/// Why the kernel does not tell.
#[derive(Debug)]
pub enum ProgramError {
    /// This system has no such programs.
    NoneHere,
    NoTypes(io::Error),
    OtherTypes(String),
    NotPermitted,
    Refused(&'static str, io::Error),
    NoCgroups(String),
}

impl fmt::Display for ProgramError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FreeBSD does not tell units, nor whether who connects a socket is who made it")
    }
}

/// How a program would be attached to the tun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TunHook {
    Best,
}

/// There are none to keep.
pub struct KeptPrograms(Infallible);

impl KeptPrograms {
    pub(crate) fn take(_find: impl FnMut(&str) -> Option<OwnedFd>) -> Option<Self> {
        None
    }
}

/// There are none.
pub struct Programs(Infallible);

impl Programs {
    pub(crate) fn adopt(parts: KeptPrograms) -> Result<Self, ProgramError> {
        match parts.0 {}
    }

    pub(crate) fn watches_connects(&self) -> bool {
        match self.0 {}
    }

    pub(crate) fn parts(&self) -> Vec<(&'static str, BorrowedFd<'_>)> {
        match self.0 {}
    }

    /// # Errors
    /// Always.
    pub fn load(_services: &[SocketAddr], _pace: Option<Pace>) -> Result<Self, ProgramError> {
        Err(ProgramError::NoneHere)
    }

    /// # Errors
    /// Never reached.
    pub fn watch_connects(&mut self, _cgroup: Option<&Path>) -> Result<(), ProgramError> {
        match self.0 {}
    }

    /// # Errors
    /// Never reached.
    pub fn watch_tun(&mut self, _index: u32, _hook: TunHook) -> Result<(), ProgramError> {
        match self.0 {}
    }

    /// # Errors
    /// Always.
    pub fn has_cgroups() -> Result<(), ProgramError> {
        Err(ProgramError::NoneHere)
    }

    pub fn want(&self, _groups: bool, _cgroups: bool) {
        match self.0 {}
    }

    pub fn read(&mut self, _each: impl FnMut(Record)) -> bool {
        match self.0 {}
    }
}
