//! Traffic between namespaces, generated and checked inside the test program.
//!
//! Sockets are opened on a thread that has entered the namespace and stay in it, so streams run
//! on ordinary threads of this process and one clock times both ends. No traffic tool has to
//! be installed.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::ifaddrs::{InterfaceAddress, getifaddrs};

pub mod dns;
mod first_reply;
mod frame;
mod group;
pub mod packet;
mod server;
mod stream;
mod tcp;

pub use first_reply::Asker;
pub use frame::{Direction, FramePort, SeenFrame};
pub use group::{Interface, broadcast, multicast};
pub use server::{Greeting, TcpServer, UdpServer, ask_tcp, ask_udp};
pub use stream::{Stream, StreamReport};
pub use tcp::{TcpConnection, TcpReport, tcp_transfer};

use crate::eventually::wait_until;
use crate::netns::NetnsName;

/// Receive buffer of every probe in bytes: on a busy machine a thread may not run for a second,
/// and a packet lost here would be counted as lost by the network.
const RECEIVE_BUFFER: usize = 16 << 20;

/// Echo requests per second of [`ping`].
const PING_RATE: u32 = 200;

/// Sends ICMP echo requests from namespace `from` until the first reply; the time that took.
///
/// # Errors
/// When there is no reply within `deadline`.
pub fn ping(from: &str, address: IpAddr, deadline: Duration) -> Result<Duration> {
    let stream = Stream::icmp(from, address, PING_RATE)?;
    wait_until(deadline, &format!("reply of {address} to {from}"), || match stream.received() {
        0 => Err(format!("{} requests sent", stream.sent())),
        _ => Ok(()),
    })?;
    let report = stream.stop()?;
    report.first_after.context("timing the first reply")
}

/// The addresses of an interface, IPv4 first, without link-local ones.
///
/// # Errors
/// When there is no such namespace, or the interface has none.
pub fn addresses_of(netns: &str, interface: &str) -> Result<Vec<IpAddr>> {
    let name: NetnsName = netns.parse()?;
    let listed = name.enter(|| getifaddrs().map(|entries| addresses_in(entries, interface)))?;
    let mut addresses = listed.with_context(|| format!("listing addresses in {netns}"))?;
    addresses.sort();
    if addresses.is_empty() {
        bail!("{interface} in {netns} has no address");
    }
    Ok(addresses)
}

fn addresses_in(entries: impl Iterator<Item = InterfaceAddress>, interface: &str) -> Vec<IpAddr> {
    entries
        .filter(|entry| entry.interface_name == interface)
        .filter_map(|entry| {
            let address = entry.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .filter(|address| !matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()))
        .collect()
}
