//! Gets the answer to a permitted request: as it came, with a token of ours in its place, or from ourselves.
//! Judges nothing: it is permitted.

use crate::answer::Refused;
use crate::as_service::{self, TTL};
use crate::channel::{DialError, Dialled};
use crate::filter::{Client, Filter};
use crate::forward::{
    Answer, ForwardError, Forwarded, Plain, Upstream, forward, forward_plainly, forward_with,
};
use crate::sys::seconds_since_boot;
use crate::tokens::{Own, OwnError, ask, parse_ttl};
use hyper::body::Bytes;
use hyper::{Response, StatusCode};
use imds_rules::{Permit, Secret};
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

/// interceptor keeps the dial limit itself; this much more is for its word to arrive.
const DIAL_SLACK: Duration = Duration::from_millis(500);

pub(crate) enum Fetched {
    Relayed(Answer),
    Ours(Response<Bytes>),
}

impl Fetched {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Relayed(answer) => answer.0.status(),
            Self::Ours(response) => response.status(),
        }
    }
}

/// An answer for whom a plain one is of use as it came.
pub(crate) enum Reply {
    Plain(Plain),
    Other(Fetched),
}

/// A token is asked for without a life that one can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoTtl;

/// `left`: seconds that the token of ours which the client showed still lives.
pub(crate) async fn fetch(
    filter: &Filter,
    client: &Client,
    permit: Permit,
    left: Option<u32>,
) -> Result<Fetched, Refused> {
    if gets_our_token(filter, &permit) {
        return Ok(Fetched::Ours(issue(filter, client, &permit).await?));
    }
    if goes_as_it_is(&permit, left) {
        let max_body = filter.settings.answer_bytes;
        let answer = by_any(filter, client, |upstream| forward(&permit, upstream, max_body)).await?;
        return Ok(Fetched::Relayed(answer));
    }
    let mut answer = as_us(filter, client, &permit).await?;
    let headers = answer.0.headers_mut();
    match left {
        // the client is told of its own token, not of ours
        Some(left) if headers.contains_key(TTL) => drop(headers.insert(TTL, left.into())),
        Some(_) | None => drop(headers.remove(TTL)),
    }
    Ok(Fetched::Relayed(answer))
}

/// As [`fetch`]. What is not the usual case is kept out of the way, and of this future's size.
pub(crate) async fn fetch_plainly(
    filter: &Filter,
    client: &Client,
    permit: Permit,
    left: Option<u32>,
) -> Result<Reply, Refused> {
    if gets_our_token(filter, &permit) || !goes_as_it_is(&permit, left) {
        return Ok(Reply::Other(Box::pin(fetch(filter, client, permit, left)).await?));
    }
    let max_body = filter.settings.answer_bytes;
    let forwarded = by_any(filter, client, |upstream| forward_plainly(&permit, upstream, max_body)).await?;
    Ok(match forwarded {
        Forwarded::Plain(plain) => Reply::Plain(plain),
        Forwarded::Other(answer) => Reply::Other(Fetched::Relayed(answer)),
    })
}

fn gets_our_token(filter: &Filter, permit: &Permit) -> bool {
    permit.request().asks_for_token() && filter.tokens.are_bound()
}

/// With the client's own token, or none.
fn goes_as_it_is(permit: &Permit, left: Option<u32>) -> bool {
    left.is_none() && permit.translation().is_none()
}

/// A token of ours. As with the service's own, the life must be right; and where the service gives none, nor do we.
async fn issue(filter: &Filter, client: &Client, permit: &Permit) -> Result<Response<Bytes>, Refused> {
    let asked = permit.request().token_ttl().and_then(parse_ttl);
    let ttl = asked.and_then(|ttl| u32::try_from(ttl).ok()).ok_or(NoTtl)?;
    our_token(filter, client, own(filter, client)?).await?;
    let token = filter.tokens.issue(client.uid(), ttl, &filter.interceptor)?;
    Ok(as_service::issued(token, ttl))
}

/// Once more if the service no longer takes our token: nobody else can make it good.
async fn as_us(filter: &Filter, client: &Client, permit: &Permit) -> Result<Answer, Refused> {
    let own = own(filter, client)?;
    let token = our_token(filter, client, own).await?;
    let first = once(filter, client, permit, &token).await?;
    if first.0.status() != StatusCode::UNAUTHORIZED {
        return Ok(first);
    }
    drop(first);
    own.forget(&token).await;
    let token = our_token(filter, client, own).await?;
    once(filter, client, permit, &token).await
}

async fn once(filter: &Filter, client: &Client, permit: &Permit, token: &Secret) -> Result<Answer, Refused> {
    let max_body = filter.settings.answer_bytes;
    by_any(filter, client, |upstream| forward_with(permit, token, upstream, max_body)).await
}

/// Sends by a connection that the service kept, if there is one. Had it ended, and not a byte of an answer come, a fresh one
/// is dialled: the service may then be asked twice, which harms neither a read nor a token.
async fn by_any<A, S>(filter: &Filter, client: &Client, send: impl Fn(Upstream) -> S) -> Result<A, Refused>
where
    S: Future<Output = Result<A, ForwardError>>,
{
    let service = &client.service;
    if let Some(kept) = filter.stock.take(service.upstream, &service.host) {
        match send(kept).await {
            Err(ForwardError::Unheard) => (),
            sent => return Ok(sent?),
        }
    }
    let fresh = Box::pin(dial(filter, client)).await?;
    Ok(send(fresh).await?)
}

fn own<'a>(filter: &'a Filter, client: &Client) -> Result<&'a Own, OwnError> {
    // a client's service is one of those that there is a place for
    filter.tokens.own(client.service.upstream).ok_or(OwnError::NoToken)
}

async fn our_token(filter: &Filter, client: &Client, own: &Own) -> Result<Rc<Secret>, Refused> {
    let asked = || async { ask(reach(filter, client).await?).await };
    Ok(own.token(seconds_since_boot(), asked).await?)
}

async fn dial(filter: &Filter, client: &Client) -> Result<Upstream, Refused> {
    Ok(reach(filter, client).await?)
}

async fn reach(filter: &Filter, client: &Client) -> Result<Upstream, OwnError> {
    let service = &client.service;
    let patience = filter.settings.dial() + DIAL_SLACK;
    let dialled = filter.interceptor.dial(service.upstream, patience).await?;
    let upstream = |stream| Upstream::new(stream, service.host.clone());
    let upstream = match dialled {
        Dialled::Connected(stream) => upstream(stream)?,
        Dialled::Connecting(stream) => {
            let connected = upstream(stream)?.connected(filter.settings.dial()).await;
            connected.map_err(DialError::Failed)?
        }
    };
    Ok(upstream.returning_to(&filter.stock, service.upstream))
}
