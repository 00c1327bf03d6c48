//! A checked TCP transfer.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::netns::NetnsName;

/// How long connecting may take, and either side may wait for the other in between.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);
const CHUNK: usize = 64 * 1024;

/// A finished transfer whose content arrived unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpReport {
    /// Bytes transferred.
    pub bytes: u64,
    /// From connecting until the last byte had arrived.
    pub elapsed: Duration,
    /// FNV-1a of the content, the same at both ends.
    pub checksum: u64,
}

/// Sends `bytes` bytes of varied content from namespace `from` to a listener in namespace `to`
/// that is reached at `address`.
///
/// # Errors
/// When there is no connection, nothing moves for 10 s, or the content arrives changed.
pub fn tcp_transfer(from: &str, to: &str, address: IpAddr, bytes: u64) -> Result<TcpReport> {
    let began = Instant::now();
    let mut connection = TcpConnection::open(from, to, address)?;
    let report = connection.transfer(bytes)?;
    Ok(TcpReport { elapsed: began.elapsed(), ..report })
}

/// A connection that stays open between transfers.
#[derive(Debug)]
pub struct TcpConnection {
    sender: TcpStream,
    receiver: TcpStream,
    /// Who and where, for messages.
    way: String,
}

impl TcpConnection {
    /// Connects from namespace `from` to a listener in namespace `to` that is reached at `address`.
    ///
    /// # Errors
    /// When there is no connection within 10 s.
    pub fn open(from: &str, to: &str, address: IpAddr) -> Result<Self> {
        let (from, to): (NetnsName, NetnsName) = (from.parse()?, to.parse()?);
        let any = match address {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let listener = to.enter(|| TcpListener::bind((any, 0)))?.with_context(|| format!("listening in {to}"))?;
        let port = listener.local_addr().context("reading a port")?.port();
        let target = SocketAddr::new(address, port);
        let way = format!("from {from} to {target} in {to}");
        let sender = from
            .enter(|| TcpStream::connect_timeout(&target, STALL_TIMEOUT))?
            .with_context(|| format!("connecting {way}"))?;
        // The connection is in the listener's queue by now.
        let (receiver, _) = listener.accept().with_context(|| format!("accepting {way}"))?;
        Ok(Self { sender, receiver, way })
    }

    /// Sends `bytes` bytes of varied content.
    ///
    /// # Errors
    /// When nothing moves for 10 s, or the content arrives changed.
    pub fn transfer(&mut self, bytes: u64) -> Result<TcpReport> {
        let way = &self.way;
        let began = Instant::now();
        let receiver = self.receiver.try_clone().context("duplicating a socket")?;
        let receiving = thread::spawn(move || receive(receiver, bytes));
        let sent = send(&self.sender, bytes).with_context(|| format!("sending {way}"));
        let received = receiving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let sent = sent?;
        let arrived = received.with_context(|| format!("receiving {way}"))?;
        if arrived != sent {
            bail!("{bytes} bytes {way}: sent with checksum {sent:016x}, arrived with {arrived:016x}");
        }
        Ok(TcpReport { bytes, elapsed: began.elapsed(), checksum: arrived })
    }
}

fn send(mut stream: &TcpStream, bytes: u64) -> io::Result<u64> {
    stream.set_write_timeout(Some(STALL_TIMEOUT))?;
    let mut content = Content::default();
    let mut checksum = Checksum::default();
    let mut left = bytes;
    let mut buffer = [0; CHUNK];
    while left > 0 {
        let length = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
        let chunk = &mut buffer[..length];
        content.fill(chunk);
        checksum.add(chunk);
        stream.write_all(chunk)?;
        left -= length as u64;
    }
    Ok(checksum.0)
}

fn receive(mut stream: TcpStream, bytes: u64) -> io::Result<u64> {
    stream.set_read_timeout(Some(STALL_TIMEOUT))?;
    let mut checksum = Checksum::default();
    let mut left = bytes;
    let mut buffer = [0; CHUNK];
    while left > 0 {
        let most = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
        let length = stream.read(&mut buffer[..most])?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        checksum.add(&buffer[..length]);
        left -= length as u64;
    }
    Ok(checksum.0)
}

/// Content without a short period, so that displaced segments are noticed (xorshift, Marsaglia 2003).
struct Content(u64);

impl Default for Content {
    fn default() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }
}

impl Content {
    fn fill(&mut self, chunk: &mut [u8]) {
        for part in chunk.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            part.copy_from_slice(&self.0.to_le_bytes()[..part.len()]);
        }
    }
}

struct Checksum(u64);

impl Default for Checksum {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Checksum {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
