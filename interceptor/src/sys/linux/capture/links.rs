//! Settings of other links that would break capture: disable_xfrm, which voids the guard, and rp_filter = 1, which
//! drops the upstream's answers (their way back leads into the tun). Originals are noted before they are changed.

use super::note::{LinkNote, Setting};
use super::world::{Kernel, World};
use crate::capture::Event;
use crate::capture::Notes;
use crate::sys::linux::rtnl::Link;
use crate::sys::linux::sysctl::{self, Family};
use imds_settings::Settings;
use std::io;

/// Strict: the link a packet came by must be the one its answer would leave by.
const STRICT: u32 = 1;
const LOOSE: u32 = 2;

fn change(
    notes: &mut Notes<LinkNote>,
    index: u32,
    link: &str,
    setting: Setting,
    original: u32,
    ours: u32,
) -> io::Result<()> {
    notes.write(LinkNote { index, link: link.to_owned(), setting, original, ours })?;
    match sysctl::write(Family::V4, link, setting.key(), ours) {
        // the link went away meanwhile
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The kernel takes a link's disable_xfrm or that of `all`; `default` is what new links get.
pub(super) fn switch_guard_on(
    world: &World,
    notes: &mut Notes<LinkNote>,
    events: &mut Vec<Event>,
) -> io::Result<()> {
    let shared = ["all", "default"].into_iter().map(|name| {
        let value = sysctl::read(Family::V4, name, "disable_xfrm")?;
        io::Result::Ok((0, name, value))
    });
    // the loopback's is 1 from the start; nothing leaves by it
    let others = world.links.iter().filter(|link| !link.loopback && Some(link.index) != world.tun);
    // a link without IPv4 state has no such setting
    let each = others.filter_map(|link| Some(Ok((link.index, link.name.as_str(), link.disable_xfrm?))));
    for found in shared.chain(each) {
        let (index, link, value): (u32, &str, u32) = found?;
        if value != 0 {
            change(notes, index, link, Setting::DisableXfrm, value, 0)?;
            events.push(Event::GuardWasOff { link: link.to_owned() });
        }
    }
    Ok(())
}

/// Loosens rp_filter on the links by which our own sockets reach the services, where it is strict.
pub(super) fn loosen_reverse_path(
    settings: &Settings,
    kernel: &mut Kernel,
    world: &World,
    notes: &mut Notes<LinkNote>,
    events: &mut Vec<Event>,
) -> io::Result<()> {
    let for_all = sysctl::read(Family::V4, "all", "rp_filter")?;
    let mut uplinks = Vec::new();
    for service in settings.upstreams().filter(|service| service.is_ipv4()) {
        uplinks.extend(kernel.routing.links_towards(service.ip(), settings.capture.mark)?);
    }
    let uplink =
        |link: &&Link| uplinks.contains(&link.index) && Some(link.index) != world.tun && !link.loopback;
    for link in world.links.iter().filter(uplink) {
        let Some(own) = link.rp_filter else { continue };
        // the kernel takes the greater of the two (ip-sysctl)
        if own.max(for_all) == STRICT {
            change(notes, link.index, &link.name, Setting::RpFilter, own, LOOSE)?;
            events.push(Event::ReversePathLoosened { link: link.name.clone() });
        }
    }
    Ok(())
}

/// Gives back the noted originals, where ours still stand.
pub(super) fn restore(world: &World, notes: &Notes<LinkNote>) -> io::Result<()> {
    for note in notes.all().iter().rev() {
        let link = if note.index == 0 {
            Some(note.link.as_str())
        } else {
            // by index, for it may have been renamed; a new link of the old name was never changed
            world.links.iter().find(|link| link.index == note.index).map(|link| link.name.as_str())
        };
        let Some(link) = link else { continue };
        if sysctl::read(Family::V4, link, note.setting.key()).is_ok_and(|found| found == note.ours) {
            sysctl::write(Family::V4, link, note.setting.key(), note.original)?;
        }
    }
    Ok(())
}
