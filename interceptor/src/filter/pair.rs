//! Our end of the stream socket through which filterd has a connection, and the moving of its bytes.
//! Must not buffer: what filterd does not read stays in TCP's window, what the client does not read stays with filterd.

use super::Ledger;
use crate::netstack::Endpoint;
use rustix::io::{Errno, ioctl_fionread};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, recv, send, shutdown, socketpair,
    sockopt,
};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// Bytes that wait between us and filterd, each way. By the kernel's own choice it would be 200 KiB: a client that does not
/// read would hold as much, and one that reads slowly would seem to filterd not to read at all, for a stream socket counts
/// as writable again only when most of what it held is gone.
const ROOM: usize = 8 * 1024;

pub struct Pair {
    ours: OwnedFd,
    /// Events come once, at the edge: what they said is true until a call would have blocked.
    readable: bool,
    writable: bool,
    /// filterd has shut down its way: read on to the end, however short a read is.
    ending: bool,
    /// The end was read.
    ended: bool,
    /// Nobody reads what we write.
    deaf: bool,
    finished: bool,
    /// What the event loop was last told to wait for.
    pub waits_for_room: bool,
}

/// What became of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pumped {
    /// As many moved as both sides took.
    Going,
    /// filterd's end is closed, and what it wrote before waits for the client to make room.
    Ending,
    /// filterd's end is closed, and all it wrote is moved.
    Ended,
}

impl Pair {
    /// # Errors
    /// When the OS has no more descriptors or memory.
    pub fn new() -> Result<(Self, OwnedFd), Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        for end in [&ours, &theirs] {
            sockopt::set_socket_send_buffer_size(end, ROOM)?;
        }
        let pair = Self {
            ours,
            readable: false,
            writable: true,
            ending: false,
            ended: false,
            deaf: false,
            finished: false,
            waits_for_room: false,
        };
        Ok((pair, theirs))
    }

    /// What an event said.
    pub fn ready(&mut self, readable: bool, ending: bool, writable: bool) {
        self.readable |= readable || ending;
        self.ending |= ending;
        self.writable |= writable;
    }

    /// Whether an event is needed to go on writing.
    #[must_use]
    pub fn needs_room(&self) -> bool {
        !self.writable && !self.deaf
    }

    #[must_use]
    pub fn descriptor(&self) -> RawFd {
        self.ours.as_raw_fd()
    }

    /// filterd's bytes that were not read yet.
    ///
    /// # Errors
    /// When the OS does not say.
    pub fn pending(&self) -> Result<u64, Errno> {
        ioctl_fionread(&self.ours)
    }

    /// Returns how many bytes filterd took of `bytes`; those nobody will read are thrown away.
    fn write(&mut self, bytes: &[u8]) -> usize {
        if self.deaf {
            return bytes.len();
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        match rustix::io::retry_on_intr(|| send(&self.ours, bytes, flags)) {
            Ok(taken) => {
                self.writable = taken == bytes.len();
                taken
            }
            Err(Errno::AGAIN | Errno::NOBUFS) => {
                self.writable = false;
                0
            }
            Err(_) => {
                self.deaf = true;
                bytes.len()
            }
        }
    }

    fn read(&mut self, room: &mut [u8]) -> usize {
        let wanted = room.len();
        match rustix::io::retry_on_intr(|| recv(&self.ours, &mut *room, RecvFlags::DONTWAIT)) {
            Ok((0, _)) => {
                self.ended = true;
                0
            }
            Ok((got, _)) => {
                // a short read of a stream emptied it, and what comes later is an event of its own
                self.readable = got == wanted || self.ending;
                got
            }
            Err(Errno::AGAIN) => {
                self.readable = false;
                0
            }
            Err(_) => {
                self.ended = true;
                0
            }
        }
    }
}

/// Moves bytes both ways as far as both sides take them, and notes them. Once filterd's end is closed it says so each
/// time; if that was on purpose, filterd's messages say.
pub fn pump(tcp: &mut Endpoint, pair: &mut Pair, ledger: &mut Ledger) -> Pumped {
    give_again(pair, ledger);
    let all_given = ledger.to_give().is_empty();
    while all_given && tcp.has_bytes() && (pair.writable || pair.deaf) {
        let taken = tcp.take(|bytes| {
            let taken = pair.write(bytes);
            ledger.keep(bytes.get(..taken).unwrap_or(bytes));
            (taken, taken)
        });
        if taken.is_none() {
            break;
        }
    }
    if all_given && tcp.client_finished() && !pair.finished {
        pair.finished = true;
        // it may have closed already
        let _ = shutdown(&pair.ours, Shutdown::Write);
    }
    while pair.readable && !pair.ended && tcp.has_room() {
        match tcp.put(|room| same(pair.read(room))) {
            Some(put) => ledger.wrote(put),
            None => break,
        }
    }
    match (pair.ended, pair.ending) {
        (true, _) => Pumped::Ended,
        (false, true) => Pumped::Ending,
        (false, false) => Pumped::Going,
    }
}

/// First what an earlier filterd did not answer.
fn give_again(pair: &mut Pair, ledger: &mut Ledger) {
    while !ledger.to_give().is_empty() && (pair.writable || pair.deaf) {
        let taken = pair.write(ledger.to_give());
        ledger.gave(taken);
    }
}

/// Moves what is `left` of a gone filterd's bytes towards the client. Whether that was all.
pub fn empty(tcp: &mut Endpoint, pair: &mut Pair, left: &mut u64) -> bool {
    while *left > 0 && tcp.has_room() {
        let most = usize::try_from(*left).unwrap_or(usize::MAX);
        let put = tcp.put(|room| {
            let most = most.min(room.len());
            same(pair.read(room.get_mut(..most).unwrap_or(&mut [])))
        });
        match put {
            Some(put) if put > 0 => *left = left.saturating_sub(u64::try_from(put).unwrap_or(u64::MAX)),
            Some(_) | None => break,
        }
    }
    *left == 0
}

fn same(count: usize) -> (usize, usize) {
    (count, count)
}
