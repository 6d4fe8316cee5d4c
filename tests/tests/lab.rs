//! The lab does what the other tests rely on.
//! Not about imds-filterd: none of our daemons runs here but the mock. Its removal is in lab_removal.rs.

use imds_tests::{Lab, require_root};
use std::fs;
use std::io::Write;
use std::process::Stdio;

const V4: &str = "http://169.254.169.254/latest/meta-data/instance-id";
const V6: &str = "http://[fd00:ec2::254]/latest/meta-data/instance-id";

fn bare() -> Lab {
    Lab::bare().rules("Allow \"/\"\n")
}

#[test]
fn in_a_bare_lab_a_user_reaches_the_service_over_both_families() {
    for url in [V4, V6] {
        let id = bare().user("alice").run(&["curl", "-gsSf", url]).expect_success();
        assert!(id.starts_with("i-"), "{url}: {id:?}");
    }
}

/// Bypass tests prove nothing unless this works where nothing stops it.
#[test]
fn in_a_bare_lab_an_unprivileged_socket_bound_to_the_device_reaches_the_service_without_any_route() {
    let script = r#"
        ip route del default
        ! imds-lab as alice -- curl -s "$0"
        imds-lab as alice -- curl -sSf --interface eth0 "$0"
    "#;
    let id = bare().run(&["sh", "-euc", script, V4]).expect_success();
    assert!(id.starts_with("i-"), "{id:?}");
}

#[test]
fn the_exit_status_of_the_command_is_passed_on() {
    assert_eq!(bare().script("exit 7").status, 7);
    assert_eq!(bare().script("kill -9 $$").status, 128 + 9);
    assert_eq!(bare().run(&["no-such-program"]).status, 127);
}

