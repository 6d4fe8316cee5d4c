//! What the operator's command and filterd say to each other over the control socket, and filterd and its watcher of
//! names over theirs: one ask, one reply, each a frame. Total; decides nothing.
//!
//! A frame has the header of a message (length, version, kind), with a version of its own.

use crate::status::FilterStatus;
use crate::wire::{DecodeError, HEADER, MAX_FRAME, Reader, Writer};

/// The directory of the control socket and of the last good rules, below the runtime directory. Root's alone.
pub const CONTROL_DIRECTORY: &str = "control";
/// The control socket in it.
pub const CONTROL_SOCKET: &str = "filterd.sock";
/// A path is no longer (PATH_MAX).
const MAX_PATH: usize = 4096;
/// The parser takes no longer file.
const MAX_RULES: usize = 4 << 20;
/// A user's name, with room to spare.
const MAX_NAME: usize = 256;
/// Diagnoses of a file of rules: a hundred, each with its line.
const MAX_TEXT: usize = 1 << 20;

mod kind {
    pub(super) const RELOAD: u16 = 64;
    pub(super) const STATUS: u16 = 65;
    pub(super) const WATCH: u16 = 66;
    pub(super) const IN_FORCE: u16 = 80;
    pub(super) const REFUSED: u16 = 81;
    pub(super) const IS: u16 = 82;
    pub(super) const NAMES: u16 = 83;
    pub(super) const UNCONFIRMED: u16 = 84;
}

/// What becomes of a request that the rules do not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Enforce,
    /// It is forwarded, and logged as `would-deny`.
    Audit,
}

impl Mode {
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Enforce => 0,
            Self::Audit => 1,
        }
    }

    pub(crate) fn of(number: u8) -> Result<Self, DecodeError> {
        match number {
            0 => Ok(Self::Enforce),
            1 => Ok(Self::Audit),
            _ => Err(DecodeError::Value),
        }
    }
}

/// Rules as a file has them, with what their names stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleSet {
    /// Its path, for people.
    pub file: String,
    pub text: Vec<u8>,
    /// The table of resolved names, as `rules` encodes it.
    pub names: Vec<u8>,
    pub shown: Shown,
    pub mode: Mode,
}

/// uids and the names that the audit trail shows for them.
pub type Shown = Vec<(u32, String)>;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Put these rules in force, or say why not.
    Reload(RuleSet),
    Status,
    /// To the watcher of names: these names, as they are known now.
    Watch {
        generation: u64,
        names: Vec<u8>,
    },
}

/// Which rules are in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InForce {
    pub file: String,
    /// SHA-256 of the file.
    pub digest: [u8; 32],
    /// Rules.
    pub count: u32,
    /// Seconds since 1970.
    pub since: u64,
    pub mode: Mode,
}

/// What is replied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    InForce(InForce),
    /// They judge requests; but interceptor has not said in time that it has taken their mode, and what they need of clients.
    Unconfirmed(InForce),
    /// Nothing was changed, for this reason.
    Refused(String),
    Is(Box<FilterStatus>),
    /// The watcher's: what the names stand for now. `generation` is that of the ask.
    Names {
        generation: u64,
        names: Vec<u8>,
        shown: Shown,
    },
}

/// How many more bytes belong to the frame that begins with `header`.
///
/// # Errors
/// [`DecodeError::Length`] for a frame longer than any.
pub fn rest_of(header: [u8; HEADER]) -> Result<usize, DecodeError> {
    let [a, b, c, d, ..] = header;
    let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).map_err(|_| DecodeError::Length)?;
    if length > MAX_FRAME {
        Err(DecodeError::Length)
    } else {
        length.checked_sub(HEADER).ok_or(DecodeError::Length)
    }
}

fn write_shown(w: &mut Writer<'_>, shown: &Shown) {
    w.u32(u32::try_from(shown.len()).unwrap_or(u32::MAX));
    for (uid, name) in shown {
        w.u32(*uid);
        w.text(name);
    }
}

fn read_shown(r: &mut Reader<'_>) -> Result<Shown, DecodeError> {
    // no room is made for what a count promises: the bytes must be there
    (0..r.u32()?).map(|_| Ok((r.u32()?, r.text(MAX_NAME)?))).collect()
}

