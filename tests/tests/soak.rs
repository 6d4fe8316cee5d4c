//! The soak test in a short form; `make soak` is the long one.

use imds_tests::Lab;

/// Nobody else is allowed anything.
const RULES: &str = "Allow user alice \"/\"\nAllow user bob \"/\"\n";

#[test]
fn no_request_is_lost_while_filterd_is_killed_and_restarted() {
    let lab = Lab::new().rules(RULES);
    let words = ["imds-soak", "run", "--kills", "12", "--restarts", "12", "--requests", "1600"];
    let text = lab.run(&words).expect_success();
    assert!(text.contains(" 12 kills, ") && text.contains(" 12 restarts: 0 failed"), "{text}");
}
