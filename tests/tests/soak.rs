//! The soak test in a short form; `make soak` is the long one.

use imds_tests::Lab;

/// Nobody else is allowed anything.
const RULES: &str = "Allow user alice \"/\"\nAllow user bob \"/\"\n";

#[test]
fn no_request_is_lost_while_filterd_is_killed_restarted_and_told_of_other_rules() {
    let lab = Lab::new().rules(RULES);
    let (often, requests) = ("12", "1600");
    let words = [
        "imds-soak",
        "run",
        "--kills",
        often,
        "--reloads",
        often,
        "--restarts",
        often,
        "--requests",
        requests,
    ];
    let text = lab.run(&words).expect_success();
    assert!(text.contains(" 12 kills, 12 reloads, 12 restarts: "), "{text}");
}
