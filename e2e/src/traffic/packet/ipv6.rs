//! IPv6 and the messages of neighbour discovery, RFC 8200 and RFC 4861; each goes into
//! [`ethernet`](super::ethernet) with [`ETHERTYPE_IPV6`].

use std::net::Ipv6Addr;

use super::{MacBytes, checksum};

/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// The group of all nodes on a link.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

const NEXT_HEADER_ICMPV6: u8 = 58;
/// What every message of neighbour discovery must have, so that none comes through a router (RFC 4861, 7.1).
const HOP_LIMIT: u8 = 255;

/// The Ethernet address of a multicast group, RFC 2464.
#[must_use]
pub fn group_mac(group: Ipv6Addr) -> MacBytes {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}

/// An unsolicited neighbour advertisement: `target` is at `mac`.
#[must_use]
pub fn neighbour_advertisement(source: Ipv6Addr, target: Ipv6Addr, mac: MacBytes) -> Vec<u8> {
    const OVERRIDE: u8 = 0x20;
    let body = [&[136, 0, 0, 0, OVERRIDE, 0, 0, 0][..], &target.octets(), &[2, 1], &mac].concat();
    icmpv6(source, ALL_NODES, body)
}

/// A neighbour solicitation for `target`, to all nodes, by someone who claims `source` and `mac`.
#[must_use]
pub fn neighbour_solicitation(source: Ipv6Addr, target: Ipv6Addr, mac: MacBytes) -> Vec<u8> {
    let body = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &target.octets(), &[1, 1], &mac].concat();
    icmpv6(source, ALL_NODES, body)
}

/// A router advertisement that offers a default route and the prefix `2001:db8:bad::/64`.
#[must_use]
pub fn router_advertisement(source: Ipv6Addr) -> Vec<u8> {
    let header = [134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    let prefix = [3, 4, 64, 0xc0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let address = Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, 0).octets();
    icmpv6(source, ALL_NODES, [&header[..], &prefix, &address].concat())
}

/// The checksum covers a pseudo-header of addresses, length and protocol (RFC 4443, 2.3).
fn icmpv6(source: Ipv6Addr, destination: Ipv6Addr, mut body: Vec<u8>) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("a message of neighbour discovery is short").to_be_bytes();
    let pseudo =
        [&source.octets()[..], &destination.octets(), &[0, 0], &length, &[0, 0, 0, NEXT_HEADER_ICMPV6], &body].concat();
    let sum = checksum(&pseudo).to_be_bytes();
    body[2..4].copy_from_slice(&sum);
    let header = [&[0x60, 0, 0, 0][..], &length, &[NEXT_HEADER_ICMPV6, HOP_LIMIT]].concat();
    [&header[..], &source.octets(), &destination.octets(), &body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_lengths_and_the_checksum_of_the_standard() {
        let source = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

        let advertisement = neighbour_advertisement(source, source, [2, 0, 0, 0, 0, 1]);
        let router = router_advertisement(source);

        assert_eq!((advertisement.len(), router.len()), (40 + 32, 40 + 48));
        let pseudo = [&advertisement[8..40], &[0, 0, 0, 32, 0, 0, 0, 58], &advertisement[40..]].concat();
        assert_eq!(checksum(&pseudo), 0);
        assert_eq!(group_mac(ALL_NODES), [0x33, 0x33, 0, 0, 0, 1]);
    }
}
