//! Session tokens: issued, known until they expire, then forgotten. The moment is given; asks no clock.
//! Not secret-grade: whoever can read this process's memory has them.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, SystemTime};

/// The longest life that may be asked for: six hours.
pub(crate) const MAX_TTL_SECONDS: u64 = 21_600;
/// Oldest first, tokens beyond this many are forgotten: a load test that never reuses one must not fill the memory.
const MAX_TOKENS: usize = 100_000;
/// 40 bytes make 56 characters with the padding; the real ones begin with these four.
const PREFIX: [u8; 4] = [1, 0, 4, 0];
const RANDOM_BYTES: usize = 36;

#[derive(Debug, Default)]
pub(crate) struct Tokens {
    expiry: HashMap<String, SystemTime>,
    oldest_first: VecDeque<String>,
}

impl Tokens {
    /// A new token of 56 characters that lives `ttl`.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub(crate) fn issue(&mut self, ttl: Duration, now: SystemTime) -> Result<String, getrandom::Error> {
        let mut random = [0; RANDOM_BYTES];
        getrandom::fill(&mut random)?;
        let token = base64url(PREFIX.iter().chain(&random).copied());
        while self.oldest_first.len() >= MAX_TOKENS {
            if let Some(oldest) = self.oldest_first.pop_front() {
                self.expiry.remove(&oldest);
            }
        }
        self.expiry.insert(token.clone(), now + ttl);
        self.oldest_first.push_back(token.clone());
        Ok(token)
    }

    /// Seconds that the token still lives, rounded up as the real service does; `None` for one that is unknown or
    /// has expired.
    pub(crate) fn remaining(&self, token: &str, now: SystemTime) -> Option<u64> {
        let left = self.expiry.get(token)?.duration_since(now).ok()?;
        match left.as_secs() + u64::from(left.subsec_nanos() > 0) {
            0 => None,
            seconds => Some(seconds),
        }
    }
}

/// A TTL as its header must give it: decimal digits alone, 1 to 21600.
pub(crate) fn parse_ttl(value: &[u8]) -> Option<Duration> {
    let digits = std::str::from_utf8(value).ok()?;
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let seconds = digits.parse().ok().filter(|seconds| (1..=MAX_TTL_SECONDS).contains(seconds))?;
    Some(Duration::from_secs(seconds))
}

/// RFC 4648, section 5, with padding.
pub(crate) fn base64url(bytes: impl Iterator<Item = u8>) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let letter = |six: u32| ALPHABET.get((six & 63) as usize).map_or('A', |b| char::from(*b));
    let mut text = String::new();
    let mut bytes = bytes.map(u32::from);
    while let Some(first) = bytes.next() {
        let (second, third) = (bytes.next(), bytes.next());
        let group = first << 16 | second.unwrap_or(0) << 8 | third.unwrap_or(0);
        text.push(letter(group >> 18));
        text.push(letter(group >> 12));
        text.push(if second.is_some() { letter(group >> 6) } else { '=' });
        text.push(if third.is_some() { letter(group) } else { '=' });
    }
    text
}

/// RFC 4648, section 4, white space aside; `None` for anything else.
pub(crate) fn base64_decode(text: &str) -> Option<Vec<u8>> {
    let text: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    let mut bytes = Vec::new();
    let mut ended = false;
    for four in text.chunks(4) {
        let letters = four.iter().take_while(|b| **b != b'=').count();
        let padded = four.iter().skip(letters).all(|b| *b == b'=');
        if ended || four.len() != 4 || letters < 2 || !padded {
            return None;
        }
        ended = letters < 4;
        let group = four.iter().take(letters).try_fold(0_u32, |group, b| Some(group << 6 | six_bits(*b)?))?;
        let [_, whole @ ..] = (group << (6 * (4 - letters))).to_be_bytes();
        bytes.extend(whole.iter().take(letters - 1));
    }
    Some(bytes)
}

fn six_bits(letter: u8) -> Option<u32> {
    Some(u32::from(match letter {
        b'A'..=b'Z' => letter - b'A',
        b'a'..=b'z' => letter - b'a' + 26,
        b'0'..=b'9' => letter - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    const NOW: SystemTime = UNIX_EPOCH;

    #[test]
    fn a_token_has_56_characters_and_looks_like_a_real_one() {
        let mut tokens = Tokens::default();
        let token = tokens.issue(Duration::from_secs(60), NOW).unwrap();
        assert_eq!(token.len(), 56);
        assert!(token.starts_with("AQAEA") && token.ends_with("=="), "{token}");
        assert_ne!(token, tokens.issue(Duration::from_secs(60), NOW).unwrap());
    }

    #[test]
    fn a_token_is_known_until_the_moment_it_expires() {
        let mut tokens = Tokens::default();
        let token = tokens.issue(Duration::from_secs(60), NOW).unwrap();
        let after = |millis| tokens.remaining(&token, NOW + Duration::from_millis(millis));
        assert_eq!(after(0), Some(60));
        assert_eq!(after(300), Some(60));
        assert_eq!(after(59_000), Some(1));
        assert_eq!(after(59_999), Some(1));
        assert_eq!(after(60_000), None);
        assert_eq!(after(3_600_000), None);
        assert_eq!(tokens.remaining("AQAEAother==", NOW), None);
    }

    #[test]
    fn the_oldest_token_is_forgotten_when_there_are_too_many() {
        let mut tokens = Tokens::default();
        let first = tokens.issue(Duration::from_secs(60), NOW).unwrap();
        let second = tokens.issue(Duration::from_secs(60), NOW).unwrap();
        for _ in 0..MAX_TOKENS - 1 {
            tokens.issue(Duration::from_secs(60), NOW).unwrap();
        }
        assert_eq!(tokens.remaining(&first, NOW), None);
        assert_eq!(tokens.remaining(&second, NOW), Some(60));
        assert_eq!(tokens.expiry.len(), MAX_TOKENS);
    }

    #[test]
    fn a_ttl_is_1_to_21600_in_plain_digits() {
        for (text, seconds) in [("1", 1), ("60", 60), ("21600", 21_600), ("007", 7)] {
            assert_eq!(parse_ttl(text.as_bytes()), Some(Duration::from_secs(seconds)), "{text}");
        }
        for text in
            ["", "0", "21601", "-1", "+1", "1.0", "1 0", "0x10", "abc", "99999999999999999999999", "६"]
        {
            assert_eq!(parse_ttl(text.as_bytes()), None, "{text}");
        }
        assert_eq!(parse_ttl(b"\xff"), None);
    }

    #[test]
    fn base64_is_that_of_rfc_4648() {
        for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")]
        {
            assert_eq!(base64url(plain.bytes()), coded);
            assert_eq!(base64_decode(coded).as_deref(), Some(plain.as_bytes()));
        }
        assert_eq!(base64_decode("+/ /\n/").as_deref(), Some([0xfb, 0xff, 0xff].as_slice()));
        for wrong in ["A", "AA", "AAA", "=", "A===", "====", "AA=A", "Zg==Zg==", "-_-_"] {
            assert_eq!(base64_decode(wrong), None, "{wrong}");
        }
        assert_eq!(base64url([0xfb, 0xef, 0xff].into_iter()), "--__");
    }
}
