//! The token that filterd itself has of a service: asked for when it is first needed, and again before it expires.
//! Shown to nobody; serves no client by itself.

use super::{MAX_TTL, parse_ttl};
use crate::as_service::TTL;
use crate::channel::DialError;
use crate::forward::{Answer, Flow, ForwardError, Upstream, Words, send};
use http_body_util::{BodyExt, Limited};
use hyper::{Response, StatusCode};
use imds_rules::Secret;
use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::rc::Rc;
use tokio::sync::Mutex;

/// Bytes of a token; real ones have 56.
const MAX_TOKEN: usize = 1024;
/// A token is not used in its last seconds, or in the last half of a shorter life.
const SPARE: u64 = 600;

/// Why there is no token of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OwnError {
    Dial(DialError),
    Forward(ForwardError),
    /// The service answered so.
    Refused(StatusCode),
    /// It answered with something that is no token.
    NoToken,
}

impl fmt::Display for OwnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dial(error) => error.fmt(f),
            Self::Forward(error) => error.fmt(f),
            Self::Refused(status) => {
                write!(f, "the metadata service gives no token: {}", status.as_u16())
            }
            Self::NoToken => f.write_str("the metadata service gave no valid token"),
        }
    }
}

impl std::error::Error for OwnError {}

impl From<DialError> for OwnError {
    fn from(error: DialError) -> Self {
        Self::Dial(error)
    }
}

impl From<ForwardError> for OwnError {
    fn from(error: ForwardError) -> Self {
        Self::Forward(error)
    }
}

struct Held {
    token: Rc<Secret>,
    /// Seconds since boot.
    good_until: u64,
}

/// Of one upstream.
#[derive(Default)]
pub(crate) struct Own {
    held: Mutex<Option<Held>>,
    /// How often it was tried to get one, and how the last attempt failed.
    attempts: Cell<u64>,
    failed: Cell<Option<OwnError>>,
}

impl Own {
    /// Ours, asked for by `ask` if there is none. Whoever waits for another's ask shares its outcome: a service that
    /// does not answer keeps nobody longer than one attempt.
    ///
    /// # Errors
    /// As `ask`.
    pub(crate) async fn token<A>(&self, now: u64, ask: impl FnOnce() -> A) -> Result<Rc<Secret>, OwnError>
    where
        A: Future<Output = Result<(Rc<Secret>, u64), OwnError>>,
    {
        let seen = self.attempts.get();
        let mut held = self.held.lock().await;
        if let Some(held) = held.as_ref().filter(|held| now < held.good_until) {
            return Ok(Rc::clone(&held.token));
        }
        if let Some(error) = self.failed.get().filter(|_| seen != self.attempts.get()) {
            return Err(error);
        }
        let asked = ask().await;
        self.attempts.set(self.attempts.get().wrapping_add(1));
        self.failed.set(asked.as_ref().err().copied());
        let (token, ttl) = asked?;
        *held =
            Some(Held { token: Rc::clone(&token), good_until: now.saturating_add(ttl - SPARE.min(ttl / 2)) });
        Ok(token)
    }

    /// The service does not take it any more. Another's fresh one stays.
    pub(crate) async fn forget(&self, token: &Secret) {
        let mut held = self.held.lock().await;
        if held.as_ref().is_some_and(|held| *held.token == *token) {
            *held = None;
        }
    }
}

/// Asks the service for a token; with its life in seconds.
pub(crate) async fn ask(upstream: Upstream) -> Result<(Rc<Secret>, u64), OwnError> {
    let words = Words::for_token(upstream.host(), TTL.as_str(), MAX_TTL)?;
    let Answer(response) = send(&words, upstream, MAX_TOKEN as u64).await?;
    if response.status() != StatusCode::OK {
        return Err(OwnError::Refused(response.status()));
    }
    let ttl = response.headers().get(TTL).and_then(|ttl| parse_ttl(ttl.as_bytes()));
    let token = body(response).await?;
    Ok((Rc::new(token), ttl.unwrap_or(MAX_TTL)))
}

async fn body(response: Response<Flow>) -> Result<Secret, OwnError> {
    let collected = Limited::new(response.into_body(), MAX_TOKEN).collect().await;
    let bytes = collected.map_err(|_| ForwardError::NoAnswer)?.to_bytes();
    if bytes.is_empty() || !bytes.iter().all(u8::is_ascii_graphic) {
        return Err(OwnError::NoToken);
    }
    Ok(Secret::new(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    const GONE: OwnError = OwnError::Dial(DialError::ChannelGone);

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(test);
    }

    /// Answers each ask with the next of these.
    struct Service(RefCell<Vec<Result<(&'static str, u64), OwnError>>>);

    impl Service {
        async fn token(&self, own: &Own, now: u64) -> Result<String, OwnError> {
            let token = own.token(now, || async {
                // others get their turn while it is asked
                tokio::task::yield_now().await;
                let (token, ttl) = self.0.borrow_mut().remove(0)?;
                Ok((Rc::new(Secret::new(token.as_bytes())), ttl))
            });
            token.await.map(|token| String::from_utf8(token.bytes().to_vec()).unwrap())
        }
    }

    fn service(answers: &[Result<(&'static str, u64), OwnError>]) -> Service {
        Service(RefCell::new(answers.to_vec()))
    }

    #[test]
    fn a_token_is_asked_for_once_and_again_before_it_expires() {
        run(async {
            let (own, service) =
                (Own::default(), service(&[Ok(("a", 21_600)), Ok(("b", 10)), Ok(("c", 21_600))]));
            for now in [100, 200, 100 + 21_600 - SPARE - 1] {
                assert_eq!(service.token(&own, now).await.unwrap(), "a");
            }
            let now = 100 + 21_600 - SPARE;
            assert_eq!(service.token(&own, now).await.unwrap(), "b");
            assert_eq!(service.token(&own, now + 4).await.unwrap(), "b");
            assert_eq!(service.token(&own, now + 5).await.unwrap(), "c");
        });
    }

    #[test]
    fn those_who_wait_share_one_ask_and_its_failure_and_the_next_who_comes_asks_anew() {
        run(async {
            let (own, service) = (Own::default(), service(&[Err(GONE), Ok(("a", 60))]));
            let (one, two, three) =
                tokio::join!(service.token(&own, 0), service.token(&own, 0), service.token(&own, 0));
            assert_eq!([one, two, three], [const { Err(GONE) }; 3]);
            let (one, two) = tokio::join!(service.token(&own, 0), service.token(&own, 0));
            assert_eq!((one.unwrap(), two.unwrap()), ("a".into(), "a".into()));
        });
    }

    #[test]
    fn one_that_is_forgotten_is_asked_for_again_unless_another_did() {
        run(async {
            let (own, service) = (Own::default(), service(&[Ok(("a", 60)), Ok(("b", 60))]));
            assert_eq!(service.token(&own, 0).await.unwrap(), "a");
            own.forget(&Secret::new(b"a")).await;
            assert_eq!(service.token(&own, 0).await.unwrap(), "b");
            own.forget(&Secret::new(b"a")).await;
            assert_eq!(service.token(&own, 0).await.unwrap(), "b");
        });
    }

    #[test]
    fn whoever_gives_up_waiting_leaves_no_lock_behind() {
        run(async {
            let (own, service) = (Own::default(), service(&[Ok(("a", 60))]));
            {
                let never = own.token(0, std::future::pending);
                let mut never = std::pin::pin!(never);
                let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(never.as_mut().poll(cx))).await;
                assert!(polled.is_pending());
            }
            assert_eq!(service.token(&own, 0).await.unwrap(), "a");
        });
    }
}
