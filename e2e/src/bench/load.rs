//! Load on a path on one core: how many bits of TCP it carries, how many small packets.
//!
//! Both ends run on the same core, as do the softirqs in between, so what is compared is the work that a packet costs,
//! not how well two cores share it.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::machine::pin_this_thread;
use crate::netns::NetnsName;

/// As large as iperf3's.
const TCP_WRITE: usize = 128 * 1024;
const UDP_PAYLOAD: usize = 64;
/// Packets under way at one time: few enough for every queue and socket buffer on the path.
const BURST: u32 = 32;
/// A packet that has not arrived by then is lost.
const LATE: Duration = Duration::from_millis(100);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANY: (IpAddr, u16) = (IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);

/// From where to where.
#[derive(Debug, Clone)]
pub(super) struct Path {
    pub(super) from: NetnsName,
    pub(super) to: NetnsName,
    /// Where `to` answers.
    pub(super) address: IpAddr,
}

/// TCP from one end to the other for `duration`, in bits of content per second.
pub(super) fn tcp_bits_per_second(path: &Path, core: usize, duration: Duration) -> Result<f64> {
    let listener = path.to.enter(|| TcpListener::bind(ANY))?.context("listening")?;
    let target = SocketAddr::new(path.address, listener.local_addr().context("reading a port")?.port());
    let stream = path.from.enter(|| TcpStream::connect_timeout(&target, CONNECT_TIMEOUT))?;
    let stream = stream.with_context(|| format!("connecting to {target}"))?;
    thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            pin_this_thread(core)?;
            receive(&listener).context("receiving")
        });
        let sender = scope.spawn(|| {
            pin_this_thread(core)?;
            send(stream, duration).context("sending")
        });
        sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        receiver.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn send(mut stream: TcpStream, duration: Duration) -> io::Result<()> {
    let content = vec![0x5a; TCP_WRITE];
    let began = Instant::now();
    while began.elapsed() < duration {
        stream.write_all(&content)?;
    }
    Ok(())
}

fn receive(listener: &TcpListener) -> Result<f64> {
    let (mut stream, _) = listener.accept().context("accepting a connection")?;
    let mut buffer = vec![0; TCP_WRITE];
    let mut mebibytes = 0.0;
    let began = Instant::now();
    loop {
        match stream.read(&mut buffer).context("reading")? {
            0 => return Ok(mebibytes * f64::from(1 << 20) * 8.0 / began.elapsed().as_secs_f64()),
            length => mebibytes += f64::from(u32::try_from(length)?) / f64::from(1 << 20),
        }
    }
}

/// UDP packets with 64 bytes of content that arrive per second.
///
/// One thread has both ends in hand: it sends a burst, one system call for each packet as ordinary programs do, and takes
/// the burst out at the other end before it sends the next. So nothing is dropped for want of a receiver, and no
/// scheduling between sender and receiver is measured.
pub(super) fn packets_per_second(path: &Path, core: usize, duration: Duration) -> Result<f64> {
    let receiver = path.to.enter(|| UdpSocket::bind(ANY))?.context("opening a socket")?;
    let target = SocketAddr::new(path.address, receiver.local_addr().context("reading a port")?.port());
    let sender = path.from.enter(|| UdpSocket::bind(ANY))?.context("opening a socket")?;
    sender.connect(target).with_context(|| format!("aiming at {target}"))?;
    receiver.set_read_timeout(Some(LATE)).context("setting a timeout")?;
    thread::scope(|scope| {
        let pinned = scope.spawn(|| {
            pin_this_thread(core)?;
            ready(&sender, &receiver)?;
            exchange(&sender, &receiver, duration)
        });
        pinned.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The first packet waits for address resolution.
fn ready(sender: &UdpSocket, receiver: &UdpSocket) -> Result<()> {
    let began = Instant::now();
    while began.elapsed() < CONNECT_TIMEOUT {
        sender.send(&[0; UDP_PAYLOAD]).context("sending the first packet")?;
        if receiver.recv(&mut [0; UDP_PAYLOAD]).is_ok() {
            return Ok(());
        }
    }
    bail!("no packet arrives")
}

fn exchange(sender: &UdpSocket, receiver: &UdpSocket, duration: Duration) -> Result<f64> {
    let content = [0x5a; UDP_PAYLOAD];
    let mut buffer = [0; UDP_PAYLOAD];
    let (mut sent, mut arrived) = (0_u32, 0_u32);
    let began = Instant::now();
    while began.elapsed() < duration {
        for _ in 0..BURST {
            sender.send(&content).context("sending a packet")?;
        }
        sent += BURST;
        for _ in 0..BURST {
            match receiver.recv(&mut buffer) {
                Ok(_) => arrived += 1,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("receiving a packet"),
            }
        }
    }
    let elapsed = began.elapsed().as_secs_f64();
    // Anything lost costs a tenth of a second, so it shows in the rate as well.
    if sent - arrived.min(sent) > sent / 100 {
        bail!("{arrived} of {sent} packets arrived: more than one in a hundred is lost");
    }
    Ok(f64::from(arrived) / elapsed)
}
