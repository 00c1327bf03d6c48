//! Bytes of packets, for probes and for frames that no ordinary socket would send.
//!
//! Pure. Only what tests of a Layer 2 network need: Ethernet, ARP, IPv4 with UDP, VXLAN, ICMP echo.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};

pub mod ipv6;

/// An Ethernet address.
pub type MacBytes = [u8; 6];

/// The broadcast address.
pub const BROADCAST: MacBytes = [0xff; 6];
/// EtherType of ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// ARP request, RFC 826.
pub const ARP_REQUEST: u16 = 1;
/// ARP reply, RFC 826.
pub const ARP_REPLY: u16 = 2;

/// Protocol numbers of IPv4.
const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_UDP: u8 = 17;
/// Types of ICMP echo messages, RFC 792.
const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;

/// Bytes of a probe's content.
const PROBE_LENGTH: usize = 16;

/// An Ethernet frame without VLAN tag.
#[must_use]
pub fn ethernet(destination: MacBytes, source: MacBytes, ethertype: u16, content: &[u8]) -> Vec<u8> {
    let header = [&destination[..], &source, &ethertype.to_be_bytes()];
    [&header.concat()[..], content].concat()
}

/// One side of an ARP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArpParty {
    /// Hardware address.
    pub mac: MacBytes,
    /// Protocol address.
    pub ip: Ipv4Addr,
}

/// An ARP packet for Ethernet and IPv4, RFC 826; goes into [`ethernet`].
#[must_use]
pub fn arp(operation: u16, sender: ArpParty, target: ArpParty) -> Vec<u8> {
    let party = |party: ArpParty| [&party.mac[..], &party.ip.octets()].concat();
    [&[0, 1, 8, 0, 6, 4][..], &operation.to_be_bytes(), &party(sender), &party(target)].concat()
}

/// An address and port.
pub type Udp4Party = (Ipv4Addr, u16);

/// An IPv4 packet with a UDP datagram that carries no checksum (RFC 768 allows that over IPv4);
/// goes into [`ethernet`].
///
/// # Panics
/// When the content does not fit into one packet.
#[must_use]
pub fn udp4(source: Udp4Party, destination: Udp4Party, content: &[u8]) -> Vec<u8> {
    let length = length_bytes(8 + content.len());
    let datagram = [&source.1.to_be_bytes()[..], &destination.1.to_be_bytes(), &length, &[0, 0], content].concat();
    ipv4(PROTOCOL_UDP, source.0, destination.0, &datagram)
}

fn ipv4(protocol: u8, source: Ipv4Addr, destination: Ipv4Addr, content: &[u8]) -> Vec<u8> {
    let mut header = [
        &[0x45, 0][..],
        &length_bytes(20 + content.len()),
        &[0, 0, 0, 0, 64, protocol, 0, 0],
        &source.octets(),
        &destination.octets(),
    ]
    .concat();
    let sum = checksum(&header).to_be_bytes();
    header[10..12].copy_from_slice(&sum);
    [&header[..], content].concat()
}

fn length_bytes(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).expect("a test's packet is shorter than 64 KiB").to_be_bytes()
}

/// Cuts an IPv4 packet without options in two: the first fragment carries `first` bytes of its content, a multiple
/// of 8 (RFC 791, 2.3).
///
/// # Panics
/// When the packet is shorter, or `first` is no multiple of 8.
#[must_use]
pub fn fragments(packet: &[u8], first: usize) -> [Vec<u8>; 2] {
    assert_eq!(first % 8, 0, "offsets of fragments count in units of 8 bytes");
    let (header, content) = packet.split_at(20);
    let (head, tail) = content.split_at(first);
    let units = u16::try_from(first / 8).expect("a packet is shorter than 64 KiB");
    [fragment(header, head, MORE_FRAGMENTS), fragment(header, tail, units)]
}

/// The flag of fragments that others follow.
const MORE_FRAGMENTS: u16 = 0x2000;

fn fragment(header: &[u8], content: &[u8], flags_and_offset: u16) -> Vec<u8> {
    let length = u16::try_from(header.len() + content.len()).expect("a fragment is shorter than its packet");
    let mut header = header.to_vec();
    header[2..4].copy_from_slice(&length.to_be_bytes());
    // Any identification that is the same in both.
    header[4..6].copy_from_slice(&[0x5e, 0xed]);
    header[6..8].copy_from_slice(&flags_and_offset.to_be_bytes());
    header[10..12].copy_from_slice(&[0, 0]);
    let sum = checksum(&header).to_be_bytes();
    header[10..12].copy_from_slice(&sum);
    [&header[..], content].concat()
}

