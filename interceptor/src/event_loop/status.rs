//! How we are, in one message to an operator at the door, who needs to say nothing. Also with no filterd attached.
//! Must not wait for him, nor change anything.

use super::EventLoop;
use crate::netstack::Refused;
use imds_ipc::channel;
use imds_ipc::status::InterceptorStatus;

use std::os::fd::OwnedFd;
use std::time::Instant;

/// Connections refused since the start.
#[derive(Default)]
pub(super) struct Counts {
    crowded: u64,
    unattributable: u64,
}

impl Counts {
    pub(super) fn refused(&mut self, why: &Refused) {
        match why {
            Refused::Crowded(_) | Refused::NoEndpoint => self.crowded = self.crowded.saturating_add(1),
            Refused::Unattributable(_) => self.unattributable = self.unattributable.saturating_add(1),
        }
    }
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

impl EventLoop {
    /// Whoever does not take it now does without. What he is told was looked at for him.
    pub(super) fn tell_status(&mut self, operator: &OwnedFd, now: Instant) {
        self.found.extend(self.capture.check(now));
        let health = self.capture.health();
        let status = InterceptorStatus {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            identity: self.attribution.identity(),
            guarded: health.guarded,
            tun: health.tun,
            ipv6: health.ipv6,
            guard: self.capture.guard_name().into(),
            forwarded: self.capture.forwarded(),
            audit: self.audit,
            put_back: health.put_back,
            foreign: health.foreign,
            trouble: health.trouble.as_deref().unwrap_or("").into(),
            filterds: count(self.peers.attached()),
            connections: count(self.netstack.len()),
            held: count(self.held.len()),
            crowded: self.counts.crowded,
            unattributable: self.counts.unattributable,
        };
        let mut bytes = Vec::new();
        status.encode(&mut bytes);
        if let Err(error) = channel::send(operator, &bytes, None) {
            tracing::warn!("telling the operator how we are: {error}");
        }
    }
}
