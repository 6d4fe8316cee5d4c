//! The clock by which tests bound a wait.
//! Stops this very process for a moment, all its threads.

use imds_tests::Stopwatch;
use std::process::Command;
use std::time::Duration;

fn sh(script: &str) {
    assert!(Command::new("sh").args(["-c", script]).status().unwrap().success(), "{script}");
}

#[test]
fn time_that_the_machine_keeps_to_itself_does_not_count_and_other_time_does() {
    let watch = Stopwatch::start();
    sh("kill -STOP $PPID; sleep 1; kill -CONT $PPID");
    assert!(watch.on_the_wall() >= Duration::from_secs(1));
    assert!(watch.elapsed() < Duration::from_millis(500), "{:?}", watch.elapsed());
    // of some: the machine may do the same now
    let counts = (0..20).any(|_| {
        let watch = Stopwatch::start();
        sh("sleep 0.1");
        watch.elapsed() >= Duration::from_millis(100)
    });
    assert!(counts);
}
