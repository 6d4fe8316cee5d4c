//! The decoder of what the two processes say to each other, both ways.
//! Holds: whatever decodes is one message, and encodes to the very bytes it was read from.

use imds_ipc::{FromFilterd, FromInterceptor, Groups, Hello, MAX_EXE, MAX_GROUPS, MAX_MESSAGE};

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
}

/// No list or text is longer than who reads it was promised.
fn within_bounds(message: &FromInterceptor) {
    let FromInterceptor::Connection { subject, .. } = message else { return };
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
