//! Rules about what a request says, from imds.conf to what the client and upstream see.
//! Every condition for itself is in tests/cases/decide.txt.

mod played;

use imds_ipc::FromFilterd;
use played::{Filterd, OK, Place, program, status_of};

const CREDENTIALS: &str = "/latest/meta-data/iam/security-credentials/";

/// With one more line of the settings' `[filter]`.
fn filterd(rules: &str, more: &str) -> Filterd {
    let place = Place::new();
    let path = place.settings(rules, "");
    let text = std::fs::read_to_string(&path).unwrap().replace("[limits]", &format!("{more}\n[limits]"));
    let path = place.write("imds-filterd.toml", &text, 0o644);
    Filterd::spawn_with(place, &mut program(), &path)
}

fn head(method: &str, path: &str, headers: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n{headers}\r\n")
}

/// What upstream gets of a request that must be allowed.
fn sent(filterd: &mut Filterd, method: &str, path: &str, headers: &str) -> String {
    let mut client = filterd.connect(1000);
    client.send(head(method, path, headers));
    let request = filterd.dial().answer(OK);
    assert_eq!(client.answer(), (200, "ok".into()), "{headers}");
    assert_eq!(filterd.audit()["verdict"], "allow");
    assert!(matches!(filterd.hear(), FromFilterd::Close { .. }));
    request
}

/// The status of an answer that filterd must give itself.
fn refused(filterd: &mut Filterd, method: &str, path: &str, headers: &str) -> u16 {
    let mut client = filterd.connect(1000);
    client.send(head(method, path, headers));
    let (status, body) = client.answer();
    assert!(body.starts_with("imds-filterd: "), "{body}");
    assert_ne!(filterd.audit()["verdict"], "allow");
    assert!(matches!(filterd.hear(), FromFilterd::Close { .. }));
    status
}

fn sample() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../conf/examples/ec2-metadata-filter.conf");
    std::fs::read_to_string(path).unwrap()
}

/// The transcript in the README of ec2-metadata-filter, and what its text says besides.
#[test]
fn the_sample_does_what_ec2_metadata_filter_does() {
    let mut filterd = filterd(&sample(), "refuse_status = 400");
    let aws = "User-Agent: aws-cli/1.15.71 Python/3.5.2 Linux/4.15.0-43-generic botocore/1.10.70\r\n";
    sent(&mut filterd, "GET", CREDENTIALS, aws);
    let curl = "User-Agent: curl/7.58.0\r\nAccept: */*\r\n";
    assert_eq!(refused(&mut filterd, "GET", CREDENTIALS, curl), 400);
    let flavor = format!("{curl}Metadata-Flavor: Amazon\r\n");
    sent(&mut filterd, "GET", CREDENTIALS, &flavor);
    for agent in ["aws-chalice/1", "aws-sdk-go/1", "Boto3/1", "Botocore/1", "Cloud-Init/20"] {
        sent(&mut filterd, "GET", "/", &format!("User-Agent: {agent}\r\n"));
        sent(&mut filterd, "PUT", "/latest/api/token", &format!("User-Agent: {agent}\r\n"));
    }
    for headers in ["", "User-Agent:\r\n", "User-Agent: boto3/1\r\n", "User-Agent: Mozilla/5.0 aws-cli/1\r\n"]
    {
        assert_eq!(refused(&mut filterd, "GET", CREDENTIALS, headers), 400, "{headers}");
        assert_eq!(refused(&mut filterd, "PUT", "/latest/api/token", headers), 400, "{headers}");
    }
    for forwarded in ["X-Forwarded-For: 10.0.0.1\r\n", "x-forwarded-for : 10.0.0.1\r\n"] {
        for method in ["GET", "PUT"] {
            let headers = format!("{flavor}{aws}{forwarded}").replacen("User-Agent: curl/7.58.0\r\n", "", 1);
            assert_eq!(refused(&mut filterd, method, "/latest/api/token", &headers), 400, "{headers}");
        }
    }
}

#[test]
fn a_header_that_only_rules_look_at_is_not_sent() {
    let mut filterd = filterd("Allow header \"Metadata-Flavor\" \"Amazon\" \"/\"\n", "");
    let request = sent(&mut filterd, "GET", "/a", "Metadata-Flavor: Amazon\r\nUser-Agent: a\r\n");
    let wanted = "GET /a HTTP/1.1\r\nHost: 169.254.169.254\r\nUser-Agent: a\r\n\r\n";
    assert_eq!(request, wanted);
    assert_eq!(refused(&mut filterd, "GET", "/a", "Metadata-Flavor: Google\r\n"), 403);
}

#[test]
fn a_request_without_a_token_is_denied_where_rules_say_so_and_the_token_itself_is_not() {
    let mut filterd = filterd("Allow \"/\"\nDeny no-token \"/\"\n", "");
    assert_eq!(refused(&mut filterd, "GET", "/latest/meta-data/", ""), 403);
    sent(&mut filterd, "PUT", "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds: 60\r\n");
    let request = sent(&mut filterd, "GET", "/latest/meta-data/", "X-aws-ec2-metadata-token: AQAEA\r\n");
    assert!(request.contains("X-Aws-Ec2-Metadata-Token: AQAEA\r\n"), "{request}");
}

#[test]
fn an_answer_of_upstream_keeps_its_own_status_whatever_ours_is() {
    let mut filterd = filterd("Allow \"/a\"\n", "refuse_status = 404");
    assert_eq!(refused(&mut filterd, "GET", "/b", ""), 404);
    let mut client = filterd.connect(1000);
    client.send(head("GET", "/a", ""));
    filterd.dial().answer("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(status_of(&client.head()), 403);
}
