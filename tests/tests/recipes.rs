//! The recipes of the shipped imds.conf: each agent's own requests, made by its user, without the recipe and with it.
//! Which paths they are was read in the agents' sources; they stand beside each table.

use imds_tests::Lab;

const SHIPPED: &str = include_str!("../../conf/imds.conf");
const ROLE: &str = "/latest/meta-data/iam/security-credentials/";
const CREDENTIALS: &str = "/latest/meta-data/iam/security-credentials/imds-mock-role";
const OWN: &str = "/latest/meta-data/identity-credentials/ec2/security-credentials/ec2-instance/";
const DOCUMENT: &str = "/latest/dynamic/instance-identity/document";
const SIGNATURE: &str = "/latest/dynamic/instance-identity/signature";
const PKCS7: &str = "/latest/dynamic/instance-identity/pkcs7";
const INSTANCE_ID: &str = "/latest/meta-data/instance-id";
const HOSTNAME: &str = "/latest/meta-data/hostname";
const KEYS: &str = "/latest/meta-data/managed-ssh-keys/signer-cert/";
const VPC: &str = "/latest/meta-data/network/interfaces/macs/02:00:5e:00:53:01/vpc-id";

/// Who asks for what, and the statuses without and with the recipe.
type Walk = &'static [(&'static str, &'static str, u16, u16)];

/// The rules of one recipe, without the signs that make them comments.
fn recipe(name: &str) -> String {
    let paragraph =
        SHIPPED.split("\n\n").find(|paragraph| paragraph.starts_with(&format!("# Recipe: {name}")));
    let lines = paragraph.unwrap_or_else(|| panic!("no recipe {name}")).lines();
    let rules: Vec<&str> =
        lines.filter_map(|line| line.strip_prefix('#').filter(|rule| !rule.starts_with(' '))).collect();
    assert!(!rules.is_empty(), "{name}");
    rules.join("\n") + "\n"
}

