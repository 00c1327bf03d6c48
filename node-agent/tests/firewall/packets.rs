//! Packets byte by byte, for what ordinary sockets do not send.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weft_overlay::id::Mac;

pub(crate) const BROADCAST: [u8; 6] = [0xff; 6];
pub(crate) const ARP: u16 = 0x0806;
pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const IPV6: u16 = 0x86dd;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;

const DESTINATION_OPTIONS: u8 = 60;
const FRAGMENT: u8 = 44;

pub(crate) struct Ethernet {
    pub(crate) to: [u8; 6],
    pub(crate) from: [u8; 6],
}

impl Ethernet {
    pub(crate) fn broadcast(from: Mac) -> Self {
        Self { to: BROADCAST, from: from.octets() }
    }

    /// A frame, padded to the shortest that is allowed.
    pub(crate) fn frame(&self, kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = self.frame_exact(kind, payload);
        bytes.resize(bytes.len().max(60), 0);
        bytes
    }

    /// A frame without padding.
    pub(crate) fn frame_exact(&self, kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = [self.to, self.from].concat();
        bytes.extend(kind.to_be_bytes());
        bytes.extend(payload);
        bytes
    }
}

pub(crate) fn arp(operation: u16, sender: (Mac, Ipv4Addr), target: Ipv4Addr) -> Vec<u8> {
    let mut bytes = vec![0, 1, 8, 0, 6, 4];
    bytes.extend(operation.to_be_bytes());
    bytes.extend(sender.0.octets());
    bytes.extend(sender.1.octets());
    bytes.extend([0; 6]);
    bytes.extend(target.octets());
    bytes
}

pub(crate) fn ipv4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    ipv4_part(from, to, protocol, (0, false), payload)
}

/// The packet in two fragments, the first of which has `first` bytes of the payload.
pub(crate) fn ipv4_fragments(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, first: usize, payload: &[u8]) -> [Vec<u8>; 2] {
    [
        ipv4_part(from, to, protocol, (0, true), &payload[..first]),
        ipv4_part(from, to, protocol, (first, false), &payload[first..]),
    ]
}

fn ipv4_part(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, (offset, more): (usize, bool), payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).expect("packets are short");
    let fragment = u16::try_from(offset / 8).expect("packets are short") | if more { 0x2000 } else { 0 };
    let mut bytes = vec![0x45, 0];
    bytes.extend(length.to_be_bytes());
    bytes.extend([0x12, 0x34]);
    bytes.extend(fragment.to_be_bytes());
    bytes.extend([64, protocol, 0, 0]);
    bytes.extend(from.octets());
    bytes.extend(to.octets());
    let sum = checksum(&bytes);
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    bytes.extend(payload);
    bytes
}

pub(crate) fn ipv6(from: Ipv6Addr, to: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend(u16::try_from(payload.len()).expect("packets are short").to_be_bytes());
    bytes.extend([next, 255]);
    bytes.extend(from.octets());
    bytes.extend(to.octets());
    bytes.extend(payload);
    bytes
}

/// The same with an empty destination options header between.
pub(crate) fn ipv6_with_options(from: Ipv6Addr, to: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    ipv6(from, to, DESTINATION_OPTIONS, &[&[next, 0, 1, 4, 0, 0, 0, 0], payload].concat())
}

/// The same in two fragments, the first of which has `first` bytes of the payload.
pub(crate) fn ipv6_fragments(from: Ipv6Addr, to: Ipv6Addr, next: u8, first: usize, payload: &[u8]) -> [Vec<u8>; 2] {
    let part = |offset: usize, more: u16, payload: &[u8]| {
        let mut header = vec![next, 0];
        header.extend((u16::try_from(offset).expect("packets are short") | more).to_be_bytes());
        header.extend([0, 0, 0x12, 0x34]);
        ipv6(from, to, FRAGMENT, &[&header, payload].concat())
    };
    [part(0, 1, &payload[..first]), part(first, 0, &payload[first..])]
}

/// A UDP datagram with its checksum, which IPv6 demands.
pub(crate) fn udp(from: (IpAddr, u16), to: (IpAddr, u16), payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).expect("packets are short");
    let mut bytes = from.1.to_be_bytes().to_vec();
    bytes.extend(to.1.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(payload);
    let sum = checksum(&[pseudo_header(from.0, to.0, UDP, bytes.len()), bytes.clone()].concat());
    bytes[6..8].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// An ICMPv6 message: type, and what follows the checksum.
pub(crate) fn icmpv6(kind: u8, from: Ipv6Addr, to: Ipv6Addr, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, 0, 0, 0];
    bytes.extend(body);
    let sum = checksum(&[pseudo_header(from.into(), to.into(), ICMPV6, bytes.len()), bytes.clone()].concat());
    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// The body of a neighbour solicitation or advertisement about an address.
pub(crate) fn about(target: Ipv6Addr) -> Vec<u8> {
    [&[0x20, 0, 0, 0][..], &target.octets()].concat()
}

fn pseudo_header(from: IpAddr, to: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    let octets = |ip| match ip {
        IpAddr::V4(ip) => Ipv4Addr::octets(&ip).to_vec(),
        IpAddr::V6(ip) => Ipv6Addr::octets(&ip).to_vec(),
    };
    [
        octets(from),
        octets(to),
        u32::try_from(length).expect("packets are short").to_be_bytes().to_vec(),
        vec![0, 0, 0, protocol],
    ]
    .concat()
}

fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).expect("packets are short")
}

pub(crate) fn v4(ip: IpAddr) -> Ipv4Addr {
    match ip {
        IpAddr::V4(ip) => ip,
        IpAddr::V6(_) => panic!("{ip} is no IPv4 address"),
    }
}

pub(crate) fn v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V6(ip) => ip,
        IpAddr::V4(_) => panic!("{ip} is no IPv6 address"),
    }
}