/// A frame inside VXLAN, RFC 7348; goes into [`udp4`]. Bits of `vni` above 24 are cut off.
#[must_use]
pub fn vxlan(vni: u32, frame: &[u8]) -> Vec<u8> {
    let header = [&[0x08, 0, 0, 0][..], &(vni << 8).to_be_bytes()].concat();
    [&header[..], frame].concat()
}

/// VNI and inner frame of an Ethernet frame that carries VXLAN over IPv4 to UDP port `port`.
#[must_use]
pub fn tunnelled(frame: &[u8], port: u16) -> Option<(u32, &[u8])> {
    let is_udp4 = frame.get(12..14)? == ETHERTYPE_IPV4.to_be_bytes() && *frame.get(23)? == 17;
    let datagram = frame.get(14 + usize::from(frame.get(14)? & 0xf) * 4..)?;
    let is_vxlan = is_udp4 && datagram.get(2..4)? == port.to_be_bytes();
    let vni = u32::from_be_bytes(*datagram.get(12..16)?.first_chunk()?) >> 8;
    Some((vni, datagram.get(16..)?)).filter(|_| is_vxlan)
}

/// EtherType of a frame.
#[must_use]
pub fn ethertype(frame: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(*frame.get(12..14)?.first_chunk()?))
}

/// True for ARP and for the solicitations and advertisements of neighbour discovery.
#[must_use]
pub fn asks_for_neighbours(frame: &[u8]) -> bool {
    match ethertype(frame) {
        Some(ETHERTYPE_ARP) => true,
        Some(ipv6::ETHERTYPE_IPV6) => frame.get(20) == Some(&58) && matches!(frame.get(54), Some(135 | 136)),
        _ => false,
    }
}

/// An ICMP or ICMPv6 echo message of the given type; identifier from `mark`, number from
/// `sequence`. The kernel fills in the checksum of ICMPv6.
pub(super) fn icmp_echo(kind: u8, mark: u64, sequence: u64, content: &[u8]) -> Vec<u8> {
    let low = |value: u64| [value.to_be_bytes()[6], value.to_be_bytes()[7]];
    let mut message = [&[kind, 0, 0, 0][..], &low(mark), &low(sequence), content].concat();
    let sum = checksum(&message).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    message
}

/// An IPv4 packet with an ICMP echo request; goes into [`ethernet`].
pub(super) fn echo_request4(source: Ipv4Addr, destination: Ipv4Addr, mark: u64) -> Vec<u8> {
    let message = icmp_echo(ECHO_REQUEST, mark, 0, &probe(mark, 0));
    ipv4(PROTOCOL_ICMP, source, destination, &message)
}

/// Whether an IPv4 packet is the answer of `from` to [`echo_request4`] with `mark`.
pub(super) fn is_echo_reply4(packet: &[u8], from: Ipv4Addr, mark: u64) -> bool {
    let Some((header, message)) = packet.split_at_checked(20) else {
        return false;
    };
    let is_from = header[0] == 0x45 && header[9] == PROTOCOL_ICMP && header[12..16] == from.octets();
    let content = message.strip_prefix(&[ECHO_REPLY, 0]).and_then(|rest| rest.get(6..));
    is_from && content.is_some_and(|content| parse_probe(content, mark).is_some())
}

/// EtherType and content of an Ethernet frame.
pub(super) fn parse_ethernet(frame: &[u8]) -> Option<(u16, &[u8])> {
    let (header, content) = frame.split_at_checked(14)?;
    Some((u16::from_be_bytes([header[12], header[13]]), content))
}

/// Who answers, if this is an ARP reply for Ethernet and IPv4.
pub(super) fn parse_arp_reply(content: &[u8]) -> Option<ArpParty> {
    let sender = content.strip_prefix(&[0, 1, 8, 0, 6, 4, 0, 2])?;
    let (mac, rest) = sender.split_first_chunk::<6>()?;
    let ip = rest.first_chunk::<4>()?;
    Some(ArpParty { mac: *mac, ip: Ipv4Addr::from(*ip) })
}

/// A number that tells this probe's packets from all others on the machine.
pub(super) fn new_mark() -> u64 {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    (u64::from(std::process::id()) << 32) | COUNT.fetch_add(1, Ordering::Relaxed)
}

