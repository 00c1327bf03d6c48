//! The IPv6 address that goes with an IPv4 address in a network that has both.
//!
//! Only IPv4 addresses are allocated there; the IPv6 address follows from the IPv4 one, so one
//! choice settles both and an address is as unique as the one it came from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thiserror::Error;

use crate::address;
use crate::subnet::Subnet;

/// Longest IPv6 prefix that leaves room for all 32 bits of an IPv4 address.
const WHOLE_V4_PREFIX_LEN: u8 = 96;

/// The two subnets of a dual-stack network, known to fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DualStack {
    v4: Subnet,
    v6: Subnet,
}

/// Why two subnets cannot be paired, or an address has no counterpart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DualStackError {
    /// Two subnets of one family, or in the wrong order.
    #[error(
        "subnets {v4} and {v6} are not an IPv4 and an IPv6 subnet; give one of each with --subnet"
    )]
    Families {
        /// What was given as IPv4 subnet.
        v4: Subnet,
        /// What was given as IPv6 subnet.
        v6: Subnet,
    },
    /// The IPv6 subnet has fewer addresses than the IPv4 subnet.
    #[error("IPv6 subnet {v6} is too small for IPv4 subnet {v4}; choose a /64 with --subnet")]
    TooSmall {
        /// The IPv4 subnet.
        v4: Subnet,
        /// The IPv6 subnet.
        v6: Subnet,
    },
    /// An address that is not of the IPv4 subnet.
    #[error("address {address} is outside subnet {v4}; choose one inside it with --ip")]
    Outside {
        /// What was given.
        address: Ipv4Addr,
        /// The IPv4 subnet.
        v4: Subnet,
    },
}

impl DualStack {
    /// Pairs two subnets.
    ///
    /// With an IPv6 prefix of at most /96 the low 32 bits of an IPv6 address are the IPv4 address;
    /// in a smaller subnet they are the IPv4 address's offset in its own subnet, which must fit.
    pub fn new(v4: Subnet, v6: Subnet) -> Result<Self, DualStackError> {
        if !v4.is_ipv4() || v6.is_ipv4() {
            return Err(DualStackError::Families { v4, v6 });
        }
        if v6.size() < v4.size() {
            return Err(DualStackError::TooSmall { v4, v6 });
        }
        Ok(Self { v4, v6 })
    }

    /// The IPv4 subnet.
    pub fn v4(&self) -> Subnet {
        self.v4
    }

    /// The IPv6 subnet.
    pub fn v6(&self) -> Subnet {
        self.v6
    }

    /// The IPv6 address that goes with `address`.
    pub fn embed(&self, address: Ipv4Addr) -> Result<Ipv6Addr, DualStackError> {
        if !self.v4.contains(IpAddr::V4(address)) {
            let v4 = self.v4;
            return Err(DualStackError::Outside { address, v4 });
        }
        let low = u128::from(address.to_bits()) - self.low_bits_of_zero();
        Ok(Ipv6Addr::from_bits(address::bits(self.v6.base()) + low))
    }

    /// The IPv4 address whose counterpart is `address`; none if it is no counterpart.
    pub fn counterpart(&self, address: IpAddr) -> Option<Ipv4Addr> {
        if address.is_ipv4() || !self.v6.contains(address) {
            return None;
        }
        let low = address::bits(address) - address::bits(self.v6.base());
        let v4 = u32::try_from(low.checked_add(self.low_bits_of_zero())?).ok()?;
        let v4 = Ipv4Addr::from_bits(v4);
        self.v4.contains(IpAddr::V4(v4)).then_some(v4)
    }

    /// The IPv4 address, as a number, whose counterpart is the first address of the IPv6 subnet.
    fn low_bits_of_zero(&self) -> u128 {
        if self.v6.prefix_len() <= WHOLE_V4_PREFIX_LEN {
            0
        } else {
            address::bits(self.v4.base())
        }
    }
}

/// The IPv6 address that goes with `address`; see [`DualStack`], which checks the pair once.
pub fn embed_v4(v6: Subnet, v4: Subnet, address: Ipv4Addr) -> Result<Ipv6Addr, DualStackError> {
    DualStack::new(v4, v6)?.embed(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embeds_whole_addresses_or_offsets() {
        let cases = [
            ("fd00:1::/64", "10.32.0.0/20", "10.32.0.5", "fd00:1::a20:5"),
            (
                "fd00:1::/96",
                "10.32.0.0/20",
                "10.32.15.255",
                "fd00:1::a20:fff",
            ),
            ("fd00:1::/97", "10.32.0.0/20", "10.32.0.5", "fd00:1::5"),
            (
                "fd00:1::/116",
                "10.32.0.0/20",
                "10.32.15.255",
                "fd00:1::fff",
            ),
            ("fd00:1::f0/124", "10.0.0.16/28", "10.0.0.17", "fd00:1::f1"),
        ];
        for (v6, v4, address, expected) in cases {
            let (v6, v4) = (v6.parse().unwrap(), v4.parse().unwrap());
            let address = address.parse().unwrap();
            let embedded = embed_v4(v6, v4, address).unwrap();
            assert_eq!(embedded.to_string(), expected);
            let pair = DualStack::new(v4, v6).unwrap();
            assert_eq!(pair.counterpart(IpAddr::V6(embedded)), Some(address));
        }
    }

    #[test]
    fn most_ipv6_addresses_are_no_counterpart() {
        let pair =
            DualStack::new("10.0.0.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()).unwrap();

        for address in [
            "fd00::1",
            "fd00::a00:100",
            "fd00::1:a00:1",
            "fd01::a00:1",
            "10.0.0.1",
        ] {
            assert_eq!(
                pair.counterpart(address.parse().unwrap()),
                None,
                "{address}"
            );
        }
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let v4: Subnet = "10.32.0.0/20".parse().unwrap();
        let v6: Subnet = "fd00::/64".parse().unwrap();

        let small = DualStack::new(v4, "fd00::/117".parse().unwrap()).unwrap_err();
        let swapped = DualStack::new(v6, v4).unwrap_err();
        let outside = embed_v4(v6, v4, Ipv4Addr::new(10, 33, 0, 1)).unwrap_err();

        assert!(
            small.to_string().contains("too small for IPv4 subnet"),
            "{small}"
        );
        assert!(
            matches!(swapped, DualStackError::Families { .. }),
            "{swapped}"
        );
        assert!(
            matches!(outside, DualStackError::Outside { .. }),
            "{outside}"
        );
    }
}
