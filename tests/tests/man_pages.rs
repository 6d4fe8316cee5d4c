//! What the man pages say, compared with the programs' own usage and the shipped settings.
//! Runs the programs with --help only.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn page(name: &str) -> String {
    std::fs::read_to_string(root().join("man").join(name)).unwrap()
}

fn usage(program: &str, arguments: &[&str]) -> String {
    let path = Path::new(env!("CARGO_BIN_EXE_imds-lab")).with_file_name(program);
    let output = Command::new(&path).args(arguments).arg("--help").output().unwrap_or_else(|error| {
        panic!("{}: {error}: run `cargo build --workspace --bins` first", path.display())
    });
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

/// The long options that a text names, as `before` + name.
fn options(text: &str, before: &str) -> BTreeSet<String> {
    text.split(before)
        .skip(1)
        .map(|rest| rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect::<String>())
        .filter(|name| name.len() > 1)
        .collect()
}

#[test]
fn every_option_is_in_its_man_page_and_no_other() {
    let programs: [(&str, &str, &[&[&str]]); 4] = [
        ("imds-interceptor", "imds-interceptor.8", &[&[]]),
        ("imds-filterd", "imds-filterd.8", &[&[]]),
        (
            "imdsctl",
            "imdsctl.8",
            &[
                &[],
                &["check"],
                &["reload"],
                &["status"],
                &["log"],
                &["v1-report"],
                &["diff"],
                &["release"],
                &["doctor"],
                &["explain"],
            ],
        ),
        ("imds-mock", "imds-mock.1", &[&[]]),
    ];
    for (program, name, calls) in programs {
        let told: BTreeSet<String> =
            calls.iter().flat_map(|arguments| options(&usage(program, arguments), " --")).collect();
        assert_eq!(told, options(&page(name), "Fl -"), "{program} --help and {name}");
    }
}

#[test]
fn every_command_of_imdsctl_is_in_its_man_page() {
    let usage = usage("imdsctl", &[]);
    let commands = usage.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    for command in commands.lines().filter_map(|line| line.split_whitespace().next()) {
        assert!(page("imdsctl.8").contains(&format!(".Cm {command}")), "{command}");
    }
}

#[test]
fn every_setting_is_in_the_man_page_with_its_default_and_no_other() {
    let text = std::fs::read_to_string(root().join("conf/imds-filterd.toml")).unwrap();
    // a setting whose default has no value of its own is shown as a comment
    let whole = text.replace("\n# cgroup = ", "\ncgroup = ");
    let settings: toml::Table = toml::from_str(&whole).unwrap();
    let mut keys = BTreeSet::new();
    let page = page("imds-filterd.toml.5");
    let mut read = |key: &str, value: &toml::Value| {
        keys.insert(key.to_owned());
        if let toml::Value::Integer(number) = value {
            let shown = if key == "mark" { format!("{number:#x}") } else { number.to_string() };
            let entry = page.split(&format!(".It Cm {key}\n")).nth(1).expect(key);
            let entry = entry.split("\n.It").next().expect(key);
            assert!(entry.contains(&format!("Default: {shown}.")), "{key} = {shown}: {entry:?}");
        }
    };
    for (key, value) in &settings {
        match value {
            toml::Value::Table(table) => table.iter().for_each(|(key, value)| read(key, value)),
            toml::Value::Array(tables) => tables
                .iter()
                .filter_map(toml::Value::as_table)
                .flat_map(toml::Table::iter)
                .for_each(|(key, value)| read(key, value)),
            value => read(key, value),
        }
    }
    let named: BTreeSet<String> =
        page.lines().filter_map(|line| line.strip_prefix(".It Cm ")).map(str::to_owned).collect();
    assert_eq!(named, keys);
}
