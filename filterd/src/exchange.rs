//! One request and its answer, from the head to the audit line.
//! The only place where the steps stand in their order; each step is elsewhere.

use crate::answer::{AnswerBody, Refused, denied, relay};
use crate::audit::{Entry, Word};
use crate::fetch::{Fetched, Reply, fetch, fetch_plainly};
use crate::filter::{Client, Ending, Filter};
use crate::forward::Plain;
use crate::strict::{Head, Malformed};
use hyper::Response;
use hyper::header::{self, HeaderValue};
use imds_rules::{Permit, Request, Verdict, decide, decide_unattributed};
use std::rc::Rc;
use std::time::Instant;
use zeroize::Zeroizing;

/// What a client is to get.
pub(crate) enum Exchanged {
    /// All of it; `closes`: its connection ends with it.
    Whole {
        bytes: Zeroizing<Vec<u8>>,
        closes: bool,
    },
    Response(Response<AnswerBody>),
}

/// The answer, to be written by hyper.
pub(crate) async fn exchange(
    filter: Rc<Filter>,
    client: Rc<Client>,
    head: Result<Head, Malformed>,
) -> Response<AnswerBody> {
    let mut exchange = Exchange::begin(filter, client, &head);
    let fetched = match exchange.permit(head) {
        Ok((permit, left)) => fetch(&exchange.filter, &exchange.client, permit, left).await,
        Err(refused) => Err(refused),
    };
    exchange.respond(fetched).await
}

/// The same for whom a plain answer is of use as it is.
pub(crate) async fn exchange_plainly(filter: Rc<Filter>, client: Rc<Client>, head: Head) -> Exchanged {
    let head = Ok(head);
    let mut exchange = Exchange::begin(filter, client, &head);
    let fetched = match exchange.permit(head) {
        Ok((permit, left)) => fetch_plainly(&exchange.filter, &exchange.client, permit, left).await,
        Err(refused) => Err(refused),
    };
    match fetched {
        Ok(Reply::Plain(plain)) => exchange.pass_on(plain),
        Ok(Reply::Other(fetched)) => Exchanged::Response(Box::pin(exchange.respond(Ok(fetched))).await),
        Err(refused) => Exchanged::Response(Box::pin(exchange.respond(Err(refused))).await),
    }
}

/// An exchange under way.
struct Exchange {
    filter: Rc<Filter>,
    client: Rc<Client>,
    /// Filled in as things become known.
    entry: Entry,
    head_only: bool,
    /// The client's connection is to end with the answer.
    close: bool,
    allowed: Word,
}

impl Exchange {
    fn begin(filter: Rc<Filter>, client: Rc<Client>, head: &Result<Head, Malformed>) -> Self {
        let head_only = head.as_ref().is_ok_and(Head::is_for_head_only);
        let entry = Entry::begin(&filter.audit, &client);
        Self { filter, client, entry, head_only, close: false, allowed: Word::Allow }
    }

    /// Who asks was settled by the kernel when the connection began. With the seconds that a token of ours which came with
    /// it still lives.
    fn permit(&mut self, head: Result<Head, Malformed>) -> Result<(Permit, Option<u32>), Refused> {
        let (filter, client) = (&*self.filter, &*self.client);
        let request = canonicalise(client, &head?, &mut self.entry, &mut self.close)?;
        admit(filter, client)?;
        let left = filter.tokens.judge(client.uid(), &request, &filter.interceptor)?;
        let permit = judge(filter, client, request, &mut self.entry)?;
        if permit.would_deny().is_some() {
            self.allowed = Word::WouldDeny;
        }
        Ok((permit, left))
    }

    /// What interceptor does not give to the next filterd has to end with us.
    fn closes(&self) -> bool {
        self.close || (self.filter.drain.has_begun() && !self.filter.interceptor.replays())
    }

    fn pass_on(mut self, plain: Plain) -> Exchanged {
        self.entry.status = plain.status;
        self.entry.word = self.allowed;
        self.entry.bytes = u64::try_from(plain.bytes).unwrap_or(u64::MAX);
        let closes = self.closes();
        Exchanged::Whole { bytes: plain.passed_on(closes), closes }
    }

    async fn respond(mut self, mut fetched: Result<Fetched, Refused>) -> Response<AnswerBody> {
        if let Ok(Fetched::Relayed(answer)) = &mut fetched {
            answer.read_ahead().await;
        }
        if let Ok(fetched) = &fetched {
            self.entry.status = fetched.status().as_u16();
            self.entry.word = self.allowed;
        }
        let mut closes = self.closes();
        let mut response = match fetched {
            Ok(Fetched::Relayed(answer)) => {
                relay(answer, self.client, self.entry, self.filter.settings.answer_bytes)
            }
            Ok(Fetched::Ours(response)) => {
                let response = response.map(|bytes| AnswerBody::Ours(Some(bytes)));
                count(&mut self.entry, &response, self.head_only);
                response
            }
            Err(refused) => {
                closes |= refused.close;
                let refused = refused.instead_of_403(self.filter.refuse_status);
                refuse(&refused, &self.client, &mut self.entry, self.head_only)
            }
        };
        if closes {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

fn canonicalise(
    client: &Client,
    head: &Head,
    entry: &mut Entry,
    close: &mut bool,
) -> Result<Request, Refused> {
    let fields = head.fields()?;
    entry.quote(fields.method, fields.target);
    *close |= fields.wants_close();
    let head = imds_rules::Head {
        method: fields.method,
        target: fields.target,
        version: fields.version,
        headers: &fields.headers,
    };
    let request = Request::canonicalise(&head, &client.service.profile)?;
    entry.request(&request);
    Ok(request)
}

fn admit(filter: &Filter, client: &Client) -> Result<(), Refused> {
    if let Some(over) = client.over {
        return Err(over.into());
    }
    Ok(filter.limits.borrow_mut().request(client.uid(), Instant::now())?)
}

fn judge(filter: &Filter, client: &Client, request: Request, entry: &mut Entry) -> Result<Permit, Refused> {
    let in_force = filter.in_force();
    let verdict = match &client.subject {
        Ok(subject) => decide(&in_force.rules, subject, request),
        Err(_) => decide_unattributed(&in_force.rules, request),
    };
    match verdict {
        Verdict::Allow(permit) => {
            entry.rule = permit.rule().map(|rule| rule.line);
            if let Some(why) = permit.would_deny() {
                entry.why = denied(why, client);
            }
            entry.translate = permit.translation().map(|rule| rule.line);
            Ok(permit)
        }
        Verdict::Deny(denial) => {
            entry.rule = denial.rule().map(|rule| rule.line);
            Err(Refused::denied(denied(denial.why(), client)))
        }
    }
}

fn refuse(refused: &Refused, client: &Client, entry: &mut Entry, head_only: bool) -> Response<AnswerBody> {
    if refused.word == Word::Refuse {
        client.ending.set(Ending::Refused);
    }
    let response = refused.response();
    entry.word = refused.word;
    entry.status = refused.status.as_u16();
    entry.why.clone_from(&refused.why);
    count(entry, &response, head_only);
    response
}

fn count(entry: &mut Entry, response: &Response<AnswerBody>, head_only: bool) {
    if !head_only {
        entry.bytes = hyper::body::Body::size_hint(response.body()).lower();
    }
}
