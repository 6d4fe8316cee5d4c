//! The options for what happens to the instance while it runs, and the notices they ask for.
//! Names are those of amazon-ec2-metadata-mock where it has the same.

use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};
use imds_mock::{Action, Due, Event, EventState, Lifecycle, Notices, Rebalance, Spot, parse_moment};
use std::time::{Duration, SystemTime};

/// A hundred years: no sum of a moment and this is beyond what the system counts.
const MAX_DELAY: u64 = 3_155_760_000;
const CODES: [&str; 5] =
    ["instance-reboot", "system-reboot", "system-maintenance", "instance-retirement", "instance-stop"];
const STATES: [&str; 8] = [
    "Detached",
    "InService",
    "Standby",
    "Terminated",
    "Warmed:Hibernated",
    "Warmed:Running",
    "Warmed:Stopped",
    "Warmed:Terminated",
];
/// When nothing else is said.
const CODE: &str = "system-reboot";
const STATE: &str = "InService";

#[derive(Args)]
#[command(next_help_heading = "Notices")]
pub(crate) struct NoticeArguments {
    /// Spot interruption and maintenance event come so long after the start
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = delay())]
    mock_delay_sec: u64,

    /// They come at this time instead (RFC 3339, as all times here: 2020-01-07T01:03:47Z)
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    mock_trigger_time: Option<SystemTime>,

    /// What every delay counts from
    #[arg(long, value_name = "WHAT", default_value = "start")]
    mock_delay_from: DelayFrom,

    /// Show notices to the first N client addresses only; below 0 to all
    #[arg(long, value_name = "N", default_value_t = -1, allow_negative_numbers = true)]
    mock_ip_count: i64,

    /// A spot interruption notice of this action
    #[arg(long, value_name = "ACTION")]
    spot_action: Option<ActionName>,

    /// A spot interruption at this time, by default two minutes after the notice (hibernate: at once)
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    spot_time: Option<SystemTime>,

    /// A rebalance recommendation so long after the start
    #[arg(long, value_name = "SECONDS", value_parser = delay())]
    rebalance_delay_sec: Option<u64>,

    /// A rebalance recommendation that comes at this time
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    rebalance_trigger_time: Option<SystemTime>,

    /// A rebalance recommendation that tells this time, by default when it came
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    spot_rebalance_rec_time: Option<SystemTime>,

    /// A maintenance event of this kind [default: system-reboot]
    #[arg(long, value_name = "CODE", value_parser = PossibleValuesParser::new(CODES))]
    events_code: Option<String>,

    /// A maintenance event in this state: active ones are scheduled, others are history [default: active]
    #[arg(long, value_name = "STATE")]
    events_state: Option<StateName>,

    /// Earliest start of the event [default: when it is shown]
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    events_not_before: Option<SystemTime>,

    /// Latest end of the event [default: 7 days after it is shown]
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    events_not_after: Option<SystemTime>,

    /// Deadline for the start of the event [default: 9 days after it is shown]
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    events_not_before_deadline: Option<SystemTime>,

    /// Name of the event
    #[arg(long, value_name = "ID", default_value = "instance-event-0123456789abcdef0")]
    events_id: String,

    /// The instance is in an Auto Scaling group, which wants this state of it [default: InService]
    #[arg(long, value_name = "STATE", value_parser = PossibleValuesParser::new(STATES))]
    asg_lifecycle_state: Option<String>,

    /// The group wants it Terminated so long after the start
    #[arg(long, value_name = "SECONDS", value_parser = delay())]
    asg_termination_delay_sec: Option<u64>,

    /// The group wants it Terminated from this time on
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    asg_termination_trigger_time: Option<SystemTime>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DelayFrom {
    Start,
    FirstRequest,
}

#[derive(Clone, Copy, ValueEnum)]
enum ActionName {
    Terminate,
    Stop,
    Hibernate,
}

#[derive(Clone, Copy, ValueEnum)]
enum StateName {
    Active,
    Completed,
    Canceled,
}

fn delay() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(0..=MAX_DELAY)
}

impl NoticeArguments {
    /// Any option about a notice asks for it.
    pub(crate) fn notices(&self) -> Notices {
        Notices {
            spot: self.spot(),
            rebalance: self.rebalance(),
            event: self.event(),
            lifecycle: self.lifecycle(),
            from_first_request: self.mock_delay_from == DelayFrom::FirstRequest,
            addresses: usize::try_from(self.mock_ip_count).ok(),
        }
    }

    fn due(&self) -> Due {
        due(Some(self.mock_delay_sec), self.mock_trigger_time).unwrap_or(Due::After(Duration::ZERO))
    }

    fn spot(&self) -> Option<Spot> {
        let action = match self.spot_action {
            Some(ActionName::Terminate) => Action::Terminate,
            Some(ActionName::Stop) => Action::Stop,
            Some(ActionName::Hibernate) => Action::Hibernate,
            None => self.spot_time.map(|_| Action::Terminate)?,
        };
        Some(Spot { due: self.due(), action, time: self.spot_time })
    }

    fn rebalance(&self) -> Option<Rebalance> {
        let time = self.spot_rebalance_rec_time;
        let due = due(self.rebalance_delay_sec, self.rebalance_trigger_time);
        Some(Rebalance { due: due.or(time.map(|_| Due::After(Duration::ZERO)))?, time })
    }

    fn event(&self) -> Option<Event> {
        let (not_before, not_after) = (self.events_not_before, self.events_not_after);
        let not_before_deadline = self.events_not_before_deadline;
        let times = [not_before, not_after, not_before_deadline];
        let asked = self.events_code.is_some() || self.events_state.is_some() || times != [None; 3];
        asked.then(|| Event {
            due: self.due(),
            id: self.events_id.clone(),
            code: self.events_code.clone().unwrap_or_else(|| CODE.into()),
            state: match self.events_state {
                Some(StateName::Active) | None => EventState::Active,
                Some(StateName::Completed) => EventState::Completed,
                Some(StateName::Canceled) => EventState::Canceled,
            },
            not_before,
            not_after,
            not_before_deadline,
        })
    }

    fn lifecycle(&self) -> Option<Lifecycle> {
        let termination = due(self.asg_termination_delay_sec, self.asg_termination_trigger_time);
        let asked = self.asg_lifecycle_state.is_some() || termination.is_some();
        let state = self.asg_lifecycle_state.clone().unwrap_or_else(|| STATE.into());
        asked.then_some(Lifecycle { state, termination })
    }
}

/// A time goes before a delay.
fn due(delay: Option<u64>, time: Option<SystemTime>) -> Option<Due> {
    time.map(Due::At).or(delay.map(|seconds| Due::After(Duration::from_secs(seconds))))
}
