//! NETLINK_SOCK_DIAG, the exact lookup of one TCP socket by its four-tuple (sock_diag(7)).
//! Must not accept an answer that is not wholly about the socket asked for: the kernel readily names another.

use crate::attribution::Unattributable;
use crate::netstack::FourTuple;
use crate::sys::GroupList;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, netdevice, netlink, recv, send,
    socket_with,
};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

const REQUEST: usize = 72;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const TCP: u8 = 6;
const SYN_SENT: u8 = 2;
/// linux/err.h
const MAX_ERRNO: i32 = 4095;
/// Answers to earlier questions that may lie before ours: none, unless one was given up.
const MAX_STALE: usize = 16;

/// A socket of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Socket {
    pub(crate) uid: u32,
    /// Of who made it; `None`: another must be asked.
    pub(crate) groups: Option<GroupList>,
    /// The kernel's number for it; never used twice.
    pub(crate) cookie: u64,
}

/// What the kernel says of the socket asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    state: u8,
    uid: u32,
    inode: u32,
    cookie: u64,
}

impl Found {
    /// It, if it has sent a SYN and nothing more.
    pub(super) fn connecting(self) -> Result<Socket, Unattributable> {
        // an ESTABLISHED one is root's idle connection whose port a container behind a masquerading bridge was given
        if self.state != SYN_SENT {
            return Err(Unattributable::NotConnecting);
        }
        // kernels before 6.17 show uid 0 for a socket without a file
        if self.inode == 0 {
            return Err(Unattributable::Closed);
        }
        Ok(Socket { uid: self.uid, groups: None, cookie: self.cookie })
    }
}

/// Asks the kernel who owns local sockets.
pub struct SocketOwners {
    netlink: OwnedFd,
    /// Sockets bound to the tun are found only if its index is in the question.
    device: u32,
    sequence: u32,
}

impl SocketOwners {
    /// The kernel keeps no more than the uid with a socket.
    pub(crate) const TELLS_GROUPS: bool = false;

    /// # Errors
    /// When there is no such device, or the kernel lacks sock_diag.
    pub fn open(device: &str) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let netlink = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(netlink::SOCK_DIAG))?;
        // to the kernel: then nobody else's messages are taken
        connect(&netlink, &netlink::SocketAddrNetlink::new(0, 0))?;
        let inet = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        let device = netdevice::name_to_index(&inet, device)?;
        Ok(Self { netlink, device, sequence: 0 })
    }

    /// The index of the device given.
    pub(crate) fn device(&self) -> u32 {
        self.device
    }

    /// The socket with this four-tuple that has sent a SYN and nothing more. Takes 1 to 11 microseconds, however many
    /// sockets there are (design section 6).
    pub(crate) fn connecting(&mut self, four_tuple: &FourTuple) -> Result<Socket, Unattributable> {
        self.find(four_tuple)?.connecting()
    }

    /// Whether the socket with this four-tuple is still that one, whatever has become of it meanwhile.
    pub(crate) fn is_still(&mut self, four_tuple: &FourTuple, cookie: u64) -> Result<(), Unattributable> {
        let found = self.find(four_tuple)?;
        if found.cookie == cookie { Ok(()) } else { Err(Unattributable::OtherSocket) }
    }

    fn find(&mut self, four_tuple: &FourTuple) -> Result<Found, Unattributable> {
        self.sequence = self.sequence.wrapping_add(1);
        let question = question(four_tuple, self.device, self.sequence).ok_or(Unattributable::NoSocket)?;
        let mut buffer = [0; 4096];
        // an overrun (ENOBUFS) is told once and lost the answer: ask once more
        for attempt in 0..2 {
            match self.ask(&question, &mut buffer) {
                Err(Errno::NOBUFS) if attempt == 0 => {}
                Err(errno) => return Err(Unattributable::Os(errno)),
                Ok(answer) => return judge(answer, four_tuple, self.device),
            }
        }
        Err(Unattributable::Os(Errno::NOBUFS))
    }

    /// The kernel answers before `send` returns, so the answer is there or there is none.
    fn ask<'b>(&self, question: &[u8; REQUEST], buffer: &'b mut [u8; 4096]) -> Result<&'b [u8], Errno> {
        rustix::io::retry_on_intr(|| send(&self.netlink, question, SendFlags::NOSIGNAL))?;
        for _ in 0..MAX_STALE {
            let (length, _) = rustix::io::retry_on_intr(|| {
                recv(&self.netlink, &mut buffer[..], RecvFlags::DONTWAIT | RecvFlags::TRUNC)
            })?;
            let sequence = buffer.get(8..12).and_then(|bytes| bytes.first_chunk::<4>());
            if sequence.map(|bytes| u32::from_ne_bytes(*bytes)) == Some(self.sequence) {
                return buffer.get(..length).ok_or(Errno::MSGSIZE);
            }
        }
        Err(Errno::TIMEDOUT)
    }
}

