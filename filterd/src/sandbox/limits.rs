//! How much of the machine this process may take: descriptors, memory, no core file.
//! Not about clients: what one uid may have is in `limits` above.

use super::{Missing, SandboxError, os};
use crate::stock;
use imds_settings::Settings;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors beside those of connections, also of kept ones: standard ones, epoll, the channel, signals, the service manager's.
const OTHER_DESCRIPTORS: u64 = 64;
/// The program, its libraries, rules and names: a rules file of a hundred thousand lines fits twice.
const OTHER_MEMORY: u64 = 256 << 20;
/// A connection's buffers beside its head: hyper's two on each side, and a piece of the answer's body.
const CONNECTION_MEMORY: u64 = 64 << 10;

/// Room for as many connections as the settings allow, and no more. Before [`super::enter`]: root may raise a hard limit.
/// Returns whether there is less room than they need.
///
/// # Errors
/// When a limit cannot be set at all.
pub fn bound(settings: &Settings) -> Result<Option<Missing>, SandboxError> {
    setrlimit(Resource::Core, exactly(0)).map_err(os("forbidding core files"))?;
    let limits = &settings.limits;
    let connections = u64::from(limits.connections);
    // a head grows by doubling, and both buffers are there while it is moved
    let each = u64::from(limits.head_bytes) * 3 + CONNECTION_MEMORY;
    let memory = OTHER_MEMORY + connections * each;
    setrlimit(Resource::As, no_more_than(Resource::As, memory)).map_err(os("bounding memory"))?;
    let kept = u64::try_from(settings.upstreams().count() * stock::MOST).unwrap_or(u64::MAX);
    bound_descriptors((connections * 2 + OTHER_DESCRIPTORS).saturating_add(kept))
}

fn bound_descriptors(needed: u64) -> Result<Option<Missing>, SandboxError> {
    let Err(raising) = setrlimit(Resource::Nofile, exactly(needed)) else { return Ok(None) };
    setrlimit(Resource::Nofile, no_more_than(Resource::Nofile, needed)).map_err(os("bounding open files"))?;
    Ok(Some(Missing::Limits(raising.into())))
}

fn exactly(limit: u64) -> Rlimit {
    Rlimit { current: Some(limit), maximum: Some(limit) }
}

/// Without root a hard limit can only be lowered.
fn no_more_than(resource: Resource, limit: u64) -> Rlimit {
    let maximum = getrlimit(resource).maximum;
    exactly(maximum.map_or(limit, |maximum| maximum.min(limit)))
}
