//! Upstream connections that the service kept open after a whole answer: for the next request, whoever's it is.
//! Must not keep one of which any doubt is left where its last answer ended, nor many, nor any for long.

use crate::forward::Upstream;
use crate::line::Line;
use hyper::header::HeaderValue;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// A crawl of the service asks again at once. Services keep idle connections for longer than this, so that hardly one
/// ends just when it is taken.
const LIFE: Duration = Duration::from_secs(2);
/// To one upstream. More requests at once than this have their own.
pub(crate) const MOST: usize = 32;

/// Those of one upstream, oldest first.
type Shelf = VecDeque<(Instant, Line)>;

/// Without a timer while it is empty.
pub(crate) struct Stock {
    shelves: RefCell<Vec<Shelf>>,
    filled: Notify,
}

impl Stock {
    pub(crate) fn new(upstreams: usize) -> Self {
        let shelves = RefCell::new((0..upstreams).map(|_| Shelf::new()).collect());
        Self { shelves, filled: Notify::new() }
    }

    /// One that nothing has come on since its last answer; the youngest, so that surplus ones grow old.
    pub(crate) fn take(self: &Rc<Self>, upstream: u16, host: &HeaderValue) -> Option<Upstream> {
        loop {
            let (until, kept) = self.shelves.borrow_mut().get_mut(usize::from(upstream))?.pop_back()?;
            if until > Instant::now() && kept.is_quiet() {
                return Some(Upstream::again(kept, host.clone()).returning_to(self, upstream));
            }
        }
    }

    /// Surplus ones are closed.
    pub(crate) fn put(&self, upstream: u16, kept: Line) {
        let mut shelves = self.shelves.borrow_mut();
        let Some(shelf) = shelves.get_mut(usize::from(upstream)) else { return };
        if shelf.len() < MOST {
            shelf.push_back((Instant::now() + LIFE, kept));
            self.filled.notify_one();
        }
    }

    /// Closes those that have grown old, for ever.
    pub(crate) async fn expire(self: Rc<Self>) {
        loop {
            match self.first_end() {
                None => self.filled.notified().await,
                Some(end) => {
                    sleep_until(end).await;
                    self.close_old(Instant::now());
                }
            }
        }
    }

    fn first_end(&self) -> Option<Instant> {
        self.shelves.borrow().iter().filter_map(|shelf| shelf.front()).map(|(until, _)| *until).min()
    }

    fn close_old(&self, now: Instant) {
        for shelf in self.shelves.borrow_mut().iter_mut() {
            while shelf.front().is_some_and(|(until, _)| *until <= now) {
                shelf.pop_front();
            }
            if shelf.is_empty() {
                shelf.shrink_to_fit();
            }
        }
    }
}
