//! Options from the command line, the environment and a file, and what they make of the instance.
//! What a notice looks like is tested where it is made (src/notice.rs).

mod mock;

use mock::{Mock, Scratch, program};

const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../conf/examples/imds-mock.toml");

/// The body at a path below /latest, `None` for a 404.
fn body(mock: &Mock, path: &str) -> Option<String> {
    let token = mock.token(60);
    let head = format!("GET /latest/{path} HTTP/1.1\r\nX-aws-ec2-metadata-token: {token}\r\n\r\n");
    let answer = mock.exchange(head.as_bytes());
    let octets = answer.header("Content-Type") == Some("application/octet-stream");
    assert_eq!(octets, path == "user-data" && answer.status == "200 OK", "{path}");
    match answer.status.as_str() {
        "200 OK" => Some(String::from_utf8(answer.body).unwrap()),
        "404 Not Found" => None,
        other => panic!("{path}: {other}"),
    }
}

fn written(name: &str, text: &str) -> Scratch {
    let file = Scratch::new(name);
    std::fs::write(file.path(), text).unwrap();
    file
}

#[test]
fn the_sample_file_does_what_it_says() {
    let mock = Mock::start(&["--config-file", SAMPLE, "--mock-delay-sec", "0", "--rebalance-delay-sec", "0"]);
    let without_token = mock.exchange(b"GET /latest/meta-data/mac HTTP/1.1\r\n\r\n");
    assert_eq!(without_token.status, "401 Unauthorized");
    let macs = "meta-data/network/interfaces/macs";
    let cases = [
        ("", "dynamic\nmeta-data\nuser-data"),
        ("user-data", "#!/bin/sh\n"),
        ("meta-data/iam/security-credentials", "ci-role"),
        ("meta-data/instance-id", "i-0fedcba9876543210"),
        ("meta-data/local-hostname", "ip-10-1-2-3.eu-west-1.compute.internal"),
        ("meta-data/tags/instance", "Name\nTeam"),
        (macs, "02:00:5e:00:53:77/\n02:00:5e:00:53:78/"),
        (&format!("{macs}/02:00:5e:00:53:77/local-ipv4s"), "10.1.2.3"),
        (&format!("{macs}/02:00:5e:00:53:78/local-ipv4s"), "10.1.2.4\n10.1.2.5"),
        ("dynamic", "fws/\ninstance-identity/"),
        ("meta-data/spot", "instance-action\ntermination-time"),
        ("meta-data/events", "maintenance/\nrecommendations/"),
        ("meta-data/events/maintenance/history", "[]"),
        ("meta-data/autoscaling/target-lifecycle-state", "InService"),
    ];
    for (path, wanted) in cases {
        assert_eq!(body(&mock, path).as_deref(), Some(wanted), "{path}");
    }
    assert_eq!(body(&mock, "meta-data/managed-ssh-keys"), None);
    let json = |path| serde_json::from_str::<serde_json::Value>(&body(&mock, path).unwrap()).unwrap();
    let document = json("dynamic/instance-identity/document");
    for (key, wanted) in [
        ("accountId", "210987654321"),
        ("architecture", "arm64"),
        ("instanceId", "i-0fedcba9876543210"),
        ("instanceType", "m7g.large"),
        ("privateIp", "10.1.2.3"),
        ("region", "eu-west-1"),
        ("availabilityZone", "eu-west-1b"),
        ("imageId", "ami-0123456789abcdef0"),
    ] {
        assert_eq!(document[key], wanted, "{key}");
    }
    assert_eq!(document["kernelId"], serde_json::Value::Null);
    assert_eq!(json("meta-data/events/maintenance/scheduled")[0]["Code"], "instance-retirement");
}

#[test]
fn the_delays_of_the_sample_are_kept() {
    let mock = Mock::start(&["--config-file", SAMPLE]);
    assert_eq!(body(&mock, "meta-data/spot"), None);
    assert_eq!(body(&mock, "meta-data/events").as_deref(), Some("maintenance/"));
    assert_eq!(body(&mock, "meta-data/events/maintenance/scheduled").as_deref(), Some("[]"));
}

#[test]
fn the_command_line_goes_before_the_environment_and_that_before_the_file() {
    let file = written(
        "precedence.json",
        r#"{"role": "file", "imdsv2": true, "spot": {"action": "stop"}, "asg-lifecycle-state": "Standby",
            "events": {"code": "instance-stop"}, "meta-data": {"ami-id": "ami-file", "mac": null, "profile": "file"}}"#,
    );
    let environment = [
        ("AEMM_CONFIG_FILE", file.text()),
        ("AEMM_SPOT_ACTION", "hibernate"),
        ("IMDS_MOCK_SPOT_ACTION", ""),
        ("AEMM_EVENTS_CODE", "instance-reboot"),
        ("IMDS_MOCK_EVENTS_CODE", "system-maintenance"),
        ("AEMM_IMDSV2", "false"),
        ("IMDS_MOCK_ROLE", "environment"),
    ];
    let mock = Mock::start_in(
        &environment,
        &["127.0.0.1:0"],
        &["--events-code", "instance-retirement", "--set", "meta-data/ami-id=ami-line=1"],
    );
    let untold = mock.exchange(b"GET /latest/meta-data/ami-id HTTP/1.1\r\n\r\n");
    assert_eq!(untold.body, b"ami-line=1", "{}", untold.status);
    assert_eq!(body(&mock, "meta-data/profile").as_deref(), Some("file"));
    assert_eq!(body(&mock, "meta-data/iam/security-credentials").as_deref(), Some("environment"));
    assert!(body(&mock, "meta-data/spot/instance-action").unwrap().contains("\"hibernate\""));
    assert!(body(&mock, "meta-data/events/maintenance/scheduled").unwrap().contains("instance-retirement"));
    assert_eq!(body(&mock, "meta-data/autoscaling/target-lifecycle-state").as_deref(), Some("Standby"));
}

