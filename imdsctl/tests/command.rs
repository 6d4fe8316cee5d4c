//! The command as a whole: what it prints and how it exits. Needs no root.

use imds_ipc::control::{InForce, Mode, Reply};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A file of rules that goes when the test ends.
struct File(PathBuf);

impl File {
    fn with(text: impl AsRef<[u8]>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("imdsctl-test-{}-{number}.conf", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn imdsctl(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_imdsctl")).args(arguments).output().unwrap()
}

/// Exit status, standard output, standard error.
fn told(arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = imdsctl(arguments);
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn a_good_file_is_ok() {
    let file = File::with("Allow \"/\"\nAllow user root \"/\"\n");
    let (code, out, err) = told(&["check", file.path()]);
    assert_eq!((code, out, err.as_str()), (0, format!("{}: ok, 2 rules\n", file.path()), ""));
}

#[test]
fn every_fault_of_a_file_is_told_with_file_line_column_and_caret() {
    let file = File::with("Alow \"/\"\nAllow user root \"/\"\nAllow usr root \"/\"\n");
    let (code, out, err) = told(&["check", file.path()]);
    assert_eq!((code, out.as_str()), (78, ""));
    let wanted = [format!("{}:1:1: error:", file.path()), format!("{}:3:7: error:", file.path())];
    for words in wanted
        .iter()
        .map(String::as_str)
        .chain(["    Alow \"/\"\n    ^^^^ expected", "          ^^^ expected"])
    {
        assert!(err.contains(words), "{err} lacks {words}");
    }
}

#[test]
fn an_unknown_name_refuses_the_file_unless_allowed() {
    let file = File::with("Allow user no-such-user-here \"/\"\nAllow group no-such-group-here \"/\"\n");
    let (code, _, err) = told(&["check", file.path()]);
    assert_eq!(code, 78, "{err}");
    assert!(err.contains(":1:12: error: unknown user `no-such-user-here`"), "{err}");
    assert!(err.contains(":2:13: error: unknown group `no-such-group-here`"), "{err}");
    let (code, out, err) = told(&["check", "--allow-unknown", file.path()]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("ok, 2 rules"), "{out}");
    assert!(err.contains(":1:12: warning: unknown user"), "{err}");
}

#[test]
fn a_warning_is_printed_and_the_file_is_good() {
    let file = File::with("Allow \"/\"\nDeny \"/*/meta-data/iam/security-cred\"\n");
    let (code, out, err) = told(&["check", file.path()]);
    assert_eq!(code, 0);
    assert!(out.contains("ok"), "{out}");
    assert!(err.contains(":2:6: warning:") && err.contains("security-credentials"), "{err}");
}

#[test]
fn an_empty_file_is_good_and_denies_everything() {
    let file = File::with("");
    assert!(told(&["check", file.path()]).1.contains("0 rules: everything is denied"));
}

#[test]
fn what_cannot_be_read_is_66_and_wrong_usage_is_64() {
    let (code, _, err) = told(&["check", "/nonexistent/imds.conf"]);
    assert_eq!(code, 66);
    assert!(err.contains("/nonexistent/imds.conf"), "{err}");
    assert_eq!(told(&["check", "/"]).0, 66);
    assert_eq!(told(&["explain", "--rules", "/nonexistent/imds.conf", "--user", "root", "/"]).0, 66);
    for wrong in [&["check"][..], &[], &["chek"], &["check", "--nonsense", "x"], &["explain", "/"]] {
        assert_eq!(told(wrong).0, 64, "{wrong:?}");
    }
}

#[test]
fn help_and_version_are_no_faults() {
    for arguments in [&["--help"][..], &["--version"], &["explain", "--help"], &["check", "--help"]] {
        let (code, out, err) = told(arguments);
        assert_eq!((code, err.as_str()), (0, ""), "{arguments:?}");
        assert!(!out.is_empty());
    }
}

#[test]
fn explain_tells_the_verdict_the_deciding_line_and_why() {
    let file = File::with("Allow \"/\"\nDeny \"/*/user-data\"  # secrets\nAllow user root \"/\"\n");
    let explain = |user: &str, path: &str| told(&["explain", "--rules", file.path(), "--user", user, path]);
    let (code, out, err) = explain("65533", "/latest/user-data/");
    assert_eq!((code, err.as_str()), (0, ""));
    let wanted = format!(
        "deny\n{}:2: Deny \"/*/user-data\"\nit is the last rule that matches this user, path and request: \
         user 65533 (uid 65533), GET /latest/user-data/\nalso matches: line 1: Allow \"/\"\n",
        file.path()
    );
    assert_eq!(out, wanted);
    let (code, out, _) = explain("root", "//latest/%75ser-data");
    assert_eq!(code, 0);
    assert!(out.starts_with("allow\n") && out.contains(":3: Allow user root \"/\"\n"), "{out}");
    assert!(out.contains("GET /latest/user-data\n"), "{out}");
}

#[test]
fn explain_tells_when_no_rule_matches_and_when_none_is_asked() {
    let file = File::with("Allow user root \"/latest\"\n");
    let (code, out, _) = told(&["explain", "--rules", file.path(), "--user", "65533", "/latest"]);
    assert_eq!(code, 0);
    assert!(out.starts_with("deny\nno rule matches"), "{out}");
    let (code, out, _) = told(&["explain", "--rules", file.path(), "--user", "root", "/latest/%2e%2e/x"]);
    assert_eq!(code, 0);
    assert_eq!(out, "deny\nno rule is asked: imds-filterd answers 400 (dot segment in the path)\n");
}

#[test]
fn groups_given_to_explain_count() {
    let file = File::with("Allow group 4242 \"/\"\nDeny group 4243 \"/a\"\n");
    let explain = |groups: &[&str], path: &str| {
        let mut arguments = vec!["explain", "--rules", file.path(), "--user", "65533"];
        groups.iter().for_each(|group| arguments.extend(["--group", group]));
        arguments.push(path);
        told(&arguments).1.lines().next().unwrap().to_owned()
    };
    assert_eq!(explain(&[], "/a"), "deny");
    assert_eq!(explain(&["4242"], "/a"), "allow");
    assert_eq!(explain(&["4242", "4243"], "/a"), "deny");
    assert_eq!(explain(&["4242", "4243"], "/b"), "allow");
}

#[test]
fn the_method_given_to_explain_counts() {
    let file = File::with("Allow user root \"/latest/meta-data\"\n");
    let put =
        |path: &str| told(&["explain", "--rules", file.path(), "--user", "root", "--method", "PUT", path]).1;
    assert!(put("/latest/api/token").starts_with("allow\n"));
    assert!(put("/latest/meta-data").contains("405"));
}

#[test]
fn the_agent_headers_and_token_given_to_explain_count() {
    let file = File::with(
        "Allow agent \"aws-cli/\" \"/a\"\nAllow header \"Metadata-Flavor\" \"Amazon\" \"/\"\nDeny no-token \"/t\"\n",
    );
    let line = |more: &[&str], path: &str| {
        let mut arguments = vec!["explain", "--rules", file.path(), "--user", "65533"];
        arguments.extend(more);
        arguments.push(path);
        let (code, out, err) = told(&arguments);
        assert_eq!(code, 0, "{err}");
        let mut lines = out.lines();
        let verdict = lines.next().unwrap().to_owned();
        let rule = lines.next().unwrap().strip_prefix(&format!("{}:", file.path()));
        rule.map_or(verdict.clone(), |rule| format!("{verdict} {}", rule.split(':').next().unwrap()))
    };
    assert_eq!(line(&[], "/a"), "deny");
    assert_eq!(line(&["--agent", "aws-cli/2.1"], "/a"), "allow 1");
    assert_eq!(line(&["--agent", "curl/8"], "/a"), "deny");
    let flavor = ["--header", "Metadata-Flavor: Amazon"];
    assert_eq!(line(&flavor, "/b"), "allow 2");
    assert_eq!(line(&flavor, "/t"), "deny 3");
    assert_eq!(line(&[flavor[0], flavor[1], "--token"], "/t"), "allow 2");
    assert_eq!(line(&["--header", "X-Forwarded-For: a"], "/b"), "deny");
    assert_eq!(line(&["--header", "no colon"], "/b"), "deny");
}

#[test]
fn explain_tells_what_is_translated() {
    let file = File::with("Allow \"/\"\nTranslate user 65533 \"/latest\"\n");
    let line =
        "sent to the service with a token of imds-filterd's own: line 2: Translate user 65533 \"/latest\"\n";
    let arguments = ["explain", "--rules", file.path(), "--user", "65533", "/latest"];
    assert!(told(&arguments).1.contains(line));
    let with_token = ["explain", "--rules", file.path(), "--user", "65533", "--token", "/latest"];
    assert!(!told(&with_token).1.contains("own"));
}

#[test]
fn an_unknown_user_or_group_of_the_question_is_wrong_usage() {
    let file = File::with("Allow \"/\"\n");
    let (code, _, err) = told(&["explain", "--rules", file.path(), "--user", "no-such-user-here", "/"]);
    assert_eq!(code, 64);
    assert!(err.contains("no-such-user-here"), "{err}");
    let group = ["explain", "--rules", file.path(), "--user", "root", "--group", "no-such-group-here", "/"];
    assert_eq!(told(&group).0, 64);
}

#[test]
fn an_unknown_name_in_the_rules_does_not_stop_explain() {
    let file = File::with("Allow \"/\"\nDeny user no-such-user-here \"/\"\n");
    let (code, out, err) = told(&["explain", "--rules", file.path(), "--user", "root", "/"]);
    assert_eq!(code, 0);
    assert!(out.starts_with("allow\n") && err.contains("warning: unknown user"), "{out}{err}");
}

#[test]
fn explain_finds_the_rules_through_the_settings() {
    let rules = File::with("Allow \"/\"\n");
    let config = File::with(format!("[filter]\nrules = \"{}\"\n", rules.path()));
    let (code, out, err) = told(&["explain", "--config", config.path(), "--user", "root", "/"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains(rules.path()), "{out}");
    let wrong = File::with("[filter]\nrulez = 1\n");
    assert_eq!(told(&["explain", "--config", wrong.path(), "--user", "root", "/"]).0, 78);
}

#[test]
fn the_report_of_imdsv1_counts_what_came_without_a_token() {
    let line = |user: &str, token: &str| {
        format!(
            "{{\"v\":1,\"time\":\"2026-11-22T03:00:00.000Z\",\"verdict\":\"allow\",\"rule\":1,\"why\":\"\",\"uid\":1,\
             \"user\":\"{user}\",\"unit\":\"a.service\",\"pid\":1,\"exe\":\"agent\",{token}\"method\":\"GET\",\
             \"path\":\"/latest\",\"status\":200,\"bytes\":1,\"ms\":0,\"client\":\"10.0.0.5:1\",\"service\":\"ec2\"}}\n"
        )
    };
    let old = line("older", "");
    let (v1, v2, put) =
        (line("v1", "\"token\":false,"), line("v2", "\"token\":true,"), line("put", "\"token\":null,"));
    let log = File::with(format!("started\n{v1}{v2}{put}{old}{v1}"));
    let (code, out, err) = told(&["v1-report", log.path()]);
    assert_eq!((code, err.as_str()), (0, ""));
    let rows: Vec<Vec<&str>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["times", "last", "user", "unit", "exe", "path"]);
    assert_eq!(rows[1..], [["2", "2026-11-22T03:00:00.000Z", "v1", "a.service", "agent", "/latest"]]);
    assert_eq!(told(&["v1-report", "/nonexistent"]).0, 66);
}

#[test]
fn a_reader_that_went_away_is_no_fault() {
    // more than a pipe holds, so that the write does meet the closed end
    let file = File::with("Allow \"/\"\n".repeat(10_000));
    let mut child = Command::new(env!("CARGO_BIN_EXE_imdsctl"))
        .args(["explain", "--rules", file.path(), "--user", "root", "/"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!((child.wait().unwrap().code(), err.as_str()), (Some(0), ""));
}

fn shipped() -> Vec<PathBuf> {
    let conf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf");
    let all = [conf.join("examples"), conf]
        .into_iter()
        .flat_map(|place| std::fs::read_dir(place).unwrap().map(|entry| entry.unwrap().path()));
    let found: Vec<_> = all.filter(|path| path.extension().is_some_and(|end| end == "conf")).collect();
    assert!(found.len() >= 2);
    found
}

#[test]
fn every_shipped_file_is_good_and_says_what_it_means() {
    for path in shipped() {
        let (code, _, err) = told(&["check", path.to_str().unwrap()]);
        assert_eq!((code, err.as_str()), (0, ""), "{}", path.display());
    }
}

#[test]
fn every_recipe_of_a_shipped_file_is_good() {
    for path in shipped().into_iter().filter(|path| path.ends_with("imds.conf")) {
        let text = std::fs::read_to_string(&path).unwrap();
        let mut recipes = 0;
        let lines = text.lines().map(|line| match line.strip_prefix('#') {
            Some(rule) if rule.starts_with("Allow ") || rule.starts_with("Deny ") => {
                recipes += 1;
                format!("{rule}\n")
            }
            Some(_) | None => format!("{line}\n"),
        });
        let file = File::with(lines.collect::<String>());
        let (code, _, err) = told(&["check", "--allow-unknown", file.path()]);
        assert_eq!(code, 0, "{err}");
        for line in err.lines().filter(|line| line.contains("warning:")) {
            assert!(line.contains("unknown user") || line.contains("unknown group"), "{line}");
        }
        assert!(recipes > 5, "{recipes}");
    }
}

#[test]
fn the_shipped_rules_keep_secrets_for_root_and_facts_for_everybody() {
    let file = shipped().into_iter().find(|path| path.ends_with("imds.conf")).unwrap();
    let verdict = |user: &str, path: &str| {
        let (_, out, _) = told(&["explain", "--rules", file.to_str().unwrap(), "--user", user, path]);
        out.lines().next().unwrap().to_owned()
    };
    for secret in [
        "/latest/meta-data/iam/security-credentials",
        "/2021-07-15/meta-data/iam/security-credentials/role",
        "/latest/meta-data/identity-credentials/ec2/security-credentials/ec2-instance",
        "/latest/user-data",
        "/latest/dynamic/instance-identity/pkcs7",
        "/latest/dynamic/instance-identity/rsa2048",
        "/latest/dynamic/instance-identity/signature",
    ] {
        assert_eq!(
            (verdict("65533", secret).as_str(), verdict("root", secret).as_str()),
            ("deny", "allow"),
            "{secret}"
        );
    }
    for fact in ["/latest/meta-data/instance-id", "/latest/dynamic/instance-identity/document", "/"] {
        assert_eq!(verdict("65533", fact), "allow", "{fact}");
    }
}

/// Whether somebody connects in this time.
fn called(listener: &UnixListener, limit: Duration) -> bool {
    let limit = Timespec::try_from(limit).unwrap();
    poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&limit)).unwrap() == 1
}

/// A runtime directory with a played filterd, and settings that name it.
fn played(name: &str) -> (PathBuf, UnixListener, File) {
    let place = std::env::temp_dir().join(format!("imdsctl-{name}-{}", std::process::id()));
    let control = place.join("control");
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&control).unwrap();
    let listener = UnixListener::bind(control.join("filterd.sock")).unwrap();
    let config = File::with(format!("runtime_dir = {place:?}\n"));
    (place, listener, config)
}

fn answer(mut stream: UnixStream, reply: &Reply) {
    let mut answer = Vec::new();
    reply.encode(&mut answer);
    stream.read_exact(&mut [0; 8]).unwrap();
    stream.write_all(&answer).unwrap();
}

#[test]
fn a_reload_that_interceptor_has_not_confirmed_is_to_be_tried_again() {
    let (place, listener, config) = played("unconfirmed");
    let rules = File::with("Allow \"/\"\n");
    let filterd = std::thread::spawn(move || {
        let told = InForce { file: "f".into(), digest: [7; 32], count: 1, since: 0, mode: Mode::Enforce };
        answer(listener.accept().unwrap().0, &Reply::Unconfirmed(told));
    });
    let (code, out, err) = told(&["reload", "--config", config.path(), rules.path()]);
    filterd.join().unwrap();
    assert_eq!((code, out.as_str()), (75, ""), "{err}");
    assert!(
        err.contains("imds-interceptor has not said in time") && err.contains("in force: f, 1 rule"),
        "{err}"
    );
    // a filterd that is started now finds them
    assert!(place.join("control/last-good").exists(), "they are not kept");
    std::fs::remove_dir_all(&place).unwrap();
}

#[test]
fn of_two_reloads_the_second_begins_when_the_first_has_ended() {
    let (place, listener, config) = played("reload");
    let rules = File::with("Allow \"/\"\n");
    let reload = || {
        Command::new(env!("CARGO_BIN_EXE_imdsctl"))
            .args(["reload", "--config", config.path(), rules.path()])
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let refuse = |stream| answer(stream, &Reply::Refused("not now".into()));
    let mut first = reload();
    assert!(called(&listener, Duration::from_secs(10)));
    let stream = listener.accept().unwrap().0;
    let mut second = reload();
    assert!(!called(&listener, Duration::from_millis(500)), "the first may still keep its rules");
    refuse(stream);
    assert_eq!(first.wait().unwrap().code(), Some(78));
    assert!(called(&listener, Duration::from_secs(10)));
    refuse(listener.accept().unwrap().0);
    assert_eq!(second.wait().unwrap().code(), Some(78));
    std::fs::remove_dir_all(&place).unwrap();
}
