//! Which of the host's addresses is the VTEP.
//!
//! Pure. A wrong guess makes every node register the same address, as on virtual machines that all have the same address
//! behind a NAT; so where there is a choice, the user makes it.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use thiserror::Error;
use weft_overlay::id::IfName;

use crate::kernel::host::{AddressScope, HostAddress};

/// Why no VTEP could be chosen.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UnderlayError {
    /// Neither an address, a subnet nor an interface's name.
    #[error("--underlay {0:?} is neither an interface's name, a subnet such as 192.168.56.0/24, nor an address")]
    Malformed(String),
    /// Nothing fits.
    #[error("--underlay {wanted:?} selects no address of this host; it has {}", list(available))]
    NoneSelected {
        /// What was asked for.
        wanted: String,
        /// What there is.
        available: Vec<HostAddress>,
    },
    /// More than one fits.
    #[error("--underlay {wanted:?} selects {}; name one address", list(selected))]
    SeveralSelected {
        /// What was asked for.
        wanted: String,
        /// What fits.
        selected: Vec<HostAddress>,
    },
    /// The host has no address that could be one.
    #[error(
        "this host has no IPv4 address that other nodes could reach; give one to an interface, then name it with --underlay"
    )]
    NoCandidate,
    /// Nothing was asked for, and there are several.
    #[error("this host has several addresses: {}; say with --underlay which one other nodes reach", list(.0))]
    SeveralCandidates(Vec<HostAddress>),
}

fn list(addresses: &[HostAddress]) -> String {
    if addresses.is_empty() {
        return "none".to_owned();
    }
    let shown: Vec<String> = addresses.iter().map(|a| format!("{} on {}", a.address.ip(), a.ifname)).collect();
    shown.join(", ")
}

/// Chooses the VTEP: the one address that `wanted` (an interface, a subnet or an address) selects, or the only one there is.
///
/// # Errors
/// When that is none, or more than one.
pub fn choose_underlay(wanted: Option<&str>, addresses: &[HostAddress]) -> Result<HostAddress, UnderlayError> {
    let candidates: Vec<HostAddress> = addresses.iter().filter(|a| is_candidate(a)).cloned().collect();
    let Some(wanted) = wanted else {
        return match candidates.as_slice() {
            [only] => Ok(only.clone()),
            [] => Err(UnderlayError::NoCandidate),
            _ => Err(UnderlayError::SeveralCandidates(candidates)),
        };
    };
    let selected: Vec<HostAddress> = match Selector::parse(wanted)? {
        Selector::Address(ip) => candidates.iter().filter(|a| a.address.ip() == ip).cloned().collect(),
        Selector::Subnet(subnet) => candidates.iter().filter(|a| subnet.contains(a.address.ip())).cloned().collect(),
        Selector::Interface(name) => candidates.iter().filter(|a| a.ifname == name.as_str()).cloned().collect(),
    };
    match selected.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(UnderlayError::NoneSelected { wanted: wanted.to_owned(), available: candidates }),
        _ => Err(UnderlayError::SeveralSelected { wanted: wanted.to_owned(), selected }),
    }
}

enum Selector {
    Address(IpAddr),
    Subnet(IpNetwork),
    Interface(IfName),
}

impl Selector {
    fn parse(text: &str) -> Result<Self, UnderlayError> {
        if let Ok(ip) = text.parse() {
            return Ok(Self::Address(ip));
        }
        if text.contains('/') {
            return text.parse().map(Self::Subnet).map_err(|_| UnderlayError::Malformed(text.to_owned()));
        }
        text.parse().map(Self::Interface).map_err(|_| UnderlayError::Malformed(text.to_owned()))
    }
}

/// An address that other hosts may reach, over IPv4 for now.
fn is_candidate(address: &HostAddress) -> bool {
    let IpAddr::V4(ip) = address.address.ip() else { return false };
    address.scope == AddressScope::Global && !ip.is_loopback() && !ip.is_link_local() && !ip.is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(addresses: &[(&str, &str)]) -> Vec<HostAddress> {
        let address = |(ifname, address): &(&str, &str)| HostAddress {
            ifname: (*ifname).to_owned(),
            address: address.parse().unwrap(),
            scope: if *ifname == "lo" { AddressScope::Host } else { AddressScope::Global },
            mtu: 1500,
            up: true,
        };
        addresses.iter().map(address).collect()
    }

    fn vagrant() -> Vec<HostAddress> {
        host(&[("lo", "127.0.0.1/8"), ("eth0", "10.0.2.15/24"), ("eth1", "192.168.56.11/24"), ("eth1", "fe80::1/64")])
    }

    #[test]
    fn the_only_candidate_is_taken() {
        let addresses = host(&[("lo", "127.0.0.1/8"), ("eth1", "192.168.56.11/24")]);

        assert_eq!(choose_underlay(None, &addresses).unwrap().ifname, "eth1");
    }

    #[test]
    fn a_choice_is_left_to_the_user_and_listed() {
        let message = choose_underlay(None, &vagrant()).unwrap_err().to_string();

        assert!(message.contains("10.0.2.15 on eth0") && message.contains("192.168.56.11 on eth1"), "{message}");
        assert!(message.contains("--underlay"), "{message}");
    }

    #[test]
    fn an_interface_a_subnet_and_an_address_select() {
        for wanted in ["eth1", "192.168.56.0/24", "192.168.56.11"] {
            let chosen = choose_underlay(Some(wanted), &vagrant()).unwrap();
            assert_eq!(chosen.address.ip().to_string(), "192.168.56.11", "{wanted}");
        }
    }

    #[test]
    fn what_selects_none_or_several_is_refused() {
        let two = host(&[("eth1", "192.168.56.11/24"), ("eth1", "192.168.56.12/24")]);

        assert!(matches!(choose_underlay(Some("eth1"), &two), Err(UnderlayError::SeveralSelected { .. })));
        assert!(matches!(choose_underlay(Some("eth9"), &two), Err(UnderlayError::NoneSelected { .. })));
        assert!(matches!(choose_underlay(Some("10.0.0.0/8"), &two), Err(UnderlayError::NoneSelected { .. })));
        assert!(matches!(choose_underlay(Some("10.0.0.0/99"), &two), Err(UnderlayError::Malformed(_))));
        assert!(matches!(choose_underlay(None, &[]), Err(UnderlayError::NoCandidate)));
    }
}
