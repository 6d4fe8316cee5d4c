//! Answers: methods, tokens, versions, then the tree. The moment is given; does no I/O.
//! Never looks at who asks, save that notices may be for some addresses only: telling users apart is the filter's work.

use crate::answer::{Answer, Page, TEXT};
use crate::credentials::Credentials;
use crate::notice::Notices;
use crate::request::Request;
use crate::text::Facts;
use crate::tokens::{Tokens, parse_ttl};
use crate::tree::{Found, Tree};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// As an instance of 2024 lists them; all show the same tree here.
const VERSIONS: [&str; 28] = [
    "1.0",
    "2007-01-19",
    "2007-03-01",
    "2007-08-29",
    "2007-10-10",
    "2007-12-15",
    "2008-02-01",
    "2008-09-01",
    "2009-04-04",
    "2011-01-01",
    "2011-05-01",
    "2012-01-12",
    "2014-02-25",
    "2014-11-05",
    "2015-10-20",
    "2016-04-19",
    "2016-06-30",
    "2016-09-02",
    "2018-03-28",
    "2018-08-17",
    "2018-09-24",
    "2019-10-01",
    "2020-10-27",
    "2021-01-03",
    "2021-03-23",
    "2021-07-15",
    "2022-09-24",
    LATEST,
];
const LATEST: &str = "latest";
const TOKEN_PATH: [&str; 2] = ["api", "token"];
const TTL_HEADER: &str = "x-aws-ec2-metadata-token-ttl-seconds";
const TOKEN_HEADER: &str = "x-aws-ec2-metadata-token";
const FORWARDED_HEADER: &str = "x-forwarded-for";
/// Captured for the token's path.
const TOKEN_METHODS: &str = "OPTIONS, PUT";
/// Not captured; by analogy.
const DATA_METHODS: &str = "OPTIONS, GET, HEAD";

/// How an instance is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Whether a request needs a token ("IMDSv2 required").
    pub token_required: bool,
    /// The role of the instance profile, if it has one.
    pub role: Option<String>,
    /// The life of one set of credentials; a new set comes at half of it.
    pub credential_life: Duration,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            token_required: false,
            role: Some("imds-mock-role".into()),
            credential_life: Duration::from_secs(21_600),
        }
    }
}

pub struct Service {
    tree: Tree,
    profile: Profile,
    notices: Notices,
    started: SystemTime,
    /// Issued tokens and the credentials in force: what changes while serving.
    state: Mutex<State>,
}

struct State {
    tokens: Tokens,
    role: Credentials,
    instance: Credentials,
    first_request: Option<SystemTime>,
    /// Who is shown notices, if that is limited.
    addresses: BTreeSet<IpAddr>,
}

/// What the token of a request is worth.
enum Admission {
    /// None was sent and none is needed.
    Tokenless,
    /// A valid one with its remaining seconds.
    Token(u64),
    Refused(Answer),
}

impl Service {
    #[must_use]
    pub fn new(mut tree: Tree, profile: Profile, started: SystemTime) -> Self {
        tree.set_role(profile.role.as_deref());
        let credentials = || Credentials::new(profile.credential_life);
        let state = State {
            tokens: Tokens::default(),
            role: credentials(),
            instance: credentials(),
            first_request: None,
            addresses: BTreeSet::new(),
        };
        Self { tree, started, state: Mutex::new(state), profile, notices: Notices::default() }
    }

    /// What happens besides; whether there is room for it is [`Notices::fit`].
    #[must_use]
    pub fn with_notices(self, notices: Notices) -> Self {
        Self { notices, ..self }
    }

    pub fn answer(&self, request: &Request, peer: IpAddr, now: SystemTime) -> Answer {
        if is_token_path(request) {
            return self.answer_at_token_path(request, now);
        }
        match request.method.as_str() {
            "GET" | "HEAD" => self.answer_read(request, peer, now),
            "OPTIONS" => Answer::Methods { allow: DATA_METHODS },
            // a token is issued at one place only; a dated version's is documented to answer 403
            "PUT" if is_dated_token_path(request) => page(Page::Forbidden, None),
            _ => Answer::NotAllowed { allow: DATA_METHODS },
        }
    }

    fn answer_at_token_path(&self, request: &Request, now: SystemTime) -> Answer {
        match request.method.as_str() {
            "PUT" => self.issue_token(request, now),
            "OPTIONS" => Answer::Methods { allow: TOKEN_METHODS },
            _ => Answer::NotAllowed { allow: TOKEN_METHODS },
        }
    }

