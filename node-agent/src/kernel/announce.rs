//! Telling local containers that an address has another MAC: a gratuitous ARP or an unsolicited neighbour advertisement.
//!
//! The bridges keep such announcements from crossing the tunnel (neighbour suppression), so every node that learns of a
//! change sends its own from its bridge. Frames are built here and sent from the data plane's namespace.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd,
};

use nix::{
    ifaddrs::getifaddrs,
    sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket},
};
use weft_overlay::id::Mac;

use crate::netns::Namespace;

/// An address and its new MAC, to be told to the ports of a bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Announcement {
    /// Index of the bridge.
    pub(crate) bridge: u32,
    pub(crate) address: IpAddr,
    pub(crate) mac: Mac,
}

/// Sends announcements. A bridge that is gone is passed over.
///
/// # Errors
/// When a socket cannot be had or a frame cannot be sent; the others are sent all the same.
pub(crate) fn announce(namespace: &Namespace, announcements: &[Announcement]) -> io::Result<()> {
    if announcements.is_empty() {
        return Ok(());
    }
    namespace.run(|| send_all(announcements)).map_err(io::Error::other)?
}

fn send_all(announcements: &[Announcement]) -> io::Result<()> {
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    // The list of interfaces is the way to link-level addresses that needs no unsafe code.
    let bridges: Vec<LinkAddr> =
        getifaddrs()?.filter_map(|interface| interface.address?.as_link_addr().copied()).collect();
    let mut failed = None;
    for announcement in announcements {
        let Some(bridge) = bridges.iter().find(|b| u32::try_from(b.ifindex()) == Ok(announcement.bridge)) else {
            continue;
        };
        let frame = frame(announcement);
        if let Err(errno) = sendto(socket.as_raw_fd(), &frame, bridge, MsgFlags::empty()) {
            failed = Some(io::Error::from(errno));
        }
    }
    failed.map_or(Ok(()), Err)
}

fn frame(announcement: &Announcement) -> Vec<u8> {
    match announcement.address {
        IpAddr::V4(address) => gratuitous_arp(address, announcement.mac),
        IpAddr::V6(address) => unsolicited_advertisement(address, announcement.mac),
    }
}

/// A gratuitous ARP request (RFC 5227, section 3): sender and target address are the same.
fn gratuitous_arp(address: Ipv4Addr, mac: Mac) -> Vec<u8> {
    const BROADCAST: [u8; 6] = [0xff; 6];
    let mut frame = ethernet(BROADCAST, mac, 0x0806);
    // Ethernet, IPv4, their lengths, request.
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac.octets());
    frame.extend(address.octets());
    frame.extend([0; 6]);
    frame.extend(address.octets());
    frame
}

/// An unsolicited neighbour advertisement (RFC 4861, section 7.2.6) to all nodes, with the override flag.
fn unsolicited_advertisement(address: Ipv6Addr, mac: Mac) -> Vec<u8> {
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    const ICMPV6: u8 = 58;
    // Type 136, code 0, checksum, override flag.
    let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(address.octets());
    // Target link-layer address, of one unit of eight bytes.
    message.extend([2, 1]);
    message.extend(mac.octets());
    let length = u8::try_from(message.len()).expect("the message has 32 bytes");

    let mut pseudo = [address.octets(), ALL_NODES.octets()].concat();
    pseudo.extend([0, 0, 0, length, 0, 0, 0, ICMPV6]);
    pseudo.extend(&message);
    message[2..4].copy_from_slice(&checksum(&pseudo).to_be_bytes());

    let mut frame = ethernet([0x33, 0x33, 0, 0, 0, 1], mac, 0x86dd);
    // Version 6; payload length; next header; hop limit 255, which receivers insist on.
    frame.extend([0x60, 0, 0, 0, 0, length, ICMPV6, 255]);
    frame.extend(address.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(message);
    frame
}

fn ethernet(to: [u8; 6], from: Mac, kind: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(86);
    frame.extend(to);
    frame.extend(from.octets());
    frame.extend(kind.to_be_bytes());
    frame
}

/// The internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mac() -> Mac {
        "02:42:0a:20:00:05".parse().unwrap()
    }

    #[test]
    fn a_gratuitous_arp_names_the_address_twice() {
        let frame = gratuitous_arp("10.32.0.5".parse().unwrap(), mac());

        assert_eq!(frame.len(), 42);
        assert_eq!(frame[28..32], [10, 32, 0, 5]);
        assert_eq!(frame[38..42], [10, 32, 0, 5]);
        assert_eq!(frame[22..28], mac().octets());
    }

    #[test]
    fn an_advertisement_has_a_checksum_that_sums_to_zero() {
        let frame = unsolicited_advertisement("fd00::5".parse().unwrap(), mac());
        let (header, message) = frame[14..].split_at(40);
        let mut pseudo = header[8..40].to_vec();
        pseudo.extend([0, 0, 0, 32, 0, 0, 0, 58]);
        pseudo.extend(message);

        assert_eq!(frame.len(), 86);
        assert_eq!(checksum(&pseudo), 0);
    }
}
