//! A steady stream of small packets that counts what is lost and how long nothing came.
//!
//! UDP is counted one way, at the receiver; ICMP echo there and back, at the sender.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use super::RECEIVE_BUFFER;
use super::packet;
use crate::eventually::wait_until;
use crate::netns::NetnsName;

/// How long after the last packet was sent others may still arrive.
const DRAIN: Duration = Duration::from_secs(2);
/// How often the receiver looks whether it is to end.
const RECEIVE_TIMEOUT: Duration = Duration::from_millis(20);

/// A running stream. Dropping it ends it without a report.
#[derive(Debug)]
pub struct Stream {
    shared: Arc<Shared>,
    /// Both threads are there until the stream is stopped.
    threads: Option<(JoinHandle<Sending>, JoinHandle<Vec<Arrival>>)>,
}

/// What became of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamReport {
    /// Packets sent, or tried to.
    pub sent: u64,
    /// Different packets that arrived.
    pub received: u64,
    /// Packets that did not.
    pub lost: u64,
    /// Further copies of packets that had arrived.
    pub duplicated: u64,
    /// Sends that this namespace's own kernel refused; they count as sent and lost.
    pub refused: u64,
    /// Longest time without an arrival, from the first to the last send.
    pub longest_gap: Duration,
    /// From the first send to the first arrival.
    pub first_after: Option<Duration>,
}

impl fmt::Display for StreamReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} sent, {} received, {} lost ({} refused), {} duplicated, longest gap {} ms",
            self.sent,
            self.received,
            self.lost,
            self.refused,
            self.duplicated,
            self.longest_gap.as_millis()
        )
    }
}

impl Stream {
    /// `rate` UDP packets per second from namespace `from` to `address`, which is in namespace `to`.
    ///
    /// # Errors
    /// When a namespace cannot be entered or a socket not opened.
    pub fn udp(from: &str, to: &str, address: IpAddr, rate: u32) -> Result<Self> {
        let sender = open(from, address, Wire::Udp)?;
        let receiver = open(to, address, Wire::Udp)?;
        let port = local_port(&receiver)?;
        let stream = Outgoing { socket: sender, target: SocketAddr::new(address, port), rate, wire: Wire::Udp };
        Self::start(stream, receiver)
    }

    /// `rate` ICMP echo requests per second from namespace `from` to `address`.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the socket not opened.
    pub fn icmp(from: &str, address: IpAddr, rate: u32) -> Result<Self> {
        let wire = match address {
            IpAddr::V4(_) => Wire::IcmpV4,
            IpAddr::V6(_) => Wire::IcmpV6,
        };
        let socket = open(from, address, wire)?;
        let receiver = socket.try_clone().context("duplicating a socket")?;
        let stream = Outgoing { socket, target: SocketAddr::new(address, 0), rate, wire };
        Self::start(stream, receiver)
    }

    fn start(outgoing: Outgoing, receiver: Socket) -> Result<Self> {
        let buffer = RECEIVE_BUFFER;
        setsockopt(&receiver, sockopt::RcvBufForce, &buffer).context("enlarging a receive buffer")?;
        receiver.set_read_timeout(Some(RECEIVE_TIMEOUT)).context("setting a receive timeout")?;
        let shared = Arc::new(Shared::default());
        let (for_sender, for_receiver) = (Arc::clone(&shared), Arc::clone(&shared));
        let (wire, mark) = (outgoing.wire, packet::new_mark());
        let receiving = thread::spawn(move || receive(&receiver, wire, mark, &for_receiver));
        let sending = thread::spawn(move || outgoing.run(mark, &for_sender));
        Ok(Self { shared, threads: Some((sending, receiving)) })
    }

