//! Capture on FreeBSD: brings it up, keeps it up, takes it down. Reads no packet and judges nobody.
//!
//! State is compared, not remembered: each check lists every FIB, lays the recipe (bsd/recipe.rs) beside it and puts what
//! is missing. Routes to nowhere come before the tun and stay when it goes: from the first of them on nothing is open.
#![deny(unsafe_code)]

mod note;

pub(super) use note::former;

use super::control::Control;
use super::routing::{self, Drained, Notifications};
use super::tun::{Tun, destroy_own};
use crate::capture::{CaptureError, Event, Health, Notes};
use crate::sys::bsd::links::Link;
use crate::sys::bsd::recipe;
use crate::sys::bsd::route::{self, Route};
use imds_ipc::control::Mode;
use imds_ipc::status::ForwardedPackets;
use imds_settings::{Forwarded, Settings};
use note::RouteNote;
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// The number of FIBs may grow without a word. A new one has no routes until root makes some.
const COUNT_EVERY: Duration = Duration::from_secs(1);
/// A FIB beyond those that we listen to changes without a word.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// Until the next comparison at least: two programs fighting cost a bounded share of a CPU.
const LEAST_GAP: Duration = Duration::from_millis(10);
const MOST_GAP: Duration = Duration::from_millis(35);
/// Until the next try after a failed comparison.
const TRY_AGAIN: Duration = Duration::from_millis(100);
/// A host has a handful of FIBs; each that is listened to costs a socket.
const MOST_LISTENED: u32 = 64;

pub struct Capture {
    settings: Settings,
    services: Vec<IpAddr>,
    control: Control,
    changed: Vec<Notifications>,
    notes: Notes<RouteNote>,
    tun: Tun,
    rest_until: Instant,
    compare_at: Instant,
    next_check: Instant,
    /// How many were compared the last time.
    fibs: u32,
    open: BTreeSet<String>,
    gone: bool,
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

    /// No service manager keeps a tun here; one that did would not keep its routes.
    ///
    /// # Errors
    /// As [`Self::up`].
    pub fn up_with(settings: &Settings, kept: Option<Tun>) -> Result<(Self, Tun), CaptureError> {
        drop(kept);
        if settings.capture.forwarded == Forwarded::Direct {
            return Err(CaptureError::NoDirect);
        }
        let mut notes = Notes::open(&settings.runtime_dir)?;
        let control = Control::open().map_err(CaptureError::step("opening sockets for interfaces"))?;
        let services = services(settings, &control);
        // heard from before the first look, or a change between the two would be missed
        let changed = listen().map_err(CaptureError::step("listening for changes of routes"))?;
        let mut events = Vec::new();
        // closed before anything of a former run is touched
        each_fib(|fib, table, links| {
            put(fib, &recipe::closing(&services), table, links, &mut notes, &mut events)
        })?;
        // the kernel replaces them without a word when the tun gets its address
        each_fib(|fib, table, links| {
            let inward = recipe::inward(&services, 0);
            inward.iter().try_for_each(|route| displace(fib, route, table, links, &mut notes))
        })?;
        let device = &settings.capture.device;
        let failed = |error| CaptureError::Tun { device: device.clone(), error };
        let tun = Tun::make(&control, device).map_err(failed)?;
        let now = Instant::now();
        let mut capture = Self {
            settings: settings.clone(),
            services,
            control,
            changed,
            notes,
            tun: tun.clone(),
            rest_until: now,
            compare_at: now,
            next_check: now,
            fibs: 0,
            open: BTreeSet::new(),
            gone: false,
            found_at_start: Vec::new(),
            health: Health::default(),
        };
        let name = tun.name().map_err(failed)?;
        capture.control.set_mtu(&name, settings.capture.mtu).map_err(failed)?;
        capture.configure(&name).map_err(failed)?;
        capture.repair(&mut events)?;
        // at a start everything is missing; what else was found is told by the first check, which is due at once
        events.retain(|event| !matches!(event, Event::PutBack(_)));
        capture.found_at_start = events;
        capture.health.put_back = 0;
        Ok((capture, tun))
    }