#[test]
fn standard_input_and_output_are_passed_through() {
    let mut lab = bare();
    for user in ["root", "alice"] {
        lab = lab.user(user);
        let mut child = lab.command(&["cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"there and back").unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.stdout.as_slice(), output.status.code()), (&b"there and back"[..], Some(0)));
        lab = bare();
    }
}

#[test]
fn users_have_the_ids_groups_and_capabilities_of_unprivileged_users() {
    let id = |command: &[&str]| bare().run(command).expect_success();
    assert_eq!(
        bare().user("alice").run(&["id"]).expect_success(),
        "uid=2001(alice) gid=3001(alice) groups=3001(alice),4001(staff)\n"
    );
    assert_eq!(
        id(&["imds-lab", "as", "mallory", "--", "id"]),
        "uid=2003(mallory) gid=3003(mallory) groups=3003(mallory),4003(docker)\n"
    );
    assert_eq!(id(&["imds-lab", "as", "alice", "--groups", "wheel,77", "--", "id", "-G"]), "3001 77 4002\n");
    assert_eq!(id(&["imds-lab", "as", "alice", "--groups", "", "--", "id", "-G"]), "3001\n");
    assert_eq!(id(&["imds-lab", "as", "7:8", "--", "id"]), "uid=7 gid=8 groups=8\n");
    let capabilities = bare().user("bob").script("grep -E 'Cap(Inh|Prm|Eff|Amb)' /proc/self/status");
    for line in capabilities.expect_success().lines() {
        assert!(line.ends_with("0000000000000000"), "{line}");
    }
    assert_eq!(bare().user("nobody-knows").run(&["id"]).status, 64);
}

#[test]
fn what_root_changes_below_etc_stays_in_the_lab() {
    let before = fs::read("/etc/passwd").unwrap();
    let script = "echo carol:x:2004:3004::/:/bin/sh >>/etc/passwd; mv /etc/group /etc/g; mv /etc/g /etc/group
                  echo new >/etc/imds.conf; imds-lab as carol -- id -u";
    assert_eq!(bare().script(script).expect_success(), "2004\n");
    assert_eq!(fs::read("/etc/passwd").unwrap(), before);
    assert!(!fs::read_to_string("/etc/group").unwrap().contains("alice:x:3001:"));
}

#[test]
fn the_environment_of_the_caller_does_not_reach_the_command() {
    let mut command = bare().user("alice").command(&["env"]);
    let output = command.env("AWS_SECRET_ACCESS_KEY", "x").env("http_proxy", "x").output().unwrap();
    let environment = String::from_utf8(output.stdout).unwrap();
    assert!(environment.contains("HOME=/run/lab/home/alice\n"), "{environment}");
    assert!(!environment.contains("AWS_") && !environment.contains("proxy"), "{environment}");
}

#[test]
fn a_given_configuration_is_taken_as_it_is_unless_rules_are_given_too() {
    let config = "# mine\n[filter]\nrules = '/etc/mine.conf'\n";
    let show = "cat $LAB_CONFIG; test ! -e $LAB_RULES || cat $LAB_RULES";
    assert_eq!(Lab::bare().config(config).script(show).expect_success(), config);
    let both = bare().config(config).script(show).expect_success();
    assert!(both.contains("rules = \"/run/lab/imds.conf\"") && both.ends_with("Allow \"/\"\n"), "{both}");
    assert_eq!(bare().config("[filter").script(show).status, 78);
}

#[test]
fn the_daemons_files_may_be_written_by_root_only_whatever_the_callers_umask() {
    let lab = bare().command(&["sh", "-c", "stat -c %a $LAB_CONFIG $LAB_RULES; umask"]);
    let words = std::iter::once(lab.get_program()).chain(lab.get_args());
    let shell =
        std::process::Command::new("sh").args(["-c", "umask 0; exec \"$@\"", "sh"]).args(words).output();
    assert_eq!(String::from_utf8_lossy(&shell.unwrap().stdout), "644\n644\n0022\n");
}

#[test]
fn root_sees_the_cloud_and_the_record_of_the_requests() {
    let script = r#"
        imds-lab in cloud -- ip -br address show dev eth0
        imds-lab as alice -- curl -s "$0" >/dev/null
        grep -c . "$LAB_RECORD"
    "#;
    let shown = bare().run(&["sh", "-euc", script, V4]).expect_success();
    assert!(shown.contains("169.254.169.254/32") && shown.contains("fd00:ec2::254/128"), "{shown}");
    assert!(shown.ends_with("\n1\n"), "{shown}");
}

#[test]
fn a_container_reaches_the_service_of_a_bare_lab_with_its_own_address_or_masqueraded() {
    let script = r#"for url; do imds-lab in container -- imds-lab as alice -- curl -gsSf "$url" >/dev/null; done
                    cat "$LAB_RECORD""#;
    for (how, address) in [("bridge", "10.1.0.2"), ("masquerade", "10.0.0.10")] {
        let record = bare().container(how).run(&["sh", "-euc", script, "sh", V4, V6]).expect_success();
        assert_eq!(record.lines().count(), 2, "{how}: {record}");
        assert!(record.contains(address), "{how}: {record}");
    }
}

#[test]
fn the_upstream_can_be_another_command_and_be_killed_and_started_again() {
    let script = r#"
        test "$(curl -s "$0")" = hello
        imds-lab kill upstream
        ! curl -s "$0"
        ! imds-lab stop upstream
        imds-lab start upstream
        ! imds-lab start upstream
        curl -s "$0"
    "#;
    let server = r#"
import http.server
class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"hello")
http.server.HTTPServer(("169.254.169.254", 80), Hello).serve_forever()"#;
    let upstream = format!("exec python3 -c '{server}'");
    assert_eq!(bare().upstream(&upstream).run(&["sh", "-euc", script, V4]).expect_success(), "hello");
}

#[test]
fn an_upstream_that_cannot_start_is_reported_with_its_last_words() {
    let outcome = bare().upstream("echo no such service; exit 3").script("echo not reached");
    assert_eq!((outcome.status, outcome.stdout.as_str()), (71, ""));
    assert!(outcome.stderr.contains("exit status: 3"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("no such service"), "{}", outcome.stderr);
}

/// A stand-in for imds-interceptor: says something else first, and READY=1 only after it left a mark.
const STAND_IN: &str = r#"#!/usr/bin/python3
import os, socket, sys, signal
if os.path.exists("/run/broken"):
    sys.exit("line 3: broken on purpose")
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
os.setresuid(991, 991, 991)
s.sendto(b"STATUS=READY=1 soon", os.environ["NOTIFY_SOCKET"])
signal.sigtimedwait([], 0.2)
print("marked", flush=True)
s.sendto(b"STATUS=up\nREADY=1", os.environ["NOTIFY_SOCKET"])
signal.pause()
"#;

#[test]
fn a_daemon_is_started_when_it_says_so_and_its_log_is_shown_when_it_ends_before() {
    let script = r#"
        mkdir /run/bin && cp /run/lab/bin/imds-lab /run/bin
        printf %s "$0" >/run/bin/imds-interceptor && chmod 755 /run/bin/imds-interceptor
        mount --bind /run/bin /run/lab/bin
        imds-lab start interceptor
        cat /run/lab/log/interceptor.log
        kill -0 "$(cat /run/lab/interceptor.pid)"
        imds-lab kill interceptor
        cat /run/lab/log/interceptor.notify
        touch /run/broken
        imds-lab start interceptor || echo "status $?"
        ! test -e /run/lab/interceptor.pid
    "#;
    let outcome = bare().run(&["sh", "-euc", script, STAND_IN]);
    assert_eq!(
        outcome.clone().expect_success(),
        "marked\nSTATUS=READY=1 soon\nSTATUS=up\nREADY=1\nstatus 71\n"
    );
    assert!(outcome.stderr.contains("line 3: broken on purpose"), "{}", outcome.stderr);
}

#[test]
fn without_root_it_says_so_and_exits_77() {
    let outcome = bare().user("alice").run(&["imds-lab", "run", "--", "true"]);
    assert_eq!(outcome.status, 77);
    assert!(outcome.stderr.contains("root"), "{}", outcome.stderr);
}

#[test]
fn outside_of_a_lab_its_inner_commands_do_nothing() {
    require_root();
    for arguments in [&["kill", "upstream"][..], &["in", "cloud", "--", "id"], &["as", "root", "--", "id"]] {
        let outcome =
            std::process::Command::new(env!("CARGO_BIN_EXE_imds-lab")).args(arguments).output().unwrap();
        assert_eq!((outcome.status.code(), outcome.stdout.as_slice()), (Some(64), &b""[..]));
    }
    let inner = ["--inside", "run", "--bare", "--", "true"];
    let outcome = std::process::Command::new(env!("CARGO_BIN_EXE_imds-lab")).args(inner).output().unwrap();
    assert_eq!(outcome.status.code(), Some(64));
}

#[test]
fn labs_at_the_same_time_do_not_see_each_other() {
    let script = r#"echo "$0" >/run/lab/number
        for i in 1 2 3 4 5; do curl -sSf "$1" >/dev/null; done
        cat /run/lab/number; grep -c . "$LAB_RECORD"; ip netns list | wc -l"#;
    std::thread::scope(|scope| {
        let labs: Vec<_> = (0..4)
            .map(|n| {
                scope.spawn(move || bare().run(&["sh", "-euc", script, &n.to_string(), V4]).expect_success())
            })
            .collect();
        for (n, lab) in labs.into_iter().enumerate() {
            assert_eq!(lab.join().unwrap(), format!("{n}\n5\n2\n"));
        }
    });
}

#[test]
fn a_lab_whose_time_is_up_ends_with_status_124() {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_imds-lab"));
    command.args(["run", "--bare", "--rules-text", "", "--timeout", "3", "--", "sleep", "1000"]);
    require_root();
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(124));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("the time is up") && said.contains(" S sleep 1000"), "{said}");
}
