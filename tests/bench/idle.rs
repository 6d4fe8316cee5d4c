//! What the daemons do while nobody wants anything of them.
//! Only waits and counts.

use crate::process::{self, Used};
use crate::report::Idle;
use crate::variant::Variant;
use std::ffi::OsStr;
use std::io;
use std::time::{Duration, Instant};

/// After the start, whose traffic is followed by a comparison.
const SETTLE: Duration = Duration::from_secs(7);
const MEASURE: Duration = Duration::from_secs(60);

/// # Errors
/// When a process cannot be started or ends.
pub(crate) fn measure(nginx: &OsStr) -> io::Result<Idle> {
    eprintln!("idle: {} s", MEASURE.as_secs());
    let up = Variant::Filterd.put_up(nginx)?;
    let mut pids = Vec::new();
    for pid in up.pids()? {
        pids.extend(process::with_children(pid)?);
    }
    wait(SETTLE);
    let before = process::used(&pids)?;
    let begun = Instant::now();
    wait(MEASURE);
    let Used { switches, processor } = process::used(&pids)?.since(before);
    let idle = Idle {
        processes: pids.len(),
        seconds: begun.elapsed().as_secs_f64(),
        wake_ups: switches,
        processor_us: processor.as_secs_f64() * 1e6,
    };
    up.take_down()?;
    Ok(idle)
}

#[expect(clippy::disallowed_methods, reason = "what is measured is that nothing happens meanwhile")]
fn wait(time: Duration) {
    std::thread::sleep(time);
}
