//! Capture on Linux: brings it up, keeps it up, takes it down. Reads no packet and judges nobody.
//!
//! State is compared, not remembered: each check reads what stands in the kernel (world.rs), lays the recipe beside it
//! (recipe.rs) and puts what is missing. So a start over the leftovers of a killed run, a repair after another program
//! flushed the rules, and a link that appeared are one and the same thing.

#![deny(unsafe_code)]

mod guard;
mod links;
mod note;
mod recipe;
mod schedule;
mod watch;
mod world;

use super::tun::Tun;
use crate::capture::{CaptureError, Event, Health, Notes};
use crate::sys::linux::bpf::Switch;
use crate::sys::linux::netlink::{Drained, Notifications};
use crate::sys::linux::rtnl;
use imds_ipc::control;
use imds_ipc::status::ForwardedPackets;
use imds_settings::{Cgroup, Forwarded, Guard, Mode, Settings};
use note::LinkNote;
use schedule::Schedule;
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};
use world::{Kernel, World};

/// After a comparison, changes wait this long for the next: two programs fighting cost a bounded share of a CPU.
/// Well below the promised 50 ms.
const LEAST_GAP: Duration = Duration::from_millis(10);
/// The gap grows with what a comparison takes, to keep that share below a fifth, but not beyond this.
const MOST_GAP: Duration = Duration::from_millis(35);
/// Until the next try after a failed comparison.
const TRY_AGAIN: Duration = Duration::from_millis(100);

pub struct Capture {
    /// As they are in effect: see `watch_forwarded`.
    settings: Settings,
    configured: Forwarded,
    /// Our own settings say that forwarded packets may be let alone; filterd's word alone does not open them a way.
    may_watch: bool,
    services: Vec<IpAddr>,
    kernel: Kernel,
    routes_changed: Notifications,
    guard_changed: Notifications,
    notes: Notes<LinkNote>,
    tun: Tun,
    /// Of the tun, as long as it is there.
    tun_index: u32,
    /// Before this no comparison is made for a notification.
    rest_until: Instant,
    schedule: Schedule,
    /// Tells of writes to disable_xfrm, which give no notification. None: nothing does, or no such setting matters.
    switch: Option<Switch>,
    /// Alarms that stand, so that each is told once.
    standing: BTreeSet<String>,
    open: BTreeSet<String>,
    found_at_start: Vec<Event>,
    health: Health,
}

impl Capture {
    /// Brings capture up, over whatever a former run left.
    ///
    /// # Errors
    /// What was tried, what the kernel said, what to do. What was installed by then stays: closed.
    pub fn up(settings: &Settings) -> Result<(Self, Tun), CaptureError> {
        Self::up_with(settings, None)
    }

    /// The same with the tun of a former run, if there is one; packets may wait in it.
    ///
    /// # Errors
    /// As [`Self::up`].
    pub fn up_with(settings: &Settings, kept: Option<Tun>) -> Result<(Self, Tun), CaptureError> {
        // the kernel asks the guard's policies for forwarded packets too
        if (settings.capture.guard, settings.capture.forwarded) == (Guard::Xfrm, Forwarded::Direct) {
            return Err(CaptureError::NoDirect);
        }
        let configured = settings.capture.forwarded;
        // the kernel asks xfrm's policies for forwarded packets, too
        let may_watch = (settings.filter.mode, settings.capture.guard) == (Mode::Audit, Guard::Nftables);
        let settings = &watching(settings, may_watch, configured);
        let notes: Notes<LinkNote> = Notes::open(&settings.runtime_dir)?;
        let kernel = Kernel::open()?;
        kernel.has(settings.capture.guard)?;
        // heard from before the first look, or a change between the two would be missed
        let listening = "listening for changes of routes and the guard";
        let routes_changed = rtnl::notifications().map_err(CaptureError::step(listening))?;
        let guard_changed = guard::notifications(settings).map_err(CaptureError::step(listening))?;
        let (switch, blind, unseen) = watch_switch(settings);

        let device = &settings.capture.device;
        let failed = |error| CaptureError::Tun { device: device.clone(), error };
        let tun = kept.map_or_else(|| Tun::make(device), Ok).map_err(failed)?;
        let now = Instant::now();
        let mut capture = Self {
            settings: settings.clone(),
            configured,
            may_watch,
            services: settings.upstreams().map(|service| service.ip()).collect(),
            kernel,
            routes_changed,
            guard_changed,
            notes,
            tun: tun.share().map_err(failed)?,
            tun_index: 0,
            rest_until: now,
            schedule: Schedule::new(blind, now),
            switch,
            standing: BTreeSet::new(),
            open: BTreeSet::new(),
            found_at_start: Vec::new(),
            health: Health::default(),
        };
        capture.tun_index = capture.find_tun().map_err(failed)?;
        let mut events = Vec::new();
        capture.repair(&mut events)?;
        // at a start everything is missing; what else was found is told by the first check, which is due at once
        events.retain(|event| !matches!(event, Event::PutBack(_)));
        capture.found_at_start = events;
        capture.found_at_start.extend(unseen);
        capture.health.put_back = 0;
        Ok((capture, tun))
    }

