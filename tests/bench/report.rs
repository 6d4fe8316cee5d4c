//! What was measured: medians and spreads over the rounds, as target/bench.json holds them.
//! Measures nothing and prints nothing.

use crate::load::Load;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Of the rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    /// `None` when there is nothing.
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let upper = *values.get(middle)?;
        let median = match values.len() % 2 {
            0 => (values.get(middle - 1)? + upper) / 2.0,
            _ => upper,
        };
        Some(Self { median, least: *values.first()?, most: *values.last()? })
    }

    /// In another unit.
    pub(crate) fn each(self, other: impl Fn(f64) -> f64) -> Self {
        Self { median: other(self.median), least: other(self.least), most: other(self.most) }
    }
}

/// Parts that were not measured are empty or absent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) kernel: String,
    pub(crate) processors: usize,
    /// /proc/loadavg before the first round: above some tenths, others took part of the processors.
    pub(crate) load_average: String,
    /// The part of the processors' time that the hypervisor took while samples were taken.
    pub(crate) stolen: Option<Spread>,
    pub(crate) rounds: usize,
    pub(crate) loads: Vec<Measured>,
    /// Loads that differ in how much is asked of them each second.
    pub(crate) ladder: Vec<Measured>,
    pub(crate) limits: Option<Limited>,
    pub(crate) open_connections: Vec<Open>,
    /// imds-filterd's alone.
    pub(crate) crowded: Vec<Crowded>,
    /// imds-filterd's alone.
    pub(crate) rules: Vec<Ruled>,
    pub(crate) traffic: Vec<Traffic>,
    pub(crate) idle: Option<Idle>,
    /// Both programs, as they are installed.
    pub(crate) program_bytes: u64,
    /// Requests that failed, and the first reason; any makes the run worthless.
    pub(crate) failed: usize,
    pub(crate) first_error: Option<String>,
}

/// One load, as each variant bore it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) kind: String,
    pub(crate) clients: usize,
    pub(crate) requests: usize,
    /// Requests begun each second, if they were.
    pub(crate) pace: Option<u32>,
    pub(crate) direct: Figures,
    pub(crate) nginx: Figures,
    pub(crate) filterd: Figures,
    /// Rates, filterd's divided by nginx's in the same round.
    pub(crate) ratio: Spread,
    /// Processor time, likewise.
    pub(crate) processor_ratio: Spread,
    /// filterd's latency less the direct one in the same round, microseconds.
    pub(crate) added_p50_us: Spread,
    pub(crate) added_p99_us: Spread,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// Requests (pairs) a second.
    pub(crate) rate: Spread,
    pub(crate) p50_us: Spread,
    pub(crate) p99_us: Spread,
    /// User and system time of the serving processes for a request, microseconds.
    pub(crate) processor_us: Spread,
    /// Context switches of the serving processes for a request.
    pub(crate) switches: Spread,
}

/// One variant with connections held open, each used once.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Open {
    pub(crate) variant: String,
    pub(crate) connections: usize,
    /// Of the serving processes together.
    pub(crate) resident_bytes: u64,
    /// Since there were none.
    pub(crate) bytes_a_connection: Option<u64>,
    /// Of new connections made meanwhile, one at a time.
    pub(crate) p50_us: Spread,
    pub(crate) processor_us: Spread,
}

/// New connections, one at a time, while so many other processes run.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Crowded {
    pub(crate) processes: usize,
    pub(crate) p50_us: Spread,
    pub(crate) processor_us: Spread,
}

/// imds-filterd's requests with limits that are counted and not reached, divided by those without.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Limited {
    pub(crate) rate_ratio: Spread,
    pub(crate) processor_ratio: Spread,
}

/// New connections, one at a time, by so many rules.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ruled {
    pub(crate) rules: usize,
    /// Of the verdict alone, in a loop.
    pub(crate) verdict_ns: Spread,
    pub(crate) p50_us: Spread,
    pub(crate) processor_us: Spread,
}

/// Traffic that is none of the service's: without the daemons, and with them by either guard.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Traffic {
    pub(crate) what: String,
    pub(crate) unit: String,
    pub(crate) without: Spread,
    pub(crate) xfrm: Spread,
    pub(crate) nftables: Spread,
    /// Divided by that without in the same round.
    pub(crate) xfrm_ratio: Spread,
    pub(crate) nftables_ratio: Spread,
}

