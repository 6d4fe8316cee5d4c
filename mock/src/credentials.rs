//! Made-up credentials that look and age like real ones: one set at a time, replaced well before it expires.
//! Opens nothing anywhere: every part says it is a mock's, and is random besides, so that a test can look for it.

use crate::tokens::base64url;
use std::time::{Duration, SystemTime};

/// Lengths of the real things.
const KEY_ID_LENGTH: usize = 20;
const SECRET_LENGTH: usize = 40;
const TOKEN_LENGTH: usize = 1_000;

/// Not `Debug`: nothing that holds a secret is, not even here.
#[derive(Clone)]
pub(crate) struct Set {
    pub(crate) issued: SystemTime,
    pub(crate) expires: SystemTime,
    pub(crate) key_id: String,
    pub(crate) secret: String,
    pub(crate) token: String,
}

pub(crate) struct Credentials {
    life: Duration,
    current: Option<Set>,
}

impl Credentials {
    pub(crate) fn new(life: Duration) -> Self {
        Self { life, current: None }
    }

    /// The set in force, a new one if there is none or half its life is over: whoever asks has at least the other
    /// half left.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub(crate) fn current(&mut self, now: SystemTime) -> Result<Set, getrandom::Error> {
        let half = self.life / 2;
        match &self.current {
            // a clock set back makes a set from the future, which is as good as any
            Some(set) if now.duration_since(set.issued).is_ok_and(|age| age >= half) => {}
            Some(set) => return Ok(set.clone()),
            None => {}
        }
        let set = Set {
            issued: now,
            expires: now + self.life,
            key_id: marked("ASIAMOCK", KEY_ID_LENGTH)?.to_ascii_uppercase(),
            secret: marked("MockSecretNotReal/", SECRET_LENGTH)?,
            token: marked("MockSessionTokenNotReal/", TOKEN_LENGTH)?,
        };
        self.current = Some(set.clone());
        Ok(set)
    }
}

/// `mark`, filled up to `length` with random letters and digits.
fn marked(mark: &str, length: usize) -> Result<String, getrandom::Error> {
    let mut text = mark.to_owned();
    while text.len() < length {
        let mut random = [0; 48];
        getrandom::fill(&mut random)?;
        let letters = base64url(random.into_iter());
        text.extend(letters.chars().filter(char::is_ascii_alphanumeric).take(length - text.len()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    #[test]
    fn a_set_is_replaced_when_half_its_life_is_over_and_not_before() {
        let mut credentials = Credentials::new(Duration::from_secs(3_600));
        let start = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let first = credentials.current(start).unwrap();
        assert_eq!(first.expires, start + Duration::from_secs(3_600));
        let same = credentials.current(start + Duration::from_secs(1_799)).unwrap();
        assert_eq!((same.issued, &same.secret), (first.issued, &first.secret));
        let later = start + Duration::from_secs(1_800);
        let second = credentials.current(later).unwrap();
        assert_eq!((second.issued, second.expires), (later, later + Duration::from_secs(3_600)));
        assert_ne!(second.secret, first.secret);
        assert_ne!(second.key_id, first.key_id);
        assert_ne!(second.token, first.token);
    }

    #[test]
    fn secrets_have_the_real_lengths_and_say_that_they_are_not_real() {
        let set = Credentials::new(Duration::from_secs(60)).current(UNIX_EPOCH).unwrap();
        assert_eq!((set.key_id.len(), set.secret.len(), set.token.len()), (20, 40, 1_000));
        assert!(set.key_id.starts_with("ASIAMOCK"));
        assert!(set.secret.starts_with("MockSecretNotReal/"));
        assert!(set.token.starts_with("MockSessionTokenNotReal/"));
    }
}