    /// Whether an address was missing, or the interface down.
    fn configure(&self, name: &str) -> io::Result<bool> {
        let links = routing::links()?;
        let own =
            links.iter().find(|link| link.address.name == name.as_bytes()).map_or(&[][..], |link| &link.own);
        let mut changed = false;
        for address in [IpAddr::from(self.settings.capture.address), self.settings.capture.address6.into()] {
            // the tun's other end is the service: there SO_DONTROUTE, which asks no route, looks first
            let service = self.services.iter().find(|service| service.is_ipv6() == address.is_ipv6());
            if let Some(service) = service
                && !own.contains(&address)
            {
                self.control.add_address(name, address, *service)?;
                changed = true;
            }
        }
        if !self.control.is_up(name)? {
            self.control.raise(name)?;
            changed = true;
        }
        Ok(changed)
    }

    /// For the event loop: readable when something changed, and then `notified` is due.
    #[must_use]
    pub fn notification_sockets(&self) -> Vec<BorrowedFd<'_>> {
        self.changed.iter().map(AsFd::as_fd).collect()
    }

    /// Reads the notifications and puts back what is missing; when changes come too fast, `next_check` is moved up
    /// instead.
    pub fn notified(&mut self, now: Instant) -> Vec<Event> {
        let mut events = Vec::new();
        let mut relevant = false;
        for socket in &self.changed {
            match socket.drain(|kind, message| concerns(kind, message, &self.services)) {
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
            self.compare_at = self.compare_at.min(self.rest_until);
            self.next_check = self.next_check.min(self.rest_until);
        } else if relevant {
            events.extend(self.compare(now));
        }
        events
    }

    /// When `check` is due.
    #[must_use]
    pub fn next_check(&self) -> Option<Instant> {
        Some(self.next_check)
    }

    /// A look is due every second anyway: see `COUNT_EVERY`.
    pub fn stirred(&mut self, _now: Instant) {}

    /// Compares everything, when it is time for that or there are more FIBs, and puts back what is missing.
    pub fn check(&mut self, now: Instant) -> Vec<Event> {
        let as_many = routing::fibs().is_ok_and(|fibs| fibs == self.fibs);
        if as_many && now < self.compare_at {
            self.next_check = self.compare_at.min(now + COUNT_EVERY);
            return Vec::new();
        }
        self.compare(now)
    }

    fn compare(&mut self, now: Instant) -> Vec<Event> {
        let mut events = std::mem::take(&mut self.found_at_start);
        let started = Instant::now();
        // counted first: one that is made meanwhile is found by the next look
        let result = routing::fibs()
            .map_err(CaptureError::step("asking for the number of FIBs"))
            .and_then(|fibs| self.repair(&mut events).map(|()| self.fibs = fibs));
        self.rest_until = now + started.elapsed().saturating_mul(4).clamp(LEAST_GAP, MOST_GAP);
        match result {
            Ok(()) => {
                self.health.trouble = None;
                self.compare_at = now + CHECK_EVERY;
                self.next_check = now + COUNT_EVERY;
            }
            Err(error) => {
                let trouble = error.to_string();
                self.health.guarded = false;
                if self.health.trouble.as_ref() != Some(&trouble) {
                    events.push(Event::Trouble(trouble.clone()));
                }
                self.health.trouble = Some(trouble);
                self.compare_at = now + TRY_AGAIN;
                self.next_check = self.compare_at;
            }
        }
        events
    }

    fn repair(&mut self, events: &mut Vec<Event>) -> Result<(), CaptureError> {
        let closing = recipe::closing(&self.services);
        let before = events.len();
        // first of all, in every FIB: whatever is wrong with the tun, nothing is open
        let notes = &mut self.notes;
        each_fib(|fib, table, links| put(fib, &closing, table, links, notes, events))?;
        let index = self.repair_tun(events)?;
        if let Some(index) = index {
            let inward = recipe::inward(&self.services, index);
            let notes = &mut self.notes;
            each_fib(|fib, table, links| put(fib, &inward, table, links, notes, events))?;
        }
        let put_back = events.iter().skip(before).filter(|event| matches!(event, Event::PutBack(_))).count();
        self.health.put_back =
            self.health.put_back.saturating_add(u64::try_from(put_back).unwrap_or(u64::MAX));
        self.look(index, events)
    }

    /// Its index; `None` when it was destroyed.
    fn repair_tun(&mut self, events: &mut Vec<Event>) -> Result<Option<u16>, CaptureError> {
        let found = self.tun.name().and_then(|name| Ok((self.control.index(&name)?, name)));
        let Ok((index, name)) = found else {
            if !self.gone {
                events.push(Event::TunGone);
            }
            self.gone = true;
            return Ok(None);
        };
        if self.configure(&name).map_err(CaptureError::step(format!("setting {name} up")))? {
            events.push(Event::PutBack(format!("addresses and state of {name}")));
        }
        Ok(Some(index))
    }

    /// Tells each way past capture when it opens and when it is closed.
    fn look(&mut self, tun: Option<u16>, events: &mut Vec<Event>) -> Result<(), CaptureError> {
        let mut open = BTreeSet::new();
        let services = &self.services;
        each_fib(|fib, table, _| {
            let ways = services.iter().filter(|service| recipe::is_open(**service, table, tun));
            open.extend(ways.map(|service| format!("at {service} in FIB {fib}")));
            Ok(())
        })?;
        events.extend(open.difference(&self.open).map(|way| Event::Open { way: way.clone() }));
        events.extend(self.open.difference(&open).map(|way| Event::Closed { way: way.clone() }));
        self.health.guarded = open.is_empty();
        self.health.tun = tun.is_some();
        self.health.ipv6 = self.services.iter().any(IpAddr::is_ipv6);
        self.open = open;
        Ok(())
    }

    /// Here no forwarded packet is ever let alone, whatever the mode.
    pub fn watch_forwarded(&mut self, _mode: Mode) {}

    /// What keeps clients out when the tun is gone.
    #[must_use]
    pub fn guard_name(&self) -> &'static str {
        "routes"
    }

    /// What becomes of forwarded packets: they have no socket here.
    pub fn forwarded(&mut self) -> ForwardedPackets {
        ForwardedPackets::Refused
    }

    #[must_use]
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// Stops capturing and leaves everything closed: what leads into the tun goes, what leads nowhere stays. The tun is
    /// destroyed when the caller drops his hold on it.
    ///
    /// # Errors
    /// What could not be removed; closed all the same.
    pub fn down(self) -> Result<(), CaptureError> {
        let Ok(index) = self.tun.name().and_then(|name| self.control.index(&name)) else { return Ok(()) };
        let inward = recipe::inward(&self.services, index);
        each_fib(|fib, _, _| take(fib, &inward))
    }

    /// Ends and leaves all as it is; what leads into the tun goes with it.
    pub fn leave(self) {}
}

