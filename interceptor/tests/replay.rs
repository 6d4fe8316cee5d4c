//! Connections whose filterd dies or leaves, through the running interceptor, with the kernel's own TCP as the client.
#![cfg(target_os = "linux")]

mod world;

use imds_ipc::{FromFilterd, FromInterceptor, Hello};
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::panic::catch_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use world::*;

#[test]
fn the_unanswered_bytes_of_a_dead_filterds_connections_go_to_the_next_one() {
    privately("the_unanswered_bytes_of_a_dead_filterds_connections_go_to_the_next_one", || {
        let _world = World::start();
        for to in [V4, V6] {
            let first = Filterd::attach();
            let mut client = dial(to);
            let mut given = first.given();
            client.write_all(b"onetwothr").unwrap();
            assert_eq!(read(&mut given.stream, 9), "onetwothr");
            answer(&first, &mut given, 3, 0, "ONE");
            assert_eq!(read(&mut client, 3), "ONE");
            drop((first, given));
            // while nobody is there
            client.write_all(b"ee").unwrap();
            let second = Filterd::attach();
            let mut again = second.given();
            assert_eq!(again.client, client.local_addr().unwrap());
            assert_eq!(read(&mut again.stream, 8), "twothree");
            answer(&second, &mut again, 3, 0, "TWO");
            answer(&second, &mut again, 5, 3, "THREE");
            assert_eq!(read(&mut client, 8), "TWOTHREE");
            // it goes on as ever
            client.write_all(b"four").unwrap();
            assert_eq!(read(&mut again.stream, 4), "four");
            second.close(again.id, again.stream);
            assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
        }
    });
}

#[test]
fn a_connection_alone_that_filterd_lets_fall_waits_for_the_next_filterd_and_not_for_the_same() {
    privately(
        "a_connection_alone_that_filterd_lets_fall_waits_for_the_next_filterd_and_not_for_the_same",
        || {
            let _world = World::start();
            let first = Filterd::attach();
            let mut client = dial(V4);
            let mut given = first.given();
            client.write_all(b"request").unwrap();
            assert_eq!(read(&mut given.stream, 7), "request");
            drop(given); // as the kernel closes the descriptors of a process that dies, one by one
            let mut other = dial(V4);
            let mut theirs = first.given();
            assert_eq!(theirs.client, other.local_addr().unwrap(), "new ones do not wait for it");
            answer(&first, &mut theirs, 0, 0, "answer");
            assert_eq!(read(&mut other, 6), "answer");
            assert!(is_open(&client));
            drop(first);
            let second = Filterd::attach();
            let (one, two) = (second.given(), second.given());
            let mut again = if one.client == client.local_addr().unwrap() { one } else { two };
            assert_eq!(read(&mut again.stream, 7), "request");
        },
    );
}

#[test]
fn an_answer_begun_is_a_reset_and_so_is_one_that_filterd_gives_up() {
    privately("an_answer_begun_is_a_reset_and_so_is_one_that_filterd_gives_up", || {
        let _world = World::start();
        let filterd = Filterd::attach();
        let mut client = dial(V4);
        let mut given = filterd.given();
        given.stream.write_all(b"half an ans").unwrap();
        drop(given);
        assert!(client.read_to_end(&mut Vec::new()).is_err_and(|e| e.kind() == ErrorKind::ConnectionReset));

        // announced, and cut short: an answer that was to be the last is not taken for whole
        let mut client = dial(V4);
        let mut given = filterd.given();
        client.write_all(b"request").unwrap();
        assert_eq!(read(&mut given.stream, 7), "request");
        filterd.say(&FromFilterd::Answered { connection: given.id, bytes: 7, end: 6, closes: true });
        given.stream.write_all(b"answe").unwrap();
        drop(given);
        assert!(client.read_to_end(&mut Vec::new()).is_err_and(|e| e.kind() == ErrorKind::ConnectionReset));

        let mut client = dial(V4);
        let given = filterd.given();
        filterd.say(&FromFilterd::Reset { connection: given.id });
        let start = Stopwatch::start();
        assert!(is_reset(&mut client));
        assert!(start.elapsed() < Duration::from_millis(400), "it waited for another filterd");
    });
}