pub(super) fn probe(mark: u64, sequence: u64) -> [u8; PROBE_LENGTH] {
    let mut content = [0; PROBE_LENGTH];
    content[..8].copy_from_slice(&mark.to_be_bytes());
    content[8..].copy_from_slice(&sequence.to_be_bytes());
    content
}

/// The sequence number of a probe with this mark.
pub(super) fn parse_probe(content: &[u8], mark: u64) -> Option<u64> {
    let (found, sequence) = content.split_at_checked(8)?;
    let sequence = sequence.first_chunk()?;
    (found == mark.to_be_bytes()).then(|| u64::from_be_bytes(*sequence))
}

/// The Internet checksum, RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits above")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_header_sums_to_zero() {
        let source = (Ipv4Addr::new(192, 168, 56, 11), 40000);
        let destination = (Ipv4Addr::new(192, 168, 56, 12), 4789);

        let packet = udp4(source, destination, &vxlan(0x0012_3456, &[1, 2, 3]));

        assert_eq!(checksum(&packet[..20]), 0);
        assert_eq!(packet[2..4], [0, 39]);
        assert_eq!(packet[28..36], [8, 0, 0, 0, 0x12, 0x34, 0x56, 0]);
    }

    #[test]
    fn arp_in_ethernet_has_the_length_of_the_standard() {
        let party = ArpParty { mac: [2, 0, 0, 0, 0, 1], ip: Ipv4Addr::LOCALHOST };

        let frame = ethernet(BROADCAST, party.mac, ETHERTYPE_ARP, &arp(ARP_REQUEST, party, party));

        assert_eq!(frame.len(), 42);
    }

    #[test]
    fn fragments_put_together_are_the_packet() {
        let packet = udp4((Ipv4Addr::LOCALHOST, 1), (Ipv4Addr::LOCALHOST, 2), b"0123456789");

        let [first, second] = fragments(&packet, 8);

        assert_eq!([&first[20..], &second[20..]].concat(), packet[20..]);
        assert_eq!((first[6], second[6..8].to_vec()), (0x20, vec![0, 1]));
        assert_eq!((checksum(&first[..20]), checksum(&second[..20])), (0, 0));
    }

    #[test]
    fn inner_frame_is_found_in_what_carries_it() {
        let inner = ethernet(BROADCAST, [2, 0, 0, 0, 0, 1], ETHERTYPE_ARP, &[0; 28]);
        let outer = udp4((Ipv4Addr::LOCALHOST, 9), (Ipv4Addr::LOCALHOST, 4789), &vxlan(0x0012_3456, &inner));
        let frame = ethernet(BROADCAST, [2, 0, 0, 0, 0, 2], ETHERTYPE_IPV4, &outer);

        assert_eq!(tunnelled(&frame, 4789), Some((0x0012_3456, &inner[..])));
        assert_eq!(tunnelled(&frame, 4790), None);
        assert_eq!(tunnelled(&inner, 4789), None);
        assert!(asks_for_neighbours(&inner) && !asks_for_neighbours(&frame));
    }

    #[test]
    fn echo_reply_is_recognised_by_sender_and_mark() {
        let (here, there) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let mut packet = echo_request4(there, here, 7);
        assert!(!is_echo_reply4(&packet, there, 7), "it is a request");

        packet[20] = ECHO_REPLY;

        assert!(is_echo_reply4(&packet, there, 7));
        assert!(!is_echo_reply4(&packet, here, 7));
        assert!(!is_echo_reply4(&packet, there, 8));
        assert!(!is_echo_reply4(&packet[..30], there, 7));
    }

    #[test]
    fn arp_reply_names_who_answers() {
        let sender = ArpParty { mac: [2, 0, 0, 0, 0, 1], ip: Ipv4Addr::LOCALHOST };
        let frame = ethernet(BROADCAST, sender.mac, ETHERTYPE_ARP, &arp(ARP_REPLY, sender, sender));

        let (ethertype, content) = parse_ethernet(&frame).unwrap();

        assert_eq!((ethertype, parse_arp_reply(content)), (ETHERTYPE_ARP, Some(sender)));
        assert_eq!(parse_arp_reply(&arp(ARP_REQUEST, sender, sender)), None);
    }

    #[test]
    fn probe_is_recognised_by_its_mark_only() {
        let content = probe(7, 99);

        assert_eq!(parse_probe(&content, 7), Some(99));
        assert_eq!(parse_probe(&content, 8), None);
        assert_eq!(parse_probe(&content[..15], 7), None);
    }
}
