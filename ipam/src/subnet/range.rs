//! The part of a subnet from which addresses are handed out (`--ip-range`).
//!
//! Outside the range an endpoint can still have an address that its user chose.

use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use thiserror::Error;

use super::{Subnet, canonical, excerpt, parse_network};
use crate::address;

/// An aligned range inside one subnet; it may be a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpRange(IpNetwork);

/// Why a text or a network is not an [`IpRange`] of a subnet.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum IpRangeError {
    /// The text is not `ADDRESS/LENGTH`.
    #[error("range {input:?} is not a network; write ADDRESS/LENGTH, such as 10.32.1.0/24")]
    Malformed {
        /// What was given, cut to a printable length.
        input: String,
    },
    /// Bits beyond the prefix length are set.
    #[error("range {given} has host bits set; the network is {network}")]
    HostBits {
        /// What was given.
        given: IpNetwork,
        /// The network that contains it.
        network: IpNetwork,
    },
    /// Some of its addresses are not in the subnet.
    #[error("range {range} is not inside subnet {subnet}; choose a part of it with --ip-range")]
    Outside {
        /// What was given.
        range: IpNetwork,
        /// The subnet.
        subnet: Subnet,
    },
}

impl IpRange {
    /// Checks a range against its subnet.
    pub fn new(subnet: Subnet, range: IpNetwork) -> Result<Self, IpRangeError> {
        let network = canonical(range);
        if network != range {
            return Err(IpRangeError::HostBits {
                given: range,
                network,
            });
        }
        if !address::nests(subnet.network(), range) {
            return Err(IpRangeError::Outside { range, subnet });
        }
        Ok(Self(range))
    }

    /// Reads `ADDRESS/LENGTH` and checks it against its subnet.
    pub fn parse(subnet: Subnet, text: &str) -> Result<Self, IpRangeError> {
        let range = parse_network(text).ok_or_else(|| IpRangeError::Malformed {
            input: excerpt(text),
        })?;
        Self::new(subnet, range)
    }

    /// The range as a plain network.
    pub fn network(&self) -> IpNetwork {
        self.0
    }

    /// Whether `ip` belongs to the range.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.contains(ip)
    }
}

impl fmt::Display for IpRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_part_of_its_subnet() {
        let cases = [
            ("10.0.0.0/16", "10.0.1.0/24", None),
            ("10.0.0.0/16", "10.0.0.0/16", None),
            ("10.0.0.0/16", "10.0.1.1/32", None),
            ("10.0.0.0/16", "10.1.0.0/24", Some("not inside subnet")),
            ("10.0.0.0/16", "10.0.0.0/8", Some("not inside subnet")),
            ("10.0.0.0/16", "10.0.1.1/24", Some("network is 10.0.1.0/24")),
            ("10.0.0.0/16", "fd00::/64", Some("not inside subnet")),
            ("10.0.0.0/16", "10.0.1.0", Some("write ADDRESS/LENGTH")),
            ("fd00::/64", "fd00::ff00/120", None),
        ];
        for (subnet, range, reason) in cases {
            let result = IpRange::parse(subnet.parse().unwrap(), range);
            match reason {
                None => assert_eq!(result.unwrap().to_string(), range),
                Some(reason) => {
                    let error = result.unwrap_err().to_string();
                    assert!(error.contains(reason), "{range}: {error}");
                }
            }
        }
    }
}
