//! Addresses of a subnet that no endpoint may have.
//!
//! Owns which they are and why; what hands addresses out asks here. The set is small (edges,
//! gateways, addresses that the user keeps for machines outside the cluster).

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use thiserror::Error;

use crate::dual_stack::DualStack;
use crate::subnet::{GatewayError, Subnet};

/// Why an address is reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reserved {
    /// The first address of an IPv4 subnet.
    Network,
    /// The first address of an IPv6 subnet, on which every router of the link listens
    /// (RFC 4291 2.6.1).
    SubnetRouterAnycast,
    /// The last address of an IPv4 subnet.
    Broadcast,
    /// A gateway of the network.
    Gateway,
    /// Kept by the user for something outside the cluster.
    Auxiliary,
    /// An IPv4 address whose IPv6 counterpart is reserved (see [`DualStack`]).
    Counterpart,
}

impl fmt::Display for Reserved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Network => "the network address",
            Self::SubnetRouterAnycast => "the subnet-router anycast address",
            Self::Broadcast => "the broadcast address",
            Self::Gateway => "a gateway",
            Self::Auxiliary => "an auxiliary address",
            Self::Counterpart => "the IPv4 side of a reserved IPv6 address",
        })
    }
}

/// Why a set of reserved addresses cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ReservedError {
    /// A gateway that no host may have.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    /// An auxiliary address that is not in the subnet.
    #[error(
        "auxiliary address {address} is outside subnet {subnet}; leave it out, nothing is handed out there"
    )]
    AuxiliaryOutside {
        /// What was given.
        address: IpAddr,
        /// The subnet.
        subnet: Subnet,
    },
}

/// The reserved addresses of one subnet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReservedAddresses {
    subnet: Subnet,
    reasons: BTreeMap<IpAddr, Reserved>,
}

impl ReservedAddresses {
    /// The edges of the subnet, its gateways and its auxiliary addresses. An address given twice
    /// is a gateway first.
    pub fn new(
        subnet: Subnet,
        gateways: &[IpAddr],
        auxiliary: &[IpAddr],
    ) -> Result<Self, ReservedError> {
        let mut reasons = BTreeMap::new();
        for address in auxiliary.iter().copied() {
            if !subnet.contains(address) {
                return Err(ReservedError::AuxiliaryOutside { address, subnet });
            }
            reasons.insert(address, Reserved::Auxiliary);
        }
        for gateway in gateways.iter().copied() {
            subnet.check_gateway(gateway)?;
            reasons.insert(gateway, Reserved::Gateway);
        }
        let first = if subnet.is_ipv4() {
            Reserved::Network
        } else {
            Reserved::SubnetRouterAnycast
        };
        reasons.insert(subnet.base(), first);
        if let Some(broadcast) = subnet.broadcast() {
            reasons.insert(broadcast, Reserved::Broadcast);
        }
        Ok(Self { subnet, reasons })
    }

    /// Reserves also every IPv4 address whose counterpart is reserved in the IPv6 subnet, so that
    /// no endpoint ever derives, say, the IPv6 gateway's address from its own. Does nothing
    /// unless `self` belongs to the IPv4 subnet of `pair`.
    #[must_use]
    pub fn with_counterparts(mut self, pair: &DualStack, ipv6: &Self) -> Self {
        if pair.v4() == self.subnet {
            for address in ipv6.reasons.keys() {
                if let Some(v4) = pair.counterpart(*address) {
                    self.reasons
                        .entry(IpAddr::V4(v4))
                        .or_insert(Reserved::Counterpart);
                }
            }
        }
        self
    }

    /// The subnet whose addresses these are.
    pub fn subnet(&self) -> Subnet {
        self.subnet
    }

    /// Why `ip` is reserved, if it is.
    pub fn reason(&self, ip: IpAddr) -> Option<Reserved> {
        self.reasons.get(&ip).copied()
    }

    /// All reserved addresses in order, each with its reason.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, Reserved)> + '_ {
        self.reasons.iter().map(|(ip, reason)| (*ip, *reason))
    }

    /// How many reserved addresses `network` holds.
    pub fn count_in(&self, network: IpNetwork) -> usize {
        self.reasons
            .range(network.network()..=network.broadcast())
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_and_gateways_are_reserved() {
        let subnet = "10.0.0.0/24".parse().unwrap();
        let reserved =
            ReservedAddresses::new(subnet, &[ip("10.0.0.1")], &[ip("10.0.0.9"), ip("10.0.0.1")])
                .unwrap();

        let cases = [
            ("10.0.0.0", Some(Reserved::Network)),
            ("10.0.0.1", Some(Reserved::Gateway)),
            ("10.0.0.2", None),
            ("10.0.0.9", Some(Reserved::Auxiliary)),
            ("10.0.0.255", Some(Reserved::Broadcast)),
            ("10.0.1.0", None),
        ];
        for (address, reason) in cases {
            assert_eq!(reserved.reason(ip(address)), reason, "{address}");
        }
        assert_eq!(reserved.count_in("10.0.0.0/28".parse().unwrap()), 3);
        assert_eq!(reserved.count_in("10.0.0.0/16".parse().unwrap()), 4);
    }

    #[test]
    fn ipv6_has_an_anycast_address_and_no_broadcast() {
        let subnet: Subnet = "fd00::/120".parse().unwrap();
        let reserved = ReservedAddresses::new(subnet, &[subnet.default_gateway()], &[]).unwrap();

        let all: Vec<_> = reserved.iter().collect();

        assert_eq!(
            all,
            [
                (ip("fd00::"), Reserved::SubnetRouterAnycast),
                (ip("fd00::1"), Reserved::Gateway)
            ]
        );
    }

    #[test]
    fn refuses_what_is_not_in_the_subnet() {
        let subnet = "10.0.0.0/24".parse().unwrap();

        let aux = ReservedAddresses::new(subnet, &[], &[ip("10.0.1.1")]).unwrap_err();
        let gateway = ReservedAddresses::new(subnet, &[ip("10.0.0.255")], &[]).unwrap_err();

        assert!(
            aux.to_string().contains("10.0.1.1 is outside subnet"),
            "{aux}"
        );
        assert!(gateway.to_string().contains("broadcast"), "{gateway}");
    }

    #[test]
    fn the_counterpart_of_an_ipv6_gateway_is_reserved() {
        let v4: Subnet = "10.0.0.0/24".parse().unwrap();
        let v6: Subnet = "fd00::/64".parse().unwrap();
        let pair = DualStack::new(v4, v6).unwrap();
        let ipv6 = ReservedAddresses::new(v6, &[ip("fd00::a00:7")], &[]).unwrap();

        let reserved = ReservedAddresses::new(v4, &[ip("10.0.0.1")], &[])
            .unwrap()
            .with_counterparts(&pair, &ipv6);

        assert_eq!(reserved.reason(ip("10.0.0.7")), Some(Reserved::Counterpart));
        assert_eq!(reserved.reason(ip("10.0.0.1")), Some(Reserved::Gateway));
        assert_eq!(reserved.reason(ip("10.0.0.8")), None);
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }
}