#[test]
fn an_option_above_does_away_with_one_below_that_it_excludes() {
    let file = written("exclusive.toml", "no-role = true\nuser-data-text = \"file\"\n");
    let user_data = written("exclusive-user-data", "line");
    let mock =
        Mock::start(&["--config-file", file.text(), "--role", "line", "--user-data", user_data.text()]);
    assert_eq!(body(&mock, "meta-data/iam/security-credentials").as_deref(), Some("line"));
    assert_eq!(body(&mock, "user-data").as_deref(), Some("line"));
    let mock = Mock::start_in(&[("IMDS_MOCK_ROLE", "environment")], &["127.0.0.1:0"], &["--no-role"]);
    assert_eq!(body(&mock, "meta-data/iam"), None);
}

#[test]
fn a_change_of_the_mac_moves_its_interface() {
    let mock =
        Mock::start(&["--set", "/latest/meta-data/mac=02:00:5e:00:53:99", "--remove", "meta-data/tags"]);
    let macs = "meta-data/network/interfaces/macs";
    assert_eq!(body(&mock, macs).as_deref(), Some("02:00:5e:00:53:99/"));
    assert_eq!(body(&mock, &format!("{macs}/02:00:5e:00:53:99/mac")).as_deref(), Some("02:00:5e:00:53:99"));
    assert_eq!(body(&mock, "meta-data/tags"), None);
    assert!(!body(&mock, "meta-data").unwrap().contains("tags"));
}

#[test]
fn without_notices_asked_for_there_are_none() {
    let mock = Mock::start(&["--mock-delay-sec", "0", "--mock-ip-count", "2", "--mock-delay-from", "start"]);
    for path in ["meta-data/spot", "meta-data/autoscaling", "meta-data/events/recommendations"] {
        assert_eq!(body(&mock, path), None, "{path}");
    }
}

#[test]
fn a_trigger_time_goes_before_a_delay_and_no_address_may_be_eligible() {
    let past =
        ["--spot-action", "stop", "--mock-delay-sec", "1000", "--mock-trigger-time", "2020-01-07T01:03:47Z"];
    let shown = "{\"action\": \"stop\", \"time\": \"2020-01-07T01:05:47Z\"}";
    assert_eq!(body(&Mock::start(&past), "meta-data/spot/instance-action").as_deref(), Some(shown));
    let nobody = Mock::start(&[&past[..], &["--mock-ip-count", "0"]].concat());
    assert_eq!(body(&nobody, "meta-data/spot"), None);
}

#[test]
fn what_is_wrong_in_a_file_is_said_with_its_name_and_code_78() {
    let cases = [
        ("colour = 1", "colour"),
        ("config-file = \"x\"", "config-file"),
        ("delay = \"soon\"", "soon"),
        ("[spot]\naction = \"explode\"", "explode"),
        ("[spot]\ntime = \"tomorrow\"", "RFC 3339"),
        ("[meta-data]\n\"a/b\" = 1", "a/b"),
        ("[meta-data]\nx = \"{{colour}}\"", "colour"),
        ("[meta-data]\nx = \"{{meta-data/y}}\"", "meta-data/y"),
        ("remove = [\"meta-data/colour\"]", "meta-data/colour"),
        ("rebalance-delay-sec = 5\n[meta-data.events]\nrecommendations = \"x\"", "recommendations/rebalance"),
        ("= 5", "line 1"),
    ];
    let file = Scratch::new("wrong.toml");
    for (text, word) in cases {
        std::fs::write(file.path(), text).unwrap();
        let output = program().args(["--config-file", file.text()]).output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(78), "{text}: {message}");
        assert!(message.contains(word) && message.contains(file.text()), "{text}: {message}");
    }
    let codes = [
        (vec!["--config-file", "/nonexistent/file"], 66),
        (vec!["--remove", "meta-data/colour"], 64),
        (vec!["--set", "=5"], 64),
        (vec!["--asg-lifecycle-state", "Tired"], 64),
    ];
    for (arguments, code) in codes {
        let status = program().args(&arguments).output().unwrap().status;
        assert_eq!(status.code(), Some(code), "{arguments:?}");
    }
    let output = program().env("IMDS_MOCK_DELAY", "soon").output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8(output.stderr).unwrap().contains("soon"));
}
