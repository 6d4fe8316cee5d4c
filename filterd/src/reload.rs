//! The rules in force are exchanged here, whole or not at all. Requests under way keep those they began with.
//! Judges nobody.

use crate::channel::Channel;
use crate::filter::Filter;
use crate::in_force::InForce;
use crate::start::instead;
use crate::subject::needs;
use imds_ipc::Identity;
use imds_ipc::control::{self, Mode, Reply, RuleSet, Shown};
use imds_ipc::status::FilterStatus;
use imds_ipc::{FromFilterd, Lack, Needs};
use imds_settings::{GroupSource, Settings};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

/// What these rules need of interceptor, or why it cannot serve them.
///
/// # Errors
/// With the file's name and the line of the rule.
pub(crate) fn served_by(
    in_force: &InForce,
    groups: GroupSource,
    identity: Option<Identity>,
) -> Result<Needs, String> {
    // an interceptor says what it can tell before its first word else
    let identity = identity.unwrap_or(Identity::partial(Lack::Refused));
    needs(in_force.rules(), groups, identity).map_err(|error| format!("{}: {error}", in_force.file()))
}

/// The rules of the start, or the spare ones if interceptor cannot serve those; interceptor is told what they need.
/// `accepted` takes the word that the former are in force.
///
/// # Errors
/// When there are none that it can serve.
pub fn choose(
    settings: &Settings,
    interceptor: &Channel,
    in_force: InForce,
    spare: Option<InForce>,
    accepted: Option<OwnedFd>,
) -> Result<InForce, String> {
    let served = |in_force: &InForce| served_by(in_force, settings.filter.groups, interceptor.identity());
    match (served(&in_force), spare) {
        (Ok(needs), _) => {
            interceptor.need(needs, in_force.mode());
            let said = accepted.map(|accepted| rustix::io::write(accepted, b"1"));
            if let Some(Err(errno)) = said {
                tracing::warn!("these rules are not kept as the last good ones: {errno}");
            }
            Ok(in_force)
        }
        (Err(why), Some(spare)) => {
            interceptor.need(served(&spare)?, spare.mode());
            Ok(instead(spare, &why))
        }
        (Err(why), None) => Err(why),
    }
}

/// In audit mode nothing of this log is to be read without knowing it.
pub fn say_in_force(told: &control::InForce) {
    match told.mode {
        Mode::Enforce => tracing::info!("{} rules of {} in force", told.count, told.file),
        Mode::Audit => {
            tracing::warn!("AUDIT: {} rules of {} are watched and refuse nothing", told.count, told.file)
        }
    }
}

impl Filter {
    /// How we are.
    pub(crate) fn status(&self) -> FilterStatus {
        let in_force = self.in_force();
        let unresolved = in_force.rules().unresolved();
        FilterStatus {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            started: self.started.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            in_force: in_force.told(),
            fault: in_force.fault().unwrap_or("").into(),
            unresolved: unresolved.iter().map(ToString::to_string).collect(),
            unresolved_count: u32::try_from(unresolved.len()).unwrap_or(u32::MAX),
            names_watched: self.names_watched.get(),
            identity: self.interceptor.identity(),
            connections: self.open.get(),
            verdicts: self.audit.verdicts(),
            lines_lost: self.audit.ever_lost(),
        }
    }

    /// The rules for a request that begins now.
    pub(crate) fn in_force(&self) -> Rc<InForce> {
        Rc::clone(&self.in_force.borrow())
    }

    /// The generation of the rules in force, and their table of names.
    pub(crate) fn names(&self) -> (u64, Vec<u8>) {
        (self.generation.get(), self.in_force().names().to_vec())
    }

    /// Puts a set in force, at interceptor too. `Unconfirmed` where that one does not say so in time.
    ///
    /// # Errors
    /// Why not; nothing is changed then.
    pub(crate) async fn reload(&self, set: RuleSet) -> Result<Reply, String> {
        let in_force = InForce::of(set, SystemTime::now()).map_err(|why| why.to_string())?;
        let needs = served_by(&in_force, self.groups, self.interceptor.identity())?;
        self.need_ahead(needs).await;
        self.interceptor.need(needs, in_force.mode());
        let told = in_force.told();
        self.generation.set(self.generation.get().wrapping_add(1));
        self.exchange(in_force);
        self.reloaded.notify_one();
        say_in_force(&told);
        Ok(if self.obeyed().await { Reply::InForce(told) } else { Reply::Unconfirmed(told) })
    }

    /// A client of whom is not told what the new rules ask for would be refused by them, whoever it is: until it is told
    /// of those that come, the old rules stay in force.
    async fn need_ahead(&self, new: Needs) {
        let now = served_by(&self.in_force(), self.groups, self.interceptor.identity());
        let now = now.unwrap_or(Needs { groups: true, unit: true });
        let both = Needs { groups: now.groups || new.groups, unit: now.unit || new.unit };
        if both != now {
            self.interceptor.say(&FromFilterd::Needs(both));
            self.obeyed().await;
        }
    }

    /// Until interceptor has obeyed what it was told. One that does not say so in time is told of, and waited for no more.
    pub(crate) async fn obeyed(&self) -> bool {
        let obeyed = self.interceptor.obeyed().await;
        if !obeyed {
            tracing::warn!(
                "imds-interceptor does not say that it has taken what the rules need and their mode"
            );
        }
        obeyed
    }

    /// What the names of the rules in force stand for has changed. An answer about former rules is of no use.
    pub(crate) fn rename(&self, generation: u64, names: Vec<u8>, shown: Shown) {
        if generation != self.generation.get() {
            return;
        }
        match self.in_force().renamed(names, shown) {
            Ok(in_force) => {
                let unknown = in_force.rules().unresolved().len();
                tracing::info!("users or groups have changed: {unknown} rules match nobody");
                self.exchange(in_force);
            }
            Err(why) => tracing::warn!("the watcher of names: {why}"),
        }
    }

    fn exchange(&self, in_force: InForce) {
        self.audit.show(in_force.shown());
        *self.in_force.borrow_mut() = Rc::new(in_force);
    }
}
