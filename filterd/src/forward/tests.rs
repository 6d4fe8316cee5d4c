//! Services that stop, stall and say too much, on a clock that is moved by hand.
//! Must not wait for real.

use super::flow::FlowError;
use super::*;
use http_body_util::BodyExt;
use imds_rules::{Names, Profile, Rules, Subject, Verdict, decide};
use std::io::Write;
use std::net::TcpListener;
use tokio::time::Instant;

fn permit() -> Permit {
    let parsed = imds_rules::parse("t", b"Allow \"/\"\n").unwrap();
    let rules = Rules::new(&parsed, &Names::default());
    let address = "169.254.169.254".parse().unwrap();
    let head = imds_rules::Head {
        method: b"GET",
        target: b"/a",
        version: imds_rules::Version::Http10,
        headers: &[],
    };
    let request = imds_rules::Request::canonicalise(&head, &Profile::ec2(vec![address], 80, vec![])).unwrap();
    match decide(&rules, &Subject::of_uid(1), request) {
        Verdict::Allow(permit) => permit,
        Verdict::Deny(denial) => panic!("{denial}"),
    }
}

/// Runs on a clock that jumps to the next timer whenever there is nothing to do.
fn on_a_paused_clock(test: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().start_paused(true).build().unwrap().block_on(test);
}

/// Ours, with `sent` under way to it, and the service's end.
fn upstream(sent: &[u8]) -> (Upstream, std::net::TcpStream) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let ours = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut theirs, _) = listener.accept().unwrap();
    theirs.write_all(sent).unwrap();
    (Upstream::new(ours.into(), HeaderValue::from_static("h")).unwrap(), theirs)
}

#[test]
fn a_service_that_says_nothing_is_given_up_in_time() {
    on_a_paused_clock(async {
        for said in ["", "HTTP/1.1 200 OK\r\nServer: EC2"] {
            let (upstream, _theirs) = upstream(said.as_bytes());
            let begun = Instant::now();
            assert_eq!(forward(&permit(), upstream, 10).await.err(), Some(ForwardError::TimedOut));
            assert_eq!(begun.elapsed().as_secs(), ANSWER_TIME.as_secs());
        }
    });
}

#[test]
fn a_service_that_stops_in_the_middle_of_its_answer_is_given_up_in_time() {
    on_a_paused_clock(async {
        let (upstream, _theirs) = upstream(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab");
        let mut flow =
            forward(&permit(), upstream, 10).await.unwrap_or_else(|error| panic!("{error}")).0.into_body();
        assert_eq!(flow.frame().await.unwrap().unwrap().into_data().unwrap(), "ab");
        let begun = Instant::now();
        assert_eq!(flow.frame().await.unwrap().err(), Some(FlowError::Stalled));
        assert_eq!(begun.elapsed().as_secs(), STALL_TIME.as_secs());
    });
}