impl RuleSet {
    /// The frame of an ask to reload it; the last good rules are kept in this form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut w = Writer::control(out);
        w.kind(kind::RELOAD);
        w.text(&self.file);
        w.bytes(&self.text);
        w.bytes(&self.names);
        write_shown(&mut w, &self.shown);
        w.u8(self.mode.number());
        w.finish();
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            file: r.text(MAX_PATH)?,
            text: r.bytes(MAX_RULES)?,
            names: r.bytes(MAX_FRAME)?,
            shown: read_shown(r)?,
            mode: Mode::of(r.u8()?)?,
        })
    }
}

impl Ask {
    /// Replaces `out` by the encoded frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Reload(set) => set.encode(out),
            Self::Status => {
                let mut w = Writer::control(out);
                w.kind(kind::STATUS);
                w.finish();
            }
            Self::Watch { generation, names } => {
                let mut w = Writer::control(out);
                w.kind(kind::WATCH);
                w.u64(*generation);
                w.bytes(names);
                w.finish();
            }
        }
    }

    /// # Errors
    /// Whatever is not exactly one frame of this direction.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::control(bytes)?;
        let ask = match r.kind() {
            kind::RELOAD => Self::Reload(RuleSet::decode(&mut r)?),
            kind::STATUS => Self::Status,
            kind::WATCH => Self::Watch { generation: r.u64()?, names: r.bytes(MAX_FRAME)? },
            _ => return Err(DecodeError::Kind),
        };
        r.finish()?;
        Ok(ask)
    }
}

impl InForce {
    pub(crate) fn encode(&self, w: &mut Writer<'_>) {
        w.text(&self.file);
        w.array(&self.digest);
        w.u32(self.count);
        w.u64(self.since);
        w.u8(self.mode.number());
    }

    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            file: r.text(MAX_PATH)?,
            digest: r.array()?,
            count: r.u32()?,
            since: r.u64()?,
            mode: Mode::of(r.u8()?)?,
        })
    }
}

