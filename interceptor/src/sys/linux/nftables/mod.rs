//! One table of nftables, of chains and rules of the kinds we install, read and replaced in one transaction.
//! Decides nothing. The shapes are those of linux/netfilter/nf_tables.h; numbers in it are big-endian.

mod expression;

pub(crate) use expression::{Match, Verdict};

use super::netlink::{
    APPEND, MAKE, Message, Notifications, Received, Requests, Subsystem, attributes, name, push_attribute,
    u8_at,
};
use std::fmt;
use std::io;

/// NFNL_SUBSYS_NFTABLES; the upper half of a message's kind.
const SUBSYSTEM: u8 = 10;
/// NFNLGRP_NFTABLES
const GROUP: u32 = 7;
/// NFPROTO_INET: packets of both families.
const INET: u8 = 1;

const NEWTABLE: u8 = 0;
const GETTABLE: u8 = 1;
const DELTABLE: u8 = 2;
const NEWCHAIN: u8 = 3;
const GETCHAIN: u8 = 4;
const NEWRULE: u8 = 6;
const GETRULE: u8 = 7;
const DELRULE: u8 = 8;
const NEWGEN: u8 = 15;

/// The first attribute of whatever belongs to a table, and of a table itself.
const TABLE: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USER_DATA: u16 = 7;
/// In a rule's user data: its comment, as nft(8) writes and shows it (libnftnl/udata.h).
const COMMENT: u8 = 0;
const ACCEPT: u32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    Forward,
    Output,
    Other(u32),
}

impl Hook {
    fn number(self) -> u32 {
        match self {
            Self::Forward => 2,
            Self::Output => 3,
            Self::Other(number) => number,
        }
    }
}

/// A chain; with a place in the packets' way, or only for rules that go there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) name: String,
    /// Hook and priority.
    pub(crate) place: Option<(Hook, i32)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) chain: &'static str,
    pub(crate) matches: Vec<Match>,
    pub(crate) verdict: Verdict,
}

impl fmt::Display for Rule {
    /// Each different rule has another text: by it a rule is recognised, in its comment.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.matches {
            write!(f, "{part} ")?;
        }
        self.verdict.fmt(f)
    }
}

/// What a table shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) chains: Vec<Chain>,
    /// In their order within each chain.
    pub(crate) rules: Vec<Rule>,
}

/// What a table is. Rules are known by chain and comment only: the kernel cannot change one, only replace it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Dormant (its chains are not asked) or otherwise special.
    flags: u32,
    chains: Vec<FoundChain>,
    rules: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct FoundChain {
    chain: Chain,
    /// A filter that lets pass what its rules do not decide, or no base chain.
    plain: bool,
}

impl Wanted {
    pub(crate) fn stands(&self, found: &Found) -> bool {
        let texts = |chain: &str| -> Vec<String> {
            self.rules.iter().filter(|rule| rule.chain == chain).map(Rule::to_string).collect()
        };
        self.same_chains(found)
            && self.rules.len() == found.rules.len()
            && self.chains.iter().all(|chain| {
                let of_chain = found.rules.iter().filter(|(name, _)| *name == chain.name);
                of_chain.map(|(_, text)| text).eq(&texts(&chain.name))
            })
    }

    fn same_chains(&self, found: &Found) -> bool {
        let there = |chain: &Chain| found.chains.iter().any(|have| have.plain && have.chain == *chain);
        found.flags == 0 && self.chains.len() == found.chains.len() && self.chains.iter().all(there)
    }
}

fn message(kind: u8, flags: u16, table: Option<&str>) -> Message {
    let message = Message::new(u16::from_be_bytes([SUBSYSTEM, kind]), flags).body(&[INET, 0, 0, 0]);
    match table {
        Some(table) => message.attribute_name(TABLE, table),
        None => message,
    }
}

fn chain_message(table: &str, chain: &Chain) -> Message {
    let message = message(NEWCHAIN, MAKE, Some(table)).attribute_name(CHAIN_NAME, &chain.name);
    let Some((hook, priority)) = chain.place else { return message };
    let mut place = Vec::new();
    push_attribute(&mut place, HOOK_NUMBER, &hook.number().to_be_bytes());
    push_attribute(&mut place, HOOK_PRIORITY, &priority.to_be_bytes());
    message
        .attribute(CHAIN_HOOK | expression::NESTED, &place)
        .attribute(CHAIN_POLICY, &ACCEPT.to_be_bytes())
        .attribute_name(CHAIN_TYPE, "filter")
}

fn rule_message(table: &str, rule: &Rule) -> Message {
    let mut text = rule.to_string().into_bytes();
    text.push(0);
    // the kernel keeps 256 bytes, and the longest text has about 100
    let mut comment = vec![COMMENT, u8::try_from(text.len()).unwrap_or(u8::MAX)];
    comment.extend(text);
    message(NEWRULE, MAKE | APPEND, Some(table))
        .attribute_name(RULE_CHAIN, rule.chain)
        .attribute(RULE_EXPRESSIONS | expression::NESTED, &expression::all(&rule.matches, rule.verdict))
        .attribute(RULE_USER_DATA, &comment)
}

fn belongs(received: Received<'_>, table: &str) -> bool {
    of(received, TABLE).and_then(name) == Some(table)
}

/// An attribute of a message.
fn of(received: Received<'_>, wanted: u16) -> Option<&[u8]> {
    attributes(received.payload.get(4..)?).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.first_chunk()?))
}

