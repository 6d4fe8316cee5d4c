//! The programs that say who made a socket, who connects it, and that the guard's switch is written: loaded and attached
//! at start, read without a call later.
//! Must not decide: what a record means for a connection stands with attribution.

mod assembler;
mod cgroup;
mod classifier;
mod memory;
mod pace;
mod record;
mod switch;
mod syscall;
mod types;
mod walk;
mod who_connects;
mod who_made;

pub use record::{Connecting, GroupList, Record};
pub(crate) use switch::Switch;

use crate::attribution::Pace;
use memory::{Ring, Word};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use syscall::{Hook, MapKind, MapPlan, ProgramKind};
use types::{Types, TypesError};
use who_connects::Family;

/// For fuzzing alone: a record's bytes, read.
#[cfg(feature = "fuzzing")]
pub(super) fn fuzzed_record(bytes: &[u8]) -> Option<Record> {
    Record::parse(bytes)
}

/// For fuzzing alone: where a description of types puts a member.
#[cfg(feature = "fuzzing")]
pub(super) fn fuzzed_offset(description: &[u8], of: &'static str, name: &'static str) -> Option<i32> {
    Types::fuzzed(description, of, name)
}

/// Room for records not yet read, bytes, a power of two: two thousand SYNs, four times a tun's queue.
const RING: u32 = 256 << 10;
const NO_PREALLOCATION: u32 = 1;
const MAY_BE_MAPPED: u32 = 1 << 10;

/// Why the kernel does not tell.
#[derive(Debug)]
pub enum ProgramError {
    /// This system has no such programs.
    NoneHere,
    /// It does not describe its types: built without CONFIG_DEBUG_INFO_BTF.
    NoTypes(io::Error),
    /// Its types are not those that these programs read.
    OtherTypes(String),
    /// The privileges for bpf(2) are missing, or the kernel is locked down.
    NotPermitted,
    /// It refused a map, a program or an attachment.
    Refused(&'static str, io::Error),
    /// There is no cgroup v2 hierarchy.
    NoCgroups(String),
}

impl fmt::Display for ProgramError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoneHere => f.write_str("this system has no such programs"),
            Self::NoTypes(error) => write!(f, "the kernel does not describe its types (BTF): {error}"),
            Self::OtherTypes(what) => write!(f, "the kernel's types are not as expected: {what}"),
            Self::NotPermitted => f.write_str("BPF programs are not permitted here"),
            Self::Refused(what, error) => write!(f, "{what}: {error}"),
            Self::NoCgroups(why) => write!(f, "no cgroup v2 hierarchy: {why}"),
        }
    }
}

impl From<TypesError> for ProgramError {
    fn from(error: TypesError) -> Self {
        match error {
            TypesError::Unreadable(error) => Self::NoTypes(error),
            TypesError::Malformed => Self::OtherTypes("the description cannot be read".into()),
            TypesError::Missing(of, name) => Self::OtherTypes(format!("no member {name} in {of}")),
        }
    }
}

impl From<assembler::Unreachable> for ProgramError {
    fn from(_: assembler::Unreachable) -> Self {
        Self::OtherTypes("a program became too long".into())
    }
}

fn refused(what: &'static str) -> impl FnOnce(io::Error) -> ProgramError {
    move |error| match error.raw_os_error() {
        Some(libc::EPERM) => ProgramError::NotPermitted,
        _ => ProgramError::Refused(what, error),
    }
}

/// What the programs share.
struct Maps {
    /// One record for each processor.
    scratch: OwnedFd,
    wanted: OwnedFd,
    ring: OwnedFd,
    /// With each socket, who connects it.
    connecting: OwnedFd,
    /// With each uid, how far ahead of its pace it is.
    paces: OwnedFd,
}

