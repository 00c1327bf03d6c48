//! The subnet of a network: what a user may ask for, and the addresses at its edges.
//!
//! Owns parsing and validation of subnets and gateways. Conflicts with what is taken are in
//! [`conflict`], the choice of a free subnet in [`choice`], the part of a subnet that is handed
//! out in [`range`]. Inside the crate a [`Subnet`] is trusted.

pub mod choice;
pub mod conflict;
pub mod range;

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::address;

/// Prefix lengths that an IPv4 subnet may have. A /31 has no room for a gateway and an endpoint.
pub const V4_PREFIX_LEN: RangeInclusive<u8> = 8..=30;
/// Prefix lengths that an IPv6 subnet may have. A /48 is the largest site prefix (RFC 6177).
pub const V6_PREFIX_LEN: RangeInclusive<u8> = 48..=126;

/// A valid subnet: host bits zero, a sensible size, unicast, neither loopback nor link-local.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet(IpNetwork);

/// Why a text or a network is not a valid [`Subnet`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SubnetError {
    /// The text is not `ADDRESS/LENGTH`.
    #[error("subnet {input:?} is not a network; write ADDRESS/LENGTH, such as 10.32.0.0/20")]
    Malformed {
        /// What was given, cut to a printable length.
        input: String,
    },
    /// Bits beyond the prefix length are set.
    #[error("subnet {given} has host bits set; the network is {network}")]
    HostBits {
        /// What was given.
        given: IpNetwork,
        /// The network that contains it.
        network: IpNetwork,
    },
    /// Too large or too small.
    #[error("subnet {network} has prefix length {}; use /{min} to /{max}", network.prefix())]
    PrefixLen {
        /// What was given.
        network: IpNetwork,
        /// Shortest prefix length of the family.
        min: u8,
        /// Longest prefix length of the family.
        max: u8,
    },
    /// Overlaps a range that cannot carry ordinary unicast traffic.
    #[error(
        "subnet {network} overlaps the {purpose} range {range}; use a private range, such as 10.0.0.0/8 or fd00::/8"
    )]
    SpecialPurpose {
        /// What was given.
        network: IpNetwork,
        /// What the range is for.
        purpose: &'static str,
        /// The range.
        range: IpNetwork,
    },
}

/// Why an address cannot be the gateway of a subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum GatewayError {
    /// Not an address of the subnet.
    #[error(
        "gateway {gateway} is outside subnet {subnet}; choose an address inside it with --gateway"
    )]
    Outside {
        /// What was given.
        gateway: IpAddr,
        /// The subnet.
        subnet: Subnet,
    },
    /// The first address of the subnet, which names the subnet itself (IPv4) or any router on it
    /// (IPv6, RFC 4291 2.6.1).
    #[error("gateway {gateway} is the network address of subnet {subnet}; choose another with --gateway, such as {}", subnet.default_gateway())]
    NetworkAddress {
        /// What was given.
        gateway: IpAddr,
        /// The subnet.
        subnet: Subnet,
    },
    /// The last address of an IPv4 subnet.
    #[error("gateway {gateway} is the broadcast address of subnet {subnet}; choose another with --gateway, such as {}", subnet.default_gateway())]
    BroadcastAddress {
        /// What was given.
        gateway: IpAddr,
        /// The subnet.
        subnet: Subnet,
    },
}

impl Subnet {
    /// Checks a network; see [`SubnetError`] for what is refused.
    pub fn new(network: IpNetwork) -> Result<Self, SubnetError> {
        let right = canonical(network);
        if right != network {
            return Err(SubnetError::HostBits {
                given: network,
                network: right,
            });
        }
        let allowed = match network {
            IpNetwork::V4(_) => V4_PREFIX_LEN,
            IpNetwork::V6(_) => V6_PREFIX_LEN,
        };
        if !allowed.contains(&network.prefix()) {
            return Err(SubnetError::PrefixLen {
                network,
                min: *allowed.start(),
                max: *allowed.end(),
            });
        }
        if let Some((range, purpose)) = special_purpose(network) {
            return Err(SubnetError::SpecialPurpose {
                network,
                purpose,
                range,
            });
        }
        Ok(Self(network))
    }

    /// The subnet as a plain network.
    pub fn network(&self) -> IpNetwork {
        self.0
    }

