//! Requests and small answers in messages, through the running interceptor, with the kernel's own TCP as the client.
#![cfg(target_os = "linux")]

mod world;

use imds_ipc::{FromFilterd, FromInterceptor, MAX_ANSWER, MAX_ASKED};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use world::*;

/// A client that does so is served when those before it are.
fn end_without_a_word() {
    let mut client = dial(V4);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn a_clients_bytes_are_asked_in_a_message_and_answered_in_one_again_and_again() {
    privately("a_clients_bytes_are_asked_in_a_message_and_answered_in_one_again_and_again", || {
        let _world = World::start();
        let filterd = Filterd::attach_asked();
        for to in [V4, V6] {
            let mut silent = dial(to);
            let mut client = dial(to);
            assert!(!filterd.wait(Duration::from_millis(50)), "nothing was sent yet");
            let mut first = None;
            for n in 0..3 {
                client.write_all(format!("request {n}").as_bytes()).unwrap();
                let asked = filterd.asked();
                assert_eq!((asked.uid, asked.client), (0, client.local_addr().unwrap()));
                assert_eq!(asked.bytes, format!("request {n}"));
                assert_eq!(*first.get_or_insert((asked.id, asked.place)), (asked.id, asked.place));
                filterd.answer(asked.id, &"a".repeat(MAX_ANSWER), n == 2);
                assert_eq!(read(&mut client, MAX_ANSWER), "a".repeat(MAX_ANSWER));
            }
            assert_eq!(client.read(&mut [0; 1]).unwrap(), 0, "it was to close");
            silent.write_all(b"x").unwrap();
            let asked = filterd.asked();
            assert!(first.is_some_and(|(_, place)| (1..=place).contains(&asked.place)), "it came before");
            filterd.answer(asked.id, "y", false);
            assert_eq!(read(&mut silent, 1), "y");
            // a client that ends without a further word is gone, and filterd hears nothing of it
            silent.shutdown(Shutdown::Write).unwrap();
            assert_eq!(silent.read(&mut [0; 1]).unwrap(), 0);
            assert!(!filterd.wait(Duration::from_millis(20)));
        }
    });
}

#[test]
fn the_next_bytes_of_a_client_wait_for_the_answer_and_for_room_for_another() {
    privately("the_next_bytes_of_a_client_wait_for_the_answer_and_for_room_for_another", || {
        let _world = World::start();
        let filterd = Filterd::attach_asked();
        let mut client = dial(V4);
        client.write_all(b"one").unwrap();
        let asked = filterd.asked();
        client.write_all(b"two").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert!(!filterd.wait(Duration::from_millis(50)), "one ask at a time");
        filterd.answer(asked.id, "ONE", false);
        let asked = filterd.asked();
        assert_eq!(asked.bytes, "two");
        filterd.answer(asked.id, "TWO", false);
        let mut all = String::new();
        client.read_to_string(&mut all).unwrap();
        assert_eq!(all, "ONETWO");

        // one that asks and never reads: what it is owed is bounded
        let mut client = dial(V4);
        let mut answers = 0;
        loop {
            client.write_all(b"more").unwrap();
            if !filterd.wait(Duration::from_millis(300)) {
                break;
            }
            let asked = filterd.asked();
            filterd.answer(asked.id, &"a".repeat(MAX_ANSWER), false);
            answers += 1;
            assert!(answers < 10_000, "somebody keeps it all");
        }
        for _ in 0..answers {
            read(&mut client, MAX_ANSWER);
        }
        assert_eq!(filterd.asked().bytes, "more");
    });
}

#[test]
fn what_is_opened_goes_on_by_a_socket_and_no_byte_is_there_twice() {
    privately("what_is_opened_goes_on_by_a_socket_and_no_byte_is_there_twice", || {
        let _world = World::start();
        let filterd = Filterd::attach_asked();
        let mut client = dial(V4);
        client.write_all(b"first half").unwrap();
        let asked = filterd.asked();
        client.write_all(b", second half").unwrap();
        let mut stream = filterd.open(asked.id);
        assert_eq!(read(&mut stream, 13), ", second half");
        let whole = u32::try_from("first half, second half".len()).unwrap();
        filterd.say(&FromFilterd::Answered { connection: asked.id, bytes: whole, end: 6, closes: false });
        stream.write_all(b"answer").unwrap();
        assert_eq!(read(&mut client, 6), "answer");
        client.write_all(b"next").unwrap();
        assert_eq!(read(&mut stream, 4), "next");
        filterd.close(asked.id, stream);
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);

        // more than a message holds comes by a socket from the start
        let mut client = dial(V4);
        let long = "x".repeat(MAX_ASKED + 1);
        client.write_all(long.as_bytes()).unwrap();
        let mut got = String::new();
        let mut stream = match filterd.receive() {
            (FromInterceptor::Connection { .. }, Some(stream)) => UnixStream::from(stream),
            (FromInterceptor::Asked { id, bytes, .. }, None) => {
                got.push_str(std::str::from_utf8(bytes.bytes()).unwrap()); // TCP cut it in two
                filterd.open(id)
            }
            other => panic!("{other:?}"),
        };
        stream.set_nonblocking(false).unwrap();
        got.push_str(&read(&mut stream, long.len() - got.len()));
        assert_eq!(got, long);
    });
}