impl Maps {
    fn make() -> Result<Self, ProgramError> {
        let map = |kind, name, value, entries, flags| {
            let key = if entries == RING { 0 } else { 4 };
            make_map(&MapPlan { kind, name, key, value, entries, flags, types: None })
        };
        let types = syscall::load_types(who_connects::WORDS).map_err(refused("describing a map's types"))?;
        Ok(Self {
            scratch: map(MapKind::PerCpuArray, "imds_scratch", record::LARGEST, 1, 0)?,
            wanted: map(MapKind::Array, "imds_wanted", 4, 1, MAY_BE_MAPPED)?,
            ring: map(MapKind::Ring, "imds_ring", 0, RING, 0)?,
            connecting: make_map(&MapPlan {
                kind: MapKind::SocketStorage,
                name: "imds_connecting",
                key: 4,
                value: 4 * who_connects::WORDS,
                entries: 0,
                flags: NO_PREALLOCATION,
                types: Some(types.as_fd()),
            })?,
            paces: map(MapKind::RecentlyUsed, "imds_paces", 8, pace::UIDS, 0)?,
        })
    }
    fn scratch(&self) -> BorrowedFd<'_> {
        self.scratch.as_fd()
    }
    fn wanted(&self) -> BorrowedFd<'_> {
        self.wanted.as_fd()
    }
    fn ring(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
    fn connecting(&self) -> BorrowedFd<'_> {
        self.connecting.as_fd()
    }
    fn paces(&self) -> BorrowedFd<'_> {
        self.paces.as_fd()
    }
}

fn make_map(plan: &MapPlan<'_>) -> Result<OwnedFd, ProgramError> {
    syscall::make_map(plan).map_err(refused("making a BPF map"))
}

/// How the program gets onto the tun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TunHook {
    /// By a link that goes when we do (6.6), or else as a classifier of the tun's queue.
    Best,
    /// What the best falls back to: for tests on a newer kernel.
    Classifier,
}

/// Loaded programs. Attached until this is dropped or the process ends, unless the service manager keeps them.
pub struct Programs {
    /// None when it is on the tun since before our start.
    who_made: Option<OwnedFd>,
    who_connects: Vec<(OwnedFd, Hook)>,
    wanted: Word,
    ring: Ring,
    parts: KeptPrograms,
}

/// The descriptors that programs live by.
pub struct KeptPrograms {
    ring: OwnedFd,
    wanted: OwnedFd,
    /// To a network link, where there are such links; else the program goes with the tun.
    on_tun: Option<OwnedFd>,
    /// To the cgroup, both or none.
    connects: [Option<OwnedFd>; 2],
}

impl KeptPrograms {
    const RING: &str = "ring";
    const WANTED: &str = "wanted";
    const ON_TUN: &str = "on-tun";
    const CONNECTS: [&str; 2] = ["connect4", "connect6"];

    /// By what `find` has under their names; none if what it has is not all that there should be.
    pub(crate) fn take(mut find: impl FnMut(&str) -> Option<OwnedFd>) -> Option<Self> {
        let (ring, wanted) = (find(Self::RING), find(Self::WANTED));
        let (on_tun, connects) = (find(Self::ON_TUN), Self::CONNECTS.map(&mut find));
        let both_or_none = connects.iter().all(Option::is_some) || connects.iter().all(Option::is_none);
        let (ring, wanted) = ring.zip(wanted).filter(|_| both_or_none)?;
        Some(Self { ring, wanted, on_tun, connects })
    }

    /// Under the names by which [`Self::take`] finds them.
    fn named(&self) -> Vec<(&'static str, BorrowedFd<'_>)> {
        let on_tun = self.on_tun.as_ref().map(|link| (Self::ON_TUN, link));
        let connects = Self::CONNECTS
            .into_iter()
            .zip(&self.connects)
            .filter_map(|(name, link)| Some((name, link.as_ref()?)));
        [(Self::RING, &self.ring), (Self::WANTED, &self.wanted)]
            .into_iter()
            .chain(on_tun)
            .chain(connects)
            .map(|(name, descriptor)| (name, descriptor.as_fd()))
            .collect()
    }
}

impl Programs {
    /// `pace`: of the SYNs of each uid, if it is bounded.
    ///
    /// # Errors
    /// When this kernel cannot run them, with the reason.
    pub fn load(services: &[SocketAddr], pace: Option<Pace>) -> Result<Self, ProgramError> {
        let types = Types::of_running_kernel()?;
        let who_made = who_made::Offsets::of(&types)?;
        let who_connects = who_connects::Offsets::of(&types)?;
        drop(types);
        raise_memory_limit();
        let maps = Maps::make()?;
        let code = who_made::program(&who_made, &maps, pace)?;
        let (kind, hook) = (ProgramKind::PacketClassifier, Hook::LinkEgress);
        let who_made = syscall::load_program(kind, "imds_who_made", &code, hook)
            .map_err(refused("loading the program on the tun"))?;
        let connects = |family, name, hook| {
            let code = who_connects::program(family, services, &who_connects, &maps)?;
            let program = syscall::load_program(ProgramKind::SocketAddress, name, &code, hook)
                .map_err(refused("loading the program on connects"))?;
            Ok::<_, ProgramError>((program, hook))
        };
        let who_connects = vec![
            connects(Family::V4, "imds_connect4", Hook::Connect4)?,
            connects(Family::V6, "imds_connect6", Hook::Connect6)?,
        ];
        // the programs keep the other maps
        let Maps { ring, wanted, .. } = maps;
        let parts = KeptPrograms { ring, wanted, on_tun: None, connects: [None, None] };
        let (ring, wanted) = map(&parts)?;
        Ok(Self { who_made: Some(who_made), who_connects, wanted, ring, parts })
    }

