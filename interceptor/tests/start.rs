//! The program itself: arguments, exit codes, messages, signals, and what it costs when nothing happens.
#![cfg(target_os = "linux")]

mod world;

use rustix::process::Signal;
use std::process::{Command, Output};
use std::time::Duration;
use world::*;

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_imds-interceptor")).args(arguments).output().unwrap()
}

fn fails_with(output: &Output, code: i32, words: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for word in words {
        assert!(text.contains(word), "{text:?} lacks {word:?}");
    }
}

#[test]
fn wrong_arguments_and_settings_end_it_with_the_code_of_sysexits() {
    privately("wrong_arguments_and_settings_end_it_with_the_code_of_sysexits", || {
        sh("mount -t tmpfs none /run");
        fails_with(&run(&["--colour"]), 64, &["--colour", "--help"]);
        fails_with(&run(&["relase"]), 64, &["relase"]);
        fails_with(&run(&["--config", "/run/none.toml"]), 78, &["/run/none.toml"]);
        let config = |text: &str| {
            std::fs::write("/run/c.toml", text).unwrap();
            run(&["--config", "/run/c.toml"])
        };
        fails_with(&config("[capture]\nmarc = 1\n"), 78, &["/run/c.toml", "line 2", "marc"]);
        fails_with(&config("[filter]\nuser = \"no-such-user\"\n"), 78, &["no-such-user"]);
        fails_with(&config("[filter]\nuser = \"root\"\n"), 78, &["uid 0"]);
        std::fs::create_dir("/run/open").unwrap();
        sh("chmod 777 /run/open");
        let open = config("runtime_dir = \"/run/open\"\n[filter]\nuser = \"nobody\"\n");
        fails_with(&open, 77, &["/run/open", "writable by others"]);
        let text = String::from_utf8(run(&["--version"]).stdout).unwrap();
        assert!(text.starts_with("imds-interceptor "));
        assert!(String::from_utf8(run(&["--help"]).stdout).unwrap().contains("--config FILE"));
    });
}

#[test]
fn without_privileges_it_says_what_it_needs() {
    privately("without_privileges_it_says_what_it_needs", || {
        sh("mount -t tmpfs none /run; echo '[filter]\nuser = \"nobody\"' > /run/c.toml");
        sh(&format!("cp {} /run/imds-interceptor", env!("CARGO_BIN_EXE_imds-interceptor")));
        for task in [&[][..], &["release"]] {
            let output = Command::new("setpriv")
                .args(["--reuid=2001", "--regid=3001", "--clear-groups", "/run/imds-interceptor"])
                .args(["--config", "/run/c.toml"])
                .args(task)
                .output()
                .unwrap();
            fails_with(&output, 77, &["root", "CAP_NET_ADMIN"]);
        }
    });
}

#[test]
fn a_second_one_does_not_start_and_leaves_the_first_alone() {
    privately("a_second_one_does_not_start_and_leaves_the_first_alone", || {
        let mut world = World::start();
        let second = run(&["--config", "/run/imds-filterd.toml"]);
        fails_with(&second, 75, &[]);
        fails_with(&run(&["--config", "/run/imds-filterd.toml", "release"]), 75, &[]);
        assert!(world.alive());
        Filterd::attach();
    });
}

#[test]
fn sigterm_ends_it_cleanly_and_sighup_does_not() {
    privately("sigterm_ends_it_cleanly_and_sighup_does_not", || {
        for signal in [Signal::TERM, Signal::INT] {
            let mut world = if signal == Signal::TERM { World::start() } else { World::interceptor("") };
            world.signal(Signal::HUP);
            drop(Filterd::attach());
            world.signal(signal);
            assert_eq!(world.child.wait().unwrap().code(), Some(0));
            assert!(!std::path::Path::new("/run/imds-filterd/filter.sock").exists());
            // closed, not open
            let error = std::net::TcpStream::connect(V4).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
        }
    });
}

#[test]
fn a_killed_one_is_replaced_by_the_next() {
    privately("a_killed_one_is_replaced_by_the_next", || {
        let mut world = World::start();
        world.child.kill().unwrap();
        world.child.wait().unwrap();
        let _world = World::interceptor("");
        Filterd::attach();
    });
}

#[test]
fn one_whose_tun_is_deleted_ends_with_an_error_and_leaves_it_closed() {
    privately("one_whose_tun_is_deleted_ends_with_an_error_and_leaves_it_closed", || {
        let mut world = World::start();
        sh("ip link del imds0");
        assert_eq!(world.child.wait().unwrap().code(), Some(71));
        for to in [V4, V6] {
            let error = std::net::TcpStream::connect(to).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied, "{to}");
        }
    });
}

#[test]
fn an_idle_one_sleeps() {
    privately("an_idle_one_sleeps", || {
        let world = World::start();
        let filterd = Filterd::attach();
        let stream = std::net::TcpStream::connect(V4).unwrap();
        let given = filterd.given();
        let switches = || {
            let status = std::fs::read_to_string(format!("/proc/{}/status", world.child.id())).unwrap();
            let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches")).unwrap();
            line.split_whitespace().last().unwrap().parse::<u64>().unwrap()
        };
        // until it has done what the start still had to do
        let quiet = || {
            let before = switches();
            let_time_pass(Duration::from_millis(500));
            before == switches()
        };
        assert!((0..30).any(|_| quiet()), "it never sleeps");
        let before = switches();
        let_time_pass(Duration::from_secs(4)); // the time measured
        let woken = switches() - before;
        assert!(woken <= 3, "woken {woken} times in 4 s with one idle connection: capture's check alone may");
        drop((stream, given));
    });
}