    /// The first address.
    pub fn base(&self) -> IpAddr {
        self.0.ip()
    }

    /// Number of leading bits that all addresses share.
    pub fn prefix_len(&self) -> u8 {
        self.0.prefix()
    }

    /// Whether the subnet is IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.0.is_ipv4()
    }

    /// Number of addresses, the reserved ones included; at most 2^80.
    pub fn size(&self) -> u128 {
        1 << (address::width(self.base()) - self.prefix_len())
    }

    /// Whether `ip` belongs to the subnet; false for an address of the other family.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.contains(ip)
    }

    /// The broadcast address; IPv6 has none.
    pub fn broadcast(&self) -> Option<IpAddr> {
        self.is_ipv4().then(|| self.0.broadcast())
    }

    /// The gateway when none was asked for: the first address after the network address.
    pub fn default_gateway(&self) -> IpAddr {
        address::with_bits(self.base(), address::bits(self.base()) + 1)
    }

    /// Checks that `gateway` is an address of the subnet that a host may have.
    pub fn check_gateway(&self, gateway: IpAddr) -> Result<(), GatewayError> {
        let subnet = *self;
        if !self.contains(gateway) {
            return Err(GatewayError::Outside { gateway, subnet });
        }
        if gateway == self.base() {
            return Err(GatewayError::NetworkAddress { gateway, subnet });
        }
        if Some(gateway) == self.broadcast() {
            return Err(GatewayError::BroadcastAddress { gateway, subnet });
        }
        Ok(())
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Subnet {
    type Err = SubnetError;

    fn from_str(text: &str) -> Result<Self, SubnetError> {
        Self::new(parse_network(text).ok_or_else(|| SubnetError::Malformed {
            input: excerpt(text),
        })?)
    }
}

impl TryFrom<String> for Subnet {
    type Error = SubnetError;

    fn try_from(text: String) -> Result<Self, SubnetError> {
        text.parse()
    }
}

impl TryFrom<IpNetwork> for Subnet {
    type Error = SubnetError;

    fn try_from(network: IpNetwork) -> Result<Self, SubnetError> {
        Self::new(network)
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

/// `ADDRESS/LENGTH` as a network. A bare address and a netmask are refused: both are more often a
/// slip than a wish.
fn parse_network(text: &str) -> Option<IpNetwork> {
    let (_, length) = text.split_once('/')?;
    if length.is_empty() || !length.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// The start of what was given, short enough for an error message.
fn excerpt(text: &str) -> String {
    const LONGEST: usize = 64;
    let mut excerpt: String = text.chars().take(LONGEST).collect();
    if excerpt.len() < text.len() {
        excerpt.push('…');
    }
    excerpt
}

/// The network with its host bits cleared.
fn canonical(network: IpNetwork) -> IpNetwork {
    IpNetwork::new(network.network(), network.prefix())
        .expect("a prefix length that was valid stays valid")
}

/// The special-purpose range that `network` overlaps, with its purpose (RFC 6890).
fn special_purpose(network: IpNetwork) -> Option<(IpNetwork, &'static str)> {
    const RANGES: [(&str, &str); 10] = [
        ("0.0.0.0/8", "this-network"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("::ffff:0:0/96", "IPv4-mapped"),
        ("fe80::/10", "link-local"),
        ("ff00::/8", "multicast"),
    ];
    RANGES
        .iter()
        .map(|(range, purpose)| {
            let range: IpNetwork = range.parse().expect("the table holds networks");
            (range, *purpose)
        })
        .find(|(range, _)| conflict::overlap(*range, network))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_a_network_can_use() {
        let accepted = [
            "10.0.0.0/8",
            "10.32.16.0/20",
            "192.168.1.0/30",
            "198.18.0.0/15",
            "fd00:1:2::/48",
            "fd00::/64",
            "fd00::4/126",
            "2001:db8::/64",
        ];
        for text in accepted {
            let subnet: Subnet = text.parse().unwrap();
            assert_eq!(subnet.to_string(), text);
        }
    }

    #[test]
    fn refuses_with_the_reason() {
        let refused = [
            ("10.0.0.0", "write ADDRESS/LENGTH"),
            ("10.0.0.0/", "write ADDRESS/LENGTH"),
            ("10.0.0.0/+8", "write ADDRESS/LENGTH"),
            ("10.0.0.0/255.255.0.0", "write ADDRESS/LENGTH"),
            ("10.0.0.0/33", "write ADDRESS/LENGTH"),
            ("10.0.0/24", "write ADDRESS/LENGTH"),
            ("", "write ADDRESS/LENGTH"),
            ("10.0.0.0/24\0", "write ADDRESS/LENGTH"),
            ("10.0.0.1/24", "the network is 10.0.0.0/24"),
            ("fd00::1/64", "the network is fd00::/64"),
            ("10.0.0.0/31", "use /8 to /30"),
            ("8.0.0.0/7", "use /8 to /30"),
            ("fd00::/127", "use /48 to /126"),
            ("fd00::/47", "use /48 to /126"),
            ("0.0.0.0/8", "this-network range 0.0.0.0/8"),
            ("127.1.0.0/16", "loopback range 127.0.0.0/8"),
            ("169.0.0.0/8", "link-local range 169.254.0.0/16"),
            ("230.0.0.0/8", "multicast range 224.0.0.0/4"),
            ("250.0.0.0/8", "reserved range 240.0.0.0/4"),
            ("::/64", "unspecified range ::/128"),
            ("::ffff:10.0.0.0/112", "IPv4-mapped"),
            ("fe80::/64", "link-local range fe80::/10"),
            ("ff02::/64", "multicast range ff00::/8"),
        ];
        for (text, reason) in refused {
            let error = text.parse::<Subnet>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn cuts_an_absurd_input_in_the_message() {
        let error = "1".repeat(100_000).parse::<Subnet>().unwrap_err();

        assert!(error.to_string().len() < 200, "{error}");
    }

    #[test]
    fn is_text_in_json_and_is_checked_when_read() {
        let subnet: Subnet = "fd00::/64".parse().unwrap();

        let json = serde_json::to_string(&subnet).unwrap();

        assert_eq!(json, r#""fd00::/64""#);
        assert_eq!(serde_json::from_str::<Subnet>(&json).unwrap(), subnet);
        let error = serde_json::from_str::<Subnet>(r#""10.0.0.1/24""#).unwrap_err();
        assert!(error.to_string().contains("host bits"), "{error}");
    }

    #[test]
    fn knows_its_edges() {
        let cases = [
            ("10.0.0.0/24", 256, "10.0.0.1", Some("10.0.0.255")),
            ("10.0.0.8/30", 4, "10.0.0.9", Some("10.0.0.11")),
            ("fd00::/64", 1 << 64, "fd00::1", None),
            ("fd00::/48", 1 << 80, "fd00::1", None),
        ];
        for (text, size, gateway, broadcast) in cases {
            let subnet: Subnet = text.parse().unwrap();
            assert_eq!(subnet.size(), size, "{text}");
            assert_eq!(subnet.default_gateway().to_string(), gateway);
            let found = subnet.broadcast().map(|ip| ip.to_string());
            assert_eq!(found.as_deref(), broadcast);
        }
    }

    #[test]
    fn refuses_a_gateway_that_no_host_may_have() {
        let cases = [
            ("10.0.0.0/24", "10.0.0.254", None),
            (
                "10.0.0.0/24",
                "10.0.1.1",
                Some("outside subnet 10.0.0.0/24"),
            ),
            ("10.0.0.0/24", "fd00::1", Some("outside subnet 10.0.0.0/24")),
            ("10.0.0.0/24", "10.0.0.0", Some("such as 10.0.0.1")),
            ("10.0.0.0/24", "10.0.0.255", Some("broadcast address")),
            ("fd00::/64", "fd00::", Some("network address")),
            ("fd00::/64", "fd00::ffff:ffff:ffff:ffff", None),
        ];
        for (subnet, gateway, reason) in cases {
            let subnet: Subnet = subnet.parse().unwrap();
            let result = subnet.check_gateway(gateway.parse().unwrap());
            let text = result.map_err(|error| error.to_string());
            match reason {
                None => assert_eq!(text, Ok(())),
                Some(reason) => assert!(text.clone().unwrap_err().contains(reason), "{text:?}"),
            }
        }
    }
}
