//! The service manager's store of descriptors (FDSTORE of sd_notify(3)): what the next interceptor goes on with, so that SYNs
//! wait in the tun meanwhile and the records of who sent them wait too.
//! Must not take what other settings or another version made.

use crate::attribution::{KeptPrograms, Pace};
use crate::sys::{self, Tun};
use imds_settings::{Cgroup, Settings};
use rustc_hash::FxHasher;
use sd_notify::NotifyState;
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::os::fd::{BorrowedFd, OwnedFd};

/// To be counted up when the programs or their records change.
const FORMAT: u32 = 2;

const TUN: &str = "imds-tun";

/// What a former interceptor left with the service manager.
#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) tun: Option<Tun>,
    /// Never without the tun that they watch.
    pub(crate) programs: Option<KeptPrograms>,
}

/// The store as we see it.
pub(crate) struct Store {
    /// Goes into the names of what depends on it.
    version: String,
    /// Whether the service manager keeps what we give it.
    keeps: bool,
}

impl Store {
    /// Takes what is kept and still of use, and has the rest forgotten.
    #[must_use]
    pub(crate) fn open(settings: &Settings) -> (Self, Kept) {
        let mut inherited = sys::inherited().unwrap_or_else(|error| {
            tracing::warn!("what the service manager kept cannot be had: {error}");
            BTreeMap::new()
        });
        let version = version(settings);
        // version 254 of systemd and later say how many they keep; whoever gave us some keeps some
        let promised =
            std::env::var("FDSTORE").is_ok_and(|most| most.parse().is_ok_and(|most: u32| most > 0));
        let store = Self { version, keeps: promised || inherited.contains_key(TUN) };
        let names: Vec<String> = inherited.keys().cloned().collect();
        let kept = store.take(&mut inherited, &settings.capture.device);
        for name in names.iter().filter(|name| !store.is_part_of(&kept, name)) {
            tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)], &[]);
        }
        (store, kept)
    }

    fn is_part_of(&self, kept: &Kept, name: &str) -> bool {
        let is_program = name.strip_suffix(&self.version).is_some_and(|part| part.ends_with('-'));
        (kept.tun.is_some() && name == TUN) || (kept.programs.is_some() && is_program)
    }

    fn take(&self, inherited: &mut BTreeMap<String, OwnedFd>, device: &str) -> Kept {
        let is_ours = |tun: &Tun| tun.name().is_ok_and(|name| name == device);
        // one whose device was deleted, or is to have another name, is closed here
        let Some(tun) =
            inherited.get(TUN).and_then(|tun| tun.try_clone().ok()).map(Tun::adopt).filter(is_ours)
        else {
            return Kept::default();
        };
        inherited.remove(TUN);
        let programs = KeptPrograms::take(|part| inherited.remove(&self.name(part)));
        Kept { tun: Some(tun), programs }
    }

    fn name(&self, part: &str) -> String {
        format!("imds-{part}-{}", self.version)
    }

    /// Gives what is new to the service manager. To be called while it can still be reached.
    pub(crate) fn keep(&self, tun: Option<BorrowedFd<'_>>, programs: &[(&'static str, BorrowedFd<'_>)]) {
        if !self.keeps {
            return;
        }
        if let Some(tun) = tun {
            tell(&[NotifyState::FdStore, NotifyState::FdName(TUN)], &[tun]);
        }
        for (part, descriptor) in programs {
            // a map that cannot be waited for looks broken to whoever waits for it, and would be let go
            let unwatched = NotifyState::Custom("FDPOLL=0");
            tell(&[NotifyState::FdStore, NotifyState::FdName(&self.name(part)), unwatched], &[*descriptor]);
        }
    }

    /// Whether a stop may be followed by a start that goes on with the tun. If it is not, the service manager closes the
    /// tun, and with it everything is.
    #[must_use]
    pub(crate) fn keeps(&self) -> bool {
        self.keeps
    }
}

fn tell(what: &[NotifyState<'_>], descriptors: &[BorrowedFd<'_>]) {
    if let Err(error) = sd_notify::notify_with_fds(what, descriptors) {
        tracing::warn!("telling the service manager: {error}");
    }
}

/// The same for programs that do the same.
fn version(settings: &Settings) -> String {
    let mut hasher = FxHasher::default();
    (FORMAT, env!("CARGO_PKG_VERSION")).hash(&mut hasher);
    settings.upstreams().collect::<Vec<_>>().hash(&mut hasher);
    Pace::of(&settings.limits).hash(&mut hasher);
    match &settings.capture.cgroup {
        Cgroup::Auto => 0.hash(&mut hasher),
        Cgroup::None => 1.hash(&mut hasher),
        Cgroup::At(path) => path.hash(&mut hasher),
    }
    format!("{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_services_or_another_cgroup_are_another_version() {
        let settings = Settings::default();
        let mut other = settings.clone();
        other.capture.cgroup = Cgroup::None;
        assert_eq!(version(&settings), version(&settings.clone()));
        assert_ne!(version(&settings), version(&other));
        let mut other = settings.clone();
        other.services[0].port = 81;
        assert_ne!(version(&settings), version(&other));
        let mut other = settings.clone();
        other.limits.requests_per_second = 0;
        assert_ne!(version(&settings), version(&other));
    }
}
