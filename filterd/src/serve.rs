//! The loop: captured connections in, until told to stop or interceptor is gone; then the exchanges under way finish.
//! Sees no HTTP.

use crate::channel::ChannelEnd;
use crate::connection::take;
use crate::filter::Filter;
use imds_ipc::FromFilterd;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::timeout;

/// Exchanges under way have this long to finish; the service manager waits longer.
const DRAIN_TIME: Duration = Duration::from_secs(5);
/// While we leave and the next filterd is not there yet, clients wait. What is not finished by then is the next one's.
const LEAVE_TIME: Duration = Duration::from_millis(300);

/// Why the loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Stopped,
    /// A newer filterd serves.
    Dismissed,
    Channel(ChannelEnd),
}

/// Runs inside a [`tokio::task::LocalSet`]. `ready` runs when interceptor has taken what it was told at the start, so
/// that whoever waits for us finds clients told apart and treated as the mode says.
pub async fn serve(
    filter: Rc<Filter>,
    stop: impl Future<Output = ()>,
    ready: impl Future<Output = ()>,
) -> End {
    tokio::task::spawn_local(Rc::clone(&filter.stock).expire());
    let mut take_all = pin!(take_all(&filter));
    let mut stop = pin!(stop);
    let begun = async {
        filter.obeyed().await;
        ready.await;
        std::future::pending().await
    };
    let end = tokio::select! {
        end = begun => end,
        end = take_all.as_mut() => End::Channel(end),
        () = stop.as_mut() => End::Stopped,
        () = filter.interceptor.dismissed() => End::Dismissed,
    };
    // the dials under way are still answered, and what comes in is still served, as long as there is an interceptor
    let taking = async {
        if !matches!(end, End::Channel(_)) {
            take_all.await;
        }
        filter.interceptor.give_up();
        std::future::pending().await
    };
    tokio::select! {
        () = drain(&filter, end) => (),
        () = taking => (),
    }
    if filter.audit.lost() > 0 {
        tracing::warn!("{} audit lines could not be written", filter.audit.lost());
    }
    end
}

/// Whoever is to follow us may be started only when we are gone: what runs is finished while all are served, then it goes
/// quickly. One that serves already does not have to wait.
async fn drain(filter: &Filter, end: End) {
    let replays = filter.interceptor.replays();
    let patience = match end {
        End::Stopped if replays => {
            report(timeout(DRAIN_TIME, filter.drain.finished()).await.is_ok());
            LEAVE_TIME
        }
        End::Stopped | End::Dismissed | End::Channel(_) => DRAIN_TIME,
    };
    if !matches!(end, End::Channel(_)) {
        filter.interceptor.say(&FromFilterd::Leaving);
        filter.interceptor.said().await;
    }
    filter.drain.begin();
    let quiet = timeout(patience, filter.drain.quiet()).await.is_ok();
    report(quiet || patience == LEAVE_TIME);
}

fn report(drained: bool) {
    if !drained {
        tracing::warn!("exchanges were still under way after {} s", DRAIN_TIME.as_secs());
    }
}

async fn take_all(filter: &Rc<Filter>) -> ChannelEnd {
    let taken = async {
        loop {
            match filter.interceptor.captured().await {
                Ok(captured) => take(filter, captured),
                Err(end) => return end,
            }
        }
    };
    tokio::select! {
        end = taken => end,
        end = filter.interceptor.send_unsent() => end,
    }
}
