//! Canonical requests: the tables of tests/cases, and what holds for every head.
//! Judges no rule.

mod table;

use imds_rules::{Head, Method, Profile, Refusal, Request, Version};
use proptest::prelude::*;
use table::{rows, unescape};

type Headers = Vec<(Vec<u8>, Vec<u8>)>;

fn profile(query_keys: &'static [&'static str]) -> Profile {
    let addresses = vec!["169.254.169.254".parse().unwrap(), "fd00:ec2::254".parse().unwrap()];
    Profile { query_keys, ..Profile::ec2(addresses, 80, vec!["instance-data".into()]) }
}

fn judge(
    method: &[u8],
    target: &[u8],
    version: Version,
    headers: &Headers,
    profile: &Profile,
) -> Result<Request, Refusal> {
    let headers: Vec<(&[u8], &[u8])> = headers.iter().map(|(n, v)| (n.as_slice(), v.as_slice())).collect();
    Request::canonicalise(&Head { method, target, version, headers: &headers }, profile)
}

fn shown(refusal: Refusal) -> String {
    format!("{} {refusal}", refusal.status())
}

#[test]
fn every_row_of_the_table_of_paths_holds() {
    let profile = profile(&["alt", "wait"]);
    for (line, row) in rows("paths.txt") {
        let (raw, wanted) = row.split_once(char::is_whitespace).expect("target and outcome");
        let got = judge(b"GET", &unescape(raw), Version::Http10, &Headers::new(), &profile);
        let got = got.map_or_else(shown, |request| request.upstream_target().to_owned());
        assert_eq!(got, wanted.trim(), "line {line}: {raw}");
    }
}

#[test]
fn every_row_of_the_table_of_heads_holds() {
    let profile = profile(&[]);
    for (line, row) in rows("paths_heads.txt") {
        let (head, wanted) = row.split_once("=>").expect("head and outcome");
        let mut columns = head.trim_end_matches(' ').split(" | ");
        let first: Vec<&str> = columns.next().unwrap().split(' ').collect();
        let [method, target, version] = first.as_slice() else { panic!("line {line}: {row}") };
        let version = if *version == "1.0" { Version::Http10 } else { Version::Http11 };
        let headers: Headers = columns
            .map(|column| column.split_once(": ").unwrap_or((column.trim_end_matches(':'), "")))
            .map(|(name, value)| (unescape(name), unescape(value)))
            .collect();
        let got = judge(method.as_bytes(), target.as_bytes(), version, &headers, &profile);
        let wanted = wanted.strip_prefix(' ').unwrap_or(wanted);
        match got {
            Err(refusal) => assert_eq!(shown(refusal), wanted, "line {line}: {row}"),
            Ok(request) => {
                let fields: Vec<Vec<u8>> = request
                    .upstream_headers()
                    .map(|(name, value)| [name.as_bytes(), b": ", value].concat())
                    .collect();
                let wanted = unescape(wanted);
                assert_eq!(
                    String::from_utf8_lossy(&fields.join(&b" | "[..])),
                    String::from_utf8_lossy(&wanted),
                    "line {line}: {row}"
                );
            }
        }
    }
}

#[test]
fn a_405_says_what_is_allowed() {
    for refusal in [Refusal::Method, Refusal::PutPath] {
        assert_eq!(refusal.status(), 405);
        assert!(refusal.allow().is_some());
    }
    assert_eq!(Refusal::Forwarded.allow(), None);
}

#[test]
fn ec2_knows_no_query() {
    let got = judge(b"GET", b"/latest?alt=json", Version::Http10, &Headers::new(), &profile(&[]));
    assert_eq!(got, Err(Refusal::QueryKey));
}

/// Every choice of capital and small letters: 2^13 and 2^9.
fn in_every_letter_case(name: &str) -> Vec<String> {
    let letters: Vec<usize> = name.match_indices(char::is_alphabetic).map(|(at, _)| at).collect();
    let spelled = |choice: u32| {
        let capital =
            |at: usize| letters.iter().position(|letter| *letter == at).is_some_and(|n| choice >> n & 1 == 1);
        let letters = name.char_indices();
        letters
            .map(|(at, c)| if capital(at) { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() })
            .collect()
    };
    (0..1 << letters.len()).map(spelled).collect()
}

#[test]
fn a_forwarding_header_is_refused_in_every_letter_case_and_with_blanks_before_the_colon() {
    for (name, spellings) in [("X-Forwarded-For", 8192), ("Forwarded", 512)] {
        let names: std::collections::BTreeSet<String> = in_every_letter_case(name).into_iter().collect();
        assert_eq!(names.len(), spellings);
        for name in names {
            for blank in ["", " ", "\t", " \t "] {
                let headers = vec![(format!("{name}{blank}").into_bytes(), b"192.0.2.1".to_vec())];
                let got = judge(b"GET", b"/", Version::Http10, &headers, &profile(&[]));
                assert_eq!(got, Err(Refusal::Forwarded), "{name}{blank:?}");
            }
        }
    }
}

