//! The SDKs and cloud-init, unchanged: each asks the service directly and then through the filter, in one lab, since the
//! secrets are new in each. The same output, the same requests, in the same order; and what each says when denied.
//! Needs what tests/clients/install.sh installs.

use imds_tests::Lab;

/// alice may have credentials, bob may read the rest only, mallory nothing.
const RULES: &str = r#"
Allow user alice "/"
Allow user root "/"
Allow user bob "/"
Deny user bob "/*/meta-data/iam/security-credentials"
"#;
/// What makes SDKs fall back to IMDSv1.
const NO_TOKENS: &str = r#"
Allow user alice "/"
Deny "/latest/api"
"#;
const TOKEN_REQUEST: &str = "PUT /latest/api/token";

const AWS_CLI: &str = "$python -m awscli configure list";
const SMITHY: &str = "node $LAB/tests/clients/smithy.js";
const INSTANCE_FACTS: &str = "$python $LAB/tests/clients/instance_facts.py";
const CLOUD_INIT: &str = "$python $LAB/tests/clients/cloud_init.py";
const CLOUD_INIT_V1: &str = "$python $LAB/tests/clients/cloud_init.py --v1";
const AWS_CONFIG: &str = "$clients/aws-config-client";

/// `run USER` runs `$client` over both families and tells what came of it: `=== ` and the status, then each line it wrote
/// after `| ` and each request that the service recorded meanwhile after `> `. `filter` starts the daemons.
/// A client that hangs gives 124; a denial takes none of them more than some seconds.
const SCRIPT: &str = r#"
clients=/run/lab/bin/clients
[ -e $clients/complete ] || { echo 'no clients: run tests/clients/install.sh' >&2; exit 69; }
python=$clients/python/bin/python
export AWS_CONFIG_FILE=/nonexistent AWS_SHARED_CREDENTIALS_FILE=/nonexistent
export NODE_PATH=$clients/javascript/node_modules PYTHONPATH=$clients/cloud-init
run() {
    for mode in IPv4 IPv6; do
        before=$(wc -l <$LAB_RECORD)
        status=0
        AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE=$mode imds-lab as $1 -- timeout 20 $client >$TMPDIR/said || status=$?
        echo "=== $status"
        sed 's/^/| /' $TMPDIR/said
        tail -n +$((before + 1)) $LAB_RECORD | sed 's/^/> /'
    done
}
filter() {
    imds-lab start interceptor
    imds-lab start filterd
}
"#;

/// One run of a client.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    status: i32,
    said: String,
    received: Vec<Received>,
}

/// A request as it reached the service.
#[derive(Debug, PartialEq, Eq)]
struct Received {
    /// `GET /latest/meta-data/`
    line: String,
    with_token: bool,
}

impl Run {
    fn parse(text: &str) -> Self {
        let mut lines = text.lines();
        let status = lines.next().and_then(|line| line.parse().ok()).expect("a status");
        let mut run = Self { status, said: String::new(), received: Vec::new() };
        for line in lines {
            match line.split_at(2) {
                ("| ", said) => run.said += &format!("{said}\n"),
                ("> ", record) => run.received.push(Received::parse(record)),
                _ => panic!("neither said nor received: {line}"),
            }
        }
        run
    }

    fn gets(&self) -> Vec<&str> {
        let lines = self.received.iter().map(|received| received.line.as_str());
        lines.filter(|line| line.starts_with("GET ")).collect()
    }

    /// Each run asks for one token and shows it ever after.
    fn assert_tokens_used(&self) {
        let (first, rest) = self.received.split_first().expect("something was asked");
        assert_eq!(first.line, TOKEN_REQUEST);
        assert!(!rest.is_empty() && rest.iter().all(|received| received.with_token), "{rest:?}");
    }

    fn assert_no_tokens_used(&self) {
        let v1 = |received: &Received| !received.with_token && received.line.starts_with("GET ");
        assert!(!self.received.is_empty() && self.received.iter().all(v1), "{:?}", self.received);
    }

    #[track_caller]
    fn assert_said(&self, status: i32, what: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert!(self.said.contains(what), "{what:?} expected: {self:?}");
    }