    /// Goes on with programs that watch already, and with the records that nobody has read yet.
    ///
    /// # Errors
    /// When their maps cannot be mapped.
    pub(crate) fn adopt(parts: KeptPrograms) -> Result<Self, ProgramError> {
        let (ring, wanted) = map(&parts)?;
        Ok(Self { who_made: None, who_connects: Vec::new(), wanted, ring, parts })
    }

    /// Whether connects are watched.
    pub(crate) fn watches_connects(&self) -> bool {
        self.parts.connects.iter().all(Option::is_some)
    }

    /// What keeps them going, to be given to the service manager.
    pub(crate) fn parts(&self) -> Vec<(&'static str, BorrowedFd<'_>)> {
        self.parts.named()
    }

    /// From here on each socket that connects to the service says who connects it, and those that root bound to a
    /// device are taken off it.
    ///
    /// # Errors
    /// When `cgroup` (or the one of the whole host) is none, or takes no program.
    pub fn watch_connects(&mut self, cgroup: Option<&Path>) -> Result<(), ProgramError> {
        let cgroup = cgroup::open(cgroup)?;
        let mut links = [None, None];
        for ((program, hook), link) in self.who_connects.iter().zip(&mut links) {
            let made = syscall::attach_to_cgroup(program.as_fd(), cgroup.as_fd(), *hook);
            *link = Some(made.map_err(refused("attaching to the cgroup"))?);
        }
        self.parts.connects = links;
        Ok(())
    }

    /// # Errors
    /// When there is no cgroup v2 hierarchy, so that its cgroup says nothing of a process.
    pub fn has_cgroups() -> Result<(), ProgramError> {
        cgroup::open(None).map(drop)
    }

    /// From here on each SYN into the tun has its record.
    ///
    /// # Errors
    /// When the kernel has neither of the two ways.
    pub fn watch_tun(&mut self, index: u32, hook: TunHook) -> Result<(), ProgramError> {
        let Some(program) = self.who_made.as_ref().map(AsFd::as_fd) else { return Ok(()) };
        let link = match hook {
            TunHook::Best => syscall::attach_to_link(program, index, Hook::LinkEgress),
            TunHook::Classifier => Err(io::ErrorKind::Unsupported.into()),
        };
        match link {
            Ok(link) => self.parts.on_tun = Some(link),
            // goes with the tun
            Err(_) => classifier::attach(program, index).map_err(refused("attaching to the tun"))?,
        }
        Ok(())
    }

    /// What the next records are to say besides uids.
    pub fn want(&self, groups: bool, unit: bool) {
        let bit = |wanted, bit: i32| if wanted { bit.cast_unsigned() } else { 0 };
        self.wanted.set(bit(groups, record::WANTS_GROUPS) | bit(unit, record::WANTS_UNIT));
    }

    /// Takes every record that is there. `false`: there are some that cannot be had yet.
    pub fn read(&self, take: impl FnMut(Record)) -> bool {
        self.ring.read(take)
    }
}

fn map(parts: &KeptPrograms) -> Result<(Ring, Word), ProgramError> {
    let size = usize::try_from(RING).map_err(|_| ProgramError::OtherTypes("a large ring".into()))?;
    let ring = Ring::map(parts.ring.as_fd(), size).map_err(refused("mapping the ring"))?;
    let wanted = Word::map(parts.wanted.as_fd()).map_err(refused("mapping a BPF map"))?;
    Ok((ring, wanted))
}

/// Kernels before 5.11 count maps as locked memory. That it cannot be raised shows when a map is made.
fn raise_memory_limit() {
    let limit = getrlimit(Resource::Memlock);
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None }).is_err() {
        let _ = setrlimit(Resource::Memlock, wanted);
    }
}
