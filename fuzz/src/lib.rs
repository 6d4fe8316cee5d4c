//! The bodies of the fuzz targets: bytes of anybody's choice in, a panic when a promise is broken.
//! Must not know who runs them: libFuzzer, or the test that goes through the corpus.

pub mod message;
pub mod netlink;
pub mod packet;
pub mod record;
pub mod request;
pub mod rules;
pub mod sock_diag;
mod source;
pub mod types;
mod wire;

/// A target's body.
pub type Body = fn(&[u8]);

/// Every target by its name, which is also that of its corpus.
pub const TARGETS: [(&str, Body); 8] = [
    ("message", message::run),
    ("netlink", netlink::run),
    ("packet", packet::run),
    ("record", record::run),
    ("request", request::run),
    ("rules", rules::run),
    ("sock_diag", sock_diag::run),
    ("types", types::run),
];
