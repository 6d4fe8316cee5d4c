//! The other side of the traffic that is none of the service's: takes everything, sends datagrams back.
//! Measures nothing.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};

/// Serves until it is killed, at ports that it prints: TCP, then UDP.
///
/// # Errors
/// When it has no sockets.
pub(crate) fn serve() -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    println!("{} {}", listener.local_addr()?.port(), socket.local_addr()?.port());
    io::stdout().flush()?;
    std::thread::spawn(move || echo(&socket));
    for stream in listener.incoming() {
        let stream = stream?;
        std::thread::spawn(move || drain(stream));
    }
    Ok(())
}

fn drain(mut stream: TcpStream) {
    let mut buffer = vec![0; 256 << 10];
    while stream.read(&mut buffer).is_ok_and(|read| read > 0) {}
}

fn echo(socket: &UdpSocket) {
    let mut buffer = [0; 2048];
    // an answer that cannot be sent is one that the other side asks for again
    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
        let _ = socket.send_to(buffer.get(..length).unwrap_or(&[]), from);
    }
}
