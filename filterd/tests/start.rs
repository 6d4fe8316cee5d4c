//! How imds-filterd starts, or why it does not.

mod played;

use imds_ipc::{FromFilterd, FromInterceptor, Hello, MAX_MESSAGE};
use played::{ALLOW_ALL, Filterd, Place, program};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Stdio};

/// Exit code and what was said.
fn run(settings: &Path) -> (Option<i32>, String) {
    let output = program().arg("--config").arg(settings).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_wrong_rules_file_is_78_and_the_message_names_file_line_and_column() {
    let place = Place::new();
    let settings = place.settings("Allow \"/\"\nDenny \"/x\"\n", "");
    let (code, said) = run(&settings);
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("imds.conf:2:1: error"), "{said}");
}

#[test]
fn rules_that_are_missing_writable_by_others_or_no_file_are_78() {
    let place = Place::new();
    let settings = place.settings(ALLOW_ALL, "");
    for mode in [0o664, 0o646] {
        place.write("imds.conf", ALLOW_ALL, mode);
        let (code, said) = run(&settings);
        assert_eq!(code, Some(78), "{said}");
        assert!(said.contains("imds.conf") && said.contains("writable"), "{said}");
    }
    std::fs::remove_file(place.0.join("imds.conf")).unwrap();
    let (code, said) = run(&settings);
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("imds.conf"), "{said}");
    std::fs::create_dir(place.0.join("imds.conf")).unwrap();
    assert_eq!(run(&settings).0, Some(78));
}

#[test]
fn wrong_settings_are_78_and_wrong_arguments_64() {
    let place = Place::new();
    let settings = place.write("x.toml", "[filter]\nuserr = \"x\"\n", 0o644);
    let (code, said) = run(&settings);
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("x.toml") && said.contains("line 2"), "{said}");
    let output = program().arg("--confg").output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    let output = program().arg("--version").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout.starts_with(b"imds-filterd "));
}

#[test]
fn a_filter_user_that_does_not_exist_or_is_root_is_78() {
    let place = Place::new();
    for user in ["no-such-user-here", "root"] {
        let settings = std::fs::read_to_string(place.settings(ALLOW_ALL, "")).unwrap();
        let settings = settings.replace(&format!("{:?}", played::filter_user()), &format!("{user:?}"));
        let (code, said) = run(&place.write("imds-filterd.toml", &settings, 0o644));
        assert_eq!(code, Some(78), "{said}");
        assert!(said.contains(user), "{said}");
    }
}

#[test]
fn an_unknown_user_or_group_in_the_rules_is_a_warning_and_matches_nobody() {
    let rules = "Deny \"/\"\nAllow user no-such-user-here \"/\"\nAllow group no-such-group-here \"/\"\n";
    let mut filterd = Filterd::start(rules);
    let mut client = filterd.connect(1000);
    client.send(played::GET);
    assert_eq!(client.answer().0, 403);
    assert_eq!(filterd.audit()["rule"], 1);
    filterd.terminate();
    let (_, log) = filterd.end();
    assert!(log.contains("imds.conf:2:") && log.contains("no-such-user-here"), "{log}");
    assert!(log.contains("imds.conf:3:") && log.contains("no-such-group-here"), "{log}");
}

/// What filterd says next to who plays interceptor by hand.
#[track_caller]
fn hear(channel: &OwnedFd) -> FromFilterd {
    played::wait_readable(channel);
    FromFilterd::decode(imds_ipc::channel::receive(channel, &mut [0; MAX_MESSAGE]).unwrap()).unwrap()
}

fn say(channel: &OwnedFd, message: &FromInterceptor) {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    imds_ipc::channel::send(channel, &bytes, None).unwrap();
}

/// Greets filterd and hears its first words, up to the question whether they are in effect.
fn greet(channel: &OwnedFd) {
    say(channel, &FromInterceptor::Hello(Hello::OURS));
    say(channel, &FromInterceptor::Identity(played::ALL));
    while hear(channel) != FromFilterd::Sync {}
}

/// A service manager, and a filterd that it started.
fn notified(place: &Place) -> (UnixDatagram, Child) {
    let path = place.0.join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(&path, open).unwrap();
    manager.set_read_timeout(Some(played::PATIENCE)).unwrap();
    let child = program()
        .arg("--config")
        .arg(place.settings(ALLOW_ALL, ""))
        .env("NOTIFY_SOCKET", path)
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    (manager, child)
}

