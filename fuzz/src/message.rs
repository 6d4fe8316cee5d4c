//! The decoder of what the two processes say to each other, both ways.
//! Holds: whatever decodes is one message, and encodes to the very bytes it was read from.

use imds_ipc::control::{Ask, Reply, RuleSet};
use imds_ipc::status::InterceptorStatus;
use imds_ipc::{FromFilterd, FromInterceptor, Groups, Hello, MAX_EXE, MAX_GROUPS, MAX_MESSAGE};
use imds_rules::Names;

pub fn run(data: &[u8]) {
    decode(data);
    decode(&framed(data));
}

/// With a header whose length is right, so that the fields behind it are reached.
fn framed(data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len() + 4).unwrap_or(u32::MAX);
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend_from_slice(data);
    bytes
}

fn decode(bytes: &[u8]) {
    let mut again = Vec::new();
    if let Ok(message) = FromFilterd::decode(bytes) {
        message.encode(&mut again);
        assert_eq!(again, bytes, "{message:?}");
        if let FromFilterd::Hello(hello) = message {
            agree(hello);
        }
    }
    if let Ok(message) = FromInterceptor::decode(bytes) {
        message.encode(&mut again);
        assert_eq!(again, bytes, "{message:?}");
        assert!(bytes.len() <= MAX_MESSAGE);
        within_bounds(&message);
        if let FromInterceptor::Hello(hello) = message {
            agree(hello);
        }
    }
    operators(bytes);
}

/// What the operator, filterd and its watcher of names say to each other, and the table in it.
fn operators(bytes: &[u8]) {
    let mut again = Vec::new();
    if let Ok(ask) = Ask::decode(bytes) {
        ask.encode(&mut again);
        assert_eq!(again, bytes, "{ask:?}");
        if let Ask::Reload(RuleSet { names, .. }) | Ask::Watch { names, .. } = &ask
            && let Some(table) = Names::decode(names)
        {
            assert_eq!(table.encode(), *names);
        }
    }
    if let Ok(reply) = Reply::decode(bytes) {
        reply.encode(&mut again);
        assert_eq!(again, bytes, "{reply:?}");
    }
    if let Ok(status) = InterceptorStatus::decode(bytes) {
        status.encode(&mut again);
        assert_eq!(again, bytes, "{status:?}");
    }
    if let Some(table) = Names::decode(bytes) {
        assert_eq!(table.encode(), bytes);
    }
}

/// No list or text is longer than who reads it was promised.
fn within_bounds(message: &FromInterceptor) {
    let (FromInterceptor::Connection { subject: Ok(subject), .. }
    | FromInterceptor::Asked { subject: Ok(subject), .. }) = message
    else {
        return;
    };
    match &subject.groups {
        Groups::All(gids) | Groups::Cut(gids) => assert!(gids.len() <= MAX_GROUPS),
        Groups::Unknown => {}
    }
    let exe = subject.process.as_ref().and_then(|process| process.exe.as_ref());
    assert!(exe.is_none_or(|exe| exe.len() <= MAX_EXE));
}

/// Both ends come to the same version, and to none that either does not speak.
fn agree(hello: Hello) {
    let (ours, theirs) = (Hello::OURS.agree(hello), hello.agree(Hello::OURS));
    assert_eq!(ours, theirs);
    if let Ok(minor) = ours {
        for one in [Hello::OURS, hello] {
            assert!((one.oldest_minor..=one.minor).contains(&minor), "{minor} is not one of {one:?}");
        }
    }
}