    fn find_tun(&mut self) -> io::Result<u32> {
        let name = self.tun.name()?;
        let links = self.kernel.routing.links()?;
        let tun = links.iter().find(|link| link.name == name);
        tun.map(|link| link.index).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The open file is asked, for another link may have got a deleted tun's index or name: that one must not be given
    /// the tun's settings, which switch its guard off.
    fn world(&mut self) -> Result<World, CaptureError> {
        let tun = self.tun.name().ok().map(|name| (self.tun_index, name));
        World::read(&mut self.kernel, self.settings.capture.table, tun)
            .map_err(CaptureError::step("reading links, rules, routes and the guard"))
    }

    /// For the event loop: readable when something changed, and then `notified` is due.
    #[must_use]
    pub fn notification_sockets(&self) -> Vec<BorrowedFd<'_>> {
        let sockets = [self.routes_changed.as_fd(), self.guard_changed.as_fd()];
        sockets.into_iter().chain(self.switch.as_ref().map(AsFd::as_fd)).collect()
    }

    /// Reads the notifications and puts back what is missing; when changes come too fast, `next_check` is moved up
    /// instead.
    pub fn notified(&mut self, now: Instant) -> Vec<Event> {
        let (table, tun, services) = (self.settings.capture.table, self.tun_index, &self.services);
        let routes = self.routes_changed.drain(|received| rtnl::concerns(received, table, tun, services));
        let guard = self.guard_changed.drain(|received| guard::concerns(&self.settings, received));
        let mut events = Vec::new();
        // what does not concern us may open a way all the same: another table that gives packets our mark
        self.schedule.stirred(now);
        // while a look is due anyway, who writes without end does not even wake us
        let written = !self.schedule.looks_soon() && self.was_written(now);
        let mut relevant = written;
        for drained in [routes, guard] {
            match drained {
                Ok(Drained::Quiet) => {}
                Ok(Drained::Relevant) => relevant = true,
                Ok(Drained::Overrun) => {
                    relevant = true;
                    events.push(Event::Overrun);
                }
                Err(error) => {
                    relevant = true;
                    events.push(Event::Trouble(format!("reading change notifications: {error}")));
                }
            }
        }
        if relevant && now < self.rest_until {
            self.schedule.at(self.rest_until);
        } else if relevant {
            events.extend(self.compare(now));
        }
        events
    }

    /// When `check` is due; not at all while nothing happens and nothing is wrong.
    #[must_use]
    pub fn next_check(&self) -> Option<Instant> {
        self.schedule.next()
    }

    /// Something happened, whatever it was: a check follows, as one does every few seconds while there is traffic.
    pub fn stirred(&mut self, now: Instant) {
        self.schedule.stirred(now);
    }

    /// Compares everything, puts back what is missing, and probes.
    pub fn check(&mut self, now: Instant) -> Vec<Event> {
        self.compare(now)
    }

    /// Whether disable_xfrm was written, which is then looked at until it is surely done.
    fn was_written(&mut self, now: Instant) -> bool {
        let written = self.switch.as_ref().is_some_and(Switch::was_written);
        if written {
            self.schedule.written(now);
        }
        written
    }

