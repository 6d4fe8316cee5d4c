//! filterd's own sandbox, entered by a process of this program, which then tries what an intruder would: each attempt is
//! stopped, and works without the sandbox. Also kernels that lack a layer. Nothing of this is in the product.

#[cfg(target_os = "linux")]
mod intruder;
#[cfg(target_os = "linux")]
mod played;

#[cfg(target_os = "freebsd")]
mod confined;

#[cfg(target_os = "freebsd")]
fn main() {
    confined::main();
}

#[cfg(target_os = "linux")]
fn main() {
    if intruder::plays() {
        return;
    }
    for (name, test) in linux::TESTS {
        println!("test {name}");
        test();
    }
    println!("{} tests passed", linux::TESTS.len());
}

#[cfg(target_os = "linux")]
mod linux {
    use crate::intruder::{ATTEMPTS, Attempt, Stopped, lacking, play};
    use crate::played::{ALLOW_ALL, Filterd, GET, OK, Place};
    use std::os::unix::process::ExitStatusExt;
    use std::path::PathBuf;

    pub(crate) const TESTS: &[(&str, fn())] = &[
        ("each_attempt_works_without_the_sandbox", each_attempt_works_without_the_sandbox),
        ("each_attempt_is_stopped", each_attempt_is_stopped),
        ("a_panic_ends_nothing_but_itself_and_says_no_secret", a_panic_ends_nothing_but_itself),
        ("abort_ends_the_process_as_it_always_does", abort_ends_the_process_as_it_always_does),
        ("without_seccomp_it_does_not_start", without_seccomp_it_does_not_start),
        ("without_seccomp_it_serves_if_the_settings_say_so", without_seccomp_it_serves_if_told),
        ("without_the_other_layers_it_serves_and_says_so_in_one_line", without_the_other_layers_it_serves),
    ];

    /// Or the tests of the sandbox could not fail.
    fn each_attempt_works_without_the_sandbox() {
        for Attempt { name, needs_root, .. } in ATTEMPTS {
            let output = play(name, false);
            let said = String::from_utf8_lossy(&output.stdout);
            let refused = *needs_root && !rustix::process::geteuid().is_root();
            assert!(said.contains("got through") || refused, "{name}: {output:?}");
        }
    }

    fn each_attempt_is_stopped() {
        for Attempt { name, stopped, .. } in ATTEMPTS {
            let output = play(name, true);
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(said.starts_with("locked\n"), "{name}: {output:?}");
            match stopped {
                Stopped::Killed => {
                    assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{name}: {output:?}")
                }
                Stopped::With(error) => {
                    let wanted = format!("locked\nstopped: {}\n", std::io::Error::from_raw_os_error(*error));
                    assert_eq!(said, wanted, "{name}: {output:?}");
                }
            }
        }
    }

    fn a_panic_ends_nothing_but_itself() {
        let output = play("panic", true);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let log = String::from_utf8(output.stderr).unwrap();
        assert!(log.contains("internal error at filterd/tests/intruder/mod.rs:"), "{log}");
        assert!(!log.contains("hunter2") && log.lines().count() == 1, "{log}");
    }

    fn abort_ends_the_process_as_it_always_does() {
        assert_eq!(play("abort", true).status.signal(), Some(libc::SIGABRT));
    }

    /// Settings with a further line in their `[filter]`.
    fn settings(place: &Place, line: &str) -> PathBuf {
        let settings = std::fs::read_to_string(place.settings(ALLOW_ALL, "")).unwrap();
        place.write(
            "imds-filterd.toml",
            &settings.replace("[filter]\n", &format!("[filter]\n{line}\n")),
            0o644,
        )
    }

    fn without_seccomp_it_does_not_start() {
        for line in ["", "sandbox = \"required\""] {
            let place = Place::new();
            let _listener = place.listen();
            let settings = settings(&place, line);
            let output = lacking("seccomp").arg("--config").arg(settings).output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(71), "{said}");
            assert!(said.contains("no filter of system calls") && said.contains("besteffort"), "{said}");
        }
    }

    /// What it says of its sandbox while it serves.
    fn serves(what: &str, line: &str) -> Vec<String> {
        let place = Place::new();
        let settings = settings(&place, line);
        let mut filterd = Filterd::spawn_with(place, &mut lacking(what), &settings);
        let mut client = filterd.connect(1000);
        client.send(GET);
        filterd.dial().answer(OK);
        assert_eq!(client.answer().0, 200);
        drop(client);
        filterd.terminate();
        let (status, log) = filterd.end();
        assert_eq!(status.code(), Some(0), "{log}");
        log.lines().filter(|line| line.contains("sandbox:")).map(str::to_owned).collect()
    }

    fn without_seccomp_it_serves_if_told() {
        let said = serves("seccomp", "sandbox = \"besteffort\"");
        assert!(matches!(said.as_slice(), [line] if line.contains("no filter of system calls")), "{said:?}");
    }

    fn without_the_other_layers_it_serves() {
        let root = rustix::process::geteuid().is_root();
        let said = serves("landlock", "");
        assert!(matches!(said.as_slice(), [line] if line.contains("no Landlock")), "{said:?}");
        if root {
            let said = serves("namespaces", "");
            assert!(
                matches!(said.as_slice(), [line] if line.contains("no network namespace of its own")),
                "{said:?}"
            );
        }
        // and where all is there, nothing is said
        let said = serves("nothing", "");
        assert_eq!(said.is_empty(), root, "{said:?}");
    }
}
