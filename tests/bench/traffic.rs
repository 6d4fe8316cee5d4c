//! Traffic that is none of the service's, without the daemons and with them, by either guard. In a lab with a container
//! behind a bridge; the other side is sink.rs, in the cloud.
//! Judges nothing.

use crate::report::{Spread, Traffic};
use crate::variant::Variant;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const CLOUD: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const BYTES: usize = 768 << 20;
const PIECE: usize = 256 << 10;
const CONNECTIONS: usize = 4000;
const CLIENTS: usize = 4;
const ECHOES: usize = 30_000;
/// Datagrams on their way at once: fewer than any queue between here and there holds.
const OUTSTANDING: usize = 32;
const LOST: Duration = Duration::from_millis(200);
/// More than of the other parts, since what is looked for is a hundredth.
const LEAST_ROUNDS: usize = 9;
const GUARDS: [Option<&str>; 3] = [None, Some("xfrm"), Some("nftables")];
const KINDS: [(&str, &str); 4] = [
    ("TCP throughput", "MB/s"),
    ("TCP connections", "/s"),
    ("datagrams, unconnected socket", "round trips/s"),
    ("forwarded datagrams", "round trips/s"),
];

/// # Errors
/// When something does not start or a connection fails.
pub(crate) fn measure(rounds: usize, nginx: &OsStr) -> io::Result<Vec<Traffic>> {
    let sink = Sink::start()?;
    let config = PathBuf::from(std::env::var_os("LAB_CONFIG").ok_or(io::ErrorKind::NotFound)?);
    let settings = fs::read_to_string(&config)?;
    let rounds = rounds.max(LEAST_ROUNDS);
    // of each guard, of each kind, by rounds
    let mut taken = GUARDS.map(|_| KINDS.map(|_| Vec::new()));
    for round in 0..rounds {
        eprintln!("other traffic: round {} of {rounds}", round + 1);
        for turn in 0..GUARDS.len() {
            let at = (round + turn) % GUARDS.len();
            let (Some(guard), Some(columns)) = (GUARDS.get(at), taken.get_mut(at)) else { continue };
            let up = match guard {
                Some(guard) => {
                    fs::write(&config, format!("{settings}\n[capture]\nguard = \"{guard}\"\n"))?;
                    Variant::Filterd.put_up(nginx)?
                }
                None => Variant::Direct.put_up(nginx)?,
            };
            for (rate, column) in sink.rates()?.into_iter().zip(columns) {
                column.push(rate);
            }
            up.take_down()?;
        }
    }
    fs::write(&config, settings)?;
    Ok(compare(&taken))
}

fn compare([without, xfrm, nftables]: &[[Vec<f64>; 4]; 3]) -> Vec<Traffic> {
    let rows = without.iter().zip(xfrm).zip(nftables).zip(KINDS);
    rows.filter_map(|(((without, xfrm), nftables), (what, unit))| {
        let ratio = |with: &[f64]| {
            Spread::of(with.iter().zip(without).map(|(with, without)| with / without).collect())
        };
        Some(Traffic {
            what: what.into(),
            unit: unit.into(),
            without: Spread::of(without.clone())?,
            xfrm: Spread::of(xfrm.clone())?,
            nftables: Spread::of(nftables.clone())?,
            xfrm_ratio: ratio(xfrm)?,
            nftables_ratio: ratio(nftables)?,
        })
    })
    .collect()
}

/// The process in the cloud; killed when dropped.
struct Sink {
    process: Child,
    tcp: SocketAddr,
    udp: SocketAddr,
}

impl Sink {
    fn start() -> io::Result<Self> {
        let mut process = Command::new("imds-lab")
            .args(["in", "cloud", "--", "imds-bench", "--sink"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        if let Some(output) = process.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        let ports: Vec<u16> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [tcp, udp] = *ports else {
            let _ = process.kill();
            return Err(io::Error::other(format!("the sink says {line:?}")));
        };
        Ok(Self { process, tcp: (CLOUD, tcp).into(), udp: (CLOUD, udp).into() })
    }

    fn rates(&self) -> io::Result<[f64; 4]> {
        Ok([throughput(self.tcp)?, connections(self.tcp)?, echoes(self.udp)?, forwarded(self.udp)?])
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[expect(clippy::cast_precision_loss, reason = "what is counted is far below 2^52")]
fn rate(count: usize, begun: Instant) -> f64 {
    count as f64 / begun.elapsed().as_secs_f64()
}

/// Until the other side has read everything.
fn throughput(to: SocketAddr) -> io::Result<f64> {
    let piece = vec![0; PIECE];
    let mut stream = TcpStream::connect(to)?;
    let begun = Instant::now();
    for _ in 0..BYTES / PIECE {
        stream.write_all(&piece)?;
    }
    end(stream)?;
    Ok(rate(BYTES, begun) / 1e6)
}

fn end(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    stream.read(&mut [0]).map(drop)
}

fn connections(to: SocketAddr) -> io::Result<f64> {
    let some = || (0..CONNECTIONS / CLIENTS).try_for_each(|_| end(TcpStream::connect(to)?));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(some)).collect();
        clients
            .into_iter()
            .try_for_each(|client| client.join().map_err(|_| io::Error::other("a client ended"))?)
    })?;
    Ok(rate(CONNECTIONS, begun))
}

/// Round trips a second, by a socket that is not connected, so that the kernel looks up each datagram's way anew.
///
/// # Errors
/// When the socket fails.
pub(crate) fn echoes(to: SocketAddr) -> io::Result<f64> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(LOST))?;
    let mut buffer = [0; 128];
    let datagram = [0; 64];
    let send = || (0..OUTSTANDING).try_for_each(|_| socket.send_to(&datagram, to).map(drop));
    let begun = Instant::now();
    send()?;
    for _ in 0..ECHOES {
        match socket.recv_from(&mut buffer) {
            Ok(_) => drop(socket.send_to(&datagram, to)?),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => send()?,
            Err(error) => return Err(error),
        }
    }
    Ok(rate(ECHOES, begun))
}

fn forwarded(to: SocketAddr) -> io::Result<f64> {
    let mut command = Command::new("imds-lab");
    command.args(["in", "container", "--", "imds-bench", "--echoes", &to.to_string()]);
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().map_err(|_| io::Error::other(format!("the container says {text:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_within_a_round() {
        let column = |first: f64| KINDS.map(|_| vec![first, 2.0 * first]);
        let rows = compare(&[column(100.0), column(50.0), column(200.0)]);
        assert_eq!(rows.len(), KINDS.len());
        for row in rows {
            assert_eq!(row.xfrm_ratio, Spread { median: 0.5, least: 0.5, most: 0.5 });
            assert_eq!(row.nftables_ratio.median, 2.0);
            assert_eq!(row.without.median, 150.0);
        }
    }
}
