//! Sending and watching raw Ethernet frames on one interface (packet(7)).
//!
//! Tests use it to forge what Weft must drop, and to look at what is on a wire.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recvfrom, sendto, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::RECEIVE_BUFFER;
use crate::netns::NetnsName;

/// Longest frame that is kept whole: a full GSO packet.
const LONGEST_FRAME: usize = 66_000;
/// `sll_pkttype` of frames that this interface sends, packet(7).
const PACKET_OUTGOING: u8 = 4;

/// A raw socket on one interface. It sees every frame from the moment it is opened.
#[derive(Debug)]
pub struct FramePort {
    socket: OwnedFd,
    address: LinkAddr,
}

/// Which way a frame passed the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// It came in.
    Received,
    /// It went out.
    Sent,
}

/// A frame on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenFrame {
    /// Which way it passed.
    pub direction: Direction,
    /// The frame from the Ethernet header on; a VLAN tag is not among the bytes.
    pub bytes: Vec<u8>,
}

impl FramePort {
    /// Opens a raw socket on `interface` in namespace `netns`.
    ///
    /// # Errors
    /// When there is no such namespace or interface, or packet sockets are not permitted.
    pub fn open(netns: &str, interface: &str) -> Result<Self> {
        let netns: NetnsName = netns.parse()?;
        netns
            .enter(|| Self::open_here(interface))?
            .with_context(|| format!("opening a packet socket on {interface} in {netns}"))
    }

    /// The interface's Ethernet address.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        self.address.addr().unwrap_or_default()
    }

    /// Sends a frame as it is.
    ///
    /// # Errors
    /// When the interface is down or the frame is longer than it takes.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let sent =
            sendto(self.socket.as_raw_fd(), frame, &self.address, MsgFlags::empty()).context("sending a frame")?;
        if sent != frame.len() {
            bail!("only {sent} of {} bytes of a frame were sent", frame.len());
        }
        Ok(())
    }

    /// The next frame for which `wanted` is true; `None` if there is none within `deadline`.
    ///
    /// # Errors
    /// When the socket fails, for example because the interface is gone.
    pub fn watch(&self, deadline: Duration, mut wanted: impl FnMut(&SeenFrame) -> bool) -> Result<Option<SeenFrame>> {
        let until = Instant::now() + deadline;
        while let Some(frame) = self.next(until)? {
            if wanted(&frame) {
                return Ok(Some(frame));
            }
        }
        Ok(None)
    }

    /// Every frame that is seen within `duration`.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn collect(&self, duration: Duration) -> Result<Vec<SeenFrame>> {
        let until = Instant::now() + duration;
        let mut frames = Vec::new();
        while let Some(frame) = self.next(until)? {
            frames.push(frame);
        }
        Ok(frames)
    }

    fn next(&self, until: Instant) -> Result<Option<SeenFrame>> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        // A timeout of zero would mean to wait without end.
        let microseconds = i64::try_from(left.as_micros()).unwrap_or(i64::MAX).max(1);
        let timeout = TimeVal::microseconds(microseconds);
        setsockopt(&self.socket, sockopt::ReceiveTimeout, &timeout).context("setting a receive timeout")?;
        let mut buffer = vec![0; LONGEST_FRAME];
        match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
            Ok((length, source)) => {
                buffer.truncate(length);
                let is_outgoing = source.is_some_and(|from| from.pkttype() == PACKET_OUTGOING);
                Ok(Some(SeenFrame {
                    direction: if is_outgoing { Direction::Sent } else { Direction::Received },
                    bytes: buffer,
                }))
            }
            Err(Errno::EAGAIN) => Ok(None),
            Err(errno) => Err(errno).context("receiving a frame"),
        }
    }

    /// nix offers no way to make a link-layer address, so the interface's own is taken from the
    /// list of addresses: it names the interface, which is all that sending and binding look at.
    fn open_here(interface: &str) -> Result<Self> {
        let address = getifaddrs()
            .context("listing interfaces")?
            .filter(|entry| entry.interface_name == interface)
            .find_map(|entry| entry.address?.as_link_addr().copied())
            .context("finding the interface")?;
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)
            .context("making a packet socket")?;
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).context("enlarging a receive buffer")?;
        bind(socket.as_raw_fd(), &address).context("binding a packet socket")?;
        Ok(Self { socket, address })
    }
}