fn read_chain(received: Received<'_>) -> Option<FoundChain> {
    let name = name(of(received, CHAIN_NAME)?)?.to_owned();
    let Some(place) = of(received, CHAIN_HOOK) else {
        return Some(FoundChain { chain: Chain { name, place: None }, plain: true });
    };
    let part = |wanted| attributes(place).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let hook = match number(part(HOOK_NUMBER)?)? {
        2 => Hook::Forward,
        3 => Hook::Output,
        other => Hook::Other(other),
    };
    let priority = i32::from_be_bytes(*part(HOOK_PRIORITY)?.first_chunk()?);
    let plain = of(received, CHAIN_POLICY).and_then(number) == Some(ACCEPT)
        && of(received, CHAIN_TYPE).and_then(self::name) == Some("filter");
    Some(FoundChain { chain: Chain { name, place: Some((hook, priority)) }, plain })
}

/// Chain and comment; another's rule may have none.
fn read_rule(received: Received<'_>) -> Option<(String, String)> {
    let chain = name(of(received, RULE_CHAIN)?)?.to_owned();
    let comment = of(received, RULE_USER_DATA).and_then(|data| {
        let length = usize::from(u8_at(data, 1)?);
        (u8_at(data, 0)? == COMMENT).then(|| data.get(2..)?.get(..length)).flatten().and_then(name)
    });
    Some((chain, comment.unwrap_or("").to_owned()))
}

/// For fuzzing alone: reads a message in every way.
#[cfg(feature = "fuzzing")]
pub(super) fn fuzzed(received: Received<'_>) {
    let _ = (read_chain(received), read_rule(received), concerns(received, "imds"));
}

/// The tables of our network namespace.
pub(crate) struct Tables(Requests);

impl Tables {
    /// # Errors
    /// `EPROTONOSUPPORT` or `EINVAL` where the kernel has no nftables.
    pub(crate) fn open() -> io::Result<Self> {
        let mut tables = Self(Requests::open(Subsystem::Netfilter)?);
        // the subsystem may be a module, which the first question loads
        tables.flags("")?;
        Ok(tables)
    }

    fn flags(&mut self, table: &str) -> io::Result<Option<u32>> {
        let mut flags = None;
        let answer = self.0.ask(message(GETTABLE, 0, Some(table)), 0, |received| {
            flags = Some(of(received, TABLE_FLAGS).and_then(number).unwrap_or(0));
        });
        match answer {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            other => other.map(|()| flags),
        }
    }

    pub(crate) fn find(&mut self, table: &str) -> io::Result<Option<Found>> {
        let Some(flags) = self.flags(table)? else { return Ok(None) };
        let chains = self.0.list(
            || message(GETCHAIN, 0, None),
            |received| belongs(received, table).then(|| read_chain(received)).flatten(),
        )?;
        let rules = self.0.list(
            || message(GETRULE, 0, Some(table)),
            |received| belongs(received, table).then(|| read_rule(received)).flatten(),
        );
        match rules {
            // it went meanwhile
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            rules => Ok(Some(Found { flags, chains, rules: rules? })),
        }
    }

    /// Packets that the counters of a chain have seen.
    pub(crate) fn counted(&mut self, table: &str, chain: &str) -> io::Result<u64> {
        let counts = self.0.list(
            || message(GETRULE, 0, Some(table)),
            |received| {
                let in_chain =
                    belongs(received, table) && of(received, RULE_CHAIN).and_then(name) == Some(chain);
                in_chain.then(|| of(received, RULE_EXPRESSIONS)).flatten().map(expression::counted)
            },
        )?;
        Ok(counts.into_iter().fold(0, u64::saturating_add))
    }

    /// Makes the table what is wanted, all at one moment.
    ///
    /// Where its chains are right only their rules are exchanged: a packet meets a chain once and sees its rules
    /// before or after. If chains were exchanged, too, it could meet the new one before and the old one after.
    pub(crate) fn put(&mut self, table: &str, wanted: &Wanted, found: Option<&Found>) -> io::Result<()> {
        let make = || message(NEWTABLE, MAKE, Some(table));
        let mut changes = vec![make()];
        if found.is_some_and(|found| !wanted.same_chains(found)) {
            changes.extend([message(DELTABLE, 0, Some(table)), make()]);
        }
        changes.extend(wanted.chains.iter().map(|chain| chain_message(table, chain)));
        changes.push(message(DELRULE, 0, Some(table)));
        changes.extend(wanted.rules.iter().map(|rule| rule_message(table, rule)));
        self.0.transaction(SUBSYSTEM, changes).map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT) => io::Error::other("the kernel lacks nft_reject_inet or nft_fib_inet"),
            Some(libc::EAFNOSUPPORT) => io::Error::other("the kernel lacks CONFIG_NF_TABLES_INET"),
            _ => error,
        })
    }

    pub(crate) fn remove(&mut self, table: &str) -> io::Result<()> {
        match self.0.transaction(SUBSYSTEM, vec![message(DELTABLE, 0, Some(table))]) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other,
        }
    }
}

pub(crate) fn notifications() -> io::Result<Notifications> {
    Notifications::open(Subsystem::Netfilter, &[GROUP])
}

/// Whether a notification tells of this table: others may change theirs a thousand times a second.
pub(crate) fn concerns(received: Received<'_>, table: &str) -> bool {
    let [subsystem, kind] = received.kind.to_be_bytes();
    // a new generation follows every change, and its first attribute is a number
    subsystem == SUBSYSTEM && kind != NEWGEN && belongs(received, table)
}

#[cfg(test)]
mod tests;