#[test]
fn what_a_dead_filterd_was_asked_the_next_one_is_asked_and_a_poison_costs_its_sender_alone() {
    privately(
        "what_a_dead_filterd_was_asked_the_next_one_is_asked_and_a_poison_costs_its_sender_alone",
        || {
            let world = World::start();
            let mut filterd = Filterd::attach_asked();
            let mut clients: Vec<_> = (0..8).map(|_| dial(V4)).collect();
            let mut idle = dial(V4);
            for (n, client) in clients.iter_mut().enumerate() {
                client.write_all(n.to_string().as_bytes()).unwrap();
                assert_eq!(filterd.asked().bytes, n.to_string());
            }
            drop(filterd);
            filterd = Filterd::attach_asked();
            // 3 and 6 end whoever is asked them
            let (mut deaths, mut answered, mut dies) = (0, 0, false);
            while dies || deaths < 2 || answered < 6 {
                if dies {
                    // with a slow one others are tried as well: it ends when it was asked no more
                    world.stop();
                    if !filterd.wait(Duration::ZERO) {
                        drop(filterd);
                        world.go_on();
                        filterd = Filterd::attach_asked();
                        dies = false;
                        continue;
                    }
                    world.go_on();
                }
                let asked = filterd.asked();
                if matches!(asked.bytes.as_str(), "3" | "6") {
                    deaths += 1;
                    dies = true;
                    continue;
                }
                filterd.answer(asked.id, &asked.bytes, false);
                let n: usize = asked.bytes.parse().unwrap();
                assert_eq!(read(&mut clients[n], 1), asked.bytes);
                answered += 1;
            }
            assert!(is_reset(&mut clients[3]) && is_reset(&mut clients[6]));
            idle.write_all(b"idle").unwrap();
            let asked = filterd.asked();
            assert_eq!(asked.bytes, "idle");
            filterd.answer(asked.id, "answer", true);
            assert_eq!(read(&mut idle, 6), "answer");
        },
    );
}

#[test]
fn an_answer_given_before_its_giver_died_counts_though_something_lay_unread_at_its_side() {
    privately("an_answer_given_before_its_giver_died_counts_though_something_lay_unread_at_its_side", || {
        let world = World::start();
        let dying = Filterd::attach_asked();
        let (mut client, mut unread) = (dial(V4), dial(V4));
        client.write_all(b"request").unwrap();
        let asked = dying.asked();
        // the kernel then tells of the end before it gives what was said
        unread.write_all(b"unread").unwrap();
        assert!(dying.wait(Duration::from_secs(5)));
        world.stop();
        dying.answer(asked.id, "answer", false);
        drop(dying);
        world.go_on();
        assert_eq!(read(&mut client, 6), "answer");
        let next = Filterd::attach_asked();
        let asked = next.asked();
        assert_eq!((asked.client, asked.bytes.as_str()), (unread.local_addr().unwrap(), "unread"));
        next.answer(asked.id, "answer", false);
        assert_eq!(read(&mut unread, 6), "answer");
        assert!(!next.wait(Duration::from_millis(20)), "the first was asked twice");
    });
}

#[test]
fn while_nobody_serves_an_ask_waits_800_ms_and_an_idle_connection_longer() {
    privately("while_nobody_serves_an_ask_waits_800_ms_and_an_idle_connection_longer", || {
        let _world = World::start();
        let filterd = Filterd::attach_asked();
        let mut clients = [dial(V4), dial(V4), dial(V4)];
        for client in &mut clients {
            client.write_all(b"x").unwrap();
            filterd.answer(filterd.asked().id, "y", false);
            read(client, 1);
        }
        clients[0].write_all(b"asked").unwrap();
        filterd.asked();
        let start = Stopwatch::start();
        drop(filterd);
        clients[1].write_all(b"later").unwrap();
        for client in clients.iter_mut().take(2) {
            assert!(is_reset(client));
            assert_held(start);
        }
        // to one of the previous minor, too, which knows no asks
        let previous = Filterd::attach();
        clients[2].write_all(b"still here").unwrap();
        let mut given = previous.given();
        assert_eq!(given.client, clients[2].local_addr().unwrap());
        assert_eq!(read(&mut given.stream, 10), "still here");
    });
}

