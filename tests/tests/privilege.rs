//! What the kernel says of both daemons while they run, compared with what they promise to have given up; and that no
//! secret is in what they write.

use imds_tests::Lab;
use std::collections::BTreeMap;

const RULES: &str = "Allow user alice \"/\"\nAllow user bob \"/latest/meta-data/hostname\"\n";
const SETTINGS: &str = "[limits]\nconnections = 100\nhead_bytes = 8192\n";
/// An exchange first, so that what serving opens is open.
const SERVE: &str =
    "imds-lab as alice -- curl -sSf --max-time 5 -o /dev/null http://169.254.169.254/latest/meta-data/\n";
/// `show NAME PID`: what /proc has of a process. What is open is looked at while it sleeps, since sockets that it probes with
/// and settings that it reads are open for moments.
const SHOW: &str = r#"
rest() { sed -n 's/^State:[[:space:]]*//p; /ctxt_switches/p' "/proc/$1/status"; }
show_open() {
    for try in $(seq 200); do
        before=$(rest "$2")
        open=$(for fd in "/proc/$2/fd"/*; do echo "$1 open: $(readlink "$fd")"; done)
        case $before in S*) [ "$(rest "$2")" != "$before" ] || break ;; esac
        sleep 0.02
    done
    echo "$open"
}
show() {
    sed "s/^/$1 status /" "/proc/$2/status"
    sed "s/^/$1 limit /" "/proc/$2/limits"
    echo "$1 memory: $(stat -c %u "/proc/$2/mem")"
    echo "$1 network: $(readlink "/proc/$2/ns/net")"
    nsenter --net="/proc/$2/ns/net" ip -o link | sed "s/^/$1 link: /"
    show_open "$1" "$2"
}
show_both() {
    show interceptor "$(cat "$LAB/interceptor.pid")"
    show filterd "$(cat "$LAB/filterd.pid")"
    echo "instance network: $(readlink /proc/self/ns/net)"
}
"#;

/// One process, as `show` prints it.
struct Process {
    status: BTreeMap<String, String>,
    limits: Vec<String>,
    links: Vec<String>,
    open: Vec<String>,
    /// Whose /proc/PID/mem is: root's for a process that can neither be dumped nor traced.
    memory: String,
    network: String,
}

impl Process {
    fn of(name: &str, text: &str) -> Self {
        let lines = |what: &str| -> Vec<String> {
            let start = format!("{name} {what}");
            text.lines()
                .filter_map(|line| line.strip_prefix(&start))
                .map(|rest| rest.trim().to_owned())
                .collect()
        };
        let one = |what: &str| lines(what).pop().unwrap_or_else(|| panic!("no {what} of {name}:\n{text}"));
        let status = lines("status ").into_iter().filter_map(|line| {
            let (key, value) = line.split_once(':')?;
            Some((key.to_owned(), value.split_whitespace().collect::<Vec<_>>().join(" ")))
        });
        Self {
            status: status.collect(),
            limits: lines("limit "),
            links: lines("link:"),
            open: lines("open:"),
            memory: one("memory:"),
            network: one("network:"),
        }
    }

    #[track_caller]
    fn expect(&self, wanted: &[(&str, &str)]) {
        for (key, value) in wanted {
            assert_eq!(self.status.get(*key).map(String::as_str), Some(*value), "{key}: {:?}", self.status);
        }
    }

    /// Soft and hard.
    #[track_caller]
    fn expect_limit(&self, name: &str, value: u64) {
        let line = self.limits.iter().find_map(|line| line.strip_prefix(name)).unwrap();
        let found: Vec<&str> = line.split_whitespace().take(2).collect();
        assert_eq!(found, [value.to_string(), value.to_string()], "{name}");
    }

    /// Kinds of descriptors that are no file, and these files.
    #[track_caller]
    fn expect_open(&self, files: &[&str]) {
        let kinds = ["socket:", "pipe:", "anon_inode:"];
        for open in &self.open {
            let known = kinds.iter().any(|kind| open.starts_with(kind)) || files.contains(&open.as_str());
            assert!(known, "{open} is open: {:?}", self.open);
        }
        assert!(self.open.len() > files.len(), "{:?}", self.open);
    }
}

const NONE: &str = "0000000000000000";
/// Bit 12 of capabilities(7).
const NET_ADMIN: &str = "0000000000001000";

fn shown() -> String {
    Lab::new().rules(RULES).config(SETTINGS).script(&format!("{SHOW}{SERVE}show_both")).expect_success()
}

#[test]
fn filterd_is_nobody_nowhere_and_has_nothing() {
    let text = shown();
    let filterd = Process::of("filterd", &text);
    filterd.expect(&[
        ("Uid", "991 991 991 991"),
        ("Gid", "992 992 992 992"),
        ("Groups", ""),
        ("CapInh", NONE),
        ("CapPrm", NONE),
        ("CapEff", NONE),
        ("CapBnd", NONE),
        ("CapAmb", NONE),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
        // what is locked is the thread that locks
        ("Threads", "1"),
        ("TracerPid", "0"),
    ]);
    assert_eq!(filterd.memory, "0");
    filterd.expect_limit("Max core file size", 0);
    // of two services 32 connections each are kept
    filterd.expect_limit("Max open files", 2 * 100 + 64 + 2 * 32);
    filterd.expect_limit("Max address space", (256 << 20) + 100 * (3 * 8192 + (64 << 10)));
    let instance = text.lines().find_map(|line| line.strip_prefix("instance network: ")).unwrap();
    assert_ne!(filterd.network, instance);
    let [lo] = filterd.links.as_slice() else { panic!("{:?}", filterd.links) };
    assert!(lo.contains("LOOPBACK") && lo.contains("state DOWN"), "{lo}");
    filterd.expect_open(&["/dev/null", "/run/lab/log/filterd.log", "/run/lab/log/audit.jsonl"]);
}

#[test]
fn interceptor_keeps_one_capability_and_the_files_of_capture() {
    let text = shown();
    let interceptor = Process::of("interceptor", &text);
    interceptor.expect(&[
        ("CapInh", NONE),
        ("CapPrm", NET_ADMIN),
        ("CapEff", NET_ADMIN),
        ("CapBnd", NET_ADMIN),
        ("CapAmb", NONE),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
        ("Threads", "1"),
    ]);
    assert_eq!(interceptor.memory, "0");
    interceptor.expect_limit("Max core file size", 0);
    interceptor.expect_limit("Max open files", 100 + 2048);
    interceptor.expect_open(&[
        "/dev/null",
        "/dev/net/tun",
        "/run/lab/log/interceptor.log",
        "/run/imds-filterd/capture.lock",
    ]);
}

#[test]
fn on_this_kernel_no_layer_is_missing() {
    let said = Lab::new().script("cat $LAB/log/*.log").expect_success();
    assert!(said.contains("capture is up") && said.contains("in force"), "{said}");
    assert!(!said.contains("sandbox:"), "{said}");
}

/// As systemd starts it with systemd/own-user.conf: a user of its own, the filter's group, and a few capabilities.
const OWN_USER: &str = r#"
echo 'intercept:x:990:989::/nonexistent:/usr/sbin/nologin' >>/etc/passwd
mkdir -m 0755 /run/bin /run/real /run/imds-filterd
chown 990:992 /run/imds-filterd
mount --bind /run/lab/bin /run/real
cp /run/lab/bin/imds-lab /run/lab/bin/imds-filterd /run/bin
as_own_user() {
    echo setpriv --reuid=990 --regid=992 --clear-groups --inh-caps=-all,$CAPABILITIES \
        --ambient-caps=$CAPABILITIES --bounding-set=-all,$CAPABILITIES -- /run/real/imds-interceptor "$@"
}
printf '#!/bin/sh\nexec %s "$@"\n' "$(as_own_user)" >/run/bin/imds-interceptor
chmod 0755 /run/bin/imds-interceptor
mount --bind /run/bin /run/lab/bin
imds-lab start interceptor
imds-lab start filterd
"#;

#[test]
fn interceptor_runs_as_a_user_of_its_own_with_ambient_capabilities() {
    // one is enough to capture; the others are for the start alone, to ask the kernel for more than the uid
    for (capabilities, identity) in [("+net_admin", "partial"), ("+net_admin,+bpf,+perfmon", "full")] {
        as_own_user(capabilities, identity);
    }
}

fn as_own_user(capabilities: &str, identity: &str) {
    let script = format!(
        r#"{SHOW}CAPABILITIES={capabilities}{OWN_USER}{SERVE}
        # what it repairs it repairs still
        ip rule flush; ip rule add priority 32766 lookup main; ip xfrm policy flush
        echo 1 >/proc/sys/net/ipv4/conf/eth0/disable_xfrm
        repaired() {{
            [ "$(cat /proc/sys/net/ipv4/conf/eth0/disable_xfrm)" = 0 ] && ip xfrm policy | grep -q 169.254.169.254 &&
                ip route get 169.254.169.254 uid 2001 2>/dev/null | grep -q imds0
        }}
        began=$(date +%s)
        until repaired; do [ $(($(date +%s) - began)) -lt 10 ]; done
        {SERVE}
        show_both
        imds-lab stop interceptor
        imds-lab as alice -- python3 -c 'import socket; print("errno", socket.socket().connect_ex(("169.254.169.254", 80)))'
        $(as_own_user --config $LAB_CONFIG release)
        imds-lab as alice -- curl -sSf --max-time 5 -o /dev/null -w 'direct %{{http_code}}\n' http://169.254.169.254/
        grep -o 'identity: .*;' $LAB/log/interceptor.log"#
    );
    let text = Lab::bare().rules(RULES).config(SETTINGS).script(&script).expect_success();
    let interceptor = Process::of("interceptor", &text);
    interceptor.expect(&[
        ("Uid", "990 990 990 990"),
        ("Gid", "992 992 992 992"),
        ("Groups", ""),
        ("CapInh", NONE),
        ("CapPrm", NET_ADMIN),
        ("CapEff", NET_ADMIN),
        ("CapAmb", NONE),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
    ]);
    // closed after the stop, open and nothing left after the release
    assert!(text.ends_with(&format!("errno 13\ndirect 200\nidentity: {identity};\n")), "{text}");
}

/// Each way a request can end, with a token or credentials in it.
const SECRETS: &str = r#"
base=http://169.254.169.254/latest
get() { imds-lab as "$1" -- curl -sS --max-time 5 -H "X-aws-ec2-metadata-token: $2" $3 "$base/$4" || true; }
token=$(imds-lab as alice -- curl -sSf -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' $base/api/token)
role=$(get alice "$token" '' meta-data/iam/security-credentials/)
get alice "$token" '' "meta-data/iam/security-credentials/$role" | grep -o 'MockSecretNotReal/'
get bob "$token" '' "meta-data/iam/security-credentials/$role"
get bob "$token" -XPOST meta-data/hostname
get bob "$token" "-H Content-Length:5" meta-data/hostname
get bob "$token" -HX-Forwarded-For:10.0.0.1 meta-data/hostname
get alice 'wrong-KnownSecret1' '' meta-data/hostname
get alice "$token" '' 'meta-data/hostname?X-Amz-Signature=KnownSecret2'
raw() {
    # shellcheck disable=SC2059
    printf "$1" | imds-lab as alice -- python3 -c '
import socket, sys
s = socket.create_connection(("169.254.169.254", 80), 5)
s.sendall(sys.stdin.buffer.read())
s.shutdown(socket.SHUT_WR)
while s.recv(4096): pass'
}
raw "GET /latest/ HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token: $token\n\r\n"
raw "GET /latest/ HTTP/1.1\r\nHost: 169.254.169.254\r\n$token KnownSecret3\r\n\r\n"
raw "GET /latest/?KnownSecret4 HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token: $token"
raw "KnownSecret5\r\n"
imds-lab stop upstream
get alice "$token" '' meta-data/hostname
imds-lab kill filterd
get alice "$token" '' meta-data/hostname 2>&1
imds-lab start filterd
imds-lab stop filterd
imds-lab stop interceptor
echo
# the service's own record is the proof that these were under way
grep -c -F "$token" "$LAB_RECORD"
cd "$LAB/log"
wc -l audit.jsonl
grep -n -F -e "$token" -e KnownSecret -e NotReal/ -e ASIAMOCK audit.jsonl filterd.log interceptor.log ./*.notify || echo 'nothing found'
"#;

#[test]
fn no_secret_is_in_what_the_daemons_write() {
    let text = Lab::new().rules(RULES).mock_argument("--imdsv2-only").script(SECRETS).expect_success();
    let lines: Vec<&str> = text.lines().collect();
    let [.., in_record, audit, found] = lines.as_slice() else { panic!("{text}") };
    assert!(text.contains("MockSecretNotReal/"), "no credentials were served:\n{text}");
    assert!(in_record.parse::<u32>().unwrap() == 2, "the token was not used:\n{text}");
    let audited: u32 = audit.split_whitespace().next().unwrap().parse().unwrap();
    assert!(audited >= 13, "only {audit}:\n{text}");
    assert_eq!(*found, "nothing found", "{text}");
}
