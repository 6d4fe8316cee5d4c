//! net.inet.tcp.getcred: the credentials that a local socket was made with, by its four-tuple. Root alone may ask.
//! Must not answer for a socket that is not wholly the one asked for; the kernel looks it up exactly.

use super::sysctl;
use crate::attribution::Unattributable;
use crate::netstack::FourTuple;
use crate::sys::GroupList;
use crate::sys::bsd::credential::{self, Credential, XUCRED};
use std::hash::{BuildHasher, RandomState};
use std::io;

/// A socket of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Socket {
    pub(crate) uid: u32,
    /// Of who made it; `None`: another must be asked.
    pub(crate) groups: Option<GroupList>,
    /// Stands for its credentials: the kernel gives sockets no number. One made with the same credentials is as good.
    pub(crate) cookie: u64,
}

/// Asks the kernel who owns local sockets.
pub struct SocketOwners {
    /// Of this run, so that nobody can make two credentials with one cookie.
    keys: RandomState,
}

impl SocketOwners {
    pub(crate) const TELLS_GROUPS: bool = true;

    /// # Errors
    /// When the kernel does not let us ask.
    pub fn open(_device: &str) -> io::Result<Self> {
        let nobody = FourTuple { client: ([192, 0, 2, 1], 1).into(), service: ([192, 0, 2, 2], 1).into() };
        match ask(&nobody) {
            Ok(_) | Err(Unattributable::NoSocket | Unattributable::Answer) => {
                Ok(Self { keys: RandomState::new() })
            }
            Err(Unattributable::Os(errno)) => Err(errno.into()),
            Err(_) => Err(io::ErrorKind::Other.into()),
        }
    }

    /// Here no program asks for it.
    pub(crate) fn device(&self) -> u32 {
        0
    }

    /// The socket with this four-tuple, in whatever state: the kernel does not say.
    pub(crate) fn connecting(&mut self, four_tuple: &FourTuple) -> Result<Socket, Unattributable> {
        let credential = ask(four_tuple)?;
        let cookie = self.keys.hash_one(&credential);
        let Credential { uid, gids, cut } = credential;
        Ok(Socket { uid, groups: Some(GroupList { gids, cut }), cookie })
    }

    /// Whether the socket with this four-tuple has the same credentials.
    pub(crate) fn is_still(&mut self, four_tuple: &FourTuple, cookie: u64) -> Result<(), Unattributable> {
        if self.keys.hash_one(ask(four_tuple)?) == cookie { Ok(()) } else { Err(Unattributable::OtherSocket) }
    }
}

fn ask(four_tuple: &FourTuple) -> Result<Credential, Unattributable> {
    let name = if four_tuple.client.is_ipv4() { c"net.inet.tcp.getcred" } else { c"net.inet6.tcp6.getcred" };
    let mut answer = [0; XUCRED];
    match sysctl::ask(name, &credential::question(four_tuple), &mut answer) {
        Ok(length) => answer.get(..length).and_then(credential::read).ok_or(Unattributable::Answer),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Err(Unattributable::NoSocket),
        Err(error) => Err(Unattributable::Os(
            rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::INVAL),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn root_is_told_whose_a_connection_is_and_that_nobody_has_another() {
        if !rustix::process::geteuid().is_root() {
            panic!("the kernel tells root alone: run this as root");
        }
        let mut owners = SocketOwners::open("").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mine = FourTuple { client: stream.local_addr().unwrap(), service: stream.peer_addr().unwrap() };
        let found = owners.connecting(&mine).unwrap();
        assert_eq!(found.uid, 0);
        assert_eq!(owners.is_still(&mine, found.cookie), Ok(()));
        assert_eq!(owners.is_still(&mine, found.cookie ^ 1), Err(Unattributable::OtherSocket));
        let nobodys = FourTuple { service: "192.0.2.1:80".parse().unwrap(), ..mine };
        assert_eq!(owners.connecting(&nobodys), Err(Unattributable::NoSocket));
    }
}
