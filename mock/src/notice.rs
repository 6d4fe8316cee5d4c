//! What happens to an instance while it runs: a spot interruption, a rebalance recommendation, maintenance, its state in
//! an Auto Scaling group. Asks no clock and does not know who looks.

use crate::clock::{document_date, event_date};
use crate::fault::TreeError;
use crate::tree::Tree;
use serde_json::Value;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SCHEDULED: &str = "meta-data/events/maintenance/scheduled";
const HISTORY: &str = "meta-data/events/maintenance/history";
const REBALANCE: &str = "meta-data/events/recommendations/rebalance";
const SPOT_ACTION: &str = "meta-data/spot/instance-action";
const SPOT_TERMINATION: &str = "meta-data/spot/termination-time";
const LIFECYCLE: &str = "meta-data/autoscaling/target-lifecycle-state";
/// The vendor's documentation: an interruption notice comes two minutes before the interruption.
const SPOT_WARNING: Duration = Duration::from_secs(120);
const DAY: Duration = Duration::from_secs(86_400);

/// When something begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// So long after the beginning.
    After(Duration),
    At(SystemTime),
}

/// What is to happen. Nothing, by default.
#[derive(Debug, Clone, Default)]
pub struct Notices {
    pub spot: Option<Spot>,
    pub rebalance: Option<Rebalance>,
    pub event: Option<Event>,
    pub lifecycle: Option<Lifecycle>,
    /// Delays count from the first request that is served, not from the start.
    pub from_first_request: bool,
    /// Only the first so many client addresses are shown any of it.
    pub addresses: Option<usize>,
}

#[derive(Debug, Clone)]
pub struct Spot {
    pub due: Due,
    pub action: Action,
    /// When the action will be taken, if not in two minutes from `due`.
    pub time: Option<SystemTime>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Terminate,
    Stop,
    Hibernate,
}

#[derive(Debug, Clone)]
pub struct Rebalance {
    pub due: Due,
    /// The time in the recommendation, if not `due`.
    pub time: Option<SystemTime>,
}

/// One maintenance event. What is not given is `due`, 7 and 9 days after it.
#[derive(Debug, Clone)]
pub struct Event {
    pub due: Due,
    pub id: String,
    pub code: String,
    pub state: EventState,
    pub not_before: Option<SystemTime>,
    pub not_after: Option<SystemTime>,
    pub not_before_deadline: Option<SystemTime>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventState {
    Active,
    Completed,
    Canceled,
}

#[derive(Debug, Clone)]
pub struct Lifecycle {
    pub state: String,
    /// When the state becomes `Terminated`.
    pub termination: Option<Due>,
}

/// A value that stands in the tree for a while.
struct Shown {
    path: &'static str,
    body: String,
    since: SystemTime,
}

impl Due {
    fn moment(self, begin: SystemTime) -> SystemTime {
        match self {
            Self::After(delay) => later(begin, delay),
            Self::At(moment) => moment,
        }
    }
}

impl Notices {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spot.is_none() && self.rebalance.is_none() && self.event.is_none() && self.lifecycle.is_none()
    }

    /// Whether the tree has room for each of them.
    ///
    /// # Errors
    /// [`TreeError::Place`]: a value stands in the way.
    pub fn fit(&self, tree: &Tree) -> Result<(), TreeError> {
        let end_of_time = later(UNIX_EPOCH, DAY * 365 * 8_000);
        self.lay(&mut tree.clone(), UNIX_EPOCH, end_of_time)
    }

    /// Puts what is due now into the tree.
    pub(crate) fn lay(&self, tree: &mut Tree, begin: SystemTime, now: SystemTime) -> Result<(), TreeError> {
        let spot = self.spot.iter().flat_map(|spot| spot.shown(begin));
        let rebalance = self.rebalance.iter().map(|rebalance| rebalance.shown(begin));
        let events = self.event.iter().map(|event| event.shown(begin));
        let lifecycle = self.lifecycle.iter().map(|lifecycle| lifecycle.shown(begin, now));
        for Shown { path, body, since } in spot.chain(rebalance).chain(events).chain(lifecycle) {
            if since <= now {
                tree.put(path, body.into_bytes(), Some(since))?;
            }
        }
        Ok(())
    }
}

