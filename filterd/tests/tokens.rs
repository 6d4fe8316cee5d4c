//! IMDSv2 as clients and the service see it: tokens bound to their user, and IMDSv1 translated.
//! What a token is made of is tested where it is made.

mod played;

use imds_ipc::{Blob, DialFailure, FromFilterd, FromInterceptor};
use played::{Client, Filterd, OK, Place, program, status_of};

const BOUND: &str = "tokens = \"bound\"";
const OWN: &str =
    "HTTP/1.1 200 OK\r\nX-Aws-Ec2-Metadata-Token-Ttl-Seconds: 21600\r\nContent-Length: 4\r\n\r\nOWN1";
const OWN_AGAIN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nOWN2";
const WITH_TTL: &str =
    "HTTP/1.1 200 OK\r\nX-Aws-Ec2-Metadata-Token-Ttl-Seconds: 21599\r\nContent-Length: 2\r\n\r\nok";
const OUR_PUT: &str = "PUT /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\n\
     X-Aws-Ec2-Metadata-Token-Ttl-Seconds: 21600\r\nContent-Length: 0\r\n\r\n";
const UNAUTHORIZED: &str = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n";

fn filterd(rules: &str, more: &str) -> Filterd {
    let place = Place::new();
    let path = place.settings(rules, "");
    let text = std::fs::read_to_string(&path).unwrap().replace("[limits]", &format!("{more}\n[limits]"));
    let path = place.write("imds-filterd.toml", &text, 0o644);
    Filterd::spawn_with(place, &mut program(), &path)
}

fn put(ttl: &str) -> String {
    format!(
        "PUT /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\n\
         X-aws-ec2-metadata-token-ttl-seconds: {ttl}\r\n\r\n"
    )
}

fn get(headers: &str) -> String {
    format!("GET /latest/meta-data/ HTTP/1.1\r\nHost: 169.254.169.254\r\n{headers}\r\n")
}

fn with(token: &str) -> String {
    get(&format!("X-aws-ec2-metadata-token: {token}\r\n"))
}

fn sent(token: &str) -> String {
    format!(
        "GET /latest/meta-data/ HTTP/1.1\r\nHost: 169.254.169.254\r\n\
         X-Aws-Ec2-Metadata-Token: {token}\r\n\r\n"
    )
}

/// Head and body of a new token, which filterd gives itself.
fn issued(client: &mut Client, ttl: &str) -> (String, String) {
    client.send(put(ttl));
    let head = client.head();
    assert_eq!(status_of(&head), 200, "{head}");
    let token = client.body(56);
    (head, token)
}

/// The first token of all, for which filterd needs one of the service and a key.
fn first_token(filterd: &mut Filterd, client: &mut Client, ttl: &str) -> (String, Blob) {
    client.send(put(ttl));
    assert_eq!(filterd.dial().answer(OWN), OUR_PUT);
    let head = client.head();
    assert_eq!(status_of(&head), 200, "{head}");
    let token = client.body(56);
    assert_eq!(filterd.audit()["verdict"], "allow");
    match filterd.hear() {
        FromFilterd::Keep(blob) => (token, blob),
        other => panic!("{other:?}"),
    }
}

fn assert_refused_as_by_the_service(client: &mut Client) {
    let head = client.head();
    assert!(head.starts_with("HTTP/1.1 401 Unauthorized\r\n"), "{head}");
    for line in ["Content-Length: 0\r\n", "Server: EC2ws\r\n", "Content-Type: text/plain\r\n", "Date: "] {
        assert!(head.contains(line), "{head}");
    }
}

#[test]
fn a_bound_token_is_ours_and_the_service_sees_our_own() {
    let mut filterd = filterd("Allow \"/\"\n", BOUND);
    let mut client = filterd.connect(1000);
    let (token, _) = first_token(&mut filterd, &mut client, "21600");
    assert_eq!(token.len(), 56);
    client.send(with(&token));
    assert_eq!(filterd.dial().answer(WITH_TTL), sent("OWN1"));
    let head = client.head();
    assert_eq!(client.body(2), "ok");
    let left = head.lines().find_map(|line| line.strip_prefix("X-Aws-Ec2-Metadata-Token-Ttl-Seconds: "));
    let left: u32 = left.expect("its life").parse().unwrap();
    assert!((21_500..=21_600).contains(&left), "{head}");
    let line = filterd.audit();
    assert_eq!((line["verdict"].as_str(), line["token"].as_bool()), (Some("allow"), Some(true)));
    assert!(!line.to_string().contains(&token) && !line.to_string().contains("OWN1"));
    // another token costs the service nothing
    let (head, other) = issued(&mut client, "60");
    for line in
        ["Ttl-Seconds: 60\r\n", "Content-Length: 56\r\n", "Server: EC2ws\r\n", "Content-Type: text/plain\r\n"]
    {
        assert!(head.contains(line), "{head}");
    }
    assert_ne!(other, token);
    assert!(filterd.hear_now().is_none());
}

