//! Filterds that come, speak, do not read and leave, over real sockets.
//! Must not need an event loop.

use super::*;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

fn join(peers: &mut Peers) -> (usize, OwnedFd) {
    let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    (peers.add(a, Instant::now()).unwrap(), b)
}

fn say(socket: &OwnedFd, message: &FromFilterd) {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    channel::send(socket, &bytes, None).unwrap();
}

const NEEDS: FromFilterd = FromFilterd::Needs(imds_ipc::Needs { groups: false, unit: false });

/// Says all that a filterd says before it gets connections.
fn serve(peers: &mut Peers, key: usize, socket: &OwnedFd, hello: Hello) {
    say(socket, &FromFilterd::Hello(hello));
    say(socket, &NEEDS);
    receive(peers, key).unwrap();
    receive(peers, key).unwrap();
}

fn hear(socket: &OwnedFd) -> Option<FromInterceptor> {
    let mut buffer = [0; MAX_MESSAGE];
    channel::receive(socket, &mut buffer).ok().map(|bytes| FromInterceptor::decode(bytes).unwrap())
}

fn receive(peers: &mut Peers, key: usize) -> Result<Option<FromFilterd>, PeerError> {
    peers.get_mut(key).unwrap().receive()
}

#[test]
fn hello_comes_first_once_and_in_time() {
    let mut peers = Peers::default();
    let (key, socket) = join(&mut peers);
    let mut buffer = [0; MAX_MESSAGE];
    let greeting = channel::receive(&socket, &mut buffer).unwrap();
    assert_eq!(FromInterceptor::decode(greeting), Ok(FromInterceptor::Hello(Hello::OURS)));
    assert_eq!(peers.newest(), None, "not before it says hello");
    assert_eq!(receive(&mut peers, key), Ok(None));
    assert_eq!(peers.overdue(Instant::now()), None);
    assert_eq!(peers.overdue(Instant::now() + GREETING), Some((key, PeerError::NoHello)));
    say(&socket, &FromFilterd::Hello(Hello::OURS));
    assert_eq!(receive(&mut peers, key), Ok(Some(FromFilterd::Hello(Hello::OURS))));
    assert_eq!(peers.newest(), None, "its rules may still turn out to be impossible here");
    say(&socket, &NEEDS);
    assert_eq!(receive(&mut peers, key), Ok(Some(NEEDS)));
    assert_eq!(peers.newest(), Some(key));
    assert_eq!(peers.next_deadline(), None);
    say(&socket, &FromFilterd::Hello(Hello::OURS));
    assert_eq!(receive(&mut peers, key), Err(PeerError::SecondHello));

    let (key, socket) = join(&mut peers);
    say(&socket, &FromFilterd::Dial { dial: 1, upstream: 0 });
    assert_eq!(receive(&mut peers, key), Err(PeerError::NoHello));
}

#[test]
fn another_version_nonsense_and_a_pushed_descriptor_are_errors_with_their_reason() {
    let mut peers = Peers::default();
    let (key, socket) = join(&mut peers);
    say(&socket, &FromFilterd::Hello(Hello { minor: 99, oldest_minor: 98 }));
    assert_eq!(receive(&mut peers, key), Err(PeerError::Decode(DecodeError::Version)));
    let (key, socket) = join(&mut peers);
    channel::send(&socket, b"nonsense", None).unwrap();
    assert!(matches!(receive(&mut peers, key), Err(PeerError::Decode(_))));
    let (key, socket) = join(&mut peers);
    let mut bytes = Vec::new();
    FromFilterd::Hello(Hello::OURS).encode(&mut bytes);
    channel::send(&socket, &bytes, Some(socket.as_fd())).unwrap();
    // FreeBSD discards it without a word
    let got = receive(&mut peers, key);
    assert!(
        matches!(
            got,
            Err(PeerError::Channel(ChannelError::Descriptor)) | Ok(Some(FromFilterd::Hello(Hello::OURS)))
        ),
        "{got:?}"
    );
    let (key, socket) = join(&mut peers);
    drop(socket);
    assert_eq!(receive(&mut peers, key), Err(PeerError::Channel(ChannelError::Closed)));
}

