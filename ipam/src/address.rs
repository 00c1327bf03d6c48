//! Addresses as numbers: the arithmetic that the rest of the crate shares.
//!
//! An address of either family is a `u128`; the family is carried by a second address or network,
//! so IPv4 and IPv6 values are never mixed by accident.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

/// Number of bits in an address of the family of `ip`: 32 or 128.
pub(crate) fn width(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// The address as a number.
pub(crate) fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The address with the number `bits`, in the family of `like`.
///
/// Panics when `like` is IPv4 and `bits` needs more than 32 bits; callers stay inside a network.
pub(crate) fn with_bits(like: IpAddr, bits: u128) -> IpAddr {
    match like {
        IpAddr::V4(_) => {
            let bits = u32::try_from(bits).expect("callers stay inside an IPv4 network");
            IpAddr::V4(Ipv4Addr::from_bits(bits))
        }
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(bits)),
    }
}

/// First and last address of a network, as numbers.
pub(crate) fn span(network: IpNetwork) -> (u128, u128) {
    let host_bits = width(network.ip()) - network.prefix();
    let hosts = u128::MAX
        .checked_shr(u32::from(128 - host_bits))
        .unwrap_or(0);
    let first = bits(network.ip()) & !hosts;
    (first, first | hosts)
}

/// Whether every address of `inner` is one of `outer`; networks of different families never nest.
pub(crate) fn nests(outer: IpNetwork, inner: IpNetwork) -> bool {
    outer.prefix() <= inner.prefix() && outer.contains(inner.network())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_reach_from_network_to_last_address() {
        let cases = [
            ("10.0.0.0/24", "10.0.0.0", "10.0.0.255"),
            ("10.0.0.77/24", "10.0.0.0", "10.0.0.255"),
            ("10.0.0.1/32", "10.0.0.1", "10.0.0.1"),
            ("0.0.0.0/0", "0.0.0.0", "255.255.255.255"),
            ("fd00::/64", "fd00::", "fd00::ffff:ffff:ffff:ffff"),
            ("fd00::1/128", "fd00::1", "fd00::1"),
            ("::/0", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ];
        for (network, first, last) in cases {
            let network: IpNetwork = network.parse().unwrap();
            let (low, high) = span(network);
            assert_eq!(with_bits(network.ip(), low).to_string(), first, "{network}");
            assert_eq!(with_bits(network.ip(), high).to_string(), last, "{network}");
        }
    }

    #[test]
    fn families_do_not_nest() {
        let v4: IpNetwork = "0.0.0.0/0".parse().unwrap();
        let v6: IpNetwork = "::a00:0/104".parse().unwrap();

        assert!(!nests(v4, v6));
        assert!(!nests(
            "::/0".parse().unwrap(),
            "10.0.0.0/8".parse().unwrap()
        ));
    }
}
