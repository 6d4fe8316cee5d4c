//! FreeBSD: a look every two seconds, while some name stands for nobody. See the contract in `sys`. Reads no file.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::io;
use std::os::fd::AsFd;

const EVERY: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };

pub(in super::super) struct Changes;

impl Changes {
    #[expect(clippy::unnecessary_wraps, reason = "the contract")]
    pub(in super::super) fn open() -> io::Result<Self> {
        Ok(Self)
    }

    pub(in super::super) fn wait(&mut self, filterd: impl AsFd, unsettled: bool) -> io::Result<bool> {
        loop {
            let mut asked = [PollFd::new(&filterd, PollFlags::IN)];
            match poll(&mut asked, unsettled.then_some(&EVERY)) {
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
                Ok(ready) => return Ok(ready > 0),
            }
        }
    }

    #[expect(clippy::unused_self, reason = "the contract")]
    pub(in super::super) fn renew(&self) {}
}
