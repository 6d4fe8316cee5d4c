//! The control socket: rules exchanged while requests are under way, refused reloads, hostile callers; and names that
//! come to stand for somebody. The operator's end is played here.

mod played;

use imds_ipc::control::{Ask, CONTROL_DIRECTORY, CONTROL_SOCKET, InForce, Mode, Reply, RuleSet, rest_of};
use imds_ipc::{FromFilterd, FromInterceptor, Hello, Identity, Lack, Needs};
use imds_rules::Names;
use played::{ALLOW_ALL, Filterd, GET, OK, PATIENCE, Place, program};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

fn directory(filterd: &Filterd) -> PathBuf {
    filterd.directory().join(CONTROL_DIRECTORY)
}

fn call(filterd: &Filterd) -> UnixStream {
    let stream = UnixStream::connect(directory(filterd).join(CONTROL_SOCKET)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn reply(stream: &mut UnixStream) -> Reply {
    let mut frame = vec![0; 8];
    stream.read_exact(&mut frame).unwrap();
    let rest = rest_of(frame.as_slice().try_into().unwrap()).unwrap();
    let read = stream.take(u64::try_from(rest).unwrap()).read_to_end(&mut frame).unwrap();
    assert_eq!(read, rest);
    Reply::decode(&frame).unwrap()
}

fn set(rules: &str) -> RuleSet {
    let names = match imds_rules::parse("new.conf", rules.as_bytes()) {
        Ok(parsed) => Names::resolve(&parsed, |_| Ok(None), |_| Ok::<_, ()>(None)).unwrap(),
        Err(_) => Names::default(),
    };
    RuleSet {
        file: "new.conf".into(),
        text: rules.into(),
        names: names.encode(),
        shown: vec![(1000, "somebody".into())],
        mode: Mode::Enforce,
    }
}

fn ask(filterd: &Filterd, set: RuleSet) -> UnixStream {
    let mut stream = call(filterd);
    let mut frame = Vec::new();
    Ask::Reload(set).encode(&mut frame);
    stream.write_all(&frame).unwrap();
    stream
}

#[track_caller]
fn in_force(stream: &mut UnixStream) -> InForce {
    match reply(stream) {
        Reply::InForce(told) => told,
        other => panic!("{other:?}"),
    }
}

/// interceptor is told of the new rules.
#[track_caller]
fn hear_new(filterd: &mut Filterd) -> (Mode, Needs) {
    let (FromFilterd::Mode(mode), FromFilterd::Needs(needs)) = (filterd.hear(), filterd.hear()) else {
        panic!("something else");
    };
    assert_eq!(filterd.hear(), FromFilterd::Sync);
    (mode, needs)
}

#[track_caller]
fn reload(filterd: &mut Filterd, rules: &str) -> InForce {
    let mut stream = ask(filterd, set(rules));
    let (mode, _) = hear_new(filterd);
    filterd.say(&FromInterceptor::Synced, None);
    let told = in_force(&mut stream);
    assert_eq!(told.mode, mode);
    told
}

#[track_caller]
fn refused(filterd: &Filterd, set: RuleSet) -> String {
    match reply(&mut ask(filterd, set)) {
        Reply::Refused(why) => why,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn is_answered(filterd: &mut Filterd, uid: u32, status: u16) {
    let mut client = filterd.connect(uid);
    client.send(GET);
    if status == 200 {
        filterd.dial().answer(OK);
    }
    assert_eq!(client.answer().0, status);
    assert_eq!(filterd.audit()["status"], status);
    drop(client);
    assert!(matches!(filterd.hear(), FromFilterd::Close { .. }));
}

#[test]
fn new_rules_are_in_force_at_once_and_the_reply_says_which() {
    let mut filterd = Filterd::start(ALLOW_ALL);
    is_answered(&mut filterd, 1000, 200);
    let told = reload(&mut filterd, "# nobody\nDeny \"/\"\n");
    assert_eq!((told.file.as_str(), told.count, told.mode), ("new.conf", 1, Mode::Enforce));
    // printf '# nobody\nDeny "/"\n' | sha256sum
    let digest: String = told.digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(digest, "6e010f4a23ce0e0b971b5d5d5a3b0f92b2bed04cf1f9f9dbbaa0b2fc65623b74");
    let mut client = filterd.connect(1000);
    client.send(GET);
    assert_eq!(client.answer().0, 403);
    let line = filterd.audit();
    assert_eq!((line["rule"].as_u64(), line["user"].as_str()), (Some(2), Some("somebody")), "{line}");
}

#[test]
fn a_request_under_way_keeps_the_rules_that_it_began_with() {
    let mut filterd = Filterd::start(ALLOW_ALL);
    let mut client = filterd.connect(1000);
    client.send(GET);
    let upstream = filterd.dial();
    reload(&mut filterd, "Deny \"/\"\n");
    upstream.answer(OK);
    assert_eq!(client.answer().0, 200);
    client.send(GET);
    assert_eq!(client.answer().0, 403, "the next request of the same connection");
}

#[test]
fn wrong_rules_are_refused_with_their_places_and_the_old_ones_stay() {
    let mut filterd = Filterd::start(ALLOW_ALL);
    let why = refused(&filterd, set("Allow \"/\"\nDenny \"/x\"\n"));
    assert!(why.contains("new.conf:2:1: error") && why.contains("^^^^^"), "{why}");
    // a table that was made for other rules would leave Deny rules without effect
    let foreign = RuleSet { names: Names::default().encode(), ..set("Deny user bob \"/\"\n") };
    assert!(refused(&filterd, foreign).contains("table"));
    let garbled = RuleSet { names: vec![7; 5], ..set("Allow \"/\"\n") };
    assert!(refused(&filterd, garbled).contains("table"));
    assert!(filterd.hear_now().is_none(), "interceptor is told nothing");
    is_answered(&mut filterd, 1000, 200);
}

#[test]
fn rules_that_ask_for_what_interceptor_cannot_tell_are_refused() {
    let place = Place::new();
    let settings = place.settings(ALLOW_ALL, "");
    let none = Identity::partial(Lack::NoTypes);
    let mut filterd = Filterd::spawn_telling(place, &mut program(), &settings, none);
    let why = refused(&filterd, set("Allow group 5 \"/\"\n"));
    assert!(why.contains("new.conf: line 1") && why.contains("cannot be told"), "{why}");
    is_answered(&mut filterd, 1000, 200);
}

#[test]
fn what_the_new_rules_need_of_clients_is_asked_for() {
    let mut filterd = Filterd::start(ALLOW_ALL);
    let needs = |groups, unit| Needs { groups, unit };
    // first what either rules need, where that is more
    for (rules, both, new) in [
        ("Allow group 5 \"/\"\n", Some(needs(true, false)), needs(true, false)),
        ("Allow unit a.service \"/\"\n", Some(needs(true, true)), needs(false, true)),
        ("Allow \"/\"\n", None, needs(false, false)),
    ] {
        let _stream = ask(&filterd, set(rules));
        if let Some(both) = both {
            hear_ahead(&mut filterd, both);
            filterd.say(&FromInterceptor::Synced, None);
        }
        assert_eq!(hear_new(&mut filterd), (Mode::Enforce, new), "{rules}");
        filterd.say(&FromInterceptor::Synced, None);
    }
}

/// interceptor is told what clients are to be told apart by before the new rules are in force.
#[track_caller]
fn hear_ahead(filterd: &mut Filterd, needs: Needs) {
    assert_eq!(filterd.hear(), FromFilterd::Needs(needs));
    assert_eq!(filterd.hear(), FromFilterd::Sync);
}

#[test]
fn a_client_that_came_before_interceptor_tells_what_new_rules_need_is_judged_by_the_old_ones() {
    let mut filterd = Filterd::start(ALLOW_ALL);
    let mut stream = ask(&filterd, set("Allow group 5 \"/\"\n"));
    hear_ahead(&mut filterd, Needs { groups: true, unit: false });
    // nobody has asked the kernel for its groups
    is_answered(&mut filterd, 1000, 200);
    filterd.say(&FromInterceptor::Synced, None);
    hear_new(&mut filterd);
    is_answered(&mut filterd, 1000, 403);
    filterd.say(&FromInterceptor::Synced, None);
    assert_eq!(in_force(&mut stream).count, 1);
    // one that says nothing does not keep the rules from their place
    let mut stream = ask(&filterd, set("Deny unit a.service \"/\"\n"));
    hear_ahead(&mut filterd, Needs { groups: true, unit: true });
    hear_new(&mut filterd);
    assert!(matches!(reply(&mut stream), Reply::Unconfirmed(told) if told.count == 1));
}

#[test]
fn a_reload_is_over_when_interceptor_has_obeyed() {
    let mut filterd = Filterd::start(ALLOW_ALL);
    let mut stream = ask(&filterd, set("Deny \"/\"\n"));
    hear_new(&mut filterd);
    is_answered(&mut filterd, 1000, 403);
    stream.set_nonblocking(true).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock, "a reply too early");
    stream.set_nonblocking(false).unwrap();
    filterd.say(&FromInterceptor::Synced, None);
    assert_eq!(in_force(&mut stream).count, 1);
    // one that never says so is told of
    let mut stream = ask(&filterd, set(ALLOW_ALL));
    hear_new(&mut filterd);
    assert!(matches!(reply(&mut stream), Reply::Unconfirmed(told) if told.count == 1));
    // and too late is no fault
    filterd.say(&FromInterceptor::Synced, None);
    is_answered(&mut filterd, 1000, 200);
    filterd.say(&FromInterceptor::Synced, None);
    filterd.hear_end();
    let (status, log) = filterd.end();
    assert!(!status.success() && log.contains("out of turn"), "{log}");
    assert!(log.contains("imds-interceptor does not say that it has taken"), "{log}");
}

#[test]
fn an_interceptor_of_the_previous_minor_is_not_waited_for() {
    let mut filterd = Filterd::start_saying(Hello::PREVIOUS);
    let mut stream = ask(&filterd, set("Deny \"/\"\n"));
    in_force(&mut stream);
    assert!(matches!(filterd.hear(), FromFilterd::Mode(_)));
    assert!(matches!(filterd.hear(), FromFilterd::Needs(_)));
    is_answered(&mut filterd, 1000, 403);
}

#[test]
fn the_socket_is_its_owners_alone() {
    let filterd = Filterd::start(ALLOW_ALL);
    let directory = directory(&filterd);
    assert_eq!(std::fs::metadata(&directory).unwrap().mode() & 0o7777, 0o700);
    let socket = std::fs::metadata(directory.join(CONTROL_SOCKET)).unwrap();
    assert_eq!(socket.mode() & 0o7777, 0o600);
    assert_eq!(socket.uid(), rustix::process::geteuid().as_raw());
}

#[test]
fn callers_that_say_nonsense_or_nothing_cost_only_themselves() {
    let mut filterd = Filterd::start(ALLOW_ALL);
    let mut nonsense: Vec<Vec<u8>> =
        vec![vec![], vec![0; 8], vec![0xff; 64], b"GET / HTTP/1.1\r\n\r\n".to_vec()];
    let mut frame = Vec::new();
    Ask::Reload(set("Allow \"/\"\n")).encode(&mut frame);
    nonsense.push(frame[..frame.len() - 1].to_vec());
    Ask::Watch { generation: 1, names: vec![] }.encode(&mut frame);
    nonsense.push(frame.clone());
    frame[4] = 99;
    nonsense.push(frame);
    for bytes in nonsense {
        let mut stream = call(&filterd);
        // one that is refused early may not be read to the end
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut said = Vec::new();
        match stream.read_to_end(&mut said) {
            Ok(_) => assert!(!matches!(Reply::decode(&said), Ok(Reply::InForce(_))), "{bytes:?}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{bytes:?}"),
        }
    }
    is_answered(&mut filterd, 1000, 200);
    // one that never says anything keeps the others waiting for a bounded time, and clients not at all
    let silent = call(&filterd);
    let many: Vec<UnixStream> = (0..3).map(|_| call(&filterd)).collect();
    is_answered(&mut filterd, 1000, 200);
    drop(many);
    reload(&mut filterd, "Deny \"/\"\n");
    drop(silent);
    is_answered(&mut filterd, 1000, 403);
}

#[test]
fn a_newer_filterd_answers_to_the_name_of_an_older_one() {
    let older = Filterd::start(ALLOW_ALL);
    let mut newer = Filterd::beside(&older);
    let mut stream = ask(&older, set("Deny \"/\"\n"));
    hear_new(&mut newer);
    newer.say(&FromInterceptor::Synced, None);
    in_force(&mut stream);
    is_answered(&mut newer, 1000, 403);
}