#[test]
fn the_newest_attached_gets_connections_and_the_oldest_goes_when_there_are_too_many() {
    let mut peers = Peers::default();
    let mut sockets = Vec::new();
    for _ in 0..MAX_PEERS {
        assert_eq!(peers.surplus(), None);
        let (key, socket) = join(&mut peers);
        serve(&mut peers, key, &socket, Hello::OURS);
        assert_eq!(peers.newest(), Some(key));
        sockets.push((key, socket));
    }
    assert_eq!(peers.surplus(), Some(sockets[0].0));
    peers.remove(sockets[0].0);
    let (silent, _socket) = join(&mut peers);
    assert_eq!(peers.surplus(), Some(silent));
    assert_eq!(peers.newest(), Some(sockets[MAX_PEERS - 1].0));
}

#[test]
fn an_older_one_is_told_to_leave_once_and_dropped_if_it_does_not() {
    let mut peers = Peers::default();
    let now = Instant::now();
    let (old, old_socket) = join(&mut peers);
    serve(&mut peers, old, &old_socket, Hello::OURS);
    assert_eq!(peers.older(), []);
    let (new, new_socket) = join(&mut peers);
    serve(&mut peers, new, &new_socket, Hello::OURS);
    assert_eq!(peers.older(), [old]);
    for _ in 0..2 {
        peers.get_mut(old).unwrap().dismiss(now).unwrap();
    }
    assert_eq!(hear(&old_socket), Some(FromInterceptor::Hello(Hello::OURS)));
    assert_eq!(hear(&old_socket), Some(FromInterceptor::Drain));
    assert_eq!(hear(&old_socket), None, "told twice");
    assert_eq!(peers.overdue(now + LEAVING / 2), None);
    assert_eq!(peers.overdue(now + LEAVING), Some((old, PeerError::StillThere)));
    // one that leaves of its own gets nothing more, and is given as long
    peers.get_mut(new).unwrap().leave(now);
    assert_eq!(peers.newest(), Some(old), "better an old one than none");
    assert!(peers.get_mut(new).unwrap().is_leaving());
}

#[test]
fn one_of_a_previous_minor_is_not_told_what_it_does_not_know_and_may_not_say_it() {
    let mut peers = Peers::default();
    let previous = Hello { minor: 0, oldest_minor: 0 };
    let (key, socket) = join(&mut peers);
    serve(&mut peers, key, &socket, previous);
    assert_eq!(peers.newest(), Some(key));
    let peer = peers.get_mut(key).unwrap();
    assert!(!peer.tells_answers());
    peer.dismiss(Instant::now()).unwrap();
    assert_eq!(hear(&socket), Some(FromInterceptor::Hello(Hello::OURS)));
    assert_eq!(hear(&socket), None);
    assert_eq!(peers.next_deadline(), None);
    say(&socket, &FromFilterd::Leaving);
    assert_eq!(receive(&mut peers, key), Err(PeerError::Decode(DecodeError::Kind)));
    // and one of 1.1 is asked nothing in messages, nor may it answer so
    let (key, socket) = join(&mut peers);
    serve(&mut peers, key, &socket, Hello::PREVIOUS);
    assert!(!peers.get_mut(key).unwrap().speaks_in_messages());
    say(&socket, &FromFilterd::Open { connection: 1 });
    assert_eq!(receive(&mut peers, key), Err(PeerError::Decode(DecodeError::Kind)));
}

#[test]
fn one_that_never_reads_is_offered_nothing_more_and_in_the_end_dropped() {
    let mut peers = Peers::default();
    let (key, socket) = join(&mut peers);
    let peer = peers.get_mut(key).unwrap();
    let answer = FromInterceptor::DialFailed { dial: 1, why: imds_ipc::DialFailure::TooMany };
    let mut answers = 0;
    while !peer.needs_room() {
        peer.answer(&answer, None).unwrap();
        answers += 1;
    }
    assert_eq!(peer.offer(&answer, Some(socket.as_fd())), Err(ChannelError::WouldBlock));
    let error = (0..=MAX_UNREAD).find_map(|_| peer.answer(&answer, None).err());
    assert_eq!(error, Some(PeerError::NotReading));
    // and one that reads on gets all of them
    let mut buffer = [0; MAX_MESSAGE];
    let mut got = 0;
    while channel::receive(&socket, &mut buffer).is_ok() {
        got += 1;
        peer.flush().unwrap();
    }
    assert!(!peer.needs_room());
    assert!(got > answers);
}