    /// What was denied never reached the service.
    fn assert_no_credentials_asked(&self) {
        assert!(!self.gets().iter().any(|line| line.contains("security-credentials")), "{self:?}");
    }
}

impl Received {
    fn parse(record: &str) -> Self {
        let record: serde_json::Value = serde_json::from_str(record).expect("a line of the mock's record");
        let head = record.get("bytes").and_then(|bytes| bytes.as_str()).expect("its bytes");
        let (line, _) = head.split_once(" HTTP/1.1\r\n").expect("a request line");
        let with_token = head.to_ascii_lowercase().contains("\r\nx-aws-ec2-metadata-token: ");
        Self { line: line.into(), with_token }
    }
}

/// The runs that `steps` makes; two for each, IPv4 and IPv6.
fn meet(lab: Lab, client: &str, steps: &str) -> Vec<Run> {
    let script = format!("{SCRIPT}\nclient=\"{client}\"\n{steps}");
    let text = lab.script(&script).expect_success();
    text.split("=== ").skip(1).map(Run::parse).collect()
}

fn tokens_only() -> Lab {
    Lab::bare().rules(RULES).mock_argument("--imdsv2-only")
}

/// What bob and mallory meet, in this order, when alice has met the same with and without the filter.
fn allowed_then_denied(client: &str, result: &str) -> [Run; 4] {
    let runs = meet(tokens_only(), client, "run alice; filter; run alice; run bob; run mallory");
    let [direct, direct6, filtered, filtered6, bob, bob6, mallory, mallory6] =
        <[Run; 8]>::try_from(runs).expect("eight runs");
    for run in [&direct, &direct6, &filtered, &filtered6] {
        run.assert_said(0, result);
        run.assert_tokens_used();
    }
    assert_eq!(filtered, direct, "IPv4");
    assert_eq!(filtered6, direct6, "IPv6");
    for denied in [&bob, &bob6, &mallory, &mallory6] {
        denied.assert_no_credentials_asked();
    }
    for nothing in [&mallory, &mallory6] {
        assert!(nothing.received.is_empty(), "{nothing:?}");
    }
    [bob, bob6, mallory, mallory6]
}

/// Through a filter that gives no tokens: the same output and the same reads, without a token.
fn falls_back_to_v1(client: &str, result: &str) {
    let runs = meet(Lab::bare().rules(NO_TOKENS), client, "run alice; filter; run alice");
    let [direct, direct6, filtered, filtered6] = <[Run; 4]>::try_from(runs).expect("four runs");
    for (filtered, direct) in [(filtered, direct), (filtered6, direct6)] {
        filtered.assert_said(0, result);
        filtered.assert_no_tokens_used();
        direct.assert_tokens_used();
        assert_eq!(filtered.said, direct.said);
        assert_eq!(filtered.gets(), direct.gets());
    }
}

#[test]
fn aws_cli_finds_the_same_credentials_through_the_filter_and_none_when_denied() {
    for denied in allowed_then_denied(AWS_CLI, "iam-role") {
        denied.assert_said(0, "access_key                <not set>");
    }
}

#[test]
fn aws_cli_falls_back_to_v1() {
    falls_back_to_v1(AWS_CLI, "iam-role");
}

#[test]
fn the_javascript_sdk_finds_the_same_credentials_through_the_filter_and_says_403_when_denied() {
    for denied in allowed_then_denied(SMITHY, "secret-key MockSecretNotReal") {
        denied.assert_said(
            1,
            "failed: ProviderError 403 Error response received from instance metadata service",
        );
    }
}

#[test]
fn the_javascript_sdk_falls_back_to_v1() {
    falls_back_to_v1(SMITHY, "secret-key MockSecretNotReal");
}

#[test]
fn the_rust_sdk_finds_the_same_credentials_through_the_filter_and_says_403_when_denied() {
    let [bob, bob6, mallory, mallory6] = allowed_then_denied(AWS_CONFIG, "secret-key MockSecretNotReal");
    for bob in [bob, bob6] {
        bob.assert_said(1, "region us-east-1\n");
        bob.assert_said(
            1,
            "failed: an error occurred while loading credentials: error response from IMDS (code: 403)",
        );
    }
    for mallory in [mallory, mallory6] {
        mallory.assert_said(1, "failed: failed to load IMDS session token: service error: request forbidden");
    }
}