#[track_caller]
fn is_told_nothing(manager: &UnixDatagram) {
    manager.set_nonblocking(true).unwrap();
    assert_eq!(manager.recv(&mut [0; 64]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    manager.set_nonblocking(false).unwrap();
}

#[test]
fn it_waits_for_an_interceptor_that_starts_later_and_is_ready_when_that_one_has_obeyed() {
    let place = Place::new();
    let (manager, mut child) = notified(&place);
    let mut log = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut log, &mut line).unwrap();
    assert!(line.contains("waiting for interceptor"), "{line}");
    let channel = played::accept(&place.listen());
    is_told_nothing(&manager);
    greet(&channel);
    // a word back and forth: it serves, but nobody is to count on that yet
    say(
        &channel,
        &FromInterceptor::Asked {
            id: 1,
            subject: Ok(imds_ipc::Subject::of_uid(1)),
            client: "10.0.0.5:40001".parse().unwrap(),
            service: "169.254.169.254:80".parse().unwrap(),
            upstream: 0,
            place: 1,
            bytes: imds_ipc::Piece::of(b"GET / HTTP/1.1\r\n\r\n"),
        },
    );
    assert!(matches!(hear(&channel), FromFilterd::Answer { connection: 1, .. }));
    is_told_nothing(&manager);
    say(&channel, &FromInterceptor::Synced);
    let mut buffer = [0; 64];
    let length = manager.recv(&mut buffer).unwrap();
    assert_eq!(buffer.get(..length), Some(&b"READY=1\n"[..]));
    child.kill().unwrap();
    child.wait().unwrap();
}

// FreeBSD has a queue for each sender, and others cannot fill ours
#[cfg(target_os = "linux")]
#[test]
fn a_service_manager_that_is_too_busy_to_hear_is_told_again() {
    let place = Place::new();
    let (manager, mut child) = notified(&place);
    let others = UnixDatagram::unbound().unwrap();
    others.connect(place.0.join("notify")).unwrap();
    others.set_nonblocking(true).unwrap();
    while others.send(b"another's").is_ok() {}
    let listener = place.listen();
    let channel = played::accept(&listener);
    greet(&channel);
    say(&channel, &FromInterceptor::Synced);
    // it has found no room when it has said so
    let log = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut lines = std::io::BufRead::lines(log);
    assert!(lines.any(|line| line.is_ok_and(|line| line.contains("service manager not told"))));
    let mut heard = [0; 64];
    while manager.recv(&mut heard).unwrap() != b"READY=1\n".len() {}
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The program where any user may run it, as `user`.
fn program_as(place: &Place, user: &imds_settings::User) -> std::process::Command {
    use std::os::unix::process::CommandExt;
    let copy = place.0.join("imds-filterd");
    // not by ourselves: a child of another test could inherit the descriptor, and a file open for writing does not run
    let copied = std::process::Command::new("cp").arg(program().get_program()).arg(&copy).status().unwrap();
    assert!(copied.success());
    let mut command = std::process::Command::new(copy);
    if rustix::process::geteuid().is_root() {
        command.uid(user.uid).gid(user.gid);
    }
    command
}

fn user(name: &str) -> imds_settings::User {
    imds_settings::Accounts::open().user(name).unwrap().unwrap()
}

#[test]
fn started_by_another_user_it_says_what_it_needs_and_exits_with_77() {
    let place = Place::new();
    let settings = std::fs::read_to_string(place.settings(ALLOW_ALL, "")).unwrap();
    let settings = settings.replace(&format!("{:?}", played::filter_user()), "\"daemon\"");
    let settings = place.write("imds-filterd.toml", &settings, 0o644);
    let output =
        program_as(&place, &user(&played::filter_user())).arg("--config").arg(settings).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(77), "{said}");
    assert!(said.contains("root") && said.contains("daemon"), "{said}");
}

/// Linux only has these files.
#[cfg(target_os = "linux")]
#[test]
fn started_as_its_own_user_it_needs_no_root_and_cannot_be_traced() {
    use std::os::unix::fs::MetadataExt;
    let place = Place::new();
    let mut program = program_as(&place, &user(&played::filter_user()));
    let mut filterd = Filterd::spawn(place, &mut program, ALLOW_ALL, "");
    let mut client = filterd.connect(1000);
    client.send(played::GET);
    filterd.dial().answer(played::OK);
    assert_eq!(client.answer().0, 200);
    // a process that may be dumped or traced belongs to its user; this one to root
    let pid = filterd.child.id();
    assert_eq!(std::fs::metadata(format!("/proc/{pid}/mem")).unwrap().uid(), 0);
}

/// What the kernel says of the process; Linux only has this file.
#[cfg(target_os = "linux")]
#[test]
fn a_running_filterd_is_nobody_special_and_leaves_no_core() {
    if rustix::process::geteuid().is_root() {
        // some to give up
        nix::unistd::setgroups(&[1.into(), 2.into()]).unwrap();
    }
    let filterd = Filterd::start(ALLOW_ALL);
    let pid = filterd.child.id();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    let user = user(&played::filter_user());
    assert_eq!(field("Uid:"), vec![user.uid.to_string(); 4]);
    assert_eq!(field("NoNewPrivs:"), ["1"]);
    assert_eq!(field("CapEff:"), ["0000000000000000"]);
    assert_eq!(field("CapPrm:"), ["0000000000000000"]);
    if rustix::process::geteuid().is_root() {
        assert_eq!(field("Gid:"), vec![user.gid.to_string(); 4]);
        assert!(field("Groups:").is_empty());
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    }
}

#[test]
fn rules_that_ask_for_what_interceptor_cannot_tell_end_it_with_the_reason() {
    for (rules, settings, code) in [
        ("Allow \"/\"\nDeny group 5 \"/x\"", "", Some(78)),
        ("Allow unit a.service \"/\"", "", Some(78)),
        ("Allow unit a.service \"/\"", "[filter]\ngroups = \"database\"", Some(78)),
    ] {
        let place = Place::new();
        let listener = place.listen();
        let path = place.settings(rules, "");
        let text = std::fs::read_to_string(&path).unwrap();
        let text = match settings.strip_prefix("[filter]\n") {
            Some(line) => text.replace("[filter]\n", &format!("[filter]\n{line}\n")),
            None => text,
        };
        std::fs::write(&path, text).unwrap();
        let mut child = program()
            .arg("--config")
            .arg(&path)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let channel = played::accept(&listener);
        let mut bytes = Vec::new();
        let identity = imds_ipc::Identity::partial(imds_ipc::Lack::NoTypes);
        for message in [FromInterceptor::Hello(Hello::OURS), FromInterceptor::Identity(identity)] {
            message.encode(&mut bytes);
            imds_ipc::channel::send(&channel, &bytes, None).unwrap();
        }
        let mut log = String::new();
        std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut log).unwrap();
        assert_eq!(child.wait().unwrap().code(), code, "{log}");
        assert!(log.contains("cannot be told") && log.contains("/sys/kernel/btf"), "{log}");
    }
}