    fn issue_token(&self, request: &Request, now: SystemTime) -> Answer {
        if request.header(FORWARDED_HEADER).is_some() {
            return page(Page::Forbidden, None);
        }
        let Some(ttl) = request.header(TTL_HEADER).and_then(parse_ttl) else {
            return page(Page::BadRequest, None);
        };
        match self.state().tokens.issue(ttl, now) {
            Ok(token) => Answer::Issued { token, ttl: ttl.as_secs() },
            Err(_) => page(Page::Unavailable, None),
        }
    }

    fn answer_read(&self, request: &Request, peer: IpAddr, now: SystemTime) -> Answer {
        let ttl = match self.admit(request, now) {
            Admission::Tokenless => None,
            Admission::Token(seconds) => Some(seconds),
            Admission::Refused(answer) => return answer,
        };
        match self.find(&request.segments, &self.tree_for(peer, now), now) {
            Ok(Some(Found { content_type, modified, body })) => {
                Answer::Data { content_type, modified, body, ttl }
            }
            Ok(None) => page(Page::NotFound, ttl),
            Err(_) => page(Page::Unavailable, ttl),
        }
    }

    /// Before the path is looked at: who has no token does not learn what exists.
    fn admit(&self, request: &Request, now: SystemTime) -> Admission {
        let Some(token) = request.header(TOKEN_HEADER) else {
            return if self.profile.token_required {
                Admission::Refused(Answer::Unauthorised)
            } else {
                Admission::Tokenless
            };
        };
        if request.header(FORWARDED_HEADER).is_some() {
            return Admission::Refused(page(Page::Forbidden, None));
        }
        let remaining = std::str::from_utf8(token).ok().and_then(|t| self.state().tokens.remaining(t, now));
        remaining.map_or(Admission::Refused(Answer::Unauthorised), Admission::Token)
    }

    /// The tree as this client is shown it now. Whether an address is one of the first is settled by any read of it,
    /// so that a listing it was given stays true.
    fn tree_for(&self, peer: IpAddr, now: SystemTime) -> Cow<'_, Tree> {
        let same = Cow::Borrowed(&self.tree);
        if self.notices.is_empty() {
            return same;
        }
        let begin = {
            let mut state = self.state();
            if let Some(room) = self.notices.addresses {
                if state.addresses.len() < room {
                    state.addresses.insert(peer);
                }
                if !state.addresses.contains(&peer) {
                    return same;
                }
            }
            let first = *state.first_request.get_or_insert(now);
            if self.notices.from_first_request { first } else { self.started }
        };
        let mut tree = self.tree.clone();
        match self.notices.lay(&mut tree, begin, now) {
            Ok(()) => Cow::Owned(tree),
            Err(_) => same,
        }
    }

    fn find(
        &self,
        segments: &[String],
        tree: &Tree,
        now: SystemTime,
    ) -> Result<Option<Found>, getrandom::Error> {
        let Some((version, path)) = segments.split_first() else {
            let body = VERSIONS.join("\n").into_bytes().into();
            return Ok(Some(Found { content_type: TEXT, modified: self.started, body }));
        };
        if !VERSIONS.contains(&version.as_str()) {
            return Ok(None);
        }
        let (role, instance) = {
            let mut state = self.state();
            (state.role.current(now)?, state.instance.current(now)?)
        };
        let facts = Facts {
            started: self.started,
            role_name: self.profile.role.as_deref(),
            role: &role,
            instance: &instance,
        };
        Ok(tree.find(path, &facts))
    }

    /// A panic elsewhere leaves the state whole: each change to it is one step.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn is_token_path(request: &Request) -> bool {
    request.segments.split_first().is_some_and(|(version, path)| version == LATEST && path == TOKEN_PATH)
}

fn is_dated_token_path(request: &Request) -> bool {
    request.segments.split_first().is_some_and(|(_, path)| path == TOKEN_PATH)
}

