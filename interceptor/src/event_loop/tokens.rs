//! Which source an event is about, in a token and back. Must not need a table.

use mio::Token;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Tun,
    Signals,
    Capture,
    Door,
    Peer(usize),
    Dial(usize),
    Pair(usize),
}

const KINDS: usize = 8;

pub(super) fn of(source: Source) -> Token {
    let (kind, key) = match source {
        Source::Tun => (0, 0),
        Source::Signals => (1, 0),
        Source::Capture => (2, 0),
        Source::Door => (3, 0),
        Source::Peer(key) => (4, key),
        Source::Dial(key) => (5, key),
        Source::Pair(key) => (6, key),
    };
    Token(key * KINDS + kind)
}

pub(super) fn source(token: Token) -> Option<Source> {
    let key = token.0 / KINDS;
    match token.0 % KINDS {
        0 => Some(Source::Tun),
        1 => Some(Source::Signals),
        2 => Some(Source::Capture),
        3 => Some(Source::Door),
        4 => Some(Source::Peer(key)),
        5 => Some(Source::Dial(key)),
        6 => Some(Source::Pair(key)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_its_source() {
        let sources = [Source::Tun, Source::Signals, Source::Capture, Source::Door];
        let keyed = [0, 1, 4095].map(|key| [Source::Peer(key), Source::Dial(key), Source::Pair(key)]);
        for wanted in sources.into_iter().chain(keyed.into_iter().flatten()) {
            assert_eq!(source(of(wanted)), Some(wanted));
        }
    }
}