#[test]
fn the_path_for_the_log_has_no_query() {
    let got =
        judge(b"GET", b"/a%3fb/?alt=secret", Version::Http10, &Headers::new(), &profile(&["alt"])).unwrap();
    assert_eq!(got.path(), "/a%3Fb/");
    assert_eq!(got.segments().collect::<Vec<_>>(), ["a?b"]);
}

#[test]
fn neither_debug_output_shows_a_token() {
    let token = (b"X-aws-ec2-metadata-token".to_vec(), b"AQAEAsecret".to_vec());
    let request =
        judge(b"GET", b"/a?alt=secret", Version::Http10, &vec![token.clone()], &profile(&["alt"])).unwrap();
    assert!(!format!("{request:?}").contains("secret"));
    let headers = [(token.0.as_slice(), token.1.as_slice())];
    let head = Head { method: b"GET", target: b"/secret", version: Version::Http10, headers: &headers };
    assert!(!format!("{head:?}").contains("secret"));
}

/// Pieces that attacks are made of, so that random targets are near the interesting ones.
fn target() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => prop::sample::select(vec![
            "/", "/", "a", "latest", "api", "token", ".", "..", "%2e", "%2f", "%5c", "%25", "%41", "%c3%a9", "%ff",
            "%00", "%3b", "%3f", "%23", "?", "&", "=", "alt", "wait", "#", ";", "+", "%2b", "*", "~", "%7e", "%20",
            "http://", "169.254.169.254", ":80", "@", "evil", "%", "%2", "%26",
        ])
        .prop_map(|piece| piece.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..3),
    ];
    prop::collection::vec(piece, 0..10).prop_map(|pieces| {
        let mut target = b"/".to_vec();
        target.extend(pieces.concat());
        target
    })
}

fn headers() -> impl Strategy<Value = Headers> {
    let name = prop_oneof![
        6 => prop::sample::select(vec![
            "Host", "X-aws-ec2-metadata-token", "x-AWS-ec2-metadata-token-ttl-seconds", "user-agent", "Accept",
            "Cookie", "Connection", "Content-Length", "Expect",
        ])
        .prop_map(|name| name.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..4),
    ];
    let value = prop_oneof![
        3 => prop::sample::select(vec!["169.254.169.254", "0", "close", " a\tb ", ""])
            .prop_map(|value| value.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..4),
    ];
    prop::collection::vec((name, value), 0..5)
}

fn again(request: &Request, profile: &Profile) -> Result<Request, Refusal> {
    let mut headers: Headers = vec![(b"Host".to_vec(), b"169.254.169.254".to_vec())];
    headers
        .extend(request.upstream_headers().map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec())));
    let target = request.upstream_target().as_bytes();
    judge(request.method().as_str().as_bytes(), target, Version::Http11, &headers, profile)
}

/// What a sloppier reader than ours could still trip over.
fn assert_harmless(request: &Request) {
    let target = request.upstream_target();
    assert!(target.starts_with('/') && !target.starts_with("//"), "{target}");
    assert!(
        target.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"#;<>[\\]^`{|}".contains(&byte)),
        "{target}"
    );
    let path = request.path().to_ascii_lowercase();
    assert!(!path.contains("//"), "{path}");
    for escape in ["%2f", "%5c", "%25", "%3b", "%00", "%0a", "%2e"] {
        assert!(!path.contains(escape), "{path}");
    }
    assert!(path.split('/').all(|segment| segment != "." && segment != ".."), "{path}");
    for (name, value) in request.upstream_headers() {
        assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'));
        assert!(value.iter().all(|byte| !byte.is_ascii_control() || *byte == b'\t'));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_sent_is_read_the_same_way_again(
        method in prop::sample::select(vec!["GET", "GET", "GET", "HEAD", "PUT"]),
        target in target(),
        headers in headers(),
    ) {
        let profile = profile(&["alt", "wait"]);
        if let Ok(request) = judge(method.as_bytes(), &target, Version::Http10, &headers, &profile) {
            assert_harmless(&request);
            prop_assert_eq!(again(&request, &profile), Ok(request.clone()));
            prop_assert!(request.method() != Method::Put || request.asks_for_token());
        }
    }

    #[test]
    fn any_target_alone_is_judged_without_a_panic(target in prop::collection::vec(any::<u8>(), 0..40)) {
        let _ = judge(b"GET", &target, Version::Http10, &Headers::new(), &profile(&[]));
    }

    #[test]
    fn how_a_segment_was_encoded_makes_no_difference(
        segments in prop::collection::vec("[a-z][a-zA-Z0-9.~é *]{0,5}", 1..4),
        capital in any::<bool>(),
    ) {
        let encoded: String = segments.iter().map(|segment| {
            let bytes = segment.bytes();
            let all: String = bytes.map(|b| if capital { format!("%{b:02X}") } else { format!("%{b:02x}") }).collect();
            format!("/{all}")
        }).collect();
        let request =
            judge(b"GET", encoded.as_bytes(), Version::Http10, &Headers::new(), &profile(&[])).unwrap();
        prop_assert_eq!(request.segments().collect::<Vec<_>>(), segments);
        prop_assert_eq!(again(&request, &profile(&[])), Ok(request.clone()));
    }
}