impl Spot {
    fn shown(&self, begin: SystemTime) -> Vec<Shown> {
        let since = self.due.moment(begin);
        let (action, warning) = match self.action {
            Action::Terminate => ("terminate", SPOT_WARNING),
            Action::Stop => ("stop", SPOT_WARNING),
            // documented: hibernation begins at once
            Action::Hibernate => ("hibernate", Duration::ZERO),
        };
        let time = document_date(self.time.unwrap_or_else(|| later(since, warning)));
        let body = format!("{{\"action\": \"{action}\", \"time\": \"{time}\"}}");
        let mut shown = vec![Shown { path: SPOT_ACTION, body, since }];
        // documented: there only if the instance is to be terminated
        if self.action == Action::Terminate {
            shown.push(Shown { path: SPOT_TERMINATION, body: time, since });
        }
        shown
    }
}

impl Rebalance {
    fn shown(&self, begin: SystemTime) -> Shown {
        let since = self.due.moment(begin);
        let time = document_date(self.time.unwrap_or(since));
        Shown { path: REBALANCE, body: format!("{{\"noticeTime\": \"{time}\"}}"), since }
    }
}

impl Event {
    /// What is over is history.
    fn shown(&self, begin: SystemTime) -> Shown {
        let since = self.due.moment(begin);
        let (path, state, mark) = match self.state {
            EventState::Active => (SCHEDULED, "active", ""),
            EventState::Completed => (HISTORY, "completed", "[Completed] "),
            EventState::Canceled => (HISTORY, "canceled", "[Canceled] "),
        };
        let date = |given: Option<SystemTime>, days: u32| {
            event_date(given.unwrap_or_else(|| later(since, DAY * days)))
        };
        let lines = [
            ("NotBefore", date(self.not_before, 0)),
            ("Code", self.code.clone()),
            ("Description", format!("{mark}The instance is scheduled for {}", self.code)),
            ("EventId", self.id.clone()),
            ("NotAfter", date(self.not_after, 7)),
            ("State", state.into()),
            ("NotBeforeDeadline", date(self.not_before_deadline, 9)),
        ]
        .map(|(key, value)| format!("    \"{key}\" : {}", Value::from(value)));
        Shown { path, body: format!("[\n  {{\n{}\n  }}\n]", lines.join(",\n")), since }
    }
}

impl Lifecycle {
    fn shown(&self, begin: SystemTime, now: SystemTime) -> Shown {
        let termination = self.termination.map(|due| due.moment(begin)).filter(|moment| *moment <= now);
        let (state, since) = termination.map_or((self.state.as_str(), begin), |since| ("Terminated", since));
        Shown { path: LIFECYCLE, body: state.into(), since }
    }
}

