//! The loop: captured connections in, until told to stop or interceptor is gone; then the exchanges under way finish.
//! Sees no HTTP.

use crate::channel::ChannelEnd;
use crate::connection::take;
use crate::filter::Filter;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::timeout;

/// Exchanges under way have this long to finish; the service manager waits longer.
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// Why the loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Stopped,
    Channel(ChannelEnd),
}

/// Runs inside a [`tokio::task::LocalSet`].
pub async fn serve(filter: Rc<Filter>, stop: impl Future<Output = ()>) -> End {
    let mut take_all = pin!(take_all(&filter));
    let mut stop = pin!(stop);
    let end = tokio::select! {
        end = take_all.as_mut() => End::Channel(end),
        () = stop.as_mut() => End::Stopped,
    };
    filter.drain.begin();
    match end {
        // the dials under way are still answered, and what comes in is still served
        End::Stopped => {
            let drained = async {
                tokio::select! {
                    _ = take_all.as_mut() => filter.interceptor.give_up(),
                    () = filter.drain.quiet() => return,
                }
                filter.drain.quiet().await;
            };
            report(timeout(DRAIN_TIME, drained).await.is_ok());
        }
        End::Channel(_) => {
            filter.interceptor.give_up();
            report(timeout(DRAIN_TIME, filter.drain.quiet()).await.is_ok());
        }
    }
    if filter.audit.lost() > 0 {
        tracing::warn!("{} audit lines could not be written", filter.audit.lost());
    }
    end
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
