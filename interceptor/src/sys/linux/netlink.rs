//! Netlink: sockets, the writing of messages and the total reading of what the kernel answers.
//! Knows no message kind's meaning: those are rtnl, xfrm.rs and nftables.

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
    sockopt,
};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const FLAG_REQUEST: u16 = 0x1;
const FLAG_ACK: u16 = 0x4;
const FLAG_DUMP: u16 = 0x300;
/// The kernel changed what it lists while it listed it.
const FLAG_DUMP_INTERRUPTED: u16 = 0x10;
/// `NEW`: make it; an equal one is an error (EEXIST).
pub(crate) const CREATE: u16 = MAKE | 0x200;
/// `NEW`: make it, unless it is there.
pub(crate) const MAKE: u16 = 0x400;
/// `NEW`: at the end of its list.
pub(crate) const APPEND: u16 = 0x800;
/// linux/netfilter/nfnetlink.h: what stands between these happens at once or not at all.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// The attribute types' two flag bits (nested, byte order) are not part of the type.
const ATTRIBUTE_TYPE: u16 = 0x3fff;
/// The kernel answers dumps in pieces of at most 32 KiB (netlink_dump in af_netlink.c).
const DUMP_PIECE: usize = 32 * 1024;
/// The kernel answers in the sender's own time; this only ends a wait for an answer that will never come.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// A dump that is interrupted more often than this is taken as it is; the notifications of the changes follow.
const DUMP_TRIES: u32 = 4;
/// linux/netlink.h
const NETLINK_GET_STRICT_CHK: libc::c_int = 12;
/// Room for some hundred notifications: the fewer, the less memory a storm takes. An overrun means "compare all".
const NOTIFICATION_BUFFER: usize = 64 * 1024;

/// One request, built front to back.
pub(crate) struct Message(Vec<u8>);

impl Message {
    pub(crate) fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((flags | FLAG_REQUEST).to_ne_bytes());
        bytes.extend([0; 8]); // sequence and port, filled in when sent
        Self(bytes)
    }

    /// The fixed part that follows the header. Structures of netlink are multiples of four bytes.
    pub(crate) fn body(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self.pad()
    }

    pub(crate) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        push_attribute(&mut self.0, kind, value);
        self
    }

    pub(crate) fn attribute_u32(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// A name, with its final NUL.
    pub(crate) fn attribute_name(self, kind: u16, name: &str) -> Self {
        let mut bytes = name.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    fn pad(mut self) -> Self {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.finished(0, 0)
    }

    fn finished(mut self, sequence: u32, more_flags: u16) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        if let Some(place) = self.0.get_mut(0..4) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
        if let Some((low, high)) = self.0.get_mut(6..8).and_then(|place| place.split_first_chunk_mut::<2>()) {
            debug_assert!(high.is_empty());
            *low = (u16::from_ne_bytes(*low) | more_flags).to_ne_bytes();
        }
        if let Some(place) = self.0.get_mut(8..12) {
            place.copy_from_slice(&sequence.to_ne_bytes());
        }
        self.0
    }
}

/// Writes an attribute behind others, padded.
pub(crate) fn push_attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    // no attribute of ours comes near 64 KiB; the kernel refuses a message whose lengths disagree
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// What the kernel sent: one message of a datagram.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received<'a> {
    pub(crate) kind: u16,
    flags: u16,
    sequence: u32,
    pub(crate) payload: &'a [u8],
}

/// The messages of a datagram; ends at the first that is cut short.
pub(crate) fn messages(mut rest: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let (header, _) = rest.split_at_checked(HEADER)?;
        let length = usize::try_from(u32_at(header, 0)?).ok()?;
        let (message, after) = rest.split_at_checked(length)?;
        let payload = message.get(HEADER..)?;
        let padding = length.next_multiple_of(4) - length;
        rest = after.get(padding..).unwrap_or(&[]);
        let flags = u16_at(header, 6)?;
        Some(Received { kind: u16_at(header, 4)?, flags, sequence: u32_at(header, 8)?, payload })
    })
}

/// The attributes of a message; ends at the first that is cut short.
pub(crate) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & ATTRIBUTE_TYPE;
        let (attribute, after) = rest.split_at_checked(length)?;
        let value = attribute.get(4..)?;
        rest = after.get(length.next_multiple_of(4) - length..).unwrap_or(&[]);
        Some((kind, value))
    })
}