/// No overflow: the command line's largest delay is a hundred years.
fn later(moment: SystemTime, delay: Duration) -> SystemTime {
    moment.checked_add(delay).unwrap_or(moment)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::parse_moment;
    use crate::tree::tests::find;

    const BEGIN: &str = "2020-01-07T01:00:00Z";

    fn after(seconds: u64) -> Due {
        Due::After(Duration::from_secs(seconds))
    }

    /// The value at a path so many seconds after the beginning.
    fn at(notices: &Notices, seconds: u64, path: &str) -> Option<String> {
        let begin = parse_moment(BEGIN).unwrap();
        let mut tree = Tree::built_in().unwrap();
        notices.lay(&mut tree, begin, begin + Duration::from_secs(seconds)).unwrap();
        find(&tree, path)
    }

    #[test]
    fn a_spot_notice_comes_when_it_is_due_and_says_when_two_minutes_later() {
        let cases = [
            (Action::Terminate, "terminate", "01:02:10", true),
            (Action::Stop, "stop", "01:02:10", false),
            (Action::Hibernate, "hibernate", "01:00:10", false),
        ];
        for (action, name, time, terminates) in cases {
            let spot = Some(Spot { due: after(10), action, time: None });
            let notices = Notices { spot, ..Notices::default() };
            assert_eq!(at(&notices, 9, "meta-data/spot"), None);
            let listing = if terminates { "instance-action\ntermination-time" } else { "instance-action" };
            assert_eq!(at(&notices, 10, "meta-data/spot").as_deref(), Some(listing));
            let body = format!("{{\"action\": \"{name}\", \"time\": \"2020-01-07T{time}Z\"}}");
            assert_eq!(at(&notices, 10, SPOT_ACTION), Some(body.clone()));
            assert_eq!(at(&notices, 500, SPOT_ACTION), Some(body), "the time stays");
            let time = terminates.then(|| format!("2020-01-07T{time}Z"));
            assert_eq!(at(&notices, 10, SPOT_TERMINATION), time);
        }
    }

    #[test]
    fn times_that_are_given_are_shown() {
        let moment = |text: &str| Some(parse_moment(text).unwrap());
        let notices = Notices {
            spot: Some(Spot {
                due: after(0),
                action: Action::Terminate,
                time: moment("2030-01-01T00:00:00+01:00"),
            }),
            rebalance: Some(Rebalance {
                due: Due::At(parse_moment(BEGIN).unwrap()),
                time: moment("2031-01-01T00:00:00Z"),
            }),
            ..Notices::default()
        };
        assert_eq!(at(&notices, 0, SPOT_TERMINATION).as_deref(), Some("2029-12-31T23:00:00Z"));
        assert_eq!(at(&notices, 0, REBALANCE).as_deref(), Some("{\"noticeTime\": \"2031-01-01T00:00:00Z\"}"));
    }

    #[test]
    fn an_active_event_is_scheduled_and_one_that_is_over_is_history() {
        let cases = [
            (EventState::Active, SCHEDULED, HISTORY, "active", ""),
            (EventState::Completed, HISTORY, SCHEDULED, "completed", "[Completed] "),
            (EventState::Canceled, HISTORY, SCHEDULED, "canceled", "[Canceled] "),
        ];
        for (state, place, other, name, mark) in cases {
            let event = Event {
                due: after(60),
                id: "instance-event-0123456789abcdef0".into(),
                code: "system-reboot".into(),
                state,
                not_before: None,
                not_after: None,
                not_before_deadline: Some(parse_moment("2020-02-01T00:00:00Z").unwrap()),
            };
            let notices = Notices { event: Some(event), ..Notices::default() };
            assert_eq!(at(&notices, 59, place).as_deref(), Some("[]"));
            assert_eq!(at(&notices, 60, other).as_deref(), Some("[]"));
            let wanted = serde_json::json!([{
                "NotBefore": "7 Jan 2020 01:01:00 GMT",
                "Code": "system-reboot",
                "Description": format!("{mark}The instance is scheduled for system-reboot"),
                "EventId": "instance-event-0123456789abcdef0",
                "NotAfter": "14 Jan 2020 01:01:00 GMT",
                "State": name,
                "NotBeforeDeadline": "1 Feb 2020 00:00:00 GMT",
            }]);
            let found: Value = serde_json::from_str(&at(&notices, 60, place).unwrap()).unwrap();
            assert_eq!(found, wanted);
        }
    }

    #[test]
    fn a_lifecycle_state_turns_to_terminated_if_it_is_to() {
        let lifecycle = |termination| Notices {
            lifecycle: Some(Lifecycle { state: "InService".into(), termination }),
            ..Notices::default()
        };
        assert_eq!(at(&lifecycle(None), 1_000_000, LIFECYCLE).as_deref(), Some("InService"));
        let leaving = lifecycle(Some(after(5)));
        assert_eq!(at(&leaving, 4, LIFECYCLE).as_deref(), Some("InService"));
        assert_eq!(at(&leaving, 5, LIFECYCLE).as_deref(), Some("Terminated"));
    }

    #[test]
    fn a_value_in_the_way_is_found_before_it_matters() {
        let rebalance = Some(Rebalance { due: after(3_000_000_000), time: None });
        let notices = Notices { rebalance, ..Notices::default() };
        assert!(notices.fit(&Tree::built_in().unwrap()).is_ok());
        let tree = Tree::parse("[meta-data.events]\nrecommendations = \"\"\n").unwrap();
        assert!(matches!(notices.fit(&tree), Err(TreeError::Place(path)) if path == REBALANCE));
    }
}
