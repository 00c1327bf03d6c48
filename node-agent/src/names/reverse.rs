//! Reads the names of the reverse tree: `in-addr.arpa` (RFC 1035, 3.5) and `ip6.arpa` (RFC 3596, 2.5).

use std::net::{Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::Name;
use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

/// What a name of the reverse tree stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reverse {
    /// The addresses at or below the name; a single one if it is complete.
    pub(super) prefix: IpNetwork,
    /// Whether the name is exactly that of the prefix, without further labels (such as `b._dns-sd._udp`) before it.
    pub(super) exact: bool,
}

impl Reverse {
    /// Reads a name; `None` if it is not below `in-addr.arpa` or `ip6.arpa`.
    pub(super) fn read(name: &Name) -> Option<Self> {
        let mut labels = name.iter().rev();
        if !labels.next()?.eq_ignore_ascii_case(b"arpa") {
            return None;
        }
        let tree = labels.next()?;
        if tree.eq_ignore_ascii_case(b"in-addr") {
            Some(read_v4(labels))
        } else if tree.eq_ignore_ascii_case(b"ip6") {
            Some(read_v6(labels))
        } else {
            None
        }
    }
}

fn read_v4<'a>(labels: impl Iterator<Item = &'a [u8]>) -> Reverse {
    let mut octets = [0; 4];
    let mut known = 0;
    let mut exact = true;
    for label in labels {
        let octet = std::str::from_utf8(label).ok().and_then(|text| text.parse::<u8>().ok());
        match octet {
            Some(octet) if exact && usize::from(known) < octets.len() => {
                octets[usize::from(known)] = octet;
                known += 1;
            }
            _ => exact = false,
        }
    }
    let prefix = Ipv4Network::new(Ipv4Addr::from(octets), known * 8).expect("at most four octets were read");
    Reverse { prefix: prefix.into(), exact }
}

fn read_v6<'a>(labels: impl Iterator<Item = &'a [u8]>) -> Reverse {
    let mut bits: u128 = 0;
    let mut known = 0;
    let mut exact = true;
    for label in labels {
        let digit = match label {
            [digit] => char::from(*digit).to_digit(16),
            _ => None,
        };
        match digit {
            Some(digit) if exact && known < 32 => {
                known += 1;
                bits |= u128::from(digit) << (128 - u32::from(known) * 4);
            }
            _ => exact = false,
        }
    }
    let prefix = Ipv6Network::new(Ipv6Addr::from(bits), known * 4).expect("at most 32 digits were read");
    Reverse { prefix: prefix.into(), exact }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_complete_partial_and_longer_names() {
        let cases = [
            ("5.0.32.10.in-addr.arpa.", Some(("10.32.0.5/32", true))),
            ("5.0.32.10.IN-ADDR.ARPA.", Some(("10.32.0.5/32", true))),
            ("0.32.10.in-addr.arpa.", Some(("10.32.0.0/24", true))),
            ("in-addr.arpa.", Some(("0.0.0.0/0", true))),
            ("lb._dns-sd._udp.0.0.32.10.in-addr.arpa.", Some(("10.32.0.0/32", false))),
            ("9.5.0.32.10.in-addr.arpa.", Some(("10.32.0.5/32", false))),
            ("256.32.10.in-addr.arpa.", Some(("10.32.0.0/16", false))),
            ("1.0.d.F.ip6.arpa.", Some(("fd01::/16", true))),
            ("10.d.f.ip6.arpa.", Some(("fd00::/8", false))),
            ("example.com.", None),
            ("arpa.", None),
            (".", None),
            ("e164.arpa.", None),
        ];
        for (name, expected) in cases {
            let read = Reverse::read(&Name::from_ascii(name).unwrap());

            let shown = read.map(|r| (r.prefix.to_string(), r.exact));
            assert_eq!(shown, expected.map(|(p, e)| (p.to_owned(), e)), "{name}");
        }
    }

    #[test]
    fn reads_a_complete_ipv6_name() {
        let address: Ipv6Addr = "fd01:2345:6789:abcd:ef01:2345:6789:abc5".parse().unwrap();
        let name = Name::from(std::net::IpAddr::V6(address));

        let read = Reverse::read(&name).unwrap();

        assert_eq!(read, Reverse { prefix: IpNetwork::new(address.into(), 128).unwrap(), exact: true });
    }
}
