//! What `make install` puts where, and takes away again; and the units, as systemd reads them.
//! Starts no service: tests/tests/booted.rs does.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// With PREFIX=/usr, on Linux.
const INSTALLED: &[&str] = &[
    "etc/imds-filterd.toml",
    "etc/imds-filterd.toml.sample",
    "etc/imds.conf",
    "etc/imds.conf.sample",
    "usr/bin/imds-mock",
    "usr/bin/imdsctl",
    "usr/lib/systemd/system/imds-filterd-reload.path",
    "usr/lib/systemd/system/imds-filterd-reload.service",
    "usr/lib/systemd/system/imds-filterd.service",
    "usr/lib/systemd/system/imds-interceptor.service",
    "usr/lib/sysusers.d/imds-filterd.conf",
    "usr/lib/tmpfiles.d/imds-filterd.conf",
    "usr/sbin/imds-filterd",
    "usr/sbin/imds-interceptor",
    "usr/share/bash-completion/completions/imds-mock",
    "usr/share/bash-completion/completions/imdsctl",
    "usr/share/doc/imds-filterd/ARCHITECTURE.md",
    "usr/share/doc/imds-filterd/LICENSE",
    "usr/share/doc/imds-filterd/README.md",
    "usr/share/doc/imds-filterd/own-user.conf",
    "usr/share/fish/vendor_completions.d/imds-mock.fish",
    "usr/share/fish/vendor_completions.d/imdsctl.fish",
    "usr/share/man/man1/imds-mock.1",
    "usr/share/man/man5/imds-filterd.toml.5",
    "usr/share/man/man5/imds.conf.5",
    "usr/share/man/man8/imds-filterd.8",
    "usr/share/man/man8/imds-interceptor.8",
    "usr/share/man/man8/imdsctl.8",
    "usr/share/zsh/site-functions/_imds-mock",
    "usr/share/zsh/site-functions/_imdsctl",
];

/// A directory of a test's own, gone at its end.
struct Tree(PathBuf);

impl Tree {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("imds-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// `make TARGET` with the programs that cargo built.
    fn make(&self, target: &str, settings: &[String]) {
        let programs = Path::new(env!("CARGO_BIN_EXE_imds-lab")).parent().unwrap();
        let output = Command::new("make")
            .args(["-s", "-C", concat!(env!("CARGO_MANIFEST_DIR"), "/.."), target])
            .arg(format!("RELEASE={}", programs.display()))
            .args(settings)
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}: run `cargo build --workspace --bins` first");
    }

    fn install(&self, target: &str) {
        self.make(target, &[format!("DESTDIR={}", self.0.display()), "PREFIX=/usr".into()]);
    }

    /// The units with paths that exist, so that systemd-analyze finds the programs: installed for this very directory.
    fn units(&self) -> PathBuf {
        let root = self.0.display();
        let at = |name: &str, path: &str| format!("{name}={root}{path}");
        self.make(
            "install",
            &[
                at("PREFIX", "/usr"),
                at("SYSCONFDIR", "/etc"),
                at("UNITDIR", "/units"),
                at("SYSUSERSDIR", "/sysusers"),
                at("TMPFILESDIR", "/tmpfiles"),
            ],
        );
        self.0.join("units")
    }

    fn files(&self) -> BTreeSet<String> {
        fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { walk(&path, found) } else { found.push(path) }
            }
        }
        let mut found = Vec::new();
        walk(&self.0, &mut found);
        found.iter().map(|path| path.strip_prefix(&self.0).unwrap().display().to_string()).collect()
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.0.join(path)).unwrap()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn systemd_analyze(arguments: &[&str], files: &[PathBuf]) -> (bool, String) {
    let output = Command::new("systemd-analyze")
        .args(arguments)
        .args(files)
        .env("SYSTEMD_PAGER", "cat")
        .output()
        .expect("systemd-analyze: run make deps");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn install_places_these_files_and_uninstall_takes_them_away() {
    let tree = Tree::new("install");
    tree.install("install");
    let wanted: BTreeSet<String> = INSTALLED.iter().map(ToString::to_string).collect();
    assert_eq!(tree.files(), wanted);
    assert!(!tree.read("usr/lib/systemd/system/imds-filterd.service").contains("DIR@"));
    for name in ["bash-completion/completions/imdsctl", "fish/vendor_completions.d/imdsctl.fish"] {
        assert!(tree.read(&format!("usr/share/{name}")).contains("allow-unknown"), "{name}");
    }
    tree.install("uninstall");
    assert_eq!(tree.files(), BTreeSet::new());
}

#[test]
fn configuration_that_was_changed_survives_an_upgrade_and_a_removal() {
    let tree = Tree::new("changed");
    tree.install("install");
    fs::write(tree.0.join("etc/imds.conf"), "Allow user root \"/\"\n").unwrap();
    tree.install("install");
    tree.install("uninstall");
    assert_eq!(tree.files(), BTreeSet::from(["etc/imds.conf".to_owned()]));
    assert_eq!(tree.read("etc/imds.conf"), "Allow user root \"/\"\n");
}

#[test]
fn systemd_finds_no_fault_in_the_units() {
    let tree = Tree::new("verify");
    let units: Vec<PathBuf> =
        fs::read_dir(tree.units()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(units.len(), 4);
    let (fine, said) = systemd_analyze(&["verify", "--man=no"], &units);
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("imds")).collect();
    assert!(fine && ours.is_empty(), "{said}");
}

#[test]
fn the_units_expose_little() {
    let tree = Tree::new("exposure");
    let units = tree.units();
    // tenths
    for (name, most) in [("imds-filterd", "20"), ("imds-interceptor", "40")] {
        let unit = units.join(format!("{name}.service"));
        let (within, said) = systemd_analyze(&["security", "--offline=yes", "--threshold", most], &[unit]);
        assert!(within && said.contains("Overall exposure level"), "{name}:\n{said}");
    }
}
