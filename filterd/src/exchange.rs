//! One request and its answer, from the head to the audit line.
//! The only place where the steps stand in their order; each step is elsewhere.

use crate::answer::{AnswerBody, Refused, denied, relay};
use crate::audit::{Entry, Word};
use crate::fetch::{Fetched, fetch};
use crate::filter::{Client, Ending, Filter};
use crate::strict::{Head, Malformed};
use hyper::Response;
use hyper::header::{self, HeaderValue};
use imds_rules::{Permit, Request, Verdict, decide, decide_unattributed};
use std::rc::Rc;
use std::time::Instant;

pub(crate) async fn exchange(
    filter: Rc<Filter>,
    client: Rc<Client>,
    head: Result<Head, Malformed>,
) -> Response<AnswerBody> {
    let head_only = head.as_ref().is_ok_and(Head::is_for_head_only);
    let mut close = false;
    let mut entry = Entry::begin(&filter.audit, &client);
    let answered = answer(&filter, &client, head, &mut entry, &mut close).await;
    let mut response = match answered {
        Ok(Fetched::Relayed(answer)) => relay(answer, client, entry, filter.settings.answer_bytes),
        Ok(Fetched::Ours(response)) => {
            let response = response.map(|bytes| AnswerBody::Ours(Some(bytes)));
            count(&mut entry, &response, head_only);
            response
        }
        Err(refused) => {
            close |= refused.close;
            let refused = refused.instead_of_403(filter.refuse_status);
            refuse(&refused, &client, entry, head_only)
        }
    };
    // what interceptor does not give to the next filterd has to end with us
    if close || (filter.drain.has_begun() && !filter.interceptor.replays()) {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Who asks was settled by the kernel when the connection began. Fills in `entry` as things become known.
async fn answer(
    filter: &Filter,
    client: &Client,
    head: Result<Head, Malformed>,
    entry: &mut Entry,
    close: &mut bool,
) -> Result<Fetched, Refused> {
    let request = canonicalise(client, &head?, entry, close)?;
    admit(filter, client)?;
    let left = filter.tokens.judge(client.uid(), &request, &filter.interceptor)?;
    let permit = judge(filter, client, request, entry)?;
    let word = if permit.would_deny().is_some() { Word::WouldDeny } else { Word::Allow };
    let mut answer = fetch(filter, client, permit, left).await?;
    if let Fetched::Relayed(answer) = &mut answer {
        answer.read_ahead().await;
    }
    entry.status = answer.status().as_u16();
    entry.word = word;
    Ok(answer)
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

fn refuse(refused: &Refused, client: &Client, mut entry: Entry, head_only: bool) -> Response<AnswerBody> {
    if refused.word == Word::Refuse {
        client.ending.set(Ending::Refused);
    }
    let response = refused.response();
    entry.word = refused.word;
    entry.status = refused.status.as_u16();
    entry.why.clone_from(&refused.why);
    count(&mut entry, &response, head_only);
    response
}

fn count(entry: &mut Entry, response: &Response<AnswerBody>, head_only: bool) {
    if !head_only {
        entry.bytes = hyper::body::Body::size_hint(response.body()).lower();
    }
}