/// Those of families that the kernel has.
fn services(settings: &Settings, control: &Control) -> Vec<IpAddr> {
    settings
        .upstreams()
        .map(|service| service.ip())
        .filter(|service| service.is_ipv4() || control.has_ipv6())
        .collect()
}

fn listen() -> io::Result<Vec<Notifications>> {
    (0..routing::fibs()?.min(MOST_LISTENED)).map(Notifications::of).collect()
}

/// With the table of each FIB and the interfaces there are.
fn each_fib(
    mut f: impl FnMut(u32, &[Route], &[Link]) -> Result<(), CaptureError>,
) -> Result<(), CaptureError> {
    let fibs = routing::fibs().map_err(CaptureError::step("asking for the number of FIBs"))?;
    let links = routing::links().map_err(CaptureError::step("listing interfaces"))?;
    for fib in 0..fibs {
        let table =
            routing::table(fib).map_err(CaptureError::step(format!("listing the routes of FIB {fib}")))?;
        f(fib, &table, &links)?;
    }
    Ok(())
}

/// Puts what does not stand, over what others have in its place; theirs is noted first.
fn put(
    fib: u32,
    routes: &[Route],
    table: &[Route],
    links: &[Link],
    notes: &mut Notes<RouteNote>,
    events: &mut Vec<Event>,
) -> Result<(), CaptureError> {
    for route in routes.iter().filter(|route| !recipe::stands(route, table)) {
        displace(fib, route, table, links, notes)?;
        routing::add(fib, route).map_err(CaptureError::step(format!("installing {route} in FIB {fib}")))?;
        events.push(Event::PutBack(format!("{route} in FIB {fib}")));
    }
    Ok(())
}

