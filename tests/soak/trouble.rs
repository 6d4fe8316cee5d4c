//! What happens to filterd while clients ask: it is killed, restarted, told of new rules, in an order that mixes them.
//! Must not go on before filterd serves again, as a service manager's unit would.

use crate::client::wait_until;
use imds_tests::Stopwatch;
use std::io;
use std::process::Command;
use std::time::{Duration, Instant};

/// As in the unit.
const RESTART_AFTER: Duration = Duration::from_millis(50);
/// Between two of them, so that each meets clients that are served; and a little more each time, so that they meet
/// requests at every stage.
const CALM: Duration = Duration::from_millis(60);

#[derive(Debug, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) kills: u32,
    pub(crate) reloads: u32,
    pub(crate) restarts: u32,
}

#[derive(Debug, Clone, Copy)]
enum Trouble {
    Kill,
    Reload,
    Restart,
}

/// For how long there was no filterd.
#[derive(Debug, Default)]
pub(crate) struct Absences {
    /// From each start until it was ready, in microseconds.
    pub(crate) starts: Vec<u64>,
    /// From an end until the next one was ready, the longest that the machine made long.
    pub(crate) by_the_machine: Duration,
}

pub(crate) fn trouble(counts: Counts) -> io::Result<Absences> {
    let mut absences = Absences::default();
    let mut left = [
        (Trouble::Kill, counts.kills),
        (Trouble::Reload, counts.reloads),
        (Trouble::Restart, counts.restarts),
    ];
    for n in 0_u32.. {
        // whichever has most left, so that they come in turns
        let Some((what, count)) =
            left.iter_mut().max_by_key(|(_, count)| *count).filter(|(_, count)| *count > 0)
        else {
            break;
        };
        *count -= 1;
        make(*what, &mut absences)?;
        wait_until(Instant::now() + CALM + Duration::from_micros(u64::from(n % 40) * 1300));
    }
    Ok(absences)
}

fn make(what: Trouble, absences: &mut Absences) -> io::Result<()> {
    let ended = Stopwatch::start();
    match what {
        Trouble::Kill => {
            lab(&["kill", "filterd"])?;
            wait_until(Instant::now() + RESTART_AFTER);
        }
        Trouble::Restart => lab(&["stop", "filterd"])?,
        Trouble::Reload => return reload(absences.starts.len()),
    }
    let begun = Instant::now();
    lab(&["start", "filterd"])?;
    absences.starts.push(begun.elapsed().as_micros().try_into().unwrap_or(u64::MAX));
    let (wall, own) = (ended.on_the_wall(), ended.elapsed());
    if own < wall / 2 {
        absences.by_the_machine = absences.by_the_machine.max(wall);
    }
    Ok(())
}

/// Of rules that are other bytes each time.
fn reload(number: usize) -> io::Result<()> {
    let named = |name: &str| std::env::var(name).map_err(io::Error::other);
    let (config, path) = (named("LAB_CONFIG")?, named("LAB_RULES")?);
    let text = std::fs::read_to_string(&path)?;
    let rules: String =
        text.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    std::fs::write(&path, format!("# number {number}\n{rules}"))?;
    run(Command::new("imdsctl").args(["reload", "--config", &config]))
}

fn lab(words: &[&str]) -> io::Result<()> {
    run(Command::new("imds-lab").args(words))
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(io::Error::other(format!("{command:?}: {}: {text}", output.status)))
}
