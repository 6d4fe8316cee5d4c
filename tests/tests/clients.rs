//! The clients people use, as an allowed and as a denied user: curl, boto3, a dual-stack socket; IPv4 and IPv6.
//! Each first meets the bare service, so that a failure is the filter's.

use imds_tests::Lab;

/// alice may have credentials, bob may read the rest only.
const RULES: &str = r#"
Allow user alice "/"
Allow user bob "/"
Deny user bob "/latest/meta-data/iam/security-credentials"
Deny user bob "/latest/meta-data/identity-credentials"
"#;
const V4: &str = "http://169.254.169.254";
const V6: &str = "http://[fd00:ec2::254]";
const HOSTNAME: &str = "/latest/meta-data/hostname";
const CREDENTIALS: &str = "/latest/meta-data/iam/security-credentials/";

fn filtered() -> Lab {
    Lab::new().rules(RULES)
}

/// The status of a plain GET, as IMDSv1 clients do it.
fn curl(lab: &Lab, user: &str, url: &str) -> String {
    let script =
        format!("imds-lab as {user} -- curl -sS -g -o /dev/null -w '%{{http_code}}' --max-time 5 '{url}'");
    lab.script(&script).expect_success()
}

fn boto(lab: &Lab, user: &str, arguments: &str) -> imds_tests::Outcome {
    lab.script(&format!("imds-lab as {user} -- /usr/bin/python3 -B $LAB/tests/clients/boto.py {arguments}"))
}

#[test]
fn curl_gets_what_the_rules_give_its_user() {
    for base in [V4, V6] {
        assert_eq!(curl(&Lab::bare(), "bob", &format!("{base}{CREDENTIALS}")), "200", "bare {base}");
        assert_eq!(curl(&filtered(), "alice", &format!("{base}{CREDENTIALS}")), "200", "alice {base}");
        assert_eq!(curl(&filtered(), "bob", &format!("{base}{CREDENTIALS}")), "403", "bob {base}");
        assert_eq!(curl(&filtered(), "bob", &format!("{base}{HOSTNAME}")), "200", "bob {base}");
        assert_eq!(curl(&filtered(), "mallory", &format!("{base}{HOSTNAME}")), "403", "mallory {base}");
    }
}

#[test]
fn curl_gets_the_very_bytes_of_the_service() {
    for base in [V4, V6] {
        let command = ["curl", "-sSg", "--max-time", "5", &format!("{base}{HOSTNAME}")];
        let direct = Lab::bare().user("alice").run(&command).expect_success();
        assert!(!direct.is_empty());
        assert_eq!(filtered().user("alice").run(&command).expect_success(), direct);
    }
}

#[test]
fn the_token_flow_works_by_hand() {
    for base in [V4, V6] {
        let script = format!(
            "token=$(curl -sSgf -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' {base}/latest/api/token)
            curl -sSgf -o /dev/null -w '%{{http_code}}' -H \"X-aws-ec2-metadata-token: $token\" {base}{HOSTNAME}"
        );
        let lab = filtered().mock_argument("--imdsv2-only").user("alice");
        assert_eq!(lab.script(&script).expect_success(), "200");
        // and it is the token that opened it
        let without = format!("curl -sSg -o /dev/null -w '%{{http_code}}' {base}{HOSTNAME}");
        assert_eq!(lab.script(&without).expect_success(), "401");
    }
}

#[test]
fn boto3_finds_credentials_as_an_allowed_user() {
    for (arguments, how) in [("", "IPv4"), ("--ipv6", "IPv6")] {
        let direct = boto(&Lab::bare(), "alice", arguments).expect_success();
        assert!(direct.contains("iam-role"), "{how}, bare: {direct}");
        // the access key is new in each lab, the rest is the same
        let first_word = |text: &str| text.split_whitespace().next().map(str::to_owned);
        let filtered = boto(&filtered(), "alice", arguments).expect_success();
        assert_eq!(first_word(&filtered), first_word(&direct), "{how}: {filtered}");
        assert_eq!(filtered.lines().last(), direct.lines().last(), "{how}");
    }
}

#[test]
fn boto3_uses_the_token_flow() {
    let lab = filtered().mock_argument("--imdsv2-only");
    assert!(boto(&lab, "alice", "").expect_success().contains("iam-role"));
}

#[test]
fn boto3_finds_none_as_a_denied_user_and_does_not_hang() {
    for arguments in ["", "--ipv6"] {
        for user in ["bob", "mallory"] {
            let outcome = boto(&filtered(), user, arguments);
            assert_eq!(
                (outcome.status, outcome.stdout.as_str()),
                (1, "no credentials\n"),
                "{}",
                outcome.stderr
            );
        }
    }
}

#[test]
fn a_dual_stack_socket_is_its_user_too() {
    let script = |user: &str| {
        format!(
            "imds-lab as {user} -- /usr/bin/python3 -B $LAB/tests/clients/dual_stack.py {HOSTNAME} {CREDENTIALS}"
        )
    };
    assert_eq!(Lab::bare().script(&script("mallory")).expect_success(), "200\n200\n");
    assert_eq!(filtered().script(&script("alice")).expect_success(), "200\n200\n");
    assert_eq!(filtered().script(&script("bob")).expect_success(), "200\n403\n");
    assert_eq!(filtered().script(&script("mallory")).expect_success(), "403\n403\n");
}
