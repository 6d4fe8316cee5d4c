//! What the listings show is what can be fetched, and nothing else: whatever the instance, whatever happens to it, at
//! any moment. What lies outside of listings is named here, once.

use imds_mock::{
    Action, Answer, Due, Event, EventState, Instance, Lifecycle, Notices, Profile, Rebalance, Request,
    Service, Spot, TreeError,
};
use proptest::option::of;
use proptest::prelude::*;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Answers 405 to a GET, and no listing shows it.
const TOKEN_PATH: &str = "/latest/api/token";

struct Walk<'a> {
    service: &'a Service,
    now: SystemTime,
    /// Every name of every listing.
    names: BTreeSet<String>,
    fetched: usize,
}

impl Walk<'_> {
    fn answer(&self, path: &str) -> Answer {
        let request = Request::parse(format!("GET {} HTTP/1.1\r\n\r\n", encode(path)).as_bytes()).unwrap();
        self.service.answer(&request, IpAddr::V4(Ipv4Addr::LOCALHOST), self.now)
    }

    fn body(&self, path: &str) -> String {
        match self.answer(path) {
            Answer::Data { body, .. } => String::from_utf8(body.to_vec()).unwrap(),
            other => panic!("{path} is listed, but: {other:?}"),
        }
    }

    /// The children of a listing as its lines name them, and whether each is a listing itself.
    fn children(&mut self, path: &str) -> Vec<(String, bool)> {
        let depth = path.matches('/').count();
        let below_version = depth == 1 && path != "/";
        let mut children = Vec::new();
        for line in self.body(path).lines() {
            let numbered = line.split_once('=').filter(|(number, _)| number.parse::<u32>().is_ok());
            let name = numbered.map_or(line, |(number, _)| number).trim_end_matches('/');
            // versions and what stands right below them carry no slash
            let listing = path == "/"
                || (below_version && name != "user-data")
                || numbered.is_some()
                || line.ends_with('/');
            self.names.insert(name.into());
            children.push((name.into(), listing));
        }
        children
    }

    fn walk(&mut self, path: &str) {
        for (name, listing) in self.children(path) {
            let below = format!("{}/{name}", path.trim_end_matches('/'));
            self.body(&below);
            self.body(&format!("{below}/"));
            self.fetched += 1;
            if listing {
                self.walk(&below);
            }
        }
    }

    /// Every known name below every listing: what is not shown there is not there.
    fn probe(&mut self, path: &str) {
        let children = self.children(path);
        for name in self.names.clone() {
            let below = format!("{}/{name}", path.trim_end_matches('/'));
            if !children.iter().any(|(shown, _)| *shown == name) && below != TOKEN_PATH {
                assert_eq!(self.answer(&below).status(), 404, "{below} is not listed");
            }
        }
        for (name, listing) in children {
            if listing {
                self.probe(&format!("{}/{name}", path.trim_end_matches('/')));
            }
        }
    }
}

fn encode(path: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/-._~:".contains(&b);
    path.bytes().map(|b| if plain(b) { char::from(b).into() } else { format!("%{b:02X}") }).collect()
}

fn due() -> impl Strategy<Value = Due> {
    prop_oneof![
        (0_u64..100).prop_map(|seconds| Due::After(Duration::from_secs(seconds))),
        (0_u64..100).prop_map(|seconds| Due::At(UNIX_EPOCH + Duration::from_secs(seconds))),
    ]
}

fn notices() -> impl Strategy<Value = Notices> {
    let spot = (due(), prop_oneof![Just(Action::Terminate), Just(Action::Stop), Just(Action::Hibernate)])
        .prop_map(|(due, action)| Spot { due, action, time: None });
    let states =
        prop_oneof![Just(EventState::Active), Just(EventState::Completed), Just(EventState::Canceled)];
    let event = (due(), states).prop_map(|(due, state)| Event {
        due,
        id: "id".into(),
        code: "code".into(),
        state,
        not_before: None,
        not_after: None,
        not_before_deadline: None,
    });
    let rebalance = due().prop_map(|due| Rebalance { due, time: None });
    let lifecycle = of(due()).prop_map(|termination| Lifecycle { state: "InService".into(), termination });
    let flags = (any::<bool>(), of(0_usize..3));
    (of(spot), of(rebalance), of(event), of(lifecycle), flags).prop_map(
        |(spot, rebalance, event, lifecycle, (from_first_request, addresses))| Notices {
            spot,
            rebalance,
            event,
            lifecycle,
            from_first_request,
            addresses,
        },
    )
}

/// Names as people choose them for tags, and some as nobody should.
fn overrides() -> impl Strategy<Value = Map<String, Value>> {
    let name = prop_oneof!["[A-Za-z0-9 %?#&+é=-]{1,8}", Just("0=key".into()), Just("mac".into())];
    let leaf = prop_oneof!["[a-z\n/]{0,6}".prop_map(Value::from), any::<bool>().prop_map(Value::from)];
    let tree = leaf.prop_recursive(3, 12, 4, move |inner| {
        prop::collection::btree_map(name.clone(), inner, 0..4)
            .prop_map(|table| Value::Object(table.into_iter().collect()))
    });
    prop::collection::btree_map("[a-z]{1,3}", tree, 0..3).prop_map(|table| {
        let table = Value::Object(table.into_iter().collect());
        Map::from_iter([("meta-data".to_owned(), table)])
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn what_the_listings_show_is_exactly_what_can_be_fetched(
        notices in notices(), overrides in overrides(), seconds in 0_u64..120, role: bool, user_data: bool,
        // thousands of requests, each to a path that is not there: not every time
        probe in prop::bool::weighted(0.15),
    ) {
        let mut instance = Instance::built_in().unwrap();
        instance.lay(overrides);
        let made = instance.tree();
        // names with two readings are refused
        prop_assume!(!matches!(made, Err(TreeError::Name(_))));
        let mut tree = made.unwrap();
        if user_data {
            tree.set_user_data(b"x".to_vec());
        }
        let profile = Profile { role: role.then(|| "app".into()), ..Profile::default() };
        let service = Service::new(tree, profile, UNIX_EPOCH).with_notices(notices);
        let now = UNIX_EPOCH + Duration::from_secs(seconds);
        let mut walk = Walk { service: &service, now, names: BTreeSet::new(), fetched: 0 };
        // all versions show the same: two are enough
        for version in ["latest", "2021-07-15"] {
            walk.walk(&format!("/{version}"));
        }
        prop_assert!(walk.fetched > 2 * 70, "{}", walk.fetched);
        for (version, _) in walk.children("/") {
            walk.body(&format!("/{version}"));
        }
        if !probe {
            return Ok(());
        }
        walk.names.extend(["api", "token", "spot", "autoscaling", "recommendations", "user-data", "iam"].map(Into::into));
        walk.probe("/latest");
    }
}