#[test]
fn a_last_answer_that_is_whole_ends_the_connection_whether_or_not_filterd_lives() {
    privately("a_last_answer_that_is_whole_ends_the_connection_whether_or_not_filterd_lives", || {
        let _world = World::start();
        for dies in [false, true] {
            let filterd = Filterd::attach();
            let mut client = dial(V4);
            let mut given = filterd.given();
            client.write_all(b"request").unwrap();
            assert_eq!(read(&mut given.stream, 7), "request");
            filterd.say(&FromFilterd::Answered { connection: given.id, bytes: 7, end: 6, closes: true });
            given.stream.write_all(b"answer").unwrap();
            let kept = (!dies).then_some(filterd);
            drop(given);
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, "answer");
            drop(kept);
        }
    });
}

#[test]
fn what_a_filterd_said_before_it_died_counts_though_it_had_not_read_all_it_was_told_itself() {
    privately(
        "what_a_filterd_said_before_it_died_counts_though_it_had_not_read_all_it_was_told_itself",
        || {
            let world = World::start();
            let dying = Filterd::attach();
            let mut clients = [dial(V4), dial(V4), dial(V4)];
            let [mut goes_on, mut ends, mut closed] = [dying.given(), dying.given(), dying.given()];
            for (client, given) in clients.iter_mut().zip([&mut goes_on, &mut ends, &mut closed]) {
                client.write_all(b"request").unwrap();
                assert_eq!(read(&mut given.stream, 7), "request");
            }
            // this one lies unread in its channel: then the kernel tells of the end before it gives what was said
            let mut unread = dial(V4);
            unread.write_all(b"unread").unwrap();
            assert!(dying.wait(Duration::from_secs(5)));
            world.stop();
            answer(&dying, &mut goes_on, 7, 0, "answer");
            dying.say(&FromFilterd::Answered { connection: ends.id, bytes: 7, end: 6, closes: true });
            ends.stream.write_all(b"answer").unwrap();
            closed.stream.write_all(b"answer").unwrap();
            dying.close(closed.id, closed.stream);
            drop((dying, goes_on, ends));
            world.go_on();
            let next = Filterd::attach();
            for client in &mut clients {
                assert_eq!(read(client, 6), "answer");
            }
            let [goes_on, ended @ ..] = &mut clients;
            for client in ended {
                assert_eq!(client.read(&mut [0; 1]).unwrap(), 0, "its end is a packet of its own, perhaps");
            }
            assert!(is_open(goes_on));
            let (one, two) = (next.given(), next.given());
            let mut again = if one.client == unread.local_addr().unwrap() { one } else { two };
            assert_eq!(read(&mut again.stream, 6), "unread");
        },
    );
}

#[test]
fn what_a_dead_filterd_wrote_reaches_a_slow_client_before_what_the_next_one_writes() {
    privately("what_a_dead_filterd_wrote_reaches_a_slow_client_before_what_the_next_one_writes", || {
        let _world = World::start();
        let first = Filterd::attach();
        let mut client = dial(V4);
        let mut given = first.given();
        client.write_all(b"onetwo").unwrap();
        assert_eq!(read(&mut given.stream, 6), "onetwo");
        // as much as TCP and the socket pair hold together, and more than TCP alone does
        let large = vec![7; 4 << 20];
        given.stream.set_nonblocking(true).unwrap();
        let mut written = 0;
        let mut full = 0;
        while full < 3 {
            match given.stream.write(&large[written..]) {
                Ok(count) => (written, full) = (written + count, 0),
                Err(_) => {
                    full += 1;
                    // interceptor has had its turn, and the client's kernel time to say that it has room
                    first.heard();
                    wait_for_room(&given.stream, Duration::from_millis(100));
                }
            }
        }
        let end = u64::try_from(written).unwrap();
        first.say(&FromFilterd::Answered { connection: given.id, bytes: 3, end, closes: false });
        drop((first, given));
        let second = Filterd::attach();
        assert!(!second.wait(Duration::from_millis(50)), "what was written before is not through");
        let mut answer = vec![0; written];
        client.read_exact(&mut answer).unwrap();
        assert!(answer.iter().all(|byte| *byte == 7));
        let mut again = second.given();
        assert_eq!(read(&mut again.stream, 3), "two");
        again.stream.write_all(b"TWO").unwrap();
        assert_eq!(read(&mut client, 3), "TWO");
    });
}

