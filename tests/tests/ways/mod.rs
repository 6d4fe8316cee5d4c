//! Runs the programs of tests/attacks in a lab and reads what they print.
//! Decides nothing.

#![allow(dead_code, reason = "each test program uses a part of this module")]

use imds_tests::{Lab, Outcome};

/// Makes the attacker's place as favourable as distributions do: pings and fast open for everybody, the tun's node open.
/// All of it in the lab's own namespaces.
pub(crate) const FAVOUR: &str = r#"
echo "0 2147483647" >/proc/sys/net/ipv4/ping_group_range
echo 5 >/proc/sys/net/ipv4/tcp_fastopen
mknod -m 0666 "$LAB/tmp/tun" c 10 200
mount --bind "$LAB/tmp/tun" /dev/net/tun
cd "$LAB/tests/attacks"
export PYTHONPATH="$LAB/tests/hostile"
watched() { /usr/bin/python3 -B watched.py -- "$@"; }
python() { /usr/bin/python3 -B "$@"; }
"#;

/// What stands for the capture in a bare lab, so that ways which need the tun or its addresses can be tried.
pub(crate) const TUN_BUT_NO_FILTER: &str = r"
ip tuntap add imds0 mode tun
ip link set imds0 up
ip address add 169.254.169.1/32 dev imds0
ip address add fdc9:1d5f:11d3::1/128 dev imds0 nodad
";

/// Nothing for mallory, nor for those whom a mix-up might make of mallory.
pub(crate) const NOBODY: &str = "Deny \"/\"\n";

/// The two kinds of guard, as `capture.guard` names them.
pub(crate) const XFRM: &str = "xfrm";
pub(crate) const NFTABLES: &str = "nftables";

/// A lab with this guard, in which nobody is allowed anything.
pub(crate) fn guarded_by(guard: &str) -> Lab {
    with_guard(Lab::new(), guard).rules(NOBODY)
}

pub(crate) fn with_guard(lab: Lab, guard: &str) -> Lab {
    lab.config(&format!("[capture]\nguard = \"{guard}\"\n"))
}

/// One line of an attack program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tried {
    pub(crate) name: String,
    pub(crate) family: String,
    pub(crate) outcome: String,
    /// Where the way's sockets were bound.
    pub(crate) ports: Vec<String>,
}

/// One packet that the cloud got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) kind: String,
    pub(crate) line: String,
    pub(crate) port: String,
}

/// What an attack program and the sniffer printed.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) tried: Vec<Tried>,
    pub(crate) seen: Vec<Seen>,
}

impl Report {
    /// # Panics
    /// When the programs failed or said nothing.
    pub(crate) fn of(outcome: Outcome) -> Self {
        let text = outcome.expect_success();
        let report = Self::parse(&text);
        assert!(!report.tried.is_empty(), "nothing was tried:\n{text}");
        report
    }

    pub(crate) fn parse(text: &str) -> Self {
        let mut report = Self::default();
        for line in text.lines() {
            match line.split_whitespace().collect::<Vec<_>>().as_slice() {
                ["seen", kind, _, port, ..] => report.seen.push(Seen {
                    kind: (*kind).to_owned(),
                    line: line.to_owned(),
                    port: (*port).to_owned(),
                }),
                [name, family @ ("4" | "6"), outcome, source] => report.tried.push(Tried {
                    name: (*name).to_owned(),
                    family: (*family).to_owned(),
                    outcome: (*outcome).to_owned(),
                    ports: ports(source),
                }),
                _ => {}
            }
        }
        report
    }
    pub(crate) fn outcome(&self, name: &str, family: &str) -> &str {
        let found = self.tried.iter().find(|tried| tried.name == name && tried.family == family);
        found.map_or("not tried", |tried| &tried.outcome)
    }

    /// Whether a packet of this way came to the cloud.
    pub(crate) fn arrived(&self, tried: &Tried) -> bool {
        self.seen.iter().any(|seen| tried.ports.contains(&seen.port))
    }

    /// Ways that reached the service, and packets that no marked socket sent, each with its line.
    ///
    /// The service's own question for our hardware address may be answered, so such answers are left out.
    pub(crate) fn leaks(&self) -> Vec<String> {
        let reached = self.tried.iter().filter(|tried| tried.outcome == "reached" || self.arrived(tried));
        let packets = self.seen.iter().filter(|seen| seen.kind != "neighbour");
        reached.map(|tried| format!("{tried:?}")).chain(packets.map(|seen| seen.line.clone())).collect()
    }

    /// # Panics
    /// When something leaked.
    pub(crate) fn expect_closed(&self) {
        let leaks = self.leaks();
        assert!(leaks.is_empty(), "got around the filter:\n{}", leaks.join("\n"));
    }
}

fn ports(source: &str) -> Vec<String> {
    source.split(',').filter_map(|end| Some(end.rsplit_once(':')?.1.to_owned())).collect()
}

/// Runs a shell script, as root in the lab, after [`FAVOUR`].
pub(crate) fn attack(lab: &Lab, script: &str) -> Outcome {
    lab.script(&format!("{FAVOUR}{script}"))
}

/// Checks each way against what `--list` says a bare world must show, or the tests of the filter could not fail.
///
/// # Panics
/// When a way showed something else, with all of them.
pub(crate) fn expect_bare(report: &Report, list: &str) {
    let mut wrong = Vec::new();
    for line in list.lines() {
        let [name, family, bare] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            panic!("not a line of --list: {line}");
        };
        let Some(tried) = report.tried.iter().find(|tried| tried.name == name && tried.family == family)
        else {
            wrong.push(format!("{line}: not tried"));
            continue;
        };
        let as_expected = match bare {
            "reached" => tried.outcome == "reached",
            "sent" => tried.outcome == "reached" || report.arrived(tried),
            "refused" => {
                let refused =
                    tried.outcome.starts_with("refused:") || tried.outcome.starts_with("unavailable:");
                refused && !report.arrived(tried)
            }
            "any" => true,
            other => panic!("--list says {other}"),
        };
        if !as_expected {
            wrong.push(format!("{line}: {tried:?}"));
        }
    }
    assert!(wrong.is_empty(), "a bare lab shows something else:\n{}", wrong.join("\n"));
}
