//! What a request costs while many other processes run on the host.
//! Ends each process that it started, also when measuring fails.

use crate::report::{Crowded, Sample, Spread};
use std::io;
use std::process::{Child, Command, Stdio};

/// Processes besides those of the bench.
const PROCESSES: [usize; 3] = [20, 200, 2_000];
const SAMPLES: usize = 5;

/// Takes every number of processes in turn, and that several times, so that a slow moment is not one number's fault.
///
/// # Errors
/// When a process cannot be started, or what `sample` fails with.
pub(crate) fn measure(mut sample: impl FnMut() -> io::Result<Sample>) -> io::Result<Vec<Crowded>> {
    let mut taken: [Vec<Sample>; 3] = Default::default();
    for round in 0..SAMPLES {
        eprintln!("processes: round {} of {SAMPLES}", round + 1);
        let mut crowd = Crowd::default();
        for (count, column) in PROCESSES.into_iter().zip(&mut taken) {
            crowd.grow(count)?;
            column.push(sample()?);
        }
    }
    let row = |(processes, samples): (usize, Vec<Sample>)| {
        let spread = |value: fn(&Sample) -> f64| Spread::of(samples.iter().map(value).collect());
        Some(Crowded {
            processes,
            p50_us: spread(|sample| sample.p50_us)?,
            processor_us: spread(|sample| sample.processor_us)?,
        })
    };
    Ok(PROCESSES.into_iter().zip(taken).filter_map(row).collect())
}

/// Processes that wait for ever.
#[derive(Default)]
struct Crowd(Vec<Child>);

impl Crowd {
    fn grow(&mut self, count: usize) -> io::Result<()> {
        while self.0.len() < count {
            self.0.push(Command::new("sleep").arg("infinity").stdin(Stdio::null()).spawn()?);
        }
        Ok(())
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
        }
        for child in &mut self.0 {
            let _ = child.wait();
        }
    }
}