    /// Packets sent so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Different packets received so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.shared.received.load(Ordering::Relaxed)
    }

    /// Waits until `count` more packets have arrived: the stream flows.
    ///
    /// # Errors
    /// When they have not after `deadline`.
    pub fn wait_for(&self, count: u64, deadline: Duration) -> Result<()> {
        let wanted = self.received() + count;
        wait_until(deadline, "arrival of packets", || {
            let (received, sent) = (self.received(), self.sent());
            if received >= wanted {
                Ok(())
            } else {
                Err(format!("{received} of {wanted} wanted received, {sent} sent"))
            }
        })?;
        Ok(())
    }

    /// Stops sending, waits for packets under way, and counts.
    ///
    /// # Errors
    /// When a thread of the stream panicked.
    pub fn stop(mut self) -> Result<StreamReport> {
        let (sending, receiving) = self.threads.take().expect("only this method takes the threads, and it takes self");
        self.shared.is_stopping.store(true, Ordering::Relaxed);
        let sending = sending.join().map_err(|_| anyhow!("the sending thread panicked"))?;
        // Whatever has not arrived in time counts as lost.
        drop(wait_until(DRAIN, "packets under way", || match self.sent().saturating_sub(self.received()) {
            0 => Ok(()),
            missing => Err(format!("{missing} missing")),
        }));
        self.shared.is_over.store(true, Ordering::Relaxed);
        let arrivals = receiving.join().map_err(|_| anyhow!("the receiving thread panicked"))?;
        Ok(report(&sending, &arrivals))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.is_stopping.store(true, Ordering::Relaxed);
        self.shared.is_over.store(true, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct Shared {
    is_stopping: AtomicBool,
    is_over: AtomicBool,
    sent: AtomicU64,
    received: AtomicU64,
}

#[derive(Debug)]
struct Sending {
    sent: u64,
    refused: u64,
    began: Instant,
    ended: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Arrival {
    sequence: u64,
    at: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wire {
    Udp,
    IcmpV4,
    IcmpV6,
}

impl Wire {
    fn encode(self, mark: u64, sequence: u64) -> Vec<u8> {
        let payload = packet::probe(mark, sequence);
        match self {
            Self::Udp => payload.to_vec(),
            Self::IcmpV4 => packet::icmp_echo(8, mark, sequence, &payload),
            Self::IcmpV6 => packet::icmp_echo(128, mark, sequence, &payload),
        }
    }

    /// A raw IPv4 socket delivers the IP header too (raw(7)), a raw IPv6 socket does not.
    fn decode(self, received: &[u8], mark: u64) -> Option<u64> {
        let message = match self {
            Self::Udp => return packet::parse_probe(received, mark),
            Self::IcmpV4 => received.get(usize::from(received.first()? & 0xf) * 4..)?,
            Self::IcmpV6 => received,
        };
        let reply = if self == Self::IcmpV4 { 0 } else { 129 };
        let is_reply = *message.first()? == reply;
        packet::parse_probe(message.get(8..)?, mark).filter(|_| is_reply)
    }
}

struct Outgoing {
    socket: Socket,
    target: SocketAddr,
    rate: u32,
    wire: Wire,
}

impl Outgoing {
    /// A packet that comes late is sent at once, so that the rate holds on a busy machine.
    fn run(self, mark: u64, shared: &Shared) -> Sending {
        let target = self.target.into();
        let began = Instant::now();
        let interval = Duration::from_secs(1) / self.rate.max(1);
        let (mut sequence, mut refused, mut due) = (0, 0, began);
        while !shared.is_stopping.load(Ordering::Relaxed) {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let message = self.wire.encode(mark, sequence);
            sequence += 1;
            shared.sent.store(sequence, Ordering::Relaxed);
            if self.socket.send_to(&message, &target).is_err() {
                refused += 1;
            }
            due += interval;
        }
        Sending { sent: sequence, refused, began, ended: Instant::now() }
    }
}

fn receive(socket: &Socket, wire: Wire, mark: u64, shared: &Shared) -> Vec<Arrival> {
    let mut arrivals = Vec::new();
    let mut seen = Vec::new();
    let mut buffer = [0; 2048];
    while !shared.is_over.load(Ordering::Relaxed) {
        // A timeout, or an error that another packet left on the socket.
        let Ok(length) = io::Read::read(&mut &*socket, &mut buffer) else {
            continue;
        };
        let at = Instant::now();
        let sequence = buffer.get(..length).and_then(|bytes| wire.decode(bytes, mark));
        if let Some(sequence) = sequence {
            arrivals.push(Arrival { sequence, at });
            if is_new(&mut seen, sequence) {
                shared.received.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    arrivals
}

fn is_new(seen: &mut Vec<bool>, sequence: u64) -> bool {
    let Ok(index) = usize::try_from(sequence) else {
        return false;
    };
    if index >= seen.len() {
        seen.resize(index + 1, false);
    }
    !std::mem::replace(&mut seen[index], true)
}

fn report(sending: &Sending, arrivals: &[Arrival]) -> StreamReport {
    let mut seen = Vec::new();
    let received = arrivals.iter().filter(|arrival| is_new(&mut seen, arrival.sequence)).count();
    let (received, total) = (received as u64, arrivals.len() as u64);
    StreamReport {
        sent: sending.sent,
        received,
        lost: sending.sent.saturating_sub(received),
        duplicated: total - received,
        refused: sending.refused,
        longest_gap: longest_gap(sending, arrivals),
        first_after: arrivals.first().map(|arrival| arrival.at.saturating_duration_since(sending.began)),
    }
}

fn longest_gap(sending: &Sending, arrivals: &[Arrival]) -> Duration {
    let arrived = arrivals.iter().map(|arrival| arrival.at);
    let moments: Vec<_> = std::iter::once(sending.began).chain(arrived).chain([sending.ended]).collect();
    moments.windows(2).map(|pair| pair[1].saturating_duration_since(pair[0])).max().unwrap_or_default()
}

fn open(netns: &str, address: IpAddr, wire: Wire) -> Result<Socket> {
    let netns: NetnsName = netns.parse()?;
    netns.enter(|| open_here(address, wire))?.with_context(|| format!("opening a socket in {netns}"))
}

fn open_here(address: IpAddr, wire: Wire) -> io::Result<Socket> {
    let (domain, any) = match address {
        IpAddr::V4(_) => (Domain::IPV4, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        IpAddr::V6(_) => (Domain::IPV6, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
    };
    let (kind, protocol) = match wire {
        Wire::Udp => (Type::DGRAM, Protocol::UDP),
        Wire::IcmpV4 => (Type::RAW, Protocol::ICMPV4),
        Wire::IcmpV6 => (Type::RAW, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, kind, Some(protocol))?;
    socket.bind(&SocketAddr::new(any, 0).into())?;
    Ok(socket)
}

fn local_port(socket: &Socket) -> Result<u16> {
    let address = socket.local_addr().context("reading a socket's address")?;
    let address = address.as_socket().context("reading a socket's port")?;
    Ok(address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_counts_losses_duplicates_and_the_longest_gap() {
        let began = Instant::now();
        let after = |milliseconds| began + Duration::from_millis(milliseconds);
        let sending = Sending { sent: 5, refused: 1, began, ended: after(100) };
        let arrivals = [(0, 10), (1, 20), (1, 21), (4, 90)].map(|(sequence, at)| Arrival { sequence, at: after(at) });

        let report = report(&sending, &arrivals);

        assert_eq!((report.received, report.lost, report.duplicated), (3, 2, 1));
        assert_eq!(report.longest_gap, Duration::from_millis(69));
        assert_eq!(report.first_after, Some(Duration::from_millis(10)));
    }

    #[test]
    fn silence_at_the_end_is_a_gap_too() {
        let began = Instant::now();
        let ended = began + Duration::from_millis(500);
        let sending = Sending { sent: 500, refused: 0, began, ended };

        assert_eq!(report(&sending, &[]).longest_gap, Duration::from_millis(500));
    }
}
