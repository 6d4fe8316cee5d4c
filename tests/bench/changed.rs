//! What a request costs by other rules and with limits: filterd is started again with each in turn.
//! Leaves rules and settings as it found them.

use crate::load::{self, Kind, Load};
use crate::report::{Limited, Ruled, Sample, Spread};
use crate::rounds::{Faults, WARM_UP, WHILE_OPEN, sample};
use crate::variant::{Up, Variant};
use crate::verdict;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::PathBuf;

const RULES: [usize; 4] = [10, 100, 1_000, 10_000];
const TURNS: usize = 5;
const EIGHT: Load = Load { kind: Kind::New, clients: 8, requests: 4000, pace: None };
/// In the place of the bench's own setting, which switches that limit off: counted, and never reached.
const OFF: &str = "requests_per_second = 0";
const ON: &str = "requests_per_second = 1000000\nrequest_burst = 1000000";

/// A file of the daemons' that is written for a while.
struct Changed {
    path: PathBuf,
    text: String,
}

impl Changed {
    fn named(variable: &str) -> io::Result<Self> {
        let path = PathBuf::from(std::env::var_os(variable).ok_or(io::ErrorKind::NotFound)?);
        let text = fs::read_to_string(&path)?;
        Ok(Self { path, text })
    }

    fn to(&self, text: &str) -> io::Result<()> {
        fs::write(&self.path, text)
    }

    fn back(&self) -> io::Result<()> {
        self.to(&self.text)
    }
}

fn warm(faults: &mut Faults) {
    faults.note(Variant::Filterd, &WARM_UP, &load::run(&WARM_UP));
}

/// # Errors
/// When filterd does not start with the rules.
pub(crate) fn rules(nginx: &OsStr, faults: &mut Faults) -> io::Result<Vec<Ruled>> {
    let file = Changed::named("LAB_RULES")?;
    let mut up = Variant::Filterd.put_up(nginx)?;
    let mut taken: [Vec<Sample>; 4] = Default::default();
    for turn in 0..TURNS {
        eprintln!("rules: round {} of {TURNS}", turn + 1);
        for (count, column) in RULES.into_iter().zip(&mut taken) {
            file.to(&verdict::rules(count))?;
            up = up.restart_filterd()?;
            warm(faults);
            column.push(sample(Variant::Filterd, &up, &WHILE_OPEN, faults)?);
        }
    }
    up.take_down()?;
    file.back()?;
    let verdicts = verdict::nanoseconds(RULES)?;
    let row = |((rules, samples), verdict_ns): ((usize, Vec<Sample>), Spread)| {
        let spread = |value: fn(&Sample) -> f64| Spread::of(samples.iter().map(value).collect());
        Some(Ruled {
            rules,
            verdict_ns,
            p50_us: spread(|sample| sample.p50_us)?,
            processor_us: spread(|sample| sample.processor_us)?,
        })
    };
    Ok(RULES.into_iter().zip(taken).zip(verdicts).filter_map(row).collect())
}

/// Without and with, in turns, each first in every other round.
///
/// # Errors
/// When filterd does not start with the limits.
pub(crate) fn limits(rounds: usize, nginx: &OsStr, faults: &mut Faults) -> io::Result<Option<Limited>> {
    let file = Changed::named("LAB_CONFIG")?;
    let on = file.text.replace(OFF, ON);
    if on == file.text {
        return Err(io::Error::other("the settings of the bench have no limit that is off"));
    }
    let mut up = Variant::Filterd.put_up(nginx)?;
    let mut taken = Vec::new();
    for round in 0..rounds {
        eprintln!("limits: round {} of {rounds}", round + 1);
        let mut measure = |text: &str, up: Up| {
            file.to(text)?;
            let up = up.restart_filterd()?;
            warm(faults);
            let taken = sample(Variant::Filterd, &up, &EIGHT, faults)?;
            io::Result::Ok((taken, up))
        };
        let (first, second) = if round % 2 == 0 { (&file.text, &on) } else { (&on, &file.text) };
        let (a, again) = measure(first, up)?;
        let (b, again) = measure(second, again)?;
        up = again;
        taken.push(if round % 2 == 0 { (a, b) } else { (b, a) });
    }
    file.back()?;
    up.take_down()?;
    let spread = |value: fn(&(Sample, Sample)) -> f64| Spread::of(taken.iter().map(value).collect());
    let rates = spread(|(without, with)| with.rate / without.rate);
    let processor = spread(|(without, with)| with.processor_us / without.processor_us);
    Ok(rates.zip(processor).map(|(rate_ratio, processor_ratio)| Limited { rate_ratio, processor_ratio }))
}