/// In one lab: the shipped rules, then the same with the recipe. Every request shows a token of its own user's.
fn walk(name: &str, steps: Walk) {
    let mut accounts = String::new();
    for (number, name) in
        ["cwagent", "ssm-user", "task", "ec2-instance-connect", "dd-agent", "vault", "www-data"]
            .iter()
            .enumerate()
    {
        let uid = if *name == "task" { 1000 } else { 900 + number };
        accounts += &format!(
            "sed -i '/^{name}:/d' /etc/passwd /etc/group
            echo '{name}:x:{uid}:{uid}::/nonexistent:/bin/sh' >>/etc/passwd; echo '{name}:x:{uid}:' >>/etc/group\n"
        );
    }
    let asks: String = steps.iter().map(|(user, path, ..)| format!("ask {user} {path}\n")).collect();
    let script = format!(
        r#"{accounts}echo 'deploy:x:950:alice' >>/etc/group
        base=http://169.254.169.254
        ask() {{
            token=$(imds-lab as $1 -- curl -sS -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' $base/latest/api/token)
            echo "$(imds-lab as $1 -- curl -sS -o /dev/null -w '%{{http_code}}' -H "X-aws-ec2-metadata-token: $token" $base$2)"
        }}
        imds-lab start interceptor
        imds-lab start filterd
        {asks}
        imds-lab stop filterd
        cat >>/run/lab/imds.conf <<'END'
{}END
        imdsctl check /run/lab/imds.conf >/dev/null
        imds-lab start filterd
        {asks}"#,
        recipe(name)
    );
    let text = Lab::bare().mock_argument("--imdsv2-only").rules(SHIPPED).script(&script).expect_success();
    let statuses: Vec<&str> = text.lines().collect();
    let (before, after) = statuses.split_at(steps.len());
    for (((user, path, without, with), before), after) in steps.iter().zip(before).zip(after) {
        assert_eq!(
            (*before, *after),
            (&*without.to_string(), &*with.to_string()),
            "{name}: {user} {path}\n{text}"
        );
    }
    assert!(steps.iter().any(|(_, _, without, with)| without != with), "{name}: the recipe changes nothing");
}

/// aws/amazon-cloudwatch-agent, internal/ec2metadataprovider
#[test]
fn cloudwatch_agent() {
    walk(
        "Amazon CloudWatch agent",
        &[
            ("cwagent", ROLE, 403, 200),
            ("cwagent", CREDENTIALS, 403, 200),
            ("cwagent", DOCUMENT, 200, 200),
            ("cwagent", HOSTNAME, 200, 200),
            ("cwagent", INSTANCE_ID, 200, 200),
            ("cwagent", "/latest/meta-data/tags/instance", 200, 200),
            ("cwagent", "/latest/user-data", 403, 403),
            ("bob", CREDENTIALS, 403, 403),
        ],
    );
}

/// aws/amazon-ssm-agent, agent/platform/instance_metadata.go
#[test]
fn ssm_agent_and_its_shells() {
    walk(
        "SSM agent",
        &[
            ("root", CREDENTIALS, 200, 200),
            ("root", OWN, 200, 200),
            ("root", DOCUMENT, 200, 200),
            ("root", SIGNATURE, 200, 200),
            ("root", PKCS7, 200, 200),
            ("root", "/latest/meta-data/services/domain", 200, 200),
            ("ssm-user", CREDENTIALS, 403, 403),
            ("ssm-user", INSTANCE_ID, 200, 403),
            ("ssm-user", "/", 200, 403),
        ],
    );
}

/// aws/amazon-ecs-agent, agent/ec2/ec2_metadata_client.go
#[test]
fn ecs_agent_and_its_tasks() {
    walk(
        "ECS agent",
        &[
            ("root", CREDENTIALS, 200, 200),
            ("root", DOCUMENT, 200, 200),
            ("root", SIGNATURE, 200, 200),
            ("root", VPC, 200, 200),
            // there is none; the service says so itself
            ("root", "/latest/user-data", 404, 404),
            ("root", "/latest/meta-data/spot/instance-action", 404, 404),
            ("task", ROLE, 403, 200),
            ("task", CREDENTIALS, 403, 200),
            ("task", "/latest/user-data", 403, 403),
            ("bob", CREDENTIALS, 403, 403),
        ],
    );
}

/// aws/aws-ec2-instance-connect-config, src/bin: eic_curl_authorized_keys, and eic_harvest_hostkeys of older versions
#[test]
fn ec2_instance_connect() {
    walk(
        "EC2 Instance Connect",
        &[
            ("ec2-instance-connect", "/latest/meta-data/instance-id/", 200, 200),
            ("ec2-instance-connect", "/latest/meta-data/placement/availability-zone/", 200, 200),
            ("ec2-instance-connect", "/latest/meta-data/services/domain/", 200, 200),
            ("ec2-instance-connect", KEYS, 200, 200),
            // nobody pushed one
            ("ec2-instance-connect", "/latest/meta-data/managed-ssh-keys/active-keys/alice/", 404, 404),
            ("ec2-instance-connect", OWN, 403, 200),
            ("ec2-instance-connect", CREDENTIALS, 403, 403),
            ("root", KEYS, 200, 200),
            ("alice", KEYS, 200, 403),
            ("alice", OWN, 403, 403),
        ],
    );
}

/// DataDog/datadog-agent, pkg/util/ec2
#[test]
fn datadog_agent() {
    walk(
        "Datadog agent",
        &[
            ("dd-agent", ROLE, 403, 200),
            ("dd-agent", CREDENTIALS, 403, 200),
            ("dd-agent", INSTANCE_ID, 200, 200),
            ("dd-agent", HOSTNAME, 200, 200),
            ("dd-agent", "/latest/dynamic/instance-identity/document/", 200, 200),
            ("dd-agent", "/latest/meta-data/network/interfaces/macs", 200, 200),
            ("dd-agent", VPC, 200, 200),
            ("dd-agent", "/latest/meta-data/tags/instance/Name", 200, 200),
            ("dd-agent", SIGNATURE, 403, 403),
            ("bob", CREDENTIALS, 403, 403),
        ],
    );
}

/// hashicorp/vault, command/agentproxyshared/auth/aws; pkcs7 is what its documentation logs in with by hand
#[test]
fn vault() {
    walk(
        "HashiCorp Vault",
        &[
            ("vault", CREDENTIALS, 403, 200),
            ("vault", DOCUMENT, 200, 200),
            ("vault", SIGNATURE, 403, 200),
            ("vault", PKCS7, 403, 200),
            ("vault", OWN, 403, 403),
            ("bob", PKCS7, 403, 403),
        ],
    );
}

#[test]
fn a_group_that_may_use_the_role() {
    walk("a group that may", &[("alice", CREDENTIALS, 403, 200), ("bob", CREDENTIALS, 403, 403)]);
}

#[test]
fn a_web_server_reads_nothing() {
    walk("a web server", &[("www-data", HOSTNAME, 200, 403), ("alice", HOSTNAME, 200, 200)]);
}

#[test]
fn every_recipe_is_walked() {
    let own = include_str!("recipes.rs");
    for name in SHIPPED.split("# Recipe: ").skip(1) {
        let begin: String = name.split(['.', ',']).next().unwrap().chars().take(12).collect();
        assert!(own.contains(&format!("\"{begin}")), "{begin}");
    }
}