    fn compare(&mut self, now: Instant) -> Vec<Event> {
        self.was_written(now);
        let mut events = std::mem::take(&mut self.found_at_start);
        let started = Instant::now();
        let result = self.repair(&mut events).and_then(|world| {
            // after each change, and every few seconds
            let full = !events.is_empty() || self.schedule.in_full(now) || !self.health.guarded;
            if full {
                self.probe(&world, &mut events).map_err(CaptureError::step("probing for ways left open"))?;
            }
            Ok(full)
        });
        self.rest_until = now + started.elapsed().saturating_mul(4).clamp(LEAST_GAP, MOST_GAP);
        match result {
            Ok(full) => {
                self.health.trouble = None;
                self.schedule.compared(now, full, self.health.guarded);
            }
            Err(error) => {
                let trouble = error.to_string();
                self.health.guarded = false;
                if self.health.trouble.as_ref() != Some(&trouble) {
                    events.push(Event::Trouble(trouble.clone()));
                }
                self.health.trouble = Some(trouble);
                self.schedule.again(now + TRY_AGAIN);
            }
        }
        events
    }

    /// Puts what does not stand, in the recipe's order; then looks at what others did.
    fn repair(&mut self, events: &mut Vec<Event>) -> Result<World, CaptureError> {
        let mut world = self.world()?;
        // some steps end others (a link that goes up may get IPv6 only then): a second look sees that
        for _ in 0..2 {
            if !self.repair_once(&world, events)? {
                break;
            }
            world = self.world()?;
        }
        links::loosen_reverse_path(&self.settings, &mut self.kernel, &world, &mut self.notes, events)
            .map_err(CaptureError::step("setting rp_filter of the uplink to 2"))?;
        self.tell_standing(&world, events);
        self.health.tun = world.tun.is_some();
        self.health.ipv6 = world.tun_ipv6 && self.services.iter().any(IpAddr::is_ipv6);
        Ok(world)
    }

    /// Whether anything was changed.
    fn repair_once(&mut self, world: &World, events: &mut Vec<Event>) -> Result<bool, CaptureError> {
        let before = events.len();
        match self.settings.capture.guard {
            Guard::Xfrm => links::switch_guard_on(world, &mut self.notes, events)
                .map_err(CaptureError::step("setting disable_xfrm to 0"))?,
            // no setting of a link voids it
            Guard::Nftables => {}
        }
        let steps = recipe::steps(&self.settings, world);
        for step in recipe::leftovers(&self.settings, world, &steps) {
            step.take(&mut self.kernel).map_err(CaptureError::step(format!("removing {step}")))?;
            events.push(Event::Cleared(step.to_string()));
        }
        for step in steps.iter().filter(|step| !step.stands(world)) {
            let put = step
                .put(&mut self.kernel, world)
                .map_err(CaptureError::step(format!("installing {step}")))?;
            if !put {
                continue;
            }
            self.health.put_back = self.health.put_back.saturating_add(1);
            events.push(Event::PutBack(step.to_string()));
        }
        // the new guard stands, so that of former settings may go
        let guard = guard::wanted(&self.settings, world);
        if guard.has_predecessor(world) {
            guard
                .remove_predecessor(&mut self.kernel)
                .map_err(CaptureError::step("removing the guard of former settings"))?;
            events.push(Event::Cleared("the guard of former settings".into()));
        }
        Ok(events.len() > before)
    }

    /// Tells each lasting alarm when it begins.
    fn tell_standing(&mut self, world: &World, events: &mut Vec<Event>) {
        let mut found = watch::foreign(&self.settings, world);
        if world.tun.is_none() {
            found.push(Event::TunGone);
        }
        let texts: BTreeSet<String> = found.iter().map(Event::to_string).collect();
        events.extend(found.into_iter().filter(|event| !self.standing.contains(&event.to_string())));
        self.health.foreign = texts.iter().cloned().collect();
        self.standing = texts;
    }

    fn probe(&mut self, world: &World, events: &mut Vec<Event>) -> io::Result<()> {
        let open: BTreeSet<String> = watch::open_ways(&self.settings, world)?.into_iter().collect();
        events.extend(open.difference(&self.open).map(|way| Event::Open { way: way.clone() }));
        events.extend(self.open.difference(&open).map(|way| Event::Closed { way: way.clone() }));
        self.health.guarded = open.is_empty();
        self.open = open;
        Ok(())
    }

