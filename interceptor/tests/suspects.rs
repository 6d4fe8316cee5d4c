//! Requests that may have ended a filterd: each is tried alone, costs its sender alone, and keeps the others no longer than
//! it must. Through the running interceptor, with the kernel's own TCP as the client.
#![cfg(target_os = "linux")]

mod world;

use std::io::{Read, Write};
use std::time::Duration;
use world::*;

#[test]
fn a_request_that_ends_filterds_costs_its_sender_alone() {
    privately("a_request_that_ends_filterds_costs_its_sender_alone", || {
        let world = World::start();
        let mut filterd = Filterd::attach();
        // under way with the same filterd, and none of them answered yet
        let mut clients = Vec::new();
        let mut given = Vec::new();
        for n in 0..12_u8 {
            let mut client = dial(V4);
            let mut theirs = filterd.given();
            client.write_all(&[n]).unwrap();
            theirs.stream.read_exact(&mut [0; 1]).unwrap();
            clients.push(client);
            given.push(theirs);
        }
        let mut idle = dial(V4);
        given.push(filterd.given());
        let (mut deaths, mut dies) = (0, false);
        let mut quiet = vec![idle.local_addr().unwrap()];
        let mut begun = Stopwatch::start();
        // numbers 3 and 7 end whoever reads them
        drop(std::mem::take(&mut given));
        drop(filterd);
        filterd = Filterd::attach();
        while dies || quiet.len() < 11 {
            if dies {
                // with a slow one others are tried as well: it ends when it is given no more
                world.stop();
                if !filterd.wait(Duration::ZERO) {
                    given.clear();
                    drop(filterd);
                    world.go_on();
                    filterd = Filterd::attach();
                    (begun, dies) = (Stopwatch::start(), false);
                    continue;
                }
                world.go_on();
            }
            let mut again = filterd.given();
            if quiet.contains(&again.client) {
                given.push(again);
                continue;
            }
            let mut number = [0; 1];
            again.stream.read_exact(&mut number).unwrap();
            if matches!(number, [3 | 7]) {
                assert!(begun.elapsed() < Duration::from_millis(700));
                deaths += 1;
                dies = true;
                given.push(again);
                continue;
            }
            answer(&filterd, &mut again, 1, 0, "ok");
            assert_eq!(read(&mut clients[usize::from(number[0])], 2), "ok");
            quiet.push(again.client);
            given.push(again);
        }
        assert_eq!(deaths, 2, "each once more, and never again");
        for poison in [3, 7] {
            assert!(is_reset(&mut clients[poison]));
        }
        assert!(is_open(&idle), "an idle connection is no suspect, however many die");
        idle.write_all(b"x").unwrap();
    });
}

#[test]
fn a_suspect_that_is_slow_does_not_stop_the_others() {
    privately("a_suspect_that_is_slow_does_not_stop_the_others", || {
        let _world = World::start();
        let (mut slow, mut gone): (Vec<_>, Vec<_>) = (0..5).map(|_| suspects()).unzip();
        // the longest, and below the middle ones: a busy test machine delays any process now and then, ours too
        assert!(slow.iter().any(|[on_the_wall, _]| *on_the_wall > Duration::from_millis(20)), "{slow:?}");
        slow.sort_by_key(|[_, elapsed]| *elapsed);
        gone.sort();
        assert!(slow[2][1] < Duration::from_millis(200), "{slow:?}");
        assert!(gone[2] < Duration::from_millis(40), "{gone:?}");
    });
}

/// Three suspects are tried, the first of whom is not answered, and the client of the second goes. How long the second and
/// then the third waited for that; the second by both clocks.
fn suspects() -> ([Duration; 2], Duration) {
    let first = Filterd::attach();
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = dial(V4);
        let mut given = first.given();
        client.write_all(b"x").unwrap();
        assert_eq!(read(&mut given.stream, 1), "x");
        clients.push((client, given));
    }
    drop(first);
    let second = Filterd::attach();
    let one = second.given();
    let begun = Stopwatch::start();
    let two = second.given();
    let slow = [begun.on_the_wall(), begun.elapsed()];
    // a suspect whose client goes is through as well
    let goes = clients.iter().position(|(client, _)| client.local_addr().unwrap() == two.client).unwrap();
    let (client, _) = clients.remove(goes);
    let begun = Stopwatch::start();
    rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
    drop(client);
    let three = second.given();
    let gone = begun.elapsed();
    for left in [one, three] {
        second.close(left.id, left.stream);
    }
    for (mut client, _) in clients {
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    }
    (slow, gone)
}
