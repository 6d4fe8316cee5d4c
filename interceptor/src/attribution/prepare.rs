//! Gets the kernel's programs going, in two steps: connects are watched before there is capture, the tun when there is one.
//! Must not stop the start: without them uids are still told, and it is said what is not.

use super::{KeptPrograms, Pace, ProgramError, Programs, TunHook, Witness};
use imds_ipc::{Identity, Lack};
use imds_settings::{Cgroup, GroupSource, Settings};

/// Programs that are loaded, and what they will tell.
pub struct Loaded {
    programs: Programs,
    identity: Identity,
}

/// Loads the programs and begins to watch connects. What cannot be had is logged.
///
/// # Errors
/// Why uids are all that can be told.
pub fn load(settings: &Settings) -> Result<Loaded, Lack> {
    let services: Vec<_> = settings.upstreams().collect();
    let mut programs = Programs::load(&services, Pace::of(&settings.limits)).map_err(|error| said(&error))?;
    let connecting = match &settings.capture.cgroup {
        Cgroup::None => Err(Lack::Configured),
        Cgroup::Auto => programs.watch_connects(None).map_err(|error| said(&error)),
        Cgroup::At(path) => programs.watch_connects(Some(path)).map_err(|error| said(&error)),
    };
    Ok(loaded(settings, programs, connecting))
}

/// Goes on with programs of a former run, which watch since then.
///
/// # Errors
/// As [`load`].
pub fn adopt(settings: &Settings, kept: KeptPrograms) -> Result<Loaded, Lack> {
    let programs = Programs::adopt(kept).map_err(|error| said(&error))?;
    let connecting = match &settings.capture.cgroup {
        Cgroup::None => Err(Lack::Configured),
        Cgroup::Auto | Cgroup::At(_) if programs.watches_connects() => Ok(()),
        Cgroup::Auto | Cgroup::At(_) => Err(Lack::Refused), // as the former run has said
    };
    Ok(loaded(settings, programs, connecting))
}

fn loaded(settings: &Settings, programs: Programs, connecting: Result<(), Lack>) -> Loaded {
    let groups = match settings.filter.groups {
        GroupSource::Kernel => Ok(()),
        GroupSource::Database => Err(Lack::Configured),
    };
    let unit = Programs::has_cgroups().map_err(|error| said(&error));
    Loaded { programs, identity: Identity { groups, unit, connecting } }
}

impl Loaded {
    /// From here on each SYN into the tun is recorded.
    ///
    /// # Errors
    /// As [`load`].
    pub fn watch_tun(mut self, index: u32, hook: TunHook) -> Result<Witness, Lack> {
        self.programs.watch_tun(index, hook).map_err(|error| said(&error))?;
        Ok(Witness::new(self.programs, self.identity))
    }
}

fn said(error: &ProgramError) -> Lack {
    tracing::warn!("clients are not wholly known: {error}");
    match error {
        ProgramError::NoneHere => Lack::System,
        ProgramError::NoTypes(_) | ProgramError::OtherTypes(_) => Lack::NoTypes,
        ProgramError::NotPermitted => Lack::NotPermitted,
        ProgramError::Refused(..) => Lack::Refused,
        ProgramError::NoCgroups(_) => Lack::NoCgroups,
    }
}
