//! The client's side of a captured connection, with the kernel's own TCP.
//! Must not look at the interceptor.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

pub(crate) fn try_dial(to: &str) -> std::io::Result<TcpStream> {
    let address: SocketAddr = to.parse().unwrap();
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

pub(crate) fn dial(to: &str) -> TcpStream {
    try_dial(to).unwrap()
}

pub(crate) fn read(stream: &mut impl Read, count: usize) -> String {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

pub(crate) fn is_reset(client: &mut TcpStream) -> bool {
    client.read(&mut [0; 1]).is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

/// Nothing has come, and the connection is not ended.
pub(crate) fn is_open(client: &TcpStream) -> bool {
    client.set_nonblocking(true).unwrap();
    let blocked = (&*client).read(&mut [0; 1]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
    client.set_nonblocking(false).unwrap();
    blocked
}
