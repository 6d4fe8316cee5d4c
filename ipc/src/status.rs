//! How both daemons are, for the operator: filterd's word over the control socket, interceptor's at its door. Total;
//! decides nothing.

use crate::control::InForce;
use crate::subject::Identity;
use crate::wire::{DecodeError, HEADER, MAX_MESSAGE, Reader, Writer};

/// Of a list of texts; how many there are is told besides.
const MAX_TEXTS: usize = 32;
/// Of interceptor's list: its word is one message.
const MAX_FOREIGN: usize = 8;
/// Bytes of one text.
const MAX_TEXT: usize = 512;
/// A program's version.
const MAX_VERSION: usize = 64;
/// One of the other numbers of messages at interceptor's door.
const KIND: u16 = 48;

/// How often each verdict was given since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verdicts {
    pub allow: u64,
    pub deny: u64,
    pub would_deny: u64,
    pub refuse: u64,
    pub limit: u64,
    pub error: u64,
}

/// What filterd says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterStatus {
    pub version: String,
    pub pid: u32,
    /// Seconds since 1970.
    pub started: u64,
    pub in_force: InForce,
    /// Why the rules in force are not those of the file on disk.
    pub fault: String,
    /// Rules that match nobody, and how many there are.
    pub unresolved: Vec<String>,
    pub unresolved_count: u32,
    /// Whether somebody watches the account database.
    pub names_watched: bool,
    pub identity: Option<Identity>,
    pub connections: u32,
    pub verdicts: Verdicts,
    /// Audit lines that could not be written since the start.
    pub lines_lost: u64,
}

/// What becomes of forwarded packets to the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardedPackets {
    Refused,
    Direct,
    /// Let alone in audit mode, and counted, as far as the count could be had.
    Audited(Option<u64>),
}

/// What interceptor says of itself, in one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterceptorStatus {
    pub version: String,
    pub pid: u32,
    pub identity: Identity,
    /// The last probe found no way out but ours.
    pub guarded: bool,
    pub tun: bool,
    pub ipv6: bool,
    /// Which guard, by its name in the settings.
    pub guard: String,
    pub forwarded: ForwardedPackets,
    /// Its own settings say audit.
    pub audit: bool,
    /// Parts of capture put back since the start.
    pub put_back: u64,
    /// Rules and policies of others that come before ours.
    pub foreign: Vec<String>,
    pub trouble: String,
    /// filterds attached.
    pub filterds: u32,
    pub connections: u32,
    /// Connections that wait for a filterd.
    pub held: u32,
    /// Connections refused since the start: by limits, and because nobody could tell who it is.
    pub crowded: u64,
    pub unattributable: u64,
}

/// Cut where it fits, between characters.
fn text(w: &mut Writer<'_>, text: &str, most: usize) {
    let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    w.text(text.get(..end).unwrap_or(text));
}

fn texts(w: &mut Writer<'_>, all: &[String], most: usize) {
    let shown = all.len().min(most);
    w.u16(u16::try_from(shown).unwrap_or(0));
    all.iter().take(shown).for_each(|each| text(w, each, MAX_TEXT));
}

fn read_texts(r: &mut Reader<'_>, most: usize) -> Result<Vec<String>, DecodeError> {
    let count = usize::from(r.u16()?);
    if count > most {
        return Err(DecodeError::Value);
    }
    (0..count).map(|_| r.text(MAX_TEXT)).collect()
}

fn flag(r: &mut Reader<'_>) -> Result<bool, DecodeError> {
    match r.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::Value),
    }
}

impl Verdicts {
    /// In the words of the audit lines.
    #[must_use]
    pub fn named(&self) -> [(&'static str, u64); 6] {
        [
            ("allow", self.allow),
            ("deny", self.deny),
            ("would-deny", self.would_deny),
            ("refuse", self.refuse),
            ("limit", self.limit),
            ("error", self.error),
        ]
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            allow: r.u64()?,
            deny: r.u64()?,
            would_deny: r.u64()?,
            refuse: r.u64()?,
            limit: r.u64()?,
            error: r.u64()?,
        })
    }
}

impl FilterStatus {
    pub(crate) fn encode(&self, w: &mut Writer<'_>) {
        text(w, &self.version, MAX_VERSION);
        w.u32(self.pid);
        w.u64(self.started);
        self.in_force.encode(w);
        text(w, &self.fault, MAX_TEXT);
        texts(w, &self.unresolved, MAX_TEXTS);
        w.u32(self.unresolved_count);
        w.u8(self.names_watched.into());
        w.u8(self.identity.is_some().into());
        if let Some(identity) = self.identity {
            identity.encode(w);
        }
        w.u32(self.connections);
        self.verdicts.named().iter().for_each(|(_, count)| w.u64(*count));
        w.u64(self.lines_lost);
    }

    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            version: r.text(MAX_VERSION)?,
            pid: r.u32()?,
            started: r.u64()?,
            in_force: InForce::decode(r)?,
            fault: r.text(MAX_TEXT)?,
            unresolved: read_texts(r, MAX_TEXTS)?,
            unresolved_count: r.u32()?,
            names_watched: flag(r)?,
            identity: if flag(r)? { Some(Identity::decode(r)?) } else { None },
            connections: r.u32()?,
            verdicts: Verdicts::decode(r)?,
            lines_lost: r.u64()?,
        })
    }
}

