//! The unit of the system's service manager that a socket was made in, from the names of its cgroups.
//! Must not believe a name that a user could have chosen: below the first unit anybody may name things as they like.

use crate::sys::Record;
use imds_ipc::Unit;

const SLICE: &[u8] = b".slice";

/// `cgroups`: those below the root, the uppermost first. The unit is the first that is no slice: everything below
/// `user@1000.service`, or in a container's scope, is that service or scope, whatever it is called there.
pub(super) fn unit_of(cgroups: &[Vec<u8>]) -> Unit {
    match cgroups.iter().find(|name| !name.ends_with(SLICE)) {
        Some(name) => match str::from_utf8(unescaped(name)) {
            Ok(name) => Unit::Named(name.to_owned()),
            // no service manager gave that name, and no rule can have it
            Err(_) => Unit::None,
        },
        // as many as are told, and all slices: the unit is below
        None if cgroups.len() >= Record::LEVELS => Unit::Unknown,
        None => Unit::None,
    }
}

/// systemd puts `_` before a unit's name that cgroups use for something else, as `cpu.service`.
fn unescaped(name: &[u8]) -> &[u8] {
    name.strip_prefix(b"_").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(path: &str) -> Unit {
        let names: Vec<Vec<u8>> =
            path.split('/').filter(|name| !name.is_empty()).map(|name| name.into()).collect();
        unit_of(&names)
    }

    #[test]
    fn the_unit_is_the_first_component_below_the_slices() {
        for (path, expected) in [
            ("/system.slice/nginx.service", "nginx.service"),
            ("/system.slice/nginx.service/worker", "nginx.service"),
            ("/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service"),
            ("/init.scope", "init.scope"),
            ("/system.slice/_cpu.service", "cpu.service"),
            // what users and containers name is not asked
            ("/user.slice/user-1000.slice/user@1000.service/app.slice/nginx.service", "user@1000.service"),
            ("/user.slice/user-1000.slice/session-3.scope/nginx.service", "session-3.scope"),
            ("/system.slice/docker-0123.scope/system.slice/nginx.service", "docker-0123.scope"),
            (
                "/machine.slice/systemd-nspawn@web.service/payload/system.slice/nginx.service",
                "systemd-nspawn@web.service",
            ),
        ] {
            assert_eq!(unit(path), Unit::Named(expected.into()), "{path}");
        }
    }

    #[test]
    fn slices_alone_are_no_unit_and_too_many_are_unknown() {
        assert_eq!(unit("/"), Unit::None);
        assert_eq!(unit("/system.slice"), Unit::None);
        assert_eq!(unit(&"/a.slice".repeat(7)), Unit::None);
        assert_eq!(unit(&"/a.slice".repeat(8)), Unit::Unknown);
        assert_eq!(unit_of(&[b"\xff.service".to_vec()]), Unit::None);
    }
}
