//! Linux: inotify(7). See the contract in `sys`. Reads no file.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};
use rustix::io::Errno;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

/// The directory, since programs that change accounts put a new file in the place of the old one; the files, since they
/// may be mounted each on its own, and since an editor may write into them.
const DIRECTORY: &str = "/etc";
const FILES: [&str; 2] = ["/etc/passwd", "/etc/group"];
const NAMES: [&[u8]; 2] = [b"passwd", b"group"];
/// Users of other name services come without a change of these files.
const ASK_OTHERS: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };

pub(in super::super) struct Changes {
    inotify: OwnedFd,
}

impl Changes {
    pub(in super::super) fn open() -> io::Result<Self> {
        let changes = Self { inotify: init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)? };
        add_watch(&changes.inotify, DIRECTORY, WatchFlags::MOVED_TO | WatchFlags::CLOSE_WRITE)?;
        changes.renew();
        Ok(changes)
    }

    pub(in super::super) fn wait(&mut self, filterd: impl AsFd, unsettled: bool) -> io::Result<bool> {
        loop {
            let mut asked = [PollFd::new(&filterd, PollFlags::IN), PollFd::new(&self.inotify, PollFlags::IN)];
            let ready = match poll(&mut asked, unsettled.then_some(&ASK_OTHERS)) {
                Err(Errno::INTR) => continue,
                other => other?,
            };
            let [said, changed] = asked.map(|fd| !fd.revents().is_empty());
            if said {
                return Ok(true);
            }
            if ready == 0 || (changed && self.concern_us()?) {
                return Ok(false);
            }
        }
    }

    /// Takes all that waits: one look is enough for them together.
    fn concern_us(&self) -> io::Result<bool> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        let mut concern = false;
        loop {
            match reader.next() {
                // one without a name is about a file itself, or that some were lost
                Ok(event) => concern |= event.file_name().is_none_or(|name| NAMES.contains(&name.to_bytes())),
                Err(Errno::AGAIN) => return Ok(concern),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    pub(in super::super) fn renew(&self) {
        for file in FILES {
            // one that is not there comes by the directory
            let _ = add_watch(&self.inotify, file, WatchFlags::CLOSE_WRITE);
        }
    }
}