pub(crate) fn u8_at(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// A name up to its NUL. Interface names are bytes to the kernel; one that is not UTF-8 is not one we act on by name.
pub(crate) fn name(bytes: &[u8]) -> Option<&str> {
    str::from_utf8(bytes.split(|byte| *byte == 0).next()?).ok()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subsystem {
    Route,
    Xfrm,
    Netfilter,
}

fn open(subsystem: Subsystem, flags: SocketFlags) -> io::Result<OwnedFd> {
    let protocol = match subsystem {
        Subsystem::Route => 0_u32,
        Subsystem::Xfrm => 6,
        Subsystem::Netfilter => 12,
    };
    // NETLINK_ROUTE is protocol 0, which rustix spells None
    let protocol = std::num::NonZeroU32::new(protocol).map(Protocol::from_raw);
    Ok(socket_with(AddressFamily::NETLINK, SocketType::RAW, flags | SocketFlags::CLOEXEC, protocol)?)
}

/// A socket for requests: each is answered before the next is sent.
pub(crate) struct Requests {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Requests {
    /// # Errors
    /// `EPROTONOSUPPORT` where the kernel lacks the subsystem.
    pub(crate) fn open(subsystem: Subsystem) -> io::Result<Self> {
        let fd = open(subsystem, SocketFlags::empty())?;
        sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(ANSWER_TIMEOUT))?;
        bind(&fd, &SocketAddrNetlink::new(0, 0))?;
        strict_checking(fd.as_fd())?;
        Ok(Self { fd, sequence: 0, buffer: vec![0; DUMP_PIECE] })
    }

    fn send(&mut self, message: Message, flags: u16) -> io::Result<u32> {
        self.sequence = self.sequence.wrapping_add(1);
        send(&self.fd, &message.finished(self.sequence, flags), SendFlags::empty())?;
        Ok(self.sequence)
    }

    /// Asks for a change.
    ///
    /// # Errors
    /// The kernel's answer.
    pub(crate) fn change(&mut self, message: Message) -> io::Result<()> {
        self.ask(message, FLAG_ACK, |_| ())
    }

    /// Asks for several changes of one netfilter subsystem, of which the kernel makes all or none, at one moment.
    ///
    /// # Errors
    /// The kernel's answer to the first that it refused.
    pub(crate) fn transaction(&mut self, subsystem: u8, changes: Vec<Message>) -> io::Result<()> {
        let [high, low] = u16::from(subsystem).to_be_bytes();
        let bound = |kind| Message::new(kind, 0).body(&[0, 0, high, low]);
        // all have one number, so whatever is refused is heard; only the last is acknowledged, after all errors
        // (nfnetlink_rcv_batch in nfnetlink.c)
        self.sequence = self.sequence.wrapping_add(1);
        let last = changes.len().saturating_sub(1);
        let mut bytes = bound(BATCH_BEGIN).finished(self.sequence, 0);
        for (at, change) in changes.into_iter().enumerate() {
            bytes.extend(change.finished(self.sequence, if at == last { FLAG_ACK } else { 0 }));
        }
        bytes.extend(bound(BATCH_END).finished(self.sequence, 0));
        send(&self.fd, &bytes, SendFlags::empty())?;
        self.await_status(self.sequence, |_| ())
    }

    /// Asks a question with a single answer.
    pub(crate) fn ask(
        &mut self,
        message: Message,
        flags: u16,
        answer: impl FnMut(Received<'_>),
    ) -> io::Result<()> {
        let sequence = self.send(message, flags | FLAG_ACK)?;
        self.await_status(sequence, answer)
    }

    fn await_status(&mut self, sequence: u32, mut answer: impl FnMut(Received<'_>)) -> io::Result<()> {
        loop {
            let length = receive(self.fd.as_fd(), &mut self.buffer)?;
            for received in messages(self.buffer.get(..length).unwrap_or(&[])) {
                if received.sequence != sequence {
                    continue;
                }
                if received.kind == NLMSG_ERROR {
                    return status(received.payload);
                }
                answer(received);
            }
        }
    }

    /// Asks for a list; again if it changed meanwhile.
    pub(crate) fn list<T>(
        &mut self,
        message: impl Fn() -> Message,
        mut read: impl FnMut(Received<'_>) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        let mut items = Vec::new();
        for _ in 0..DUMP_TRIES {
            items.clear();
            let sequence = self.send(message(), FLAG_DUMP)?;
            if self.list_once(sequence, &mut |received| items.extend(read(received)))? {
                break;
            }
        }
        Ok(items)
    }

    /// Whether the list is of one moment.
    fn list_once(&mut self, sequence: u32, item: &mut dyn FnMut(Received<'_>)) -> io::Result<bool> {
        let mut whole = true;
        loop {
            let length = receive(self.fd.as_fd(), &mut self.buffer)?;
            for received in messages(self.buffer.get(..length).unwrap_or(&[])) {
                if received.sequence != sequence {
                    continue;
                }
                whole &= received.flags & FLAG_DUMP_INTERRUPTED == 0;
                match received.kind {
                    NLMSG_DONE => return Ok(whole),
                    NLMSG_ERROR => return status(received.payload).map(|()| whole),
                    _ => item(received),
                }
            }
        }
    }
}

fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match recv(fd, &mut *buffer, RecvFlags::empty()) {
            Ok((length, _)) => return Ok(length),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// An error message's number: 0 acknowledges, others are negative errno values.
fn status(payload: &[u8]) -> io::Result<()> {
    match payload.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes)) {
        Some(0) => Ok(()),
        Some(number) => Err(io::Error::from_raw_os_error(number.saturating_neg())),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// What came in on a notification socket.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Drained {
    /// Nothing that the reader called relevant.
    Quiet,
    Relevant,
    /// Some were lost: anything may have changed.
    Overrun,
}

/// A socket that hears what changes. Nonblocking.
pub(crate) struct Notifications(OwnedFd);

impl Notifications {
    /// `groups`: numbers of the subsystem's groups, 1 to 32.
    pub(crate) fn open(subsystem: Subsystem, groups: &[u32]) -> io::Result<Self> {
        let fd = open(subsystem, SocketFlags::NONBLOCK)?;
        sockopt::set_socket_recv_buffer_size(&fd, NOTIFICATION_BUFFER)?;
        let mask = groups.iter().fold(0_u32, |mask, group| mask | 1_u32.rotate_left(group.saturating_sub(1)));
        bind(&fd, &SocketAddrNetlink::new(0, mask))?;
        Ok(Self(fd))
    }

    /// Reads all that waits, at most `MOST` datagrams so that a flood cannot keep the caller here.
    pub(crate) fn drain(&self, mut relevant: impl FnMut(Received<'_>) -> bool) -> io::Result<Drained> {
        const MOST: usize = 1024;
        let mut found = Drained::Quiet;
        let mut buffer = [0; 8192];
        for _ in 0..MOST {
            let (length, whole) = match recv(&self.0, &mut buffer, RecvFlags::TRUNC) {
                Ok(lengths) => lengths,
                Err(Errno::AGAIN) => return Ok(found),
                Err(Errno::INTR) => continue,
                Err(Errno::NOBUFS) => {
                    found = Drained::Overrun;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let cut = whole > length;
            let mut heard = messages(buffer.get(..length).unwrap_or(&[]));
            if found == Drained::Quiet && (cut || heard.any(&mut relevant)) {
                found = Drained::Relevant;
            }
        }
        Ok(Drained::Overrun)
    }
}

impl AsFd for Notifications {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Makes the kernel honour the filters of a dump (only one table's routes) and refuse what it does not know
/// (`NETLINK_GET_STRICT_CHK`, netlink(7)).
fn strict_checking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: reads `length` bytes, the size of `on`, at a pointer to `on`, which lives past the call; keeps nothing.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_NETLINK,
            NETLINK_GET_STRICT_CHK,
            (&raw const on).cast(),
            length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let bytes = Message::new(24, 0).body(&[1, 2, 3, 4]).attribute_name(3, "imds0").attribute_u32(7, 9);
        let bytes = bytes.finished(5, FLAG_ACK);
        let read: Vec<_> = messages(&bytes).collect();
        let [message] = &read[..] else { panic!("{read:?}") };
        assert_eq!((message.kind, message.sequence, message.flags), (24, 5, FLAG_ACK | FLAG_REQUEST));
        let (body, rest) = message.payload.split_at(4);
        assert_eq!(body, [1, 2, 3, 4]);
        let attributes: Vec<_> = attributes(rest).collect();
        assert_eq!(attributes, [(3, &b"imds0\0"[..]), (7, &9_u32.to_ne_bytes()[..])]);
        assert_eq!(name(b"imds0\0x"), Some("imds0"));
    }

    #[test]
    fn every_truncation_and_every_length_is_survived() {
        let whole = Message::new(24, 0).body(&[0; 12]).attribute_u32(1, 2).attribute_u32(3, 4).finished(1, 0);
        for end in 0..whole.len() {
            let count = messages(&whole[..end]).flat_map(|message| attributes(message.payload)).count();
            assert_eq!(count, 0);
        }
        for at in 0..whole.len() {
            for value in [0, 1, 3, 4, 15, 16, 17, 255] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                // ends, whatever the lengths say
                let _ = messages(&bytes).take(1000).flat_map(|m| attributes(m.payload).take(1000)).count();
                assert!(messages(&bytes).count() < 100);
                assert!(attributes(&bytes).count() < 100);
            }
        }
    }

    #[test]
    fn an_error_answer_is_its_errno() {
        assert!(status(&0_i32.to_ne_bytes()).is_ok());
        assert_eq!(status(&(-17_i32).to_ne_bytes()).unwrap_err().raw_os_error(), Some(17));
        assert!(status(&[0, 0]).is_err());
    }
}
