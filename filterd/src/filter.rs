//! What all exchanges share, and what is known of one client.
//! Decides nothing; opens nothing.

use crate::audit::{Audit, Output};
use crate::channel::Channel;
use crate::in_force::InForce;
use crate::limits::{Limits, OverLimit};
use crate::stock::Stock;
use crate::tokens::Tokens;
use hyper::header::{HeaderValue, InvalidHeaderValue};
use imds_ipc::Unattributed;
use imds_rules::{Profile, Subject, Unit};
use imds_settings::{GroupSource, RefuseStatus, Settings};
use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::SystemTime;
use tokio::sync::Notify;

/// One address of a metadata service.
pub(crate) struct Service {
    /// Its index in interceptor's configuration, which is ours.
    pub(crate) upstream: u16,
    pub(crate) address: SocketAddr,
    pub(crate) name: Rc<str>,
    pub(crate) profile: Rc<Profile>,
    /// What upstream is told as `Host`, whatever the client said.
    pub(crate) host: HeaderValue,
}

pub struct Filter {
    pub(crate) in_force: RefCell<Rc<InForce>>,
    /// Of the rules in force: the number of reloads before.
    pub(crate) generation: Cell<u64>,
    pub(crate) reloaded: Notify,
    pub(crate) services: Vec<Rc<Service>>,
    pub(crate) settings: imds_settings::Limits,
    pub(crate) groups: GroupSource,
    /// Of our own 403s.
    pub(crate) refuse_status: RefuseStatus,
    pub(crate) tokens: Tokens,
    pub(crate) limits: RefCell<Limits>,
    pub(crate) audit: Rc<Audit>,
    pub(crate) interceptor: Channel,
    pub(crate) stock: Rc<Stock>,
    pub(crate) drain: Drain,
    /// Connections we hold.
    pub(crate) open: Cell<u32>,
    pub(crate) started: SystemTime,
    pub(crate) names_watched: Cell<bool>,
}

impl Filter {
    /// # Errors
    /// When a service's address cannot be a `Host` value; none such exists.
    pub fn new(
        settings: &Settings,
        in_force: InForce,
        output: Output,
        interceptor: Channel,
    ) -> Result<Self, InvalidHeaderValue> {
        let audit = Audit::new(output, in_force.shown());
        Ok(Self {
            in_force: RefCell::new(Rc::new(in_force)),
            generation: Cell::new(0),
            reloaded: Notify::new(),
            services: services(settings)?,
            limits: RefCell::new(Limits::new(&settings.limits)),
            settings: settings.limits.clone(),
            groups: settings.filter.groups,
            refuse_status: settings.filter.refuse_status,
            tokens: Tokens::new(settings.filter.tokens, settings.upstreams().count()),
            audit: Rc::new(audit),
            interceptor,
            stock: Rc::new(Stock::new(settings.upstreams().count())),
            drain: Drain::default(),
            open: Cell::new(0),
            started: SystemTime::now(),
            names_watched: Cell::new(false),
        })
    }

    /// The service that interceptor says a client connected to, if its index and its address agree with ours.
    pub(crate) fn service(&self, upstream: u16, address: SocketAddr) -> Option<Rc<Service>> {
        let found = self.services.get(usize::from(upstream))?;
        (found.address == address).then(|| Rc::clone(found))
    }
}

fn services(settings: &Settings) -> Result<Vec<Rc<Service>>, InvalidHeaderValue> {
    let mut all: Vec<Rc<Service>> = Vec::new();
    for service in &settings.services {
        let profile = Rc::new(Profile::ec2(service.addresses.clone(), service.port, service.hosts.clone()));
        let name: Rc<str> = service.name.as_str().into();
        for ip in &service.addresses {
            // the settings refuse more than a few addresses
            let upstream = u16::try_from(all.len()).unwrap_or(u16::MAX);
            let address = SocketAddr::new(*ip, service.port);
            let host = host_of(address).try_into()?;
            let (name, profile) = (Rc::clone(&name), Rc::clone(&profile));
            all.push(Rc::new(Service { upstream, address, name, profile, host }));
        }
    }
    Ok(all)
}