#[test]
fn ec2_metadata_reads_the_same_through_the_filter_and_says_403_when_denied() {
    let [bob, bob6, mallory, mallory6] = allowed_then_denied(INSTANCE_FACTS, "MockSecretNotReal");
    for bob in [bob, bob6] {
        bob.assert_said(1, "instance_id i-0123456789abcdef0\n");
        bob.assert_said(1, "failed: iam_security_credentials HTTPError HTTP 403");
    }
    for mallory in [mallory, mallory6] {
        mallory.assert_said(1, "failed: instance_id HTTPError Failed to fetch token: 403");
    }
}

#[test]
fn cloud_init_crawls_the_same_through_the_filter_and_takes_a_denial_for_a_service_that_is_off() {
    // it reads no credentials, so that bob gets all of it
    let steps = "run root; filter; run root; run bob; run mallory";
    let runs = meet(tokens_only(), CLOUD_INIT, steps);
    let [direct, direct6, root, root6, bob, bob6, mallory, mallory6] =
        <[Run; 8]>::try_from(runs).expect("eight runs");
    for (direct, filtered) in [(&direct, [root, bob]), (&direct6, [root6, bob6])] {
        direct.assert_said(0, r#""instance-id": "i-0123456789abcdef0""#);
        direct.assert_tokens_used();
        direct.assert_no_credentials_asked();
        for filtered in filtered {
            assert_eq!(&filtered, direct);
        }
    }
    for mallory in [mallory, mallory6] {
        mallory
            .assert_said(1, "Ec2 IMDS endpoint returned a 403 error. HTTP endpoint is disabled. Aborting.");
        assert!(mallory.received.is_empty(), "{mallory:?}");
    }
}

#[test]
fn cloud_init_crawls_the_same_by_v1_and_ends_when_denied() {
    let runs = meet(Lab::bare().rules(RULES), CLOUD_INIT_V1, "run root; filter; run root; run mallory");
    let [direct, direct6, root, root6, mallory, mallory6] = <[Run; 6]>::try_from(runs).expect("six runs");
    for (direct, filtered) in [(direct, root), (direct6, root6)] {
        direct.assert_said(0, r#""instance-id": "i-0123456789abcdef0""#);
        direct.assert_no_tokens_used();
        assert_eq!(filtered, direct);
    }
    for mallory in [mallory, mallory6] {
        mallory.assert_said(1, "403");
        assert!(mallory.received.is_empty(), "{mallory:?}");
    }
}

/// As it is installed: whoever is not root has no credentials, whatever SDK it uses, and root has them.
#[test]
fn the_shipped_rules_give_credentials_to_root_alone() {
    for (client, secret) in [(AWS_CLI, "iam-role"), (SMITHY, "NotReal"), (AWS_CONFIG, "NotReal")] {
        let runs = meet(Lab::bare(), client, "filter; run root; run alice");
        let [root, root6, alice, alice6] = <[Run; 4]>::try_from(runs).expect("four runs");
        for root in [root, root6] {
            root.assert_said(0, secret);
        }
        for alice in [alice, alice6] {
            assert!(!alice.received.is_empty(), "the token, at least");
            alice.assert_no_credentials_asked();
            assert!(!alice.said.contains(secret), "{alice:?}");
        }
    }
}

/// Refused connections and resets are errors of their own to each client; none may wait for long, none may get anything.
#[test]
fn every_sdk_gives_up_soon_when_a_daemon_is_dead() {
    for daemon in ["filterd", "interceptor"] {
        let others =
            [SMITHY, INSTANCE_FACTS, AWS_CONFIG].map(|client| format!("client=\"{client}\"; run alice"));
        let steps = format!("filter; imds-lab kill {daemon}; run alice; {}", others.join("; "));
        let runs = meet(tokens_only(), AWS_CLI, &steps);
        assert_eq!(runs.len(), 8);
        let (aws_cli, others) = runs.split_at(2);
        for run in aws_cli {
            run.assert_said(0, "access_key                <not set>");
        }
        for run in others {
            run.assert_said(1, "failed: ");
        }
        assert!(runs.iter().all(|run| run.received.is_empty()), "{daemon}: {runs:?}");
    }
}
