//! What is written is what the kernel would read, and what is read survives anything.
//! That a kernel takes it as meant is tested in tests/capture.

use super::super::netlink::messages;
use super::*;

fn chain() -> Chain {
    Chain { name: "output".into(), place: Some((Hook::Output, i32::MAX)) }
}

fn rule() -> Rule {
    Rule {
        chain: "output",
        matches: vec![Match::To("fd00:ec2::254".parse().unwrap()), Match::By(3, "imds0".into())],
        verdict: Verdict::Goto("judge"),
    }
}

#[test]
fn chains_and_rules_are_read_as_they_are_written() {
    let written = chain_message("ours", &chain()).into_bytes();
    let received = messages(&written).next().unwrap();
    assert!(belongs(received, "ours") && !belongs(received, "our"));
    assert_eq!(read_chain(received), Some(FoundChain { chain: chain(), plain: true }));
    let written = rule_message("ours", &rule()).into_bytes();
    let read = messages(&written).find_map(read_rule);
    assert_eq!(read, Some(("output".into(), "to fd00:ec2::254 by imds0 (3) judge by judge".into())));
}

#[test]
fn every_truncation_is_survived() {
    for whole in [chain_message("ours", &chain()).into_bytes(), rule_message("ours", &rule()).into_bytes()] {
        // the last three bytes may be padding
        for end in 16..whole.len() - 3 {
            let mut cut = whole[..end].to_vec();
            cut[..4].copy_from_slice(&u32::try_from(end).unwrap().to_ne_bytes());
            assert_ne!(
                messages(&cut).find_map(read_chain),
                Some(FoundChain { chain: chain(), plain: true }),
                "{end}"
            );
            assert_ne!(messages(&cut).find_map(read_rule).map(|(_, text)| text), Some(rule().to_string()));
        }
    }
}

#[test]
fn a_table_stands_only_with_its_very_chains_and_rules_in_order() {
    let second = Rule { verdict: Verdict::Drop, ..rule() };
    let wanted = Wanted { chains: vec![chain()], rules: vec![rule(), second.clone()] };
    let text = |rule: &Rule| (rule.chain.to_owned(), rule.to_string());
    let whole = Found {
        flags: 0,
        chains: vec![FoundChain { chain: chain(), plain: true }],
        rules: vec![text(&rule()), text(&second)],
    };
    assert!(wanted.stands(&whole));
    let spoilt: [&dyn Fn(&mut Found); 9] = [
        &|found| found.flags = 1,
        &|found| found.chains.clear(),
        &|found| found.chains[0].plain = false,
        &|found| found.chains[0].chain.place = Some((Hook::Output, 0)),
        &|found| {
            found.chains.push(FoundChain { chain: Chain { name: "more".into(), place: None }, plain: true })
        },
        &|found| found.rules.swap(0, 1),
        &|found| drop(found.rules.pop()),
        &|found| found.rules.insert(0, ("output".into(), String::new())),
        &|found| found.rules[1].0 = "elsewhere".into(),
    ];
    for (number, spoil) in spoilt.iter().enumerate() {
        let mut found = whole.clone();
        spoil(&mut found);
        assert!(!wanted.stands(&found), "{number}");
    }
}