#[test]
fn a_client_that_ended_its_side_has_ended_it_for_the_next_filterd_too() {
    privately("a_client_that_ended_its_side_has_ended_it_for_the_next_filterd_too", || {
        let _world = World::start();
        let first = Filterd::attach();
        let mut client = dial(V4);
        let mut given = first.given();
        client.write_all(b"request").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut request = String::new();
        given.stream.read_to_string(&mut request).unwrap();
        drop((first, given));
        let second = Filterd::attach();
        let mut again = second.given();
        let mut request = String::new();
        again.stream.read_to_string(&mut request).unwrap();
        assert_eq!(request, "request");
        again.stream.write_all(b"answer").unwrap();
        second.close(again.id, again.stream);
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "answer");
    });
}

#[test]
fn with_no_next_filterd_a_connection_is_reset_in_time_idle_or_not() {
    privately("with_no_next_filterd_a_connection_is_reset_in_time_idle_or_not", || {
        let _world = World::start();
        let filterd = Filterd::attach();
        let mut clients = [dial(V4), dial(V4)];
        let mut given = [filterd.given(), filterd.given()];
        clients[0].write_all(b"x").unwrap();
        let number = usize::from(given[0].client != clients[0].local_addr().unwrap());
        assert_eq!(read(&mut given[number].stream, 1), "x");
        let start = Stopwatch::start();
        drop((filterd, given));
        for client in &mut clients {
            assert!(is_reset(client));
            assert_held(start);
        }
    });
}

#[test]
fn a_filterd_that_leaves_loses_nothing_and_what_it_leaves_is_no_suspect() {
    privately("a_filterd_that_leaves_loses_nothing_and_what_it_leaves_is_no_suspect", || {
        let _world = World::start();
        let mut leaving = Filterd::attach();
        let mut client = dial(V4);
        let mut given = leaving.given();
        client.write_all(b"request").unwrap();
        for _ in 0..5 {
            assert_eq!(read(&mut given.stream, 7), "request");
            leaving.say(&FromFilterd::Leaving);
            drop((given, leaving));
            leaving = Filterd::attach();
            given = leaving.given();
        }
        // who comes while it leaves waits for the next one, and what lies unread in its channel too
        let mut unread = dial(V4);
        unread.write_all(b"unread").unwrap();
        assert!(leaving.wait(Duration::from_secs(5)));
        leaving.say(&FromFilterd::Leaving);
        leaving.say(&FromFilterd::Dial { dial: 1, upstream: 9 });
        while !matches!(leaving.receive().0, FromInterceptor::DialFailed { .. }) {}
        let mut new = dial(V4);
        new.write_all(b"newest").unwrap();
        assert!(!leaving.wait(Duration::from_millis(50)), "it was to get no more");
        // an exchange under way is finished meanwhile
        answer(&leaving, &mut given, 7, 0, "answer");
        assert_eq!(read(&mut client, 6), "answer");
        drop((leaving, given));
        let next = Filterd::attach();
        for _ in 0..3 {
            let mut again = next.given();
            if again.client == client.local_addr().unwrap() {
                again.stream.set_nonblocking(true).unwrap();
                assert!(again.stream.read(&mut [0; 1]).is_err(), "all was answered");
                continue;
            }
            let word = read(&mut again.stream, 6);
            assert_eq!(word == "unread", again.client == unread.local_addr().unwrap());
        }
        assert!(is_open(&client));
    });
}

