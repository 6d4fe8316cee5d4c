//! One message over a SOCK_SEQPACKET socket, with at most one descriptor.
//! Every send carries MSG_EOR: FreeBSD 15 merges records without it. Never blocks.

use crate::wire::MAX_MESSAGE;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use std::fmt;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Why a channel gave nothing. All but [`ChannelError::WouldBlock`] end it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelError {
    /// Nothing to read, or no room to write, now.
    WouldBlock,
    /// The peer closed its end or died.
    Closed,
    /// The peer sent more than one message or one descriptor holds.
    Truncated,
    /// A descriptor came where none is taken, or none where one was due.
    Descriptor,
    Os(Errno),
}

impl fmt::Display for ChannelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WouldBlock => f.write_str("the channel is not ready"),
            Self::Closed => f.write_str("the peer closed the channel"),
            Self::Truncated => f.write_str("the peer sent a record longer than any message"),
            Self::Descriptor => f.write_str("the peer sent a message with the wrong number of descriptors"),
            Self::Os(errno) => write!(f, "{errno}"),
        }
    }
}

impl std::error::Error for ChannelError {}

impl From<Errno> for ChannelError {
    fn from(errno: Errno) -> Self {
        match errno {
            // ENOBUFS: FreeBSD's word for a full peer buffer
            Errno::AGAIN | Errno::NOBUFS => Self::WouldBlock,
            Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN => Self::Closed,
            other => Self::Os(other),
        }
    }
}

/// Sends one whole message, and the descriptor if there is one (it stays open here).
///
/// # Errors
/// [`ChannelError::WouldBlock`] when the peer does not read: then nothing was sent.
pub fn send(
    socket: impl AsFd,
    message: &[u8],
    descriptor: Option<BorrowedFd<'_>>,
) -> Result<(), ChannelError> {
    let mut space = [MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = descriptor.as_slice();
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(ChannelError::Descriptor);
    }
    let flags = SendFlags::EOR | SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let sent = rustix::io::retry_on_intr(|| {
        rustix::net::sendmsg(&socket, &[IoSlice::new(message)], &mut ancillary, flags)
    })?;
    if sent == message.len() { Ok(()) } else { Err(ChannelError::Truncated) }
}

/// Receives one record and offers no room for descriptors: the kernel discards whatever is pushed at us.
///
/// # Errors
/// [`ChannelError::Descriptor`] if the peer tried to push one and the kernel says so: FreeBSD's discards it without a word.
pub fn receive(socket: impl AsFd, buffer: &mut [u8; MAX_MESSAGE]) -> Result<&[u8], ChannelError> {
    let mut ancillary = RecvAncillaryBuffer::default();
    let got = receive_record(&socket, buffer, &mut ancillary)?;
    if got.flags.contains(ReturnFlags::CTRUNC) {
        return Err(ChannelError::Descriptor);
    }
    buffer.get(..got.bytes).ok_or(ChannelError::Truncated)
}

