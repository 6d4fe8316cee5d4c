//! What a process has used so far, as /proc tells it.
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
    fn wanted_and_unwanted_switches_are_told_apart() {
        let status = "voluntary_ctxt_switches:\t5\nnonvoluntary_ctxt_switches:\t7\n";
        assert_eq!(field(status, "voluntary_ctxt_switches:"), Some(5));
        assert_eq!(field(status, "nonvoluntary_ctxt_switches:"), Some(7));
        assert_eq!(field(status, "VmRSS:"), None);
    }
}