impl Reply {
    /// Replaces `out` by the encoded frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut w = Writer::control(out);
        match self {
            Self::InForce(in_force) => {
                w.kind(kind::IN_FORCE);
                in_force.encode(&mut w);
            }
            Self::Unconfirmed(in_force) => {
                w.kind(kind::UNCONFIRMED);
                in_force.encode(&mut w);
            }
            Self::Refused(why) => {
                w.kind(kind::REFUSED);
                w.bytes(why.as_bytes());
            }
            Self::Is(status) => {
                w.kind(kind::IS);
                status.encode(&mut w);
            }
            Self::Names { generation, names, shown } => {
                w.kind(kind::NAMES);
                w.u64(*generation);
                w.bytes(names);
                write_shown(&mut w, shown);
            }
        }
        w.finish();
    }

    /// # Errors
    /// Whatever is not exactly one frame of this direction.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::control(bytes)?;
        let reply = match r.kind() {
            kind::IN_FORCE => Self::InForce(InForce::decode(&mut r)?),
            kind::UNCONFIRMED => Self::Unconfirmed(InForce::decode(&mut r)?),
            kind::REFUSED => {
                Self::Refused(String::from_utf8(r.bytes(MAX_TEXT)?).map_err(|_| DecodeError::Value)?)
            }
            kind::IS => Self::Is(Box::new(FilterStatus::decode(&mut r)?)),
            kind::NAMES => {
                Self::Names { generation: r.u64()?, names: r.bytes(MAX_FRAME)?, shown: read_shown(&mut r)? }
            }
            _ => return Err(DecodeError::Kind),
        };
        r.finish()?;
        Ok(reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Verdicts;
    use crate::subject::{Identity, Lack};
    use proptest::prelude::*;

    fn set() -> RuleSet {
        RuleSet {
            file: "/etc/imds.conf".into(),
            text: b"Allow \"/\"\n\xff".to_vec(),
            names: vec![1, 2, 3],
            shown: vec![(0, "root".into()), (u32::MAX, String::new())],
            mode: Mode::Audit,
        }
    }

    fn asks() -> Vec<Ask> {
        vec![Ask::Reload(set()), Ask::Status, Ask::Watch { generation: 7, names: vec![9] }]
    }

    fn replies() -> Vec<Reply> {
        let in_force =
            InForce { file: "f".into(), digest: [7; 32], count: 3, since: u64::MAX, mode: Mode::Enforce };
        let status = FilterStatus {
            version: "0.1.0".into(),
            pid: 7,
            started: 1,
            in_force: in_force.clone(),
            fault: "line 1".into(),
            unresolved: vec!["line 2".into()],
            unresolved_count: 2,
            names_watched: true,
            identity: Some(Identity::partial(Lack::NoTypes)),
            connections: 3,
            verdicts: Verdicts { allow: 1, deny: 2, would_deny: 3, refuse: 4, limit: 5, error: 6 },
            lines_lost: 8,
        };
        vec![
            Reply::Is(Box::new(FilterStatus { identity: None, ..status.clone() })),
            Reply::Is(Box::new(status)),
            Reply::InForce(in_force.clone()),
            Reply::Unconfirmed(in_force),
            Reply::Refused("line 1\nline 2".into()),
            Reply::Names { generation: 1, names: vec![], shown: vec![(5, "sync".into())] },
        ]
    }

    fn frames() -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        for ask in asks() {
            let mut bytes = Vec::new();
            ask.encode(&mut bytes);
            all.push(bytes);
        }
        for reply in replies() {
            let mut bytes = Vec::new();
            reply.encode(&mut bytes);
            all.push(bytes);
        }
        all
    }

    #[test]
    fn every_frame_comes_back_and_no_truncation_or_addition_does() {
        for ask in asks() {
            let mut bytes = Vec::new();
            ask.encode(&mut bytes);
            assert_eq!(Ask::decode(&bytes), Ok(ask));
            assert!(Reply::decode(&bytes).is_err(), "an ask is no reply");
        }
        for reply in replies() {
            let mut bytes = Vec::new();
            reply.encode(&mut bytes);
            assert_eq!(Reply::decode(&bytes), Ok(reply));
        }
        for frame in frames() {
            for length in 0..frame.len() {
                let mut cut = frame[..length].to_vec();
                assert!(Ask::decode(&cut).is_err() && Reply::decode(&cut).is_err());
                // with a header that agrees with it
                if let Some(place) = cut.first_chunk_mut::<4>() {
                    *place = u32::try_from(length).unwrap().to_le_bytes();
                }
                assert!(Ask::decode(&cut).is_err() && Reply::decode(&cut).is_err());
            }
            let mut longer = frame;
            longer.push(0);
            assert!(Ask::decode(&longer).is_err() && Reply::decode(&longer).is_err());
        }
    }

    #[test]
    fn the_header_says_how_much_is_to_come_and_not_more_than_a_frame() {
        let header = |length: usize| {
            let mut header = [0; HEADER];
            header[..4].copy_from_slice(&u32::try_from(length).unwrap().to_le_bytes());
            rest_of(header)
        };
        assert_eq!(header(HEADER), Ok(0));
        assert_eq!(header(MAX_FRAME), Ok(MAX_FRAME - HEADER));
        for wrong in [0, HEADER - 1, MAX_FRAME + 1, 0xffff_ffff] {
            assert_eq!(header(wrong), Err(DecodeError::Length), "{wrong}");
        }
    }

    #[test]
    fn another_version_is_a_clear_error() {
        let mut bytes = Vec::new();
        Ask::Reload(set()).encode(&mut bytes);
        bytes[4] = 99;
        assert_eq!(Ask::decode(&bytes), Err(DecodeError::Version));
    }

    #[test]
    fn a_count_that_promises_more_than_there_is_takes_no_memory() {
        let mut bytes = Vec::new();
        Reply::Names { generation: 1, names: vec![], shown: vec![] }.encode(&mut bytes);
        let at = bytes.len() - 4;
        bytes[at..].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Reply::decode(&bytes), Err(DecodeError::Length));
    }

    proptest! {
        #[test]
        fn whatever_decodes_encodes_to_the_same_bytes(body in prop::collection::vec(any::<u8>(), 0..96), kind in 60u16..90) {
            let mut framed = u32::try_from(body.len() + HEADER).unwrap().to_le_bytes().to_vec();
            framed.extend_from_slice(&crate::wire::CONTROL_VERSION.to_le_bytes());
            framed.extend_from_slice(&kind.to_le_bytes());
            framed.extend_from_slice(&body);
            let mut again = Vec::new();
            if let Ok(ask) = Ask::decode(&framed) {
                ask.encode(&mut again);
                prop_assert_eq!(&again, &framed);
            }
            if let Ok(reply) = Reply::decode(&framed) {
                reply.encode(&mut again);
                prop_assert_eq!(&again, &framed);
            }
        }
    }
}
