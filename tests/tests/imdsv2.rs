//! IMDSv2 end to end: what is on the tun, tokens that belong to a user, IMDSv1 translated and told of.
//! What each part does by itself is tested where it is.

use imds_tests::Lab;

const RULES: &str = "Allow user alice \"/\"\nAllow user bob \"/\"\n";
const BOUND: &str = "[filter]\ntokens = \"bound\"\n";
/// `token USER` asks for one, `with USER TOKEN` and `without USER` print a status.
const WORDS: &str = r#"
base=http://169.254.169.254/latest
as() { user=$1; shift; imds-lab as "$user" -- curl -sSg --max-time 5 "$@"; }
token() { as "$1" -f -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' $base/api/token; }
with() { as "$1" -o /dev/null -w '%{http_code} ' -H "X-aws-ec2-metadata-token: $2" $base/meta-data/hostname; }
without() { as "$1" -o /dev/null -w '%{http_code} ' $base/meta-data/hostname; }
"#;

fn script(lab: &Lab, text: &str) -> String {
    lab.script(&format!("{WORDS}{text}")).expect_success()
}

#[test]
fn every_answer_on_the_tun_carries_the_configured_hop_limit() {
    for (config, wanted) in [("", "1"), ("[capture]\nhop_limit = 7\n", "7")] {
        let lab = Lab::new().rules(RULES).config(config);
        let text = lab.script("/usr/bin/python3 -B \"$LAB/tests/clients/hops.py\"").expect_success();
        let kinds: Vec<Vec<&str>> = text.lines().map(|line| line.split(' ').collect()).collect();
        assert_eq!(
            kinds.iter().map(|words| words[0]).collect::<Vec<_>>(),
            ["ack", "data", "fin", "reset", "syn"]
        );
        assert!(kinds.iter().all(|words| words[2] == wanted), "{text}");
    }
}

#[test]
fn a_bound_token_is_its_users_alone_and_survives_a_restart_of_filterd() {
    for mock in ["--imdsv2-only", "--role=r"] {
        let lab = Lab::new().rules(RULES).config(BOUND).mock_argument(mock);
        let text = script(
            &lab,
            "alice=$(token alice); bob=$(token bob)
            with alice $alice; with bob $bob; with alice $bob; with bob $alice; with mallory $alice
            imds-lab stop filterd; imds-lab start filterd
            with alice $alice; with bob $alice; with bob $bob
            imds-lab kill filterd; imds-lab start filterd
            with alice $alice; with alice $bob
            grep -c \"$alice\" $LAB_RECORD $LAB_AUDIT $LAB/log/* | grep -v ':0$' || :",
        );
        assert_eq!(text, "200 200 401 401 401 200 401 200 200 401 ", "{mock}");
    }
}

#[test]
fn imdsv1_is_served_where_the_instance_requires_tokens_to_whom_a_rule_says_and_it_is_told_of() {
    let rules = format!("{RULES}Translate user bob \"/latest/meta-data\"\n");
    let lab = Lab::new().rules(&rules).mock_argument("--imdsv2-only");
    let text = script(
        &lab,
        "without alice; without bob; with alice $(token alice); without bob
        imdsctl v1-report \"$LAB_AUDIT\"",
    );
    let (statuses, report) = text.split_once("times").unwrap();
    assert_eq!(statuses.trim(), "401 200 200 200");
    let rows: Vec<Vec<&str>> = report.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    let shown: Vec<_> = rows.iter().map(|row| (row[0], row[2], *row.last().unwrap())).collect();
    assert_eq!(
        shown,
        [("2", "bob", "/latest/meta-data/hostname"), ("1", "alice", "/latest/meta-data/hostname")]
    );
}

#[test]
fn imdsv2_is_enforced_whatever_the_instance_does() {
    let lab = Lab::new().rules(&format!("{RULES}Deny user bob no-token \"/\"\n"));
    let text = script(&lab, "without alice; without bob; with bob $(token bob)");
    assert_eq!(text, "200 403 200 ");
}