#[test]
fn an_older_filterd_hands_back_what_it_has_to_the_newest_while_both_are_there() {
    privately("an_older_filterd_hands_back_what_it_has_to_the_newest_while_both_are_there", || {
        let _world = World::start();
        let older = Filterd::attach();
        let mut idle = dial(V4);
        let given = older.given();
        let newer = Filterd::attach();
        assert_eq!(older.receive().0, FromInterceptor::Drain);
        older.say(&FromFilterd::Leaving);
        drop(given);
        let mut again = newer.given();
        idle.write_all(b"request").unwrap();
        assert_eq!(read(&mut again.stream, 7), "request");
        drop(older);
        answer(&newer, &mut again, 7, 0, "answer");
        assert_eq!(read(&mut idle, 6), "answer");
    });
}

#[test]
fn of_a_filterd_of_the_previous_minor_nothing_is_replayed_and_all_else_works() {
    privately("of_a_filterd_of_the_previous_minor_nothing_is_replayed_and_all_else_works", || {
        let _world = World::start();
        let old = Filterd::attach_saying(Hello { minor: 0, oldest_minor: 0 });
        let mut client = dial(V4);
        let mut given = old.given();
        client.write_all(b"request").unwrap();
        assert_eq!(read(&mut given.stream, 7), "request");
        given.stream.write_all(b"answer").unwrap();
        assert_eq!(read(&mut client, 6), "answer");
        old.close(given.id, given.stream);
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
        let mut client = dial(V4);
        let given = old.given();
        let start = Stopwatch::start();
        drop((old, given));
        assert!(is_reset(&mut client), "nobody knows what it answered");
        assert!(start.elapsed() < Duration::from_millis(400));
        // one that says what it does not know by its own words is refused
        let liar = Filterd::attach_saying(Hello { minor: 0, oldest_minor: 0 });
        liar.say(&FromFilterd::Leaving);
        assert!(liar.dropped());
    });
}

#[test]
fn a_filterd_that_claims_what_cannot_be_is_dropped_and_its_clients_are_the_next_ones() {
    privately("a_filterd_that_claims_what_cannot_be_is_dropped_and_its_clients_are_the_next_ones", || {
        let _world = World::start();
        let liar = Filterd::attach();
        let mut client = dial(V4);
        let given = liar.given();
        client.write_all(b"request").unwrap();
        liar.say(&FromFilterd::Answered { connection: given.id, bytes: 100, end: 1, closes: false });
        assert!(liar.dropped());
        let next = Filterd::attach();
        let mut again = next.given();
        assert_eq!(read(&mut again.stream, 7), "request");
        // no word of the old one's, and no byte, reaches a connection that it has no more
        let mut stale = given.stream;
        assert!(stale.write_all(b"stale").is_err());
    });
}

#[test]
fn a_filterd_that_talks_without_end_keeps_nobody_else_waiting() {
    privately("a_filterd_that_talks_without_end_keeps_nobody_else_waiting", || {
        let _world = World::start();
        let talker = Filterd::attach();
        let _client = dial(V4);
        let given = talker.given();
        let talks = AtomicBool::new(true);
        let mut word = Vec::new();
        let blob = imds_ipc::Blob::new(vec![7; imds_ipc::MAX_BLOB].into()).unwrap();
        FromFilterd::Keep(blob).encode(&mut word);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while talks.load(Ordering::Relaxed) && channel_takes(&talker.0, &word) {
                        std::hint::spin_loop();
                    }
                });
            }
            // the end of a connection of which it says nothing: interceptor looks whether it did
            drop(given);
            let served = catch_unwind(|| {
                let newer = Filterd::attach();
                let other = dial(V4).local_addr().unwrap();
                // what is kept comes before, and perhaps the one that the other let fall
                while !matches!(newer.receive().0, FromInterceptor::Connection { client, .. } if client == other)
                {
                }
            });
            talks.store(false, Ordering::Relaxed);
            served.unwrap();
        });
    });
}

/// Says it if there is room, and whether the channel is still there.
fn channel_takes(channel: &OwnedFd, message: &[u8]) -> bool {
    let sent = imds_ipc::channel::send(channel, message, None);
    matches!(sent, Ok(()) | Err(imds_ipc::channel::ChannelError::WouldBlock))
}