    /// In audit mode forwarded packets are let alone and counted, if our own settings say audit, too.
    pub fn watch_forwarded(&mut self, mode: control::Mode) {
        let watch = self.may_watch && mode == control::Mode::Audit;
        if watch == (self.settings.filter.mode == Mode::Audit) {
            return;
        }
        self.settings = watching(&self.settings, watch, self.configured);
        let put_back = self.health.put_back;
        // what is said of it is that we changed it; should it fail, the next comparison says so
        if self.repair(&mut Vec::new()).is_err() {
            self.schedule.at(Instant::now());
        }
        self.health.put_back = put_back;
    }

    /// What keeps clients out when routes and rules are gone.
    #[must_use]
    pub fn guard_name(&self) -> &'static str {
        match self.settings.capture.guard {
            Guard::Xfrm => "xfrm",
            Guard::Nftables => "nftables",
        }
    }

    /// What becomes of forwarded packets.
    pub fn forwarded(&mut self) -> ForwardedPackets {
        match (self.settings.capture.forwarded, self.settings.filter.mode) {
            (Forwarded::Refuse, _) => ForwardedPackets::Refused,
            (Forwarded::Direct, Mode::Enforce) => ForwardedPackets::Direct,
            (Forwarded::Direct, Mode::Audit) => ForwardedPackets::Audited(guard::forwarded(&mut self.kernel)),
        }
    }

    /// Ends and leaves all as it is, for the next one to go on with; if the tun does not outlive us, that closes
    /// everything.
    pub fn leave(self) {}

    #[must_use]
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// Stops capturing and leaves everything closed: rule 3, the marked sockets' rules and our table go; the guard and
    /// rule 4 stay. The tun is the caller's.
    ///
    /// # Errors
    /// What could not be removed; closed all the same.
    pub fn down(mut self) -> Result<(), CaptureError> {
        let world = self.world()?;
        let steps = recipe::steps(&self.settings, &world);
        let inward = steps.iter().filter(|step| step.leads_in(&self.settings));
        undo(&mut self.kernel, inward.rev())
    }
}

/// And whether changes of disable_xfrm may come of which nothing tells: one cgroup's processes are not all, and who does
/// not want programs of ours on cgroups gets none.
fn watch_switch(settings: &Settings) -> (Option<Switch>, bool, Option<Event>) {
    let (cgroup, all) = match (settings.capture.guard, &settings.capture.cgroup) {
        // no setting of a link voids it
        (Guard::Nftables, _) => return (None, false, None),
        (Guard::Xfrm, Cgroup::None) => return (None, true, None),
        (Guard::Xfrm, Cgroup::Auto) => (None, true),
        (Guard::Xfrm, Cgroup::At(path)) => (Some(path.as_path()), false),
    };
    match Switch::watch(cgroup) {
        Ok(switch) => (Some(switch), !all, None),
        Err(why) => (None, true, Some(Event::Blind(why.to_string()))),
    }
}

fn watching(settings: &Settings, watch: bool, configured: Forwarded) -> Settings {
    let mut settings = settings.clone();
    (settings.filter.mode, settings.capture.forwarded) =
        if watch { (Mode::Audit, Forwarded::Direct) } else { (Mode::Enforce, configured) };
    settings
}

fn undo<'a>(kernel: &mut Kernel, steps: impl Iterator<Item = &'a recipe::Step>) -> Result<(), CaptureError> {
    for step in steps {
        step.take(kernel).map_err(CaptureError::step(format!("removing {step}")))?;
    }
    Ok(())
}

/// Gives the host back as it was before capture, also after a kill -9: access is open afterwards.
///
/// # Errors
/// `Held` while an interceptor runs, which would put everything back; else what could not be undone.
pub fn release(settings: &Settings) -> Result<(), CaptureError> {
    let notes: Notes<LinkNote> = Notes::open(&settings.runtime_dir)?;
    let mut kernel = Kernel::open()?;
    let world = World::read(&mut kernel, settings.capture.table, None)
        .map_err(CaptureError::step("reading what to remove"))?;
    // what leads in first, then what keeps closed: the order of a stop, then the rest in reverse
    let mut steps = recipe::steps(settings, &world);
    steps.extend(recipe::leftovers(settings, &world, &steps));
    steps.sort_by_key(|step| step.leads_in(settings));
    undo(&mut kernel, steps.iter().rev())?;
    links::restore(&world, &notes).map_err(CaptureError::step("restoring rp_filter and disable_xfrm"))?;
    notes.forget()
}