/// Removes what others have in the place of `route`; closed meanwhile.
fn displace(
    fib: u32,
    route: &Route,
    table: &[Route],
    links: &[Link],
    notes: &mut Notes<RouteNote>,
) -> Result<(), CaptureError> {
    for other in recipe::in_the_way(route, table) {
        // a pinned one is what we or a former run put, or the kernel's own
        if let Some(note) = RouteNote::of(fib, &other, links).filter(|_| !other.pinned) {
            notes.write(note).map_err(CaptureError::step("noting a route that capture replaces"))?;
        }
        routing::delete(fib, &other)
            .map_err(CaptureError::step(format!("replacing {other} in FIB {fib}")))?;
    }
    Ok(())
}

fn take(fib: u32, routes: &[Route]) -> Result<(), CaptureError> {
    for route in routes {
        routing::delete(fib, route).map_err(CaptureError::step(format!("removing {route} in FIB {fib}")))?;
    }
    Ok(())
}

/// Interfaces and their addresses, and routes that packets to a service could take.
fn concerns(kind: u8, message: &[u8], services: &[IpAddr]) -> bool {
    // net/route.h
    const CHANGE: u8 = 3;
    const ADDRESS: [u8; 2] = [0xc, 0xd];
    const INTERFACE: u8 = 0xe;
    const ANNOUNCEMENT: u8 = 0x11;
    match kind {
        route::ADD | route::DELETE | CHANGE => {
            route::table(message).iter().any(|route| services.iter().any(|service| route.covers(*service)))
        }
        INTERFACE | ANNOUNCEMENT => true,
        kind => ADDRESS.contains(&kind),
    }
}

/// Gives the host back as it was before capture, also after a kill -9: access is open afterwards.
///
/// # Errors
/// `Held` while an interceptor runs, which would put everything back; else what could not be undone.
pub fn release(settings: &Settings) -> Result<(), CaptureError> {
    let notes = Notes::<RouteNote>::open(&settings.runtime_dir)?;
    let control = Control::open().map_err(CaptureError::step("opening sockets for interfaces"))?;
    let services = services(settings, &control);
    let device = &settings.capture.device;
    let index = control.index(device).ok();
    each_fib(|fib, table, _| {
        if let Some(index) = index {
            take(fib, &recipe::inward(&services, index))?;
        }
        // one that another made is his
        let ours: Vec<Route> =
            recipe::closing(&services).into_iter().filter(|route| recipe::stands(route, table)).collect();
        take(fib, &ours)
    })?;
    match destroy_own(&control, device) {
        // another's interface of that name
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
        other => other.map_err(CaptureError::step(format!("removing the interface {device}")))?,
    }
    let links = routing::links().map_err(CaptureError::step("listing interfaces"))?;
    for note in notes.all() {
        if let Some(route) = note.route(&links) {
            routing::add(note.fib, &route)
                .map_err(CaptureError::step(format!("giving back {route} in FIB {}", note.fib)))?;
        }
    }
    notes.forget()
}
