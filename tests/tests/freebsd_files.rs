//! What FreeBSD's system takes of us: the port's list of files, its crates, the rc.d scripts under a stub of rc.subr(8).
//! Runs on Linux; starts none of our programs.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// A directory of this test's own, removed at its end.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("imds-freebsd-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn files(below: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![below.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else {
                found.insert(entry.path().strip_prefix(below).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found
}

fn make(place: &Place, task: &str, more: &[&str]) {
    let built = place.0.join("built");
    fs::create_dir_all(&built).unwrap();
    for program in ["imds-interceptor", "imds-filterd", "imdsctl", "imds-mock"] {
        let path = built.join(program);
        fs::write(&path, "#!/bin/sh\necho completions\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let output = Command::new("make")
        .current_dir(root())
        .args(["-s", task, "OS=FreeBSD", "PREFIX=/usr/local"])
        .arg(format!("DESTDIR={}", place.0.join("stage").display()))
        .arg(format!("RELEASE={}", built.display()))
        .args(more)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// The files that the port says it installs, below /usr/local; man pages are compressed by ports(7).
fn packing_list() -> BTreeSet<String> {
    let text = fs::read_to_string(root().join("port/security/imds-filterd/pkg-plist")).unwrap();
    text.lines()
        .map(|line| line.replace("%%PORTDOCS%%", "").replace("%%DOCSDIR%%", "share/doc/imds-filterd"))
        .map(|line| line.trim_start_matches("@sample ").trim_end_matches(".gz").to_owned())
        // USE_RC_SUBR lists these itself
        .chain(["etc/rc.d/imds_filterd".into(), "etc/rc.d/imds_interceptor".into()])
        .collect()
}

#[test]
fn make_install_places_what_the_port_lists_and_uninstall_takes_it() {
    let place = Place::new("install");
    make(&place, "install", &["CONFIGURE=no"]);
    assert_eq!(files(&place.0.join("stage/usr/local")), packing_list());
    assert_eq!(fs::read_dir(place.0.join("stage")).unwrap().count(), 1, "nothing outside of /usr/local");
    make(&place, "uninstall", &[]);
    assert_eq!(files(&place.0.join("stage")), BTreeSet::new());
}

#[test]
fn the_installed_settings_name_the_paths_of_freebsd() {
    let place = Place::new("settings");
    make(&place, "install", &[]);
    let etc = place.0.join("stage/usr/local/etc");
    let settings = fs::read_to_string(etc.join("imds-filterd.toml")).unwrap();
    assert!(settings.contains("runtime_dir = \"/var/run/imds-filterd\""), "{settings}");
    assert!(settings.contains("\"/usr/local/etc/imds.conf\""), "{settings}");
    assert!(etc.join("imds.conf").exists());
    // and is not replaced by a later one
    fs::write(etc.join("imds.conf"), "Allow \"/\"\n").unwrap();
    make(&place, "install", &[]);
    assert_eq!(fs::read_to_string(etc.join("imds.conf")).unwrap(), "Allow \"/\"\n");
}

#[test]
fn the_ports_crates_and_scripts_are_those_of_the_tree() {
    let output = Command::new("sh").arg(root().join("port/update.sh")).arg("check").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What rc.subr(8) would do, as words. `run_rc_command` runs a script's own command, or says what it would run.
const STUB: &str = r#"
load_rc_config() {
	eval "$STUB_SETTINGS"
}
run_rc_command() {
	eval "enabled=\${$rcvar}"
	eval "own=\${${1}_cmd:-}"
	echo "name=$name enabled=$enabled pidfile=$pidfile procname=$procname"
	for file in $required_files; do echo "required=$file"; done
	case " start stop restart status ${extra_commands:-} " in *" $1 "*) ;; *) echo "no such command"; return 1 ;; esac
	if [ -n "$own" ]; then $own; else echo "run $command $command_args"; fi
	eval "then=\${${1}_postcmd:-}"
	if [ -n "$then" ]; then $then; fi
}
"#;

/// Knows of both daemons when it is asked for the third time, and notes what it was asked.
const IMDSCTL: &str = r#"#!/bin/sh
echo "asked $*" >>"$0.asked"
[ "$(wc -l <"$0.asked")" -lt 3 ] || printf 'healthy\nimds-filterd 0.1, pid 2\n  x\nimds-interceptor 0.1, pid 1\n'
"#;

/// What script `name` says it would do for `command`.
fn rc(name: &str, command: &str, settings: &str) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0); // tests run beside each other
    let place = Place::new(&format!("rc-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
    let stub = place.0.join("rc.subr");
    fs::write(&stub, STUB).unwrap();
    let imdsctl = place.0.join("imdsctl");
    let asked = imdsctl.with_extension("asked");
    fs::write(&imdsctl, IMDSCTL).unwrap();
    fs::write(&asked, "").unwrap();
    let script = fs::read_to_string(root().join("rc.d").join(name)).unwrap();
    assert!(script.contains("\n. /etc/rc.subr\n"), "{name} does not read rc.subr");
    // our programs are not here: what would be run of them is said
    let script = script
        .replace("/etc/rc.subr", stub.to_str().unwrap())
        .replace("\"$program\"", "echo \"$program\"")
        .replace("\t/usr/local/bin/imdsctl", "\techo /usr/local/bin/imdsctl")
        .replace("until /usr/local/bin/imdsctl", &format!("until sh {}", imdsctl.display()));
    let output = Command::new("sh")
        .args(["-eu", "-c", &script, name, command])
        .env("STUB_SETTINGS", settings)
        .output()
        .unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap() + &fs::read_to_string(asked).unwrap()
}

#[test]
fn a_start_is_over_when_the_daemon_says_that_it_is_up() {
    for name in ["imds_interceptor", "imds_filterd"] {
        let said = rc(name, "start", "imds_filterd_enable=YES");
        let asked = "asked status --config /usr/local/etc/imds-filterd.toml\n";
        assert!(said.contains("run /usr/sbin/daemon -f ") && said.ends_with(&asked.repeat(3)), "{said}");
        assert_eq!(said.matches("asked").count(), 3, "{said}");
        assert!(!rc(name, "stop", "").contains("asked"));
    }
}

#[test]
fn one_knob_starts_both_and_neither_starts_without_it() {
    for name in ["imds_interceptor", "imds_filterd"] {
        assert!(rc(name, "start", "").contains("enabled=NO"));
        let said = rc(name, "start", "imds_filterd_enable=YES");
        let program = format!("/usr/local/sbin/{}", name.replace('_', "-"));
        for wanted in [
            "enabled=YES".to_owned(),
            format!("pidfile=/var/run/{name}.pid procname=/usr/sbin/daemon"),
            "required=/usr/local/etc/imds-filterd.toml".to_owned(),
            "run /usr/sbin/daemon -f ".to_owned(),
            format!(" -P /var/run/{name}.pid "),
            format!("-- {program} "),
            " --config /usr/local/etc/imds-filterd.toml".to_owned(),
        ] {
            assert!(said.contains(&wanted), "{name}: {said:?} lacks {wanted:?}");
        }
        // whoever restarts what has died: daemon(8), or the program itself, which is quicker
        assert_ne!(said.contains(" -r "), said.contains(" --supervise "), "{name}: {said:?}");
        for command in ["stop", "restart", "status"] {
            assert!(rc(name, command, "").contains("run /usr/sbin/daemon"), "{command}");
        }
    }
}

#[test]
fn other_settings_are_named_to_the_program_and_required() {
    let said = rc("imds_filterd", "start", "imds_filterd_config=/tmp/other.toml");
    assert!(said.contains("required=/tmp/other.toml") && said.contains("--config /tmp/other.toml"), "{said}");
}

#[test]
fn reload_and_release_are_the_programs_own() {
    let said = rc("imds_filterd", "reload", "");
    assert!(
        said.contains("/usr/local/bin/imdsctl reload --config /usr/local/etc/imds-filterd.toml"),
        "{said}"
    );
    let said = rc("imds_interceptor", "release", "");
    assert!(
        said.contains("/usr/local/sbin/imds-interceptor --config /usr/local/etc/imds-filterd.toml release")
    );
    assert!(rc("imds_interceptor", "reload", "").contains("no such command"));
}

#[test]
fn they_start_after_the_network_and_before_whatever_needs_it() {
    let keywords = |name: &str, keyword: &str| {
        let script = fs::read_to_string(root().join("rc.d").join(name)).unwrap();
        let prefix = format!("# {keyword}: ");
        let line = script.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap_or("").to_owned();
        line.split(' ').map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(keywords("imds_interceptor", "REQUIRE").contains(&"routing".to_owned()));
    assert_eq!(keywords("imds_filterd", "REQUIRE"), ["imds_interceptor"]);
    for name in ["imds_interceptor", "imds_filterd"] {
        assert_eq!(keywords(name, "PROVIDE"), [name]);
        assert_eq!(keywords(name, "BEFORE"), ["NETWORKING"]);
        assert_eq!(keywords(name, "KEYWORD"), ["shutdown"]);
    }
}