#[test]
fn a_token_of_another_user_or_of_nobody_opens_nothing_and_does_not_reach_the_service() {
    let mut filterd = filterd("Allow \"/\"\n", BOUND);
    let mut client = filterd.connect(1000);
    let (token, _) = first_token(&mut filterd, &mut client, "21600");
    let mut changed = token.clone();
    changed.replace_range(10..11, if &token[10..11] == "A" { "B" } else { "A" });
    let garbage = "A".repeat(56);
    for (uid, shown) in
        [(1001, &*token), (0, &token), (1000, &changed), (1000, &garbage), (1000, "OWN1"), (1000, "")]
    {
        let mut client = filterd.connect(uid);
        client.send(with(shown));
        assert_refused_as_by_the_service(&mut client);
        assert!(matches!(filterd.hear(), FromFilterd::Close { .. }), "no dial");
        let line = filterd.audit();
        assert_eq!((line["verdict"].as_str(), line["status"].as_u64()), (Some("refuse"), Some(401)));
    }
    // and the user's own still does
    client.send(with(&token));
    filterd.dial().answer(WITH_TTL);
    assert_eq!(client.answer().0, 200);
}

#[test]
fn a_token_outlives_the_filterd_that_gave_it() {
    let rules = "Allow \"/\"\n";
    let (token, kept) = {
        let mut filterd = filterd(rules, BOUND);
        let mut client = filterd.connect(1000);
        first_token(&mut filterd, &mut client, "21600")
    };
    let mut next = filterd(rules, BOUND);
    next.say(&FromInterceptor::Kept(kept), None);
    let mut client = next.connect(1000);
    client.send(with(&token));
    assert_eq!(next.dial().answer(OWN), OUR_PUT);
    assert_eq!(next.dial().answer(WITH_TTL), sent("OWN1"));
    assert_eq!(client.answer(), (200, "ok".into()));
    let (_, other) = issued(&mut client, "60");
    client.send(with(&other));
    assert_eq!(next.dial().answer(WITH_TTL), sent("OWN1"));
    assert!(next.hear_now().is_none(), "the same key is in use, so nothing is to be kept");

    let mut other = filterd(rules, BOUND);
    other.say(&FromInterceptor::Kept(Blob::new(vec![9; 70].into()).unwrap()), None);
    let mut client = other.connect(1000);
    client.send(with(&token));
    assert_refused_as_by_the_service(&mut client);
}

#[test]
fn a_second_word_of_what_was_kept_ends_the_channel() {
    let mut filterd = filterd("Allow \"/\"\n", BOUND);
    for _ in 0..2 {
        filterd.say(&FromInterceptor::Kept(Blob::new(vec![9].into()).unwrap()), None);
    }
    let (status, log) = filterd.end();
    assert_eq!(status.code(), Some(75), "{log}");
    assert!(log.contains("out of turn"), "{log}");
}

#[test]
fn a_life_that_one_cannot_have_is_answered_as_by_the_service() {
    let mut filterd = filterd("Allow \"/\"\n", BOUND);
    for request in [put("0"), put("21601"), put("sixty"), put(""), put("60").replace("ttl-seconds", "x")] {
        let mut client = filterd.connect(1000);
        client.send(request);
        let (status, body) = client.answer();
        assert_eq!(status, 400);
        assert!(body.starts_with("<?xml") && body.contains("<h1>400 - Bad Request</h1>"), "{body}");
        assert!(matches!(filterd.hear(), FromFilterd::Close { .. }), "no dial");
        assert_eq!(filterd.audit()["verdict"], "refuse");
    }
}

#[test]
fn where_the_service_gives_no_token_neither_do_we() {
    let mut filterd = filterd("Allow \"/\"\n", &format!("{BOUND}\nrefuse_status = 400"));
    let mut client = filterd.connect(1000);
    for (answer, status) in [
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", 403),
        ("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", 503),
        ("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n", 502),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 502),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\na b\r\n", 502),
    ] {
        client.send(put("60"));
        assert_eq!(filterd.dial().answer(answer), OUR_PUT);
        assert_eq!(client.answer().0, status, "{answer}");
        assert_eq!(filterd.audit()["verdict"], "error");
    }
    client.send(put("60"));
    filterd.fail_dial(DialFailure::TimedOut);
    assert_eq!(client.answer().0, 504);
}