/// RFC 9110 section 7.2: without the port where it is the scheme's own.
fn host_of(address: SocketAddr) -> String {
    match (address.port(), address.ip()) {
        (80, IpAddr::V4(ip)) => ip.to_string(),
        (80, IpAddr::V6(ip)) => format!("[{ip}]"),
        _ => address.to_string(),
    }
}

/// How a connection of ours is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Everything was answered.
    Clean,
    /// The client may still be sending what we will not read.
    Refused,
    /// In the middle of an answer: the client must not take it for a whole one.
    Cut,
    /// Not at all: the next filterd goes on.
    HandedBack,
}

/// One captured connection.
pub(crate) struct Client {
    pub(crate) id: u64,
    /// Or why nobody can tell.
    pub(crate) subject: Result<Subject, Unattributed>,
    /// For the log alone.
    pub(crate) process: Option<imds_ipc::Process>,
    pub(crate) address: SocketAddr,
    pub(crate) service: Rc<Service>,
    /// Set when its uid had too many connections already.
    pub(crate) over: Option<OverLimit>,
    pub(crate) ending: Cell<Ending>,
    /// Whether it has sent a head.
    pub(crate) used: Cell<bool>,
    /// interceptor knows that the last answer is the end.
    pub(crate) end_is_said: Cell<bool>,
    /// All that we were asked in a message is answered in one: the connection is interceptor's again.
    pub(crate) answered: Cell<bool>,
}

impl Client {
    pub(crate) fn unit(&self) -> Option<&str> {
        match self.subject.as_ref().ok().map(|subject| &subject.unit) {
            Some(Unit::Named(name)) => Some(name),
            Some(Unit::Unknown | Unit::None) | None => None,
        }
    }

    pub(crate) fn uid(&self) -> Option<u32> {
        self.subject.as_ref().ok().map(|subject| subject.uid)
    }
}

/// The end of this process: connections are handed back or closed, running exchanges finish.
#[derive(Default)]
pub(crate) struct Drain {
    /// Exchanges that begin now are not waited for.
    stopping: Cell<bool>,
    /// Exchanges that run and began before.
    running: Cell<u32>,
    begun: Cell<bool>,
    begin: Notify,
    /// Connections that have sent a head.
    used: Cell<u32>,
    quiet: Notify,
}

impl Drain {
    pub(crate) fn begin(&self) {
        self.begun.set(true);
        self.begin.notify_waiters();
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.begun.get()
    }

    pub(crate) async fn begun(&self) {
        if !self.has_begun() {
            self.begin.notified().await; // one thread: nothing begins between the two
        }
    }

    /// Until no exchange runs that runs now. What comes meanwhile is served, and not waited for.
    pub(crate) async fn finished(&self) {
        self.stopping.set(true);
        while self.running.get() > 0 {
            self.quiet.notified().await;
        }
    }

    /// A connection has sent its first head.
    pub(crate) fn enter(&self) {
        self.used.set(self.used.get().saturating_add(1));
    }

    /// Such a connection is closed.
    pub(crate) fn leave(&self) {
        self.used.set(self.used.get().saturating_sub(1));
        if self.used.get() == 0 {
            self.quiet.notify_waiters();
        }
    }

    /// Until no connection is left that has sent a head. One that has sent none loses nothing by our end.
    pub(crate) async fn quiet(&self) {
        while self.used.get() > 0 {
            self.quiet.notified().await;
        }
    }
}

/// An exchange that runs, until this is dropped.
pub(crate) struct Running {
    filter: Rc<Filter>,
    counted: bool,
}

impl Running {
    pub(crate) fn new(filter: &Rc<Filter>) -> Self {
        let drain = &filter.drain;
        let counted = !drain.stopping.get();
        drain.running.set(drain.running.get().saturating_add(counted.into()));
        Self { filter: Rc::clone(filter), counted }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let drain = &self.filter.drain;
        drain.running.set(drain.running.get().saturating_sub(self.counted.into()));
        if drain.stopping.get() {
            drain.quiet.notify_waiters();
        }
    }
}
