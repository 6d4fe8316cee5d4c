//! What interceptor keeps for filterd: given to the next one as it is, and taken of the newest alone; and when it says
//! that it has obeyed.
//! Looks into no byte of it.
#![cfg(target_os = "linux")]

mod world;

use imds_ipc::{Blob, DialFailure, FromFilterd, FromInterceptor};
use world::*;

fn blob(byte: u8) -> Blob {
    Blob::new(vec![byte; 75].into()).unwrap()
}

/// The next thing that this filterd hears, with an ask behind it that is answered at once; but for that it is to leave.
fn next(filterd: &Filterd) -> FromInterceptor {
    filterd.say(&FromFilterd::Dial { dial: 9, upstream: 99 });
    match filterd.receive().0 {
        FromInterceptor::Drain => filterd.receive().0,
        other => other,
    }
}

const NOTHING_MORE: FromInterceptor =
    FromInterceptor::DialFailed { dial: 9, why: DialFailure::UnknownUpstream };

#[test]
fn what_a_filterd_asks_to_keep_the_next_ones_are_given_once() {
    privately("what_a_filterd_asks_to_keep_the_next_ones_are_given_once", || {
        let _world = World::start();
        let first = Filterd::attach();
        assert_eq!(next(&first), NOTHING_MORE, "nothing was kept yet");
        for byte in [1, 2] {
            first.say(&FromFilterd::Keep(blob(byte)));
        }
        assert_eq!(next(&first), NOTHING_MORE, "it is not told what it said");
        let second = Filterd::attach();
        assert_eq!(next(&second), FromInterceptor::Kept(blob(2)));
        assert_eq!(second.receive().0, NOTHING_MORE);
        // an older one has no say any more
        first.say(&FromFilterd::Keep(blob(3)));
        assert_eq!(next(&first), NOTHING_MORE);
        drop((first, second));
        let third = Filterd::attach();
        assert_eq!(next(&third), FromInterceptor::Kept(blob(2)));
    });
}

#[test]
fn what_was_said_before_is_in_effect_when_filterd_hears_so() {
    privately("what_was_said_before_is_in_effect_when_filterd_hears_so", || {
        let _world = World::start();
        let filterd = Filterd::attach_asked();
        filterd.say(&FromFilterd::Dial { dial: 9, upstream: 99 });
        for _ in 0..2 {
            filterd.say(&FromFilterd::Sync);
        }
        assert_eq!(filterd.receive().0, NOTHING_MORE);
        assert_eq!(filterd.receive().0, FromInterceptor::Synced);
        assert_eq!(next(&filterd), FromInterceptor::Synced);
        assert_eq!(filterd.receive().0, NOTHING_MORE);
    });
}

#[test]
fn who_asks_to_keep_something_before_hello_is_no_filterd() {
    privately("who_asks_to_keep_something_before_hello_is_no_filterd", || {
        let _world = World::start();
        let stranger = Filterd::connect(NOBODY);
        stranger.say(&FromFilterd::Keep(blob(1)));
        assert!(stranger.dropped());
        let filterd = Filterd::attach();
        assert_eq!(next(&filterd), NOTHING_MORE);
    });
}