#[test]
fn who_may_read_nothing_gets_no_token_and_the_service_is_not_asked() {
    let mut filterd = filterd("Allow user root \"/\"\n", BOUND);
    let mut client = filterd.connect(1000);
    client.send(put("60"));
    assert_eq!(client.answer().0, 403);
    assert!(filterd.hear_now().is_none());
    client.send(get(""));
    assert_eq!(client.answer().0, 403);
}

#[test]
fn without_a_token_a_request_goes_as_it_came_and_bound_tokens_translate_nothing() {
    let mut filterd = filterd("Allow \"/\"\n", BOUND);
    let mut client = filterd.connect(1000);
    client.send(get(""));
    let request = filterd.dial().answer(UNAUTHORIZED);
    assert!(!request.to_lowercase().contains("token"), "{request}");
    assert_eq!(client.answer().0, 401);
    assert_eq!(filterd.audit()["token"], false);
}

#[test]
fn imdsv1_of_whom_a_rule_translates_is_fetched_with_our_token_and_looks_like_imdsv1() {
    let mut filterd = filterd("Allow \"/\"\nTranslate user 1005 \"/latest\"\n", "");
    let mut client = filterd.connect(1005);
    client.send(get(""));
    assert_eq!(filterd.dial().answer(OWN), OUR_PUT);
    assert_eq!(filterd.dial().answer(WITH_TTL), sent("OWN1"));
    let head = client.head();
    assert_eq!(client.body(2), "ok");
    assert!(!head.to_lowercase().contains("ttl"), "{head}");
    let line = filterd.audit();
    assert_eq!((line["translate"].as_u64(), line["token"].as_bool()), (Some(2), Some(false)));
    assert!(!line.to_string().contains("OWN1"));
    // an empty token is none, and is not sent beside ours
    client.send(get("X-aws-ec2-metadata-token:\r\n"));
    assert_eq!(filterd.dial().answer(OK), sent("OWN1"));
    assert_eq!(client.answer().0, 200);
    // with a token of its own, elsewhere, and for others nothing changes
    client.send(with("mine"));
    assert_eq!(filterd.dial().answer(WITH_TTL), sent("mine"));
    assert!(client.head().contains("Ttl-Seconds: 21599"));
    assert_eq!(client.body(2), "ok");
    client.send("GET / HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n");
    assert!(!filterd.dial().answer(UNAUTHORIZED).contains("Token"));
    assert_eq!(client.answer().0, 401);
    let mut other = filterd.connect(1006);
    other.send(get(""));
    assert!(!filterd.dial().answer(UNAUTHORIZED).contains("Token"));
    assert_eq!(other.answer().0, 401);
}

#[test]
fn a_token_of_ours_that_the_service_takes_no_longer_is_asked_for_again_and_no_request_is_lost() {
    let mut filterd = filterd("Allow \"/\"\nTranslate \"/\"\n", "");
    let mut client = filterd.connect(1000);
    client.send(get(""));
    filterd.dial().answer(OWN);
    filterd.dial().answer(OK);
    assert_eq!(client.answer(), (200, "ok".into()));
    client.send(get(""));
    assert_eq!(filterd.dial().answer(UNAUTHORIZED), sent("OWN1"));
    assert_eq!(filterd.dial().answer(OWN_AGAIN), OUR_PUT);
    assert_eq!(filterd.dial().answer(OK), sent("OWN2"));
    assert_eq!(client.answer(), (200, "ok".into()));
    // a second refusal is the answer
    client.send(get(""));
    assert_eq!(filterd.dial().answer(UNAUTHORIZED), sent("OWN2"));
    filterd.dial().answer(OWN);
    assert_eq!(filterd.dial().answer(UNAUTHORIZED), sent("OWN1"));
    assert_eq!(client.answer().0, 401);
}

#[test]
fn many_at_once_ask_for_one_token() {
    let mut filterd = filterd("Allow \"/\"\nTranslate \"/\"\n", "");
    let mut clients: Vec<Client> = (0..5).map(|uid| filterd.connect(uid)).collect();
    clients.iter_mut().for_each(|client| client.send(get("")));
    assert_eq!(filterd.dial().answer(OWN), OUR_PUT);
    for _ in 0..5 {
        assert_eq!(filterd.dial().answer(OK), sent("OWN1"));
    }
    for client in &mut clients {
        assert_eq!(client.answer(), (200, "ok".into()));
    }
}
