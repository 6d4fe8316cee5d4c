//! What a verdict costs by itself, and the rules that the bench loads.
//! Asks no daemon.

use crate::report::Spread;
use imds_rules::{Head, Names, Profile, Request, Rules, Subject, Verdict, Version, decide, parse};
use std::hint::black_box;
use std::io;
use std::time::Instant;

const RUNS: usize = 25;
const VERDICTS: usize = 1000;

/// So many rules: one that allows the bench what it asks, and others after it.
pub(crate) fn rules(count: usize) -> String {
    let others = (1..count).map(|n| match n % 2 {
        0 => format!("Allow user {} \"/latest/meta-data/x{n}\"\n", 20_000 + n),
        _ => format!("Allow \"/*/dynamic/y{n}\"\n"),
    });
    ["Allow \"/\"\n".to_owned()].into_iter().chain(others).collect()
}

/// For each number of rules, in turns, so that a slow moment is not one number's fault.
///
/// # Errors
/// When the rules or the request are not as they should be.
pub(crate) fn nanoseconds<const N: usize>(counts: [usize; N]) -> io::Result<Vec<Spread>> {
    let loaded = counts.map(|count| {
        let parsed = parse("bench", rules(count).as_bytes()).map_err(|_| io::ErrorKind::InvalidData)?;
        io::Result::Ok(Rules::new(&parsed, &Names::default()))
    });
    let mut columns = [const { Vec::new() }; N];
    let request = request()?;
    for _ in 0..RUNS {
        for (rules, column) in loaded.iter().zip(&mut columns) {
            let Ok(rules) = rules else { return Err(io::Error::other("the rules of the bench are wrong")) };
            column.push(one_run(rules, &request)?);
        }
    }
    Ok(columns.into_iter().filter_map(Spread::of).collect())
}

fn request() -> io::Result<Request> {
    let profile = Profile::ec2(vec![[169, 254, 169, 254].into()], 80, vec![]);
    let headers = [("Host", "169.254.169.254"), ("User-Agent", "bench/1"), ("Accept", "*/*")]
        .map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    let head = Head {
        method: b"GET",
        target: b"/latest/meta-data/iam/security-credentials/role",
        version: Version::Http11,
        headers: &headers,
    };
    Request::canonicalise(&head, &profile).map_err(|_| io::ErrorKind::InvalidData.into())
}

#[expect(clippy::cast_precision_loss, reason = "numbers of verdicts are far below 2^52")]
fn one_run(rules: &Rules, request: &Request) -> io::Result<f64> {
    let subject = Subject::of_uid(1_000_000);
    let requests = vec![request.clone(); VERDICTS];
    let mut verdicts = Vec::with_capacity(VERDICTS);
    let begun = Instant::now();
    for request in requests {
        verdicts.push(black_box(decide(rules, &subject, request)));
    }
    let each = begun.elapsed().as_secs_f64() * 1e9 / VERDICTS as f64;
    if verdicts.iter().all(|verdict| matches!(verdict, Verdict::Allow(_))) {
        Ok(each)
    } else {
        Err(io::Error::other("a verdict of the bench is not as it should be"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_rules_as_said_and_the_request_is_allowed() {
        for count in [10, 10_000] {
            let parsed = parse("bench", rules(count).as_bytes()).unwrap();
            assert_eq!((parsed.len(), parsed.warnings().len()), (count, 0));
        }
        assert_eq!(nanoseconds([10]).unwrap().len(), 1);
    }
}