/// An nlmsghdr and an inet_diag_req_v2; the client is the source, since its socket is the local one.
fn question(four_tuple: &FourTuple, device: u32, sequence: u32) -> Option<[u8; REQUEST]> {
    let family = if four_tuple.client.is_ipv4() { AF_INET } else { AF_INET6 };
    let mut bytes = Vec::with_capacity(REQUEST);
    bytes.extend_from_slice(&u32::try_from(REQUEST).ok()?.to_ne_bytes());
    bytes.extend_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    bytes.extend_from_slice(&sequence.to_ne_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&[family, TCP, 0, 0]);
    bytes.extend_from_slice(&u32::MAX.to_ne_bytes()); // all states: ours is judged from the answer
    bytes.extend_from_slice(&four_tuple.client.port().to_be_bytes());
    bytes.extend_from_slice(&four_tuple.service.port().to_be_bytes());
    bytes.extend_from_slice(&padded(four_tuple.client.ip()));
    bytes.extend_from_slice(&padded(four_tuple.service.ip()));
    bytes.extend_from_slice(&device.to_ne_bytes());
    bytes.extend_from_slice(&[0xff; 8]); // any cookie
    bytes.try_into().ok()
}

fn padded(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// What the answer says, if it is about exactly that socket.
pub(super) fn judge(answer: &[u8], four_tuple: &FourTuple, device: u32) -> Result<Found, Unattributable> {
    let mut reader = Reader(answer);
    let length = reader.u32()?;
    if usize::try_from(length).map_or(true, |length| length > answer.len()) {
        return Err(Unattributable::Answer);
    }
    let kind = reader.u16()?;
    reader.take::<10>()?; // flags, sequence, port
    match kind {
        NLMSG_ERROR => {
            let code = i32::from_ne_bytes(reader.take()?);
            return Err(match code.checked_neg() {
                Some(number @ 1..=MAX_ERRNO) => match Errno::from_raw_os_error(number) {
                    Errno::NOENT => Unattributable::NoSocket,
                    errno => Unattributable::Os(errno),
                },
                Some(_) | None => Unattributable::Answer,
            });
        }
        SOCK_DIAG_BY_FAMILY => {}
        _ => return Err(Unattributable::Answer),
    }
    let [family, state, _, _] = reader.take()?;
    let (client_port, service_port) =
        (u16::from_be_bytes(reader.take()?), u16::from_be_bytes(reader.take()?));
    let (client, service) = (reader.take::<16>()?, reader.take::<16>()?);
    let bound_to = reader.u32()?;
    // two halves, the lower one first (sock_diag_save_cookie)
    let cookie = u64::from(reader.u32()?) | u64::from(reader.u32()?) << 32;
    reader.take::<12>()?; // expires, rqueue, wqueue
    let uid = reader.u32()?;
    let inode = reader.u32()?;

    let named = FourTuple {
        client: SocketAddr::new(address(family, client)?, client_port),
        service: SocketAddr::new(address(family, service)?, service_port),
    };
    // if nobody has the four-tuple, the answer is whoever listens on the client's port
    if named != *four_tuple || (bound_to != 0 && bound_to != device) {
        return Err(Unattributable::OtherSocket);
    }
    Ok(Found { state, uid, inode, cookie })
}

/// A socket of the other family has a v4-mapped address: an IPv6 or MPTCP socket that connects to an IPv4 address.
fn address(family: u8, bytes: [u8; 16]) -> Result<IpAddr, Unattributable> {
    match family {
        AF_INET => {
            let [a, b, c, d, ..] = bytes;
            Ok(Ipv4Addr::new(a, b, c, d).into())
        }
        AF_INET6 => Ok(Ipv6Addr::from(bytes).to_canonical()),
        _ => Err(Unattributable::Answer),
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Unattributable> {
        let (chunk, rest) = self.0.split_first_chunk::<N>().ok_or(Unattributable::Answer)?;
        self.0 = rest;
        Ok(*chunk)
    }
    fn u16(&mut self) -> Result<u16, Unattributable> {
        self.take().map(u16::from_ne_bytes)
    }
    fn u32(&mut self) -> Result<u32, Unattributable> {
        self.take().map(u32::from_ne_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: u32 = 9;

    fn tuple(client: &str, service: &str) -> FourTuple {
        FourTuple { client: client.parse().unwrap(), service: service.parse().unwrap() }
    }

    struct Answer {
        family: u8,
        state: u8,
        four_tuple: FourTuple,
        bound_to: u32,
        uid: u32,
        inode: u32,
    }

    impl Answer {
        fn about(four_tuple: FourTuple) -> Self {
            let family = if four_tuple.client.is_ipv4() { AF_INET } else { AF_INET6 };
            Self { family, state: SYN_SENT, four_tuple, bound_to: 0, uid: 2001, inode: 5 }
        }
        fn bytes(&self) -> Vec<u8> {
            let mut bytes = Vec::new();
            bytes.extend(88_u32.to_ne_bytes());
            bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
            bytes.extend([0; 10]);
            bytes.extend([self.family, self.state, 0, 0]);
            bytes.extend(self.four_tuple.client.port().to_be_bytes());
            bytes.extend(self.four_tuple.service.port().to_be_bytes());
            bytes.extend(padded(self.four_tuple.client.ip()));
            bytes.extend(padded(self.four_tuple.service.ip()));
            bytes.extend(self.bound_to.to_ne_bytes());
            bytes.extend(7_u32.to_ne_bytes());
            bytes.extend(9_u32.to_ne_bytes());
            bytes.extend([0; 12]);
            bytes.extend(self.uid.to_ne_bytes());
            bytes.extend(self.inode.to_ne_bytes());
            bytes
        }
    }

    fn asked() -> FourTuple {
        tuple("169.254.169.1:40000", "169.254.169.254:80")
    }

    const FOUND: Found = Found { state: SYN_SENT, uid: 2001, inode: 5, cookie: 9 << 32 | 7 };

    #[test]
    fn the_socket_asked_for_is_believed_also_bound_to_the_tun_or_of_the_other_family() {
        assert_eq!(judge(&Answer::about(asked()).bytes(), &asked(), DEVICE), Ok(FOUND));
        let bound = Answer { bound_to: DEVICE, ..Answer::about(asked()) };
        assert_eq!(judge(&bound.bytes(), &asked(), DEVICE), Ok(FOUND));
        let mapped = tuple("[::ffff:169.254.169.1]:40000", "[::ffff:169.254.169.254]:80");
        assert_eq!(judge(&Answer::about(mapped).bytes(), &asked(), DEVICE), Ok(FOUND));
        let v6 = tuple("[fdc9::1]:40000", "[fd00:ec2::254]:80");
        assert_eq!(judge(&Answer::about(v6).bytes(), &v6, DEVICE), Ok(FOUND));
    }

    #[test]
    fn another_socket_is_not_and_state_and_inode_are_told_as_they_are() {
        let cases = [
            (Answer::about(tuple("0.0.0.0:40000", "0.0.0.0:0")), Unattributable::OtherSocket),
            (Answer::about(tuple("169.254.169.1:40001", "169.254.169.254:80")), Unattributable::OtherSocket),
            (Answer::about(tuple("169.254.169.2:40000", "169.254.169.254:80")), Unattributable::OtherSocket),
            (Answer::about(tuple("169.254.169.1:40000", "169.254.169.253:80")), Unattributable::OtherSocket),
            (Answer::about(tuple("169.254.169.1:40000", "169.254.169.254:81")), Unattributable::OtherSocket),
            (Answer { bound_to: 3, ..Answer::about(asked()) }, Unattributable::OtherSocket),
            (Answer { family: 1, ..Answer::about(asked()) }, Unattributable::Answer),
        ];
        for (answer, why) in cases {
            assert_eq!(judge(&answer.bytes(), &asked(), DEVICE), Err(why));
        }
        for state in 1..=12 {
            let answer = Answer { state, inode: 0, uid: 0, ..Answer::about(asked()) };
            let found = Found { state, inode: 0, uid: 0, ..FOUND };
            assert_eq!(judge(&answer.bytes(), &asked(), DEVICE), Ok(found));
        }
    }

    #[test]
    fn an_error_or_half_an_answer_names_nobody() {
        let mut error = 36_u32.to_ne_bytes().to_vec();
        error.extend(NLMSG_ERROR.to_ne_bytes());
        error.extend([0; 10]);
        error.extend((-2_i32).to_ne_bytes());
        error.extend([0; 16]);
        assert_eq!(judge(&error, &asked(), DEVICE), Err(Unattributable::NoSocket));
        error[16..20].copy_from_slice(&(-1_i32).to_ne_bytes());
        assert_eq!(judge(&error, &asked(), DEVICE), Err(Unattributable::Os(Errno::PERM)));
        // no errno: an acknowledgement nobody asked for, or nonsense
        for code in [0_i32, 1, 2, -4096, i32::MIN, i32::MAX] {
            error[16..20].copy_from_slice(&code.to_ne_bytes());
            assert_eq!(judge(&error, &asked(), DEVICE), Err(Unattributable::Answer), "{code}");
        }
        let whole = Answer::about(asked()).bytes();
        for length in 0..whole.len() {
            assert_eq!(judge(&whole[..length], &asked(), DEVICE), Err(Unattributable::Answer), "{length}");
        }
    }

    #[test]
    fn the_kernel_says_no_socket_for_a_four_tuple_nobody_has_and_refuses_a_listener_as_its_owner() {
        let mut owners = SocketOwners::open("lo").unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = format!("127.0.0.1:{port}");
        assert_eq!(owners.connecting(&tuple(&client, "192.0.2.1:80")), Err(Unattributable::OtherSocket));
        let stream = std::net::TcpStream::connect(&client).unwrap();
        let established =
            FourTuple { client: stream.local_addr().unwrap(), service: stream.peer_addr().unwrap() };
        assert_eq!(owners.connecting(&established), Err(Unattributable::NotConnecting));
        let cookie = rustix::net::sockopt::socket_cookie(&stream).unwrap();
        assert_eq!(owners.is_still(&established, cookie), Ok(()));
        assert_eq!(owners.is_still(&established, cookie + 1), Err(Unattributable::OtherSocket));
        drop(listener);
        assert_eq!(owners.connecting(&tuple(&client, "192.0.2.1:80")), Err(Unattributable::NoSocket));
    }
}
