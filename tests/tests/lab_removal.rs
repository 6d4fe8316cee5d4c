//! A lab leaves nothing on the machine, however and whenever it ends.
//! Looks only; removes nothing that a lab might have left.

use imds_tests::{Lab, require_root};
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// What a lab could leave on the machine.
#[derive(Debug, PartialEq, Eq)]
struct Machine {
    mounts: String,
    namespaces: BTreeSet<PathBuf>,
    links: BTreeSet<PathBuf>,
    temporary: BTreeSet<PathBuf>,
}

impl Machine {
    fn now() -> Self {
        let list = |path: &str| {
            fs::read_dir(path)
                .map_or_else(|_| BTreeSet::new(), |all| all.flatten().map(|e| e.path()).collect())
        };
        Self {
            mounts: fs::read_to_string("/proc/self/mounts").unwrap(),
            namespaces: list("/run/netns"),
            links: list("/sys/class/net"),
            temporary: list("/run/lab"),
        }
    }
}

/// Processes whose command line has this word, or that are in this process namespace.
fn processes(word: &str, namespace: Option<&PathBuf>) -> Vec<String> {
    let all = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    all.filter(|path| path.join("stat").exists())
        .filter(|path| path.file_name().and_then(|name| name.to_str()) != Some("self"))
        .filter_map(|path| {
            let line = String::from_utf8_lossy(&fs::read(path.join("cmdline")).ok()?).into_owned();
            let inside = namespace
                .is_some_and(|wanted| fs::read_link(path.join("ns/pid")).ok().as_ref() == Some(wanted));
            (line.contains(word) || inside).then_some(line)
        })
        .collect()
}

/// The kernel needs a moment to remove a killed lab; it is bounded.
fn wait_until_gone(word: &str, namespace: Option<&PathBuf>) {
    let limit = Instant::now() + Duration::from_secs(10);
    loop {
        let left = processes(word, namespace);
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < limit, "left behind: {left:?}");
        std::thread::yield_now();
    }
}

/// A lab that runs until it is ended; `word` marks it.
fn endless(word: &str) -> Child {
    let command = ["sh", "-c", "sleep 1000 & echo up; readlink /proc/self/ns/pid; wait", word];
    Lab::bare().rules("").command(&command).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

/// Waits until the command runs; the lab's process namespace.
fn namespace_of(lab: &mut Child) -> PathBuf {
    let mut lines = BufReader::new(lab.stdout.as_mut().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "up");
    lines.next().unwrap().unwrap().into()
}

#[test]
fn a_lab_killed_while_its_command_runs_leaves_nothing() {
    let before = Machine::now();
    let word = format!("lab-killed-running-{}", std::process::id());
    let mut lab = endless(&word);
    let namespace = namespace_of(&mut lab);
    assert!(processes(&word, Some(&namespace)).len() >= 5, "the search finds nothing even before");
    lab.kill().unwrap();
    assert_eq!(lab.wait().unwrap().signal(), Some(9));
    wait_until_gone(&word, Some(&namespace));
    assert_eq!(Machine::now(), before);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the moment of the kill is what is varied")]
fn a_lab_killed_at_any_moment_of_its_start_leaves_nothing() {
    let before = Machine::now();
    for milliseconds in [0, 1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 45, 60, 80, 100, 130] {
        let word = format!("lab-killed-after-{milliseconds}-{}", std::process::id());
        let mut lab = endless(&word);
        std::thread::sleep(Duration::from_millis(milliseconds));
        lab.kill().unwrap();
        lab.wait().unwrap();
        wait_until_gone(&word, None);
        assert_eq!(Machine::now(), before, "after {milliseconds} ms");
    }
}

#[test]
fn a_lab_that_gets_a_signal_keeps_its_logs_and_leaves_nothing_when_it_returns() {
    require_root();
    let before = Machine::now();
    let directory = std::env::temp_dir().join(format!("imds-lab-logs-{}", std::process::id()));
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT, rustix::process::Signal::HUP]
    {
        let word = format!("lab-signalled-{}", std::process::id());
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_imds-lab"));
        command.args(["run", "--bare", "--rules-text", "", "--timeout", "60", "--keep-logs"]).arg(&directory);
        command.args(["--", "sh", "-c", "echo up; readlink /proc/self/ns/pid; sleep 1000", &word]);
        let mut lab = command.stdout(Stdio::piped()).spawn().unwrap();
        let namespace = namespace_of(&mut lab);
        rustix::process::kill_process(rustix::process::Pid::from_child(&lab), signal).unwrap();
        assert_eq!(lab.wait().unwrap().code(), Some(128 + signal.as_raw()));
        assert_eq!(processes(&word, Some(&namespace)), Vec::<String>::new(), "after {signal:?}");
        assert!(directory.join("audit.jsonl").exists() && directory.join("upstream.log").exists());
        fs::remove_dir_all(&directory).unwrap();
    }
    assert_eq!(Machine::now(), before);
}
