//! A clock for how long a test was kept waiting: time in which the machine kept a processor to itself does not count.
//! Must not be used to show that something is fast: that is what `make bench` is for.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Builder;
use std::time::{Duration, Instant};

const TICK: Duration = Duration::from_millis(5);
/// Who sleeps for a tick on a processor that is there wakes up no later than this.
const LATEST: Duration = Duration::from_millis(7);

/// A thread on each processor sees when that one was away: hypervisors take processors away for a second and more, one
/// alone or all of them.
static PROCESSORS: OnceLock<Vec<Arc<Processor>>> = OnceLock::new();

#[derive(Debug, Default)]
struct Processor {
    ticks: AtomicU64,
    /// In microseconds.
    away: AtomicU64,
}

/// Started at what is waited from.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch {
    begun: Instant,
    away: u64,
}

impl Stopwatch {
    /// # Panics
    /// Where a thread cannot be made, or kept to one processor.
    #[must_use]
    pub fn start() -> Self {
        let away = processors().iter().map(|one| one.away()).sum();
        Self { begun: Instant::now(), away }
    }

    /// By the clock on the wall: for what must not be over too early.
    #[must_use]
    pub fn on_the_wall(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Without the time that processors were away: for what must not take too long. Who waits for a process that waits for
    /// another may have met each processor's absence, so all of them count.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        let wall = self.begun.elapsed();
        let away: u64 = processors().iter().map(|one| one.away_until_now()).sum();
        wall.saturating_sub(Duration::from_micros(away.saturating_sub(self.away)))
    }
}

impl Processor {
    fn watched(number: usize) -> Arc<Self> {
        let one = Arc::new(Self::default());
        let watcher = Arc::clone(&one);
        let thread = Builder::new().name(format!("processor {number}"));
        thread.spawn(move || watcher.watch(number)).expect("a thread can be made");
        one
    }

    fn away(&self) -> u64 {
        self.away.load(Ordering::Acquire)
    }

    /// What just came back may have been used before its thread has told of it.
    fn away_until_now(&self) -> u64 {
        let before = self.ticks.load(Ordering::Acquire);
        while self.ticks.load(Ordering::Acquire) == before {
            nap();
        }
        self.away()
    }

    fn watch(&self, number: usize) -> ! {
        let mut alone = CpuSet::new();
        alone.set(number);
        sched_setaffinity(None, &alone).expect("a thread can be kept to a processor it may run on");
        loop {
            let begun = Instant::now();
            nap();
            let slept = begun.elapsed();
            if slept > LATEST {
                let micros = slept.as_micros().try_into().unwrap_or(u64::MAX);
                self.away.fetch_add(micros, Ordering::Release);
            }
            self.ticks.fetch_add(1, Ordering::Release);
        }
    }
}

fn processors() -> &'static [Arc<Processor>] {
    PROCESSORS.get_or_init(|| {
        let may = sched_getaffinity(None).expect("which processors a process may use can be asked");
        let numbers = (0..CpuSet::MAX_CPU).filter(|number| may.is_set(*number));
        numbers.map(Processor::watched).collect()
    })
}

#[expect(clippy::disallowed_methods, reason = "how long it takes is what is looked at")]
fn nap() {
    std::thread::sleep(TICK);
}
