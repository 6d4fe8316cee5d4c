//! The rules of ARCHITECTURE.md about what may depend on what, checked against the tree.
//! Reads files only; runs nothing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

fn sources(below: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(below)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
                found.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(!found.is_empty(), "{below} has no sources");
    found
}

const PROGRAM_CRATES: [&str; 7] = ["ipc", "settings", "rules", "interceptor", "filterd", "imdsctl", "mock"];

fn production() -> Vec<(String, String)> {
    PROGRAM_CRATES.iter().flat_map(|name| sources(&format!("{name}/src"))).collect()
}

/// Lines without comments and without what stands in string literals' own lines is good enough here: the words
/// looked for are code words.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn dependencies(name: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
    let manifest: toml::Table = toml::from_str(&text).unwrap();
    let mut all = BTreeSet::new();
    let mut collect = |table: Option<&toml::Value>| {
        all.extend(table.and_then(toml::Value::as_table).into_iter().flat_map(|t| t.keys().cloned()));
    };
    collect(manifest.get("dependencies"));
    for target in manifest.get("target").and_then(toml::Value::as_table).into_iter().flat_map(|t| t.values())
    {
        collect(target.get("dependencies"));
    }
    all
}

#[test]
fn arrows_between_crates_point_only_where_they_may() {
    let allowed: [(&str, &[&str]); 7] = [
        ("ipc", &[]),
        ("settings", &[]),
        ("rules", &[]),
        ("interceptor", &["imds-ipc", "imds-settings"]),
        ("filterd", &["imds-ipc", "imds-rules", "imds-settings"]),
        ("imdsctl", &["imds-ipc", "imds-rules", "imds-settings"]),
        ("mock", &[]),
    ];
    for (name, may) in allowed {
        let ours: Vec<_> = dependencies(name).into_iter().filter(|d| d.starts_with("imds")).collect();
        for dependency in ours {
            assert!(may.contains(&dependency.as_str()), "{name} must not depend on {dependency}");
        }
    }
}

#[test]
fn the_privileged_process_has_no_http_and_no_other_large_library() {
    for dependency in dependencies("interceptor") {
        for banned in
            ["hyper", "hyper-util", "http", "http-body-util", "httparse", "tokio", "imds-rules", "clap"]
        {
            assert_ne!(dependency, banned);
        }
    }
    assert!(dependencies("rules").is_empty(), "rules is pure and needs nothing");
}

#[test]
fn unsafe_code_stands_only_in_interceptor_sys() {
    for name in PROGRAM_CRATES.iter().filter(|name| **name != "interceptor") {
        let roots: Vec<_> = ["lib.rs", "main.rs"]
            .iter()
            .filter_map(|file| std::fs::read_to_string(root().join(name).join("src").join(file)).ok())
            .collect();
        for text in roots {
            assert!(text.contains("#![forbid(unsafe_code)]"), "{name} does not forbid unsafe code");
        }
    }
    for (name, text) in sources("interceptor/src") {
        if name.starts_with("interceptor/src/sys/") {
            continue;
        }
        for (at, line) in code_lines(&text) {
            assert!(!line.contains("unsafe "), "{name}:{}: unsafe outside sys", at + 1);
        }
    }
}

#[test]
fn operating_systems_are_named_only_in_sys_and_sandbox() {
    for (name, text) in production() {
        if name.contains("/sys/") || name.contains("/sandbox/") {
            continue;
        }
        for (at, line) in code_lines(&text) {
            assert!(!line.contains("target_os"), "{name}:{}: target_os outside sys and sandbox", at + 1);
        }
    }
}

#[test]
fn smoltcp_is_named_only_in_netstack() {
    for (name, text) in production() {
        if name.starts_with("interceptor/src/netstack") {
            continue;
        }
        for (at, line) in code_lines(&text) {
            assert!(!line.contains("smoltcp"), "{name}:{}: smoltcp outside netstack", at + 1);
        }
    }
}

#[test]
fn every_source_file_says_first_what_it_is() {
    for (name, text) in production() {
        assert!(text.starts_with("//! "), "{name}: line 1 does not say what the file is");
    }
}

#[test]
fn the_tree_in_architecture_md_is_true() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let tree = text.split("```tree\n").nth(1).expect("a ```tree block").split("```").next().unwrap();
    let named: Vec<&str> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
    for name in &named {
        assert!(root().join(name).exists(), "ARCHITECTURE.md names {name}, which is not there");
    }
    let listed = |name: &str| named.iter().any(|n| n.trim_end_matches('/') == name);
    for entry in std::fs::read_dir(root()).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if !matches!(name.as_str(), ".git" | "target") {
            assert!(listed(&name), "{name} is not in the tree of ARCHITECTURE.md");
        }
    }
    for part in PROGRAM_CRATES {
        for entry in std::fs::read_dir(root().join(part).join("src")).unwrap().map(Result::unwrap) {
            let name = format!("{part}/src/{}", entry.file_name().into_string().unwrap());
            let plain = name.ends_with("/lib.rs") || name.ends_with("/main.rs");
            assert!(plain || listed(&name), "{name} is not in the tree of ARCHITECTURE.md");
        }
    }
}
