//! A lab for tests written in Rust: one `imds-lab run` for each [`Lab::run`] or [`Lab::script`].
//! Never skips: what needs root fails without it.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

/// Far above what a test takes; a hanging one is ended with its logs shown.
const LIMIT_SECONDS: &str = "120";

/// # Panics
/// Without root.
pub fn require_root() {
    assert!(rustix::process::geteuid().is_root(), "this test needs root, for namespaces: run it with sudo");
}

/// How a lab is made; `Lab::new()` has both daemons and the shipped rules.
#[derive(Debug, Clone, Default)]
pub struct Lab {
    arguments: Vec<String>,
}

/// What a command in a lab did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Its exit status; 71 if the lab could not be made: `stderr` says why.
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// The standard output of a command that must succeed.
    ///
    /// # Panics
    /// When it did not.
    #[must_use]
    #[track_caller]
    pub fn expect_success(self) -> String {
        assert_eq!(self.status, 0, "standard output:\n{}\nstandard error:\n{}", self.stdout, self.stderr);
        self.stdout
    }
}

impl Lab {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Without our daemons: what is captured in `Lab::new()` reaches the real service here.
    #[must_use]
    pub fn bare() -> Self {
        Self::new().option("--bare", "")
    }

    /// The text of imds.conf.
    #[must_use]
    pub fn rules(self, text: &str) -> Self {
        self.option("--rules-text=", text)
    }

    /// The text of imds-filterd.toml.
    #[must_use]
    pub fn config(self, text: &str) -> Self {
        self.option("--config-text=", text)
    }

    /// A shell command that serves the metadata service in the cloud.
    #[must_use]
    pub fn upstream(self, command: &str) -> Self {
        self.option("--upstream=", command)
    }

    #[must_use]
    pub fn mock_argument(self, argument: &str) -> Self {
        self.option("--mock-arg=", argument)
    }

    /// `bridge` or `masquerade`.
    #[must_use]
    pub fn container(self, how: &str) -> Self {
        self.option("--container=", how)
    }

    #[must_use]
    pub fn user(self, name: &str) -> Self {
        self.option("--user=", name)
    }

    fn option(mut self, name: &str, value: &str) -> Self {
        self.arguments.push(format!("{name}{value}"));
        self
    }

    /// The `imds-lab` command, for tests that do not simply wait for its end.
    ///
    /// # Panics
    /// Without root.
    #[must_use]
    pub fn command<S: AsRef<OsStr>>(&self, command: &[S]) -> Command {
        require_root();
        let mut lab = Command::new(program());
        lab.args(["run", "--timeout", LIMIT_SECONDS]).args(&self.arguments).arg("--").args(command);
        lab.stdin(Stdio::null());
        lab
    }

    /// Runs a command in a new lab.
    ///
    /// # Panics
    /// Without root, or when imds-lab cannot be started.
    #[must_use]
    pub fn run<S: AsRef<OsStr>>(&self, command: &[S]) -> Outcome {
        let output = self.command(command).output().expect("imds-lab can be started");
        Outcome {
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs a shell script in a new lab; it ends at the first command that fails.
    #[must_use]
    pub fn script(&self, text: &str) -> Outcome {
        self.run(&["sh", "-euc", text])
    }
}

/// Cargo puts a package's programs one directory above its test programs, and builds them first.
fn program() -> std::path::PathBuf {
    let test = std::env::current_exe().expect("a test program has a path");
    test.ancestors().nth(2).expect("a test program lies in a directory of cargo's").join("imds-lab")
}