fn page(page: Page, ttl: Option<u64>) -> Answer {
    Answer::Page { page, ttl }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notice::{Due, Rebalance};
    use std::time::UNIX_EPOCH;

    fn service(profile: Profile) -> Service {
        Service::new(Tree::built_in().unwrap(), profile, UNIX_EPOCH)
    }

    fn ask(service: &Service, head: &str, now: SystemTime) -> Answer {
        ask_from(service, [127, 0, 0, 1], head, now)
    }

    fn ask_from(service: &Service, peer: [u8; 4], head: &str, now: SystemTime) -> Answer {
        service.answer(&Request::parse(format!("{head}\r\n\r\n").as_bytes()).unwrap(), peer.into(), now)
    }

    fn issue(service: &Service, ttl: u64, now: SystemTime) -> String {
        let head = format!("PUT /latest/api/token HTTP/1.1\r\nX-aws-ec2-metadata-token-ttl-seconds: {ttl}");
        match ask(service, &head, now) {
            Answer::Issued { token, .. } => token,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_token_opens_until_it_expires_and_the_answer_says_what_is_left() {
        let service = service(Profile { token_required: true, ..Profile::default() });
        let token = issue(&service, 60, UNIX_EPOCH);
        let head = format!("GET /latest/meta-data/ami-id HTTP/1.1\r\nX-aws-ec2-metadata-token: {token}");
        let after = |seconds| ask(&service, &head, UNIX_EPOCH + Duration::from_secs(seconds));
        assert!(matches!(after(0), Answer::Data { ttl: Some(60), .. }));
        assert!(matches!(after(59), Answer::Data { ttl: Some(1), .. }));
        assert_eq!(after(60), Answer::Unauthorised);
    }

    #[test]
    fn an_expired_token_is_refused_even_where_none_is_needed() {
        let service = service(Profile::default());
        let token = issue(&service, 1, UNIX_EPOCH);
        let head = format!("GET /latest/meta-data/ami-id HTTP/1.1\r\nX-aws-ec2-metadata-token: {token}");
        assert_eq!(ask(&service, &head, UNIX_EPOCH + Duration::from_secs(1)), Answer::Unauthorised);
    }

    #[test]
    fn credentials_are_renewed_and_never_shown_expired() {
        let service = service(Profile { credential_life: Duration::from_secs(100), ..Profile::default() });
        let mut secrets = BTreeSet::new();
        for second in 0..=200 {
            let now = UNIX_EPOCH + Duration::from_secs(second);
            let answer =
                ask(&service, "GET /latest/meta-data/iam/security-credentials/imds-mock-role HTTP/1.0", now);
            let Answer::Data { body, modified, .. } = answer else { panic!("{answer:?}") };
            let document: serde_json::Value = serde_json::from_slice(&body).unwrap();
            let text = |key: &str| document.get(key).unwrap().as_str().unwrap().to_owned();
            assert!(text("Expiration") > crate::clock::document_date(now + Duration::from_secs(49)));
            assert_eq!(text("LastUpdated"), crate::clock::document_date(modified));
            secrets.insert(text("SecretAccessKey"));
        }
        assert_eq!(secrets.len(), 5, "one for each half life");
    }

    #[test]
    fn each_start_has_secrets_of_its_own() {
        let path =
            "GET /latest/meta-data/identity-credentials/ec2/security-credentials/ec2-instance HTTP/1.0";
        let one = ask(&service(Profile::default()), path, UNIX_EPOCH);
        assert_eq!(one.status(), 200);
        assert_ne!(one, ask(&service(Profile::default()), path, UNIX_EPOCH));
    }

    const REBALANCE: &str = "GET /latest/meta-data/events/recommendations/rebalance HTTP/1.0";

    fn after_ten_seconds() -> Notices {
        let due = Due::After(Duration::from_secs(10));
        Notices { rebalance: Some(Rebalance { due, time: None }), ..Notices::default() }
    }

    #[test]
    fn a_delay_counts_from_the_start_or_from_the_first_request_that_is_served() {
        let required = Profile { token_required: true, ..Profile::default() };
        let cases = [
            (false, [(20, false, 401), (9, true, 404), (10, true, 200)]),
            (true, [(20, false, 401), (30, true, 404), (40, true, 200)]),
        ];
        for (from_first_request, asked) in cases {
            let notices = Notices { from_first_request, ..after_ten_seconds() };
            let service = service(required.clone()).with_notices(notices);
            let token = issue(&service, 600, UNIX_EPOCH);
            for (second, with_token, status) in asked {
                let name = if with_token { "X-aws-ec2-metadata-token" } else { "X-other" };
                let now = UNIX_EPOCH + Duration::from_secs(second);
                let answer = ask(&service, &format!("{REBALANCE}\r\n{name}: {token}"), now);
                assert_eq!(answer.status(), status, "{second}, from the first request: {from_first_request}");
            }
        }
    }

    #[test]
    fn notices_may_be_for_the_first_addresses_only() {
        let notices = Notices { addresses: Some(2), ..after_ten_seconds() };
        let service = service(Profile::default()).with_notices(notices);
        let late = UNIX_EPOCH + Duration::from_secs(60);
        let status = |last, head| ask_from(&service, [192, 0, 2, last], head, late).status();
        assert_eq!(status(1, "GET /latest/meta-data/ HTTP/1.0"), 200);
        assert_eq!(status(2, REBALANCE), 200);
        assert_eq!([3, 1, 2, 3].map(|last| status(last, REBALANCE)), [404, 200, 200, 404]);
    }
}
