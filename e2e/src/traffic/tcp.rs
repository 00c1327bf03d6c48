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
    let (from, to): (NetnsName, NetnsName) = (from.parse()?, to.parse()?);
    let any = match address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let listener = to.enter(|| TcpListener::bind((any, 0)))?.with_context(|| format!("listening in {to}"))?;
    let port = listener.local_addr().context("reading a port")?.port();
    let target = SocketAddr::new(address, port);
    let began = Instant::now();
    let stream = from
        .enter(|| TcpStream::connect_timeout(&target, STALL_TIMEOUT))?
        .with_context(|| format!("connecting from {from} to {target} in {to}"))?;
    let receiving = thread::spawn(move || receive(&listener));
    let sent = send(stream, bytes).with_context(|| format!("sending from {from} to {target}"));
    let received = receiving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let sent = sent?;
    let (arrived, checksum) = received.with_context(|| format!("receiving in {to}"))?;
    if (arrived, checksum) != (bytes, sent) {
        bail!("{bytes} bytes with checksum {sent:016x} sent, {arrived} with {checksum:016x} arrived");
    }
    Ok(TcpReport { bytes, elapsed: began.elapsed(), checksum })
}

fn send(mut stream: TcpStream, bytes: u64) -> io::Result<u64> {
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

/// The connection is in the listener's queue when this is called.
fn receive(listener: &TcpListener) -> io::Result<(u64, u64)> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(STALL_TIMEOUT))?;
    let mut checksum = Checksum::default();
    let mut arrived = 0;
    let mut buffer = [0; CHUNK];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok((arrived, checksum.0)),
            length => {
                checksum.add(&buffer[..length]);
                arrived += length as u64;
            }
        }
    }
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
