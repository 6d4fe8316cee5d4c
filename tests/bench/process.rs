//! What a process has used so far, and what others took, as /proc tells it.
//! Only reads.

use rustix::io::Errno;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

/// Sums over some processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Used {
    /// User and system.
    pub(crate) processor: Duration,
    /// Context switches, wanted and unwanted.
    pub(crate) switches: u64,
}

impl Used {
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            processor: self.processor.saturating_sub(before.processor),
            switches: self.switches.saturating_sub(before.switches),
        }
    }
}

/// # Errors
/// When one of them has ended.
pub(crate) fn used(pids: &[u32]) -> io::Result<Used> {
    let mut sum = Used::default();
    for pid in pids {
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?.path();
            // in nanoseconds, where /proc/PID/stat counts hundredths of a second
            let (Some(schedule), Some(status)) = (told(&task, "schedstat")?, told(&task, "status")?) else {
                continue;
            };
            let spent = first_number(&schedule).ok_or(io::ErrorKind::InvalidData)?;
            sum.processor += Duration::from_nanos(spent);
            let switches = ["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"];
            sum.switches += switches.iter().filter_map(|name| field(&status, name)).sum::<u64>();
        }
    }
    Ok(sum)
}

/// What /proc says of a thread; nothing if it has ended since it was listed.
fn told(task: &Path, what: &str) -> io::Result<Option<String>> {
    match fs::read_to_string(task.join(what)) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::SRCH) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Resident memory of all of them, bytes. What they share counts once each.
///
/// # Errors
/// When one of them has ended.
pub(crate) fn resident(pids: &[u32]) -> io::Result<u64> {
    let mut sum = 0;
    for pid in pids {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        sum += field(&status, "VmRSS:").ok_or(io::ErrorKind::InvalidData)? * 1024;
    }
    Ok(sum)
}

/// Time of all processors, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticks {
    all: u64,
    /// Taken by the hypervisor while somebody here wanted it.
    stolen: u64,
}

impl Ticks {
    /// The part of all that was stolen.
    #[expect(clippy::cast_precision_loss, reason = "ticks of a run are far below 2^52")]
    pub(crate) fn stolen_since(self, before: Self) -> f64 {
        let all = self.all.saturating_sub(before.all).max(1);
        self.stolen.saturating_sub(before.stolen) as f64 / all as f64
    }
}

/// # Errors
/// When the kernel does not tell.
pub(crate) fn ticks() -> io::Result<Ticks> {
    ticks_in(&fs::read_to_string("/proc/stat")?).ok_or(io::ErrorKind::InvalidData.into())
}

/// proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal; guests' time is in the first two.
fn ticks_in(stat: &str) -> Option<Ticks> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<u64> = line.split_whitespace().take(8).map_while(|word| word.parse().ok()).collect();
    Some(Ticks { all: fields.iter().sum(), stolen: *fields.get(7)? })
}

/// The process and those it started.
///
/// # Errors
/// When it has ended.
pub(crate) fn with_children(pid: u32) -> io::Result<Vec<u32>> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    Ok(std::iter::once(pid).chain(children.split_whitespace().filter_map(|word| word.parse().ok())).collect())
}

fn first_number(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

fn field(text: &str, name: &str) -> Option<u64> {
    first_number(text.lines().find_map(|line| line.strip_prefix(name))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_use_grows_and_is_less_than_a_second_for_each_second_and_thread() {
        let me = [std::process::id()];
        let before = used(&me).unwrap();
        let begun = std::time::Instant::now();
        while begun.elapsed() < Duration::from_millis(30) {}
        let spent = used(&me).unwrap().since(before).processor;
        assert!(spent > Duration::ZERO);
        assert!(resident(&me).unwrap() > 100_000);
        assert_eq!(with_children(me[0]).unwrap()[0], me[0]);
    }

    #[test]
    fn what_the_hypervisor_took_is_a_part_of_all_time() {
        let at = |text: &str| ticks_in(text).unwrap();
        let before = at("cpu  100 0 50 800 10 0 0 40 7 7\ncpu0 1 1 1 1 1 1 1 1 0 0\n");
        let after = at("cpu  120 0 60 840 10 0 0 70 9 9\n");
        assert!((after.stolen_since(before) - 0.3).abs() < 1e-9);
        assert!(before.stolen_since(before).abs() < 1e-9);
        assert_eq!(ticks_in("cpu0 1 1 1 1 1 1 1 1\n"), None);
        assert!(ticks().is_ok());
    }

    #[test]
    fn wanted_and_unwanted_switches_are_told_apart() {
        let status = "voluntary_ctxt_switches:\t5\nnonvoluntary_ctxt_switches:\t7\n";
        assert_eq!(field(status, "voluntary_ctxt_switches:"), Some(5));
        assert_eq!(field(status, "nonvoluntary_ctxt_switches:"), Some(7));
        assert_eq!(field(status, "VmRSS:"), None);
    }
}