/// Receives one record and the descriptor that came with it, if one did.
///
/// # Errors
/// [`ChannelError::Descriptor`] for more than one; those that did arrive are closed.
pub fn receive_with_descriptor(
    socket: impl AsFd,
    buffer: &mut [u8; MAX_MESSAGE],
) -> Result<(&[u8], Option<OwnedFd>), ChannelError> {
    let mut space = [MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = receive_record(&socket, buffer, &mut ancillary)?;
    let mut descriptors = Vec::new(); // owned from here on: every way out closes what it does not return
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    // alignment can leave room for a second descriptor, so both the flag and the count are checked
    if got.flags.contains(ReturnFlags::CTRUNC) || descriptors.len() > 1 {
        return Err(ChannelError::Descriptor);
    }
    let bytes = buffer.get(..got.bytes).ok_or(ChannelError::Truncated)?;
    Ok((bytes, descriptors.pop()))
}

fn receive_record(
    socket: &impl AsFd,
    buffer: &mut [u8; MAX_MESSAGE],
    ancillary: &mut RecvAncillaryBuffer<'_>,
) -> Result<rustix::net::RecvMsg, ChannelError> {
    // a byte more than any message has: FreeBSD 15 cuts no record, it leaves the rest for the next call and sets no flag
    let mut more = [0];
    let got = rustix::io::retry_on_intr(|| {
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let place = &mut [IoSliceMut::new(buffer), IoSliceMut::new(&mut more)];
        rustix::net::recvmsg(socket, place, ancillary, flags)
    })?;
    if got.flags.contains(ReturnFlags::TRUNC) {
        return Err(ChannelError::Truncated);
    }
    if got.bytes == 0 {
        return Err(ChannelError::Closed); // no message is empty
    }
    Ok(got)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    /// Sends raw bytes and descriptors, as a hostile peer would.
    fn push(socket: &OwnedFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(descriptors)));
        rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::EOR).unwrap();
    }

    #[test]
    fn a_message_and_its_descriptor_arrive_together() {
        let (a, b) = pair();
        let (mut kept, passed) = std::io::pipe().unwrap();
        send(&a, b"hello", Some(passed.as_fd())).unwrap();
        drop(passed);
        let mut buffer = [0; MAX_MESSAGE];
        let (bytes, descriptor) = receive_with_descriptor(&b, &mut buffer).unwrap();
        assert_eq!(bytes, b"hello");
        rustix::io::write(descriptor.unwrap(), b"x").unwrap();
        let mut one = [0; 1];
        std::io::Read::read_exact(&mut kept, &mut one).unwrap();
        assert_eq!(&one, b"x");
    }

    #[test]
    fn records_do_not_merge_and_an_empty_channel_would_block() {
        let (a, b) = pair();
        send(&a, b"one", None).unwrap();
        send(&a, b"two", None).unwrap();
        let mut buffer = [0; MAX_MESSAGE];
        assert_eq!(receive(&b, &mut buffer).unwrap(), b"one");
        assert_eq!(receive(&b, &mut buffer).unwrap(), b"two");
        assert_eq!(receive(&b, &mut buffer), Err(ChannelError::WouldBlock));
        drop(a);
        assert_eq!(receive(&b, &mut buffer), Err(ChannelError::Closed));
    }

    #[test]
    fn a_record_longer_than_any_message_is_an_error() {
        let (a, b) = pair();
        rustix::net::send(&a, &[7; MAX_MESSAGE + 1], SendFlags::EOR).unwrap();
        assert_eq!(receive(&b, &mut [0; MAX_MESSAGE]), Err(ChannelError::Truncated));
    }

    #[test]
    fn descriptors_pushed_where_none_or_one_is_taken_are_refused_and_not_leaked() {
        let (a, b) = pair();
        let (mut kept, pushed) = std::io::pipe().unwrap();
        push(&a, b"x", &[pushed.as_fd()]);
        // tests/pushed.rs says where it must be the former
        let mut buffer = [0; MAX_MESSAGE];
        let got = receive(&b, &mut buffer);
        assert!(matches!(got, Err(ChannelError::Descriptor) | Ok(b"x")), "{got:?}");
        for count in [2, 3, 8] {
            push(&a, b"x", &vec![pushed.as_fd(); count]);
            let got = receive_with_descriptor(&b, &mut [0; MAX_MESSAGE]).map(|_| ());
            assert_eq!(got, Err(ChannelError::Descriptor), "{count} descriptors");
        }
        drop(pushed);
        // end of file comes only when no copy of the writing end is left open
        assert_eq!(std::io::Read::read(&mut kept, &mut [0; 1]).unwrap(), 0);
    }

    #[test]
    fn a_peer_that_never_reads_makes_send_fail_and_not_wait() {
        let (a, b) = pair();
        let sent = (0..100_000).take_while(|_| send(&a, b"message", None).is_ok()).count();
        assert!(sent > 0 && sent < 100_000);
        assert_eq!(send(&a, b"message", None), Err(ChannelError::WouldBlock));
        drop(b);
        assert_eq!(send(&a, b"message", None), Err(ChannelError::Closed));
    }
}
