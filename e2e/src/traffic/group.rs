//! Broadcast and multicast: who hears one datagram.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::net::if_::if_nametoindex;
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};

use super::packet;
use crate::netns::NetnsName;

/// Port of the probes; in no registry, and nothing of the lab listens on it.
const PORT: u16 = 27182;
/// How long a listener goes on for further copies once everyone has heard the first.
const QUIET: Duration = Duration::from_millis(20);

/// An interface in a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    netns: NetnsName,
    name: String,
}

impl Interface {
    /// Interface `name` in namespace `netns`.
    ///
    /// # Errors
    /// When `netns` cannot name a namespace.
    pub fn new(netns: &str, name: &str) -> Result<Self> {
        Ok(Self { netns: netns.parse()?, name: name.to_owned() })
    }
}

/// Sends one datagram to 255.255.255.255 out of `from`; how many copies each listener heard, by
/// namespace. Returns when everyone heard it, or after `deadline` without those who did not.
///
/// # Errors
/// When a namespace or an interface is missing or a socket refuses.
pub fn broadcast(from: &Interface, listeners: &[Interface], deadline: Duration) -> Result<BTreeMap<String, usize>> {
    probe(from, listeners, IpAddr::V4(Ipv4Addr::BROADCAST), deadline)
}

/// Sends one datagram to a multicast group out of `from`, after every listener has joined it;
/// otherwise as [`broadcast`].
///
/// # Errors
/// When a namespace or an interface is missing or a socket refuses.
pub fn multicast(
    from: &Interface,
    listeners: &[Interface],
    group: IpAddr,
    deadline: Duration,
) -> Result<BTreeMap<String, usize>> {
    probe(from, listeners, group, deadline)
}

fn probe(
    from: &Interface,
    listeners: &[Interface],
    group: IpAddr,
    deadline: Duration,
) -> Result<BTreeMap<String, usize>> {
    let sockets: Vec<_> = listeners
        .iter()
        .map(|interface| open(interface, |index| listener(interface, group, index)))
        .collect::<Result<_>>()?;
    let socket = open(from, |index| sender(from, group, index))?;
    let mark = packet::new_mark();
    socket
        .send_to(&packet::probe(mark, 0), &SocketAddr::new(group, PORT).into())
        .with_context(|| format!("sending to {group} from {}", from.netns))?;
    let until = Instant::now() + deadline;
    let mut heard = BTreeMap::new();
    for (interface, socket) in listeners.iter().zip(&sockets) {
        let first = count(socket, mark, until, 1)?;
        if first > 0 {
            let more = count(socket, mark, Instant::now() + QUIET, usize::MAX)?;
            heard.insert(interface.netns.to_string(), first + more);
        }
    }
    Ok(heard)
}

/// Copies that arrive before `until`, at most `most`.
fn count(socket: &Socket, mark: u64, until: Instant, most: usize) -> Result<usize> {
    let mut copies = 0;
    let mut buffer = [0; 64];
    while copies < most {
        // Zero would mean to wait without end; what has arrived by now still counts.
        let left = until.saturating_duration_since(Instant::now());
        let timeout = left.max(Duration::from_millis(1));
        socket.set_read_timeout(Some(timeout)).context("setting a receive timeout")?;
        match io::Read::read(&mut &*socket, &mut buffer) {
            Ok(length) => {
                let content = buffer.get(..length).unwrap_or_default();
                copies += usize::from(packet::parse_probe(content, mark).is_some());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(copies),
            Err(error) => return Err(error).context("receiving a probe"),
        }
    }
    Ok(copies)
}

fn open(interface: &Interface, make: impl FnOnce(u32) -> io::Result<Socket> + Send) -> Result<Socket> {
    let Interface { netns, name } = interface;
    netns
        .enter(|| make(if_nametoindex(name.as_str())?))?
        .with_context(|| format!("opening a socket on {name} in {netns}"))
}

fn listener(interface: &Interface, group: IpAddr, index: u32) -> io::Result<Socket> {
    let socket = bound(interface, group, PORT)?;
    match group {
        IpAddr::V4(group) if group.is_multicast() => {
            socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(index))?;
        }
        IpAddr::V4(_) => {}
        IpAddr::V6(group) => socket.join_multicast_v6(&group, index)?,
    }
    Ok(socket)
}

fn sender(interface: &Interface, group: IpAddr, index: u32) -> io::Result<Socket> {
    let socket = bound(interface, group, 0)?;
    match group {
        IpAddr::V4(_) => socket.set_broadcast(true)?,
        IpAddr::V6(_) => socket.set_multicast_if_v6(index)?,
    }
    Ok(socket)
}

fn bound(interface: &Interface, group: IpAddr, port: u16) -> io::Result<Socket> {
    let (domain, any) = match group {
        IpAddr::V4(_) => (Domain::IPV4, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        IpAddr::V6(_) => (Domain::IPV6, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
    };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.bind_device(Some(interface.name.as_bytes()))?;
    socket.bind(&SocketAddr::new(any, port).into())?;
    Ok(socket)
}