#[test]
fn whoever_asks_a_filterd_that_reads_nothing_is_reset_in_time() {
    privately("whoever_asks_a_filterd_that_reads_nothing_is_reset_in_time", || {
        let _world = World::start();
        let _hung = Filterd::attach_asked();
        let request = "x".repeat(MAX_ASKED.min(1000));
        let mut clients: Vec<_> = (0..400).map(|_| dial(V4)).collect();
        for client in &mut clients {
            client.write_all(request.as_bytes()).unwrap();
        }
        // more than fits into its socket: the others wait, and nothing that happens meanwhile renews anybody's time
        for _ in 0..25 {
            let_time_pass(Duration::from_millis(50));
            drop(dial(V4));
        }
        let begun = Stopwatch::start();
        while clients.len() >= 200 {
            assert!(begun.elapsed() < Duration::from_millis(500), "{} were not reset", clients.len());
            clients.retain(is_open);
        }
    });
}

#[test]
fn who_leaves_on_purpose_is_no_death_and_an_answer_ends_the_count_of_deaths() {
    privately("who_leaves_on_purpose_is_no_death_and_an_answer_ends_the_count_of_deaths", || {
        let _world = World::start();
        let mut client = dial(V4);
        client.write_all(b"one").unwrap();
        for on_purpose in [true, true, false] {
            let filterd = Filterd::attach_asked();
            assert_eq!(filterd.asked().bytes, "one");
            if on_purpose {
                filterd.say(&FromFilterd::Leaving);
            }
        }
        let filterd = Filterd::attach_asked();
        filterd.answer(filterd.asked().id, "ONE", false);
        assert_eq!(read(&mut client, 3), "ONE");
        client.write_all(b"two").unwrap();
        assert_eq!(filterd.asked().bytes, "two");
        drop(filterd);
        let filterd = Filterd::attach_asked();
        filterd.answer(filterd.asked().id, "TWO", false);
        assert_eq!(read(&mut client, 3), "TWO");
    });
}

#[test]
fn a_filterd_that_is_slow_and_reads_on_is_waited_for_by_all_in_their_order() {
    privately("a_filterd_that_is_slow_and_reads_on_is_waited_for_by_all_in_their_order", || {
        let _world = World::start();
        undisturbed(slow_and_reads_on);
    });
}

fn slow_and_reads_on() {
    let filterd = Filterd::attach_asked();
    let mut clients: Vec<_> = (0..300).map(|_| dial(V4)).collect();
    end_without_a_word();
    for client in &mut clients {
        client.write_all(&[b'x'; 1000]).unwrap();
    }
    let mut order = Vec::new();
    let begun = Instant::now();
    for _ in &clients {
        let_time_pass(Duration::from_millis(7)); // what a request costs it
        let asked = filterd.asked();
        filterd.answer(asked.id, "answer", false);
        order.push(clients.iter().position(|client| client.local_addr().unwrap() == asked.client));
    }
    assert!(begun.elapsed() > 2 * Duration::from_millis(800), "longer than anybody is held otherwise");
    assert!(order.is_sorted(), "{order:?}");
    for client in &mut clients {
        assert_eq!(read(client, 6), "answer");
    }
}

#[test]
fn what_a_filterd_lets_fall_waits_for_a_newer_one_no_longer_because_it_answers_others() {
    privately("what_a_filterd_lets_fall_waits_for_a_newer_one_no_longer_because_it_answers_others", || {
        let _world = World::start();
        let filterd = Filterd::attach_asked();
        let (mut fallen, mut other) = (dial(V4), dial(V4));
        fallen.write_all(b"half").unwrap();
        drop(filterd.open(filterd.asked().id));
        let begun = Stopwatch::start();
        while is_open(&fallen) {
            assert!(begun.elapsed() < Duration::from_secs(3), "it waits on");
            other.write_all(b"x").unwrap();
            filterd.answer(filterd.asked().id, "y", false);
            assert_eq!(read(&mut other, 1), "y");
        }
        let waited = begun.on_the_wall();
        assert!(waited > Duration::from_millis(500), "{waited:?}");
    });
}

#[test]
fn an_ask_that_finds_no_room_is_had_by_who_answered_its_client_before_as_soon_as_it_reads() {
    privately(
        "an_ask_that_finds_no_room_is_had_by_who_answered_its_client_before_as_soon_as_it_reads",
        || {
            let _world = World::start();
            let filterd = Filterd::attach_asked();
            let mut client = dial(V4);
            client.write_all(b"one").unwrap();
            let asked = filterd.asked();
            filterd.answer(asked.id, "ONE", false);
            assert_eq!(read(&mut client, 3), "ONE");
            let mut others: Vec<_> = (0..400).map(|_| dial(V4)).collect();
            for other in &mut others {
                other.write_all(&[b'x'; 1000]).unwrap();
            }
            client.write_all(b"two").unwrap();
            while filterd.asked().id != asked.id {}
            filterd.answer(asked.id, "TWO", false);
            assert_eq!(read(&mut client, 3), "TWO");
        },
    );
}