/// interceptor, filterd and the watcher of names while nothing happens.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Idle {
    pub(crate) processes: usize,
    pub(crate) seconds: f64,
    /// Context switches of all of them.
    pub(crate) wake_ups: u64,
    pub(crate) processor_us: f64,
}

/// One variant, one load, one round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) rate: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) processor_us: f64,
    pub(crate) switches: f64,
}

/// The samples of one load: `direct`, `nginx` and `filterd` of each round.
#[derive(Debug, Default)]
pub(crate) struct Samples(pub(crate) Vec<[Sample; 3]>);

impl Samples {
    fn spread(&self, value: impl Fn(&[Sample; 3]) -> f64) -> Option<Spread> {
        Spread::of(self.0.iter().map(value).collect())
    }

    fn figures(&self, of: impl Fn(&[Sample; 3]) -> Sample) -> Option<Figures> {
        Some(Figures {
            rate: self.spread(|round| of(round).rate)?,
            p50_us: self.spread(|round| of(round).p50_us)?,
            p99_us: self.spread(|round| of(round).p99_us)?,
            processor_us: self.spread(|round| of(round).processor_us)?,
            switches: self.spread(|round| of(round).switches)?,
        })
    }

    /// `None` without a round.
    pub(crate) fn measured(&self, load: &Load) -> Option<Measured> {
        Some(Measured {
            kind: load.kind.name().into(),
            clients: load.clients,
            requests: load.requests,
            pace: load.pace,
            direct: self.figures(|[direct, _, _]| *direct)?,
            nginx: self.figures(|[_, nginx, _]| *nginx)?,
            filterd: self.figures(|[_, _, filterd]| *filterd)?,
            ratio: self.spread(|[_, nginx, filterd]| filterd.rate / nginx.rate)?,
            processor_ratio: self.spread(|[_, nginx, filterd]| filterd.processor_us / nginx.processor_us)?,
            added_p50_us: self.spread(|[direct, _, filterd]| filterd.p50_us - direct.p50_us)?,
            added_p99_us: self.spread(|[direct, _, filterd]| filterd.p99_us - direct.p99_us)?,
        })
    }
}

/// Of sorted latencies, microseconds: the least that is not below `share` of them.
pub(crate) fn percentile_us(sorted: &[Duration], share: usize) -> Option<f64> {
    let at = (sorted.len() * share).div_ceil(100).saturating_sub(1);
    sorted.get(at).map(|latency| latency.as_secs_f64() * 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_whatever_the_order() {
        let spread = Spread::of(vec![9.0, 1.0, 5.0]).unwrap();
        assert_eq!(spread, Spread { median: 5.0, least: 1.0, most: 9.0 });
        assert_eq!(Spread::of(vec![4.0, 1.0]).unwrap().median, 2.5);
        assert_eq!(Spread::of(vec![]), None);
    }

    #[test]
    fn percentiles_are_latencies_that_were_measured() {
        let latencies: Vec<_> = (1..=200).map(Duration::from_micros).collect();
        assert_eq!(percentile_us(&latencies, 50).map(f64::round), Some(100.0));
        assert_eq!(percentile_us(&latencies, 99).map(f64::round), Some(198.0));
        assert_eq!(percentile_us(&latencies[..3], 50).map(f64::round), Some(2.0));
        assert_eq!(percentile_us(&latencies[..1], 99).map(f64::round), Some(1.0));
        assert_eq!(percentile_us(&[], 50), None);
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let sample = |rate| Sample { rate, p50_us: 1.0, p99_us: 1.0, processor_us: 1.0, switches: 1.0 };
        // the machine was half as fast in the second round
        let rounds = [[8.0, 4.0, 2.0], [4.0, 2.0, 1.0]].map(|rates| rates.map(sample));
        let load = Load { kind: crate::load::Kind::New, clients: 1, requests: 1, pace: None };
        let ratio = Samples(rounds.to_vec()).measured(&load).unwrap().ratio;
        assert_eq!(ratio, Spread { median: 0.5, least: 0.5, most: 0.5 });
    }
}
