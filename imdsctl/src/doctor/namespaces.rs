//! Network namespaces with a link of their own, which root gave them: they are outside of the filter. Lists them.
//! Asks nsenter(1) and ip(8); changes nothing.

use super::Finding;
use crate::lines::printable;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A host has a few, and one with more is looked at in part.
const MOST: usize = 256;
/// What leads through this host or nowhere.
const HARMLESS: [&str; 14] = [
    "veth",
    "bridge",
    "dummy",
    "tun",
    "wireguard",
    "ifb",
    "sit",
    "ipip",
    "gre",
    "gretap",
    "ip6tnl",
    "vti",
    "vti6",
    "ip6gre",
];

pub(super) fn findings() -> Vec<Finding> {
    let Some(others) = others() else { return Vec::new() };
    told(
        others.len(),
        others.iter().take(MOST).filter_map(|(name, process)| finding(name, process)).collect(),
    )
}

/// `outside`: of the first that there are. Anybody can make namespaces, so that the one which matters is not among these.
fn told(count: usize, mut outside: Vec<Finding>) -> Vec<Finding> {
    let looked = count.min(MOST);
    if outside.is_empty() {
        outside.push(Finding::pass(format!("no network namespace of {looked} others has a link of its own")));
    }
    if count > looked {
        outside.push(Finding::note(format!("{} more network namespaces were not looked at", count - looked)));
    }
    outside
}

/// One process of each, by the namespace's name. `None` where there are no namespaces.
fn others() -> Option<BTreeMap<PathBuf, PathBuf>> {
    let ours = fs::read_link("/proc/self/ns/net").ok()?;
    let mut found = BTreeMap::new();
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let process = process.path();
        match fs::read_link(process.join("ns/net")) {
            Ok(name) if name != ours => drop(found.entry(name).or_insert(process)),
            Ok(_) | Err(_) => {}
        }
    }
    Some(found)
}

fn finding(name: &Path, process: &Path) -> Option<Finding> {
    let comm = fs::read(process.join("comm"));
    let whose = format!(
        "{} (process {}, {})",
        name.display(),
        process.file_name().map_or("?".into(), |pid| pid.to_string_lossy()),
        comm.map_or("?".into(), |comm| named(&comm))
    );
    match links(process) {
        Ok(links) if links.is_empty() => None,
        Ok(links) => Some(Finding::note(format!("outside of the filter: {whose} has {}", links.join(", ")))),
        // it may have ended meanwhile
        Err(_) if !process.exists() => None,
        Err(why) => Some(Finding::note(format!("{whose}: its links cannot be listed: {why}"))),
    }
}

/// A process calls itself as it likes.
fn named(comm: &[u8]) -> String {
    printable(String::from_utf8_lossy(comm).trim())
}

/// Those that lead out past this host.
fn links(process: &Path) -> Result<Vec<String>, String> {
    let output = Command::new("nsenter")
        .arg(format!("--net={}", process.join("ns/net").display()))
        .args(["ip", "-json", "-details", "link"])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("nsenter: {error}"))?;
    if !output.status.success() {
        return Err(printable(String::from_utf8_lossy(&output.stderr).trim()));
    }
    own_links(&output.stdout).ok_or_else(|| "ip said something else".into())
}

fn own_links(json: &[u8]) -> Option<Vec<String>> {
    let links: Vec<Value> = serde_json::from_slice(json).ok()?;
    let name = |link: &Value| {
        let name = link.get("ifname")?.as_str()?;
        let kind = link.get("linkinfo").and_then(|info| info.get("info_kind")).and_then(Value::as_str);
        let loopback = link.get("link_type").and_then(Value::as_str) == Some("loopback");
        // a device has no kind
        let own = !loopback && kind.is_none_or(|kind| !HARMLESS.contains(&kind));
        own.then(|| format!("{} ({})", printable(name), kind.unwrap_or("a device")))
    };
    Some(links.iter().filter_map(name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_that_were_not_looked_at_are_not_called_harmless() {
        let pass =
            |count| Finding::pass(format!("no network namespace of {count} others has a link of its own"));
        assert_eq!(told(256, vec![]), [pass(256)]);
        let left_out = Finding::note("44 more network namespaces were not looked at");
        assert_eq!(told(300, vec![]), [pass(256), left_out.clone()]);
        let outside = Finding::fail("m0");
        assert_eq!(told(300, vec![outside.clone()]), [outside, left_out]);
    }

    #[test]
    fn a_macvlan_and_a_moved_device_are_links_of_its_own_and_a_veth_is_not() {
        let json = br#"[{"ifname":"lo","link_type":"loopback"},{"ifname":"eth0","link_type":"ether","linkinfo":{"info_kind":"veth"}},
            {"ifname":"m0","link_type":"ether","linkinfo":{"info_kind":"macvlan"}},{"ifname":"ens5","link_type":"ether"}]"#;
        assert_eq!(own_links(json).unwrap(), ["m0 (macvlan)", "ens5 (a device)"]);
        assert_eq!(own_links(b"[]").unwrap(), [""; 0]);
        assert_eq!(own_links(b"nonsense"), None);
    }

    #[test]
    fn the_name_that_a_process_gives_itself_is_one_line_and_moves_no_cursor() {
        assert_eq!(named(b"sleep\n"), "sleep");
        assert_eq!(named(b"\x1b[2J\nPASS  \xff\n"), "\u{fffd}[2J\u{fffd}PASS  \u{fffd}");
    }
}