#[test]
fn an_idle_connection_is_ended_in_time_and_an_end_that_is_meant_comes_at_once() {
    privately("an_idle_connection_is_ended_in_time_and_an_end_that_is_meant_comes_at_once", || {
        let _world = World::with("[limits]\nidle_seconds = 1\n");
        let filterd = Filterd::attach_asked();
        let mut silent = dial(V4);
        let mut client = dial(V4);
        client.write_all(b"x").unwrap();
        filterd.say(&FromFilterd::Reset { connection: filterd.asked().id });
        assert!(is_reset(&mut client));
        let mut client = dial(V4);
        client.write_all(b"x").unwrap();
        filterd.say(&FromFilterd::Close { connection: filterd.asked().id });
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
        assert_eq!(silent.read(&mut [0; 1]).unwrap(), 0, "it was idle for a second");
        assert!(!filterd.wait(Duration::ZERO));
    });
}

#[test]
fn an_upstream_socket_goes_to_filterd_while_it_is_being_connected() {
    privately("an_upstream_socket_goes_to_filterd_while_it_is_being_connected", || {
        let _world = World::start();
        let filterd = Filterd::attach_asked();
        sh("ip -n cloud route add blackhole 10.0.0.10/32; ip -n cloud route flush cache");
        filterd.say(&FromFilterd::Dial { dial: 5, upstream: 0 });
        let (message, socket) = filterd.receive();
        assert_eq!(message, FromInterceptor::Dialling { dial: 5 });
        let socket = TcpStream::from(socket.unwrap());
        assert_eq!(socket.peer_addr().unwrap_err().kind(), ErrorKind::NotConnected);
        assert!(!wait_for_room(&socket, Duration::from_millis(50)), "nobody can answer it");
        sh("ip -n cloud route del blackhole 10.0.0.10/32; ip -n cloud route flush cache");
        // nobody listens: its SYN is sent again and refused
        assert!(wait_for_room(&socket, Duration::from_secs(5)));
        assert_eq!(socket.take_error().unwrap().unwrap().kind(), ErrorKind::ConnectionRefused);
        filterd.say(&FromFilterd::Dial { dial: 6, upstream: 9 });
        assert!(matches!(filterd.receive().0, FromInterceptor::DialFailed { dial: 6, .. }));
    });
}

#[test]
fn a_filterd_that_answers_what_it_was_not_asked_is_dropped_and_its_asks_are_the_next_ones() {
    privately(
        "a_filterd_that_answers_what_it_was_not_asked_is_dropped_and_its_asks_are_the_next_ones",
        || {
            let _world = World::start();
            for twice in [false, true] {
                let liar = Filterd::attach_asked();
                let mut client = dial(V4);
                client.write_all(b"x").unwrap();
                let asked = liar.asked();
                let stream = liar.open(asked.id);
                let mut other = dial(V4);
                other.write_all(b"other").unwrap();
                assert_eq!(liar.asked().bytes, "other");
                match twice {
                    // it has a socket now
                    false => liar.answer(asked.id, "y", false),
                    true => liar.say(&FromFilterd::Open { connection: asked.id }),
                }
                assert!(liar.dropped());
                drop(stream);
                let next = Filterd::attach_asked();
                // one after the other: either may be why that one ended
                for _ in 0..2 {
                    match next.receive() {
                        (FromInterceptor::Asked { id, bytes, .. }, None) => {
                            assert_eq!(bytes.bytes(), b"other");
                            next.answer(id, "z", false);
                        }
                        (FromInterceptor::Connection { id, .. }, Some(stream)) => {
                            let mut stream = UnixStream::from(stream);
                            stream.set_nonblocking(false).unwrap();
                            assert_eq!(read(&mut stream, 1), "x");
                            next.close(id, stream);
                        }
                        other => panic!("{other:?}"),
                    }
                }
                assert_eq!(read(&mut other, 1), "z");
                // another's, and one that is nobody's any more
                let newer = Filterd::attach_asked();
                newer.say(&FromFilterd::Dial { dial: 1, upstream: 9 });
                newer.receive();
                other.write_all(b"again").unwrap();
                let asked = newer.asked();
                newer.say(&FromFilterd::Open { connection: u64::MAX });
                assert_eq!(newer.receive().0, FromInterceptor::Gone { id: u64::MAX });
                next.answer(asked.id, "stolen", false);
                assert!(next.dropped());
                newer.answer(asked.id, "own", true);
                assert_eq!(read(&mut other, 3), "own");
            }
        },
    );
}