impl InterceptorStatus {
    /// Replaces `out` by the encoded message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut w = Writer::control(out);
        w.kind(KIND);
        text(&mut w, &self.version, MAX_VERSION);
        w.u32(self.pid);
        self.identity.encode(&mut w);
        for is in [self.guarded, self.tun, self.ipv6] {
            w.u8(is.into());
        }
        text(&mut w, &self.guard, MAX_VERSION);
        let (kind, count) = match self.forwarded {
            ForwardedPackets::Refused => (0, 0),
            ForwardedPackets::Direct => (1, 0),
            ForwardedPackets::Audited(None) => (2, 0),
            ForwardedPackets::Audited(Some(count)) => (3, count),
        };
        w.u8(kind);
        w.u64(count);
        w.u8(self.audit.into());
        w.u64(self.put_back);
        texts(&mut w, &self.foreign, MAX_FOREIGN);
        text(&mut w, &self.trouble, MAX_TEXT);
        w.u32(self.filterds);
        w.u32(self.connections);
        w.u32(self.held);
        w.u64(self.crowded);
        w.u64(self.unattributable);
        w.finish();
    }

    /// # Errors
    /// Whatever is not exactly this message.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::control(bytes)?;
        if r.kind() != KIND {
            return Err(DecodeError::Kind);
        }
        let status = Self {
            version: r.text(MAX_VERSION)?,
            pid: r.u32()?,
            identity: Identity::decode(&mut r)?,
            guarded: flag(&mut r)?,
            tun: flag(&mut r)?,
            ipv6: flag(&mut r)?,
            guard: r.text(MAX_VERSION)?,
            forwarded: match (r.u8()?, r.u64()?) {
                (0, 0) => ForwardedPackets::Refused,
                (1, 0) => ForwardedPackets::Direct,
                (2, 0) => ForwardedPackets::Audited(None),
                (3, count) => ForwardedPackets::Audited(Some(count)),
                _ => return Err(DecodeError::Value),
            },
            audit: flag(&mut r)?,
            put_back: r.u64()?,
            foreign: read_texts(&mut r, MAX_FOREIGN)?,
            trouble: r.text(MAX_TEXT)?,
            filterds: r.u32()?,
            connections: r.u32()?,
            held: r.u32()?,
            crowded: r.u64()?,
            unattributable: r.u64()?,
        };
        r.finish()?;
        Ok(status)
    }
}

// the longest is one message: eight numbers and flags, and its texts
const _: () = assert!(HEADER + 2 * MAX_VERSION + (MAX_FOREIGN + 1) * (MAX_TEXT + 2) + 128 <= MAX_MESSAGE);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subject::Lack;

    fn status() -> InterceptorStatus {
        InterceptorStatus {
            version: "0.1.0".into(),
            pid: 5,
            identity: Identity::partial(Lack::NoCgroups),
            guarded: true,
            tun: false,
            ipv6: true,
            guard: "xfrm".into(),
            forwarded: ForwardedPackets::Audited(Some(7)),
            audit: true,
            put_back: u64::MAX,
            foreign: vec!["rule".into(); MAX_FOREIGN],
            trouble: String::new(),
            filterds: 1,
            connections: 2,
            held: 3,
            crowded: 4,
            unattributable: 5,
        }
    }

    #[test]
    fn a_status_comes_back_and_no_part_of_it_does() {
        let mut bytes = Vec::new();
        for forwarded in
            [ForwardedPackets::Refused, ForwardedPackets::Direct, ForwardedPackets::Audited(None)]
        {
            let status = InterceptorStatus { forwarded, ..status() };
            status.encode(&mut bytes);
            assert_eq!(InterceptorStatus::decode(&bytes), Ok(status));
        }
        for length in 0..bytes.len() {
            let mut cut = bytes[..length].to_vec();
            if let Some(place) = cut.first_chunk_mut::<4>() {
                *place = u32::try_from(length).unwrap().to_le_bytes();
            }
            assert!(InterceptorStatus::decode(&cut).is_err(), "{length}");
        }
    }

    #[test]
    fn whatever_is_wrong_with_the_host_it_is_one_message() {
        let long = "\u{20ac}".repeat(1000);
        let status = InterceptorStatus { foreign: vec![long.clone(); 100], trouble: long, ..status() };
        let mut bytes = Vec::new();
        status.encode(&mut bytes);
        assert!(bytes.len() <= MAX_MESSAGE);
        let told = InterceptorStatus::decode(&bytes).unwrap();
        assert_eq!(told.foreign.len(), MAX_FOREIGN);
        assert_eq!(told.trouble, "\u{20ac}".repeat(MAX_TEXT / 3));
    }
}
