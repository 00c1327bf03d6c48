//! Whether a network collides with one that is taken, and by whom.

use ipnetwork::IpNetwork;
use thiserror::Error;

use crate::address;

/// A network that is in use, and what uses it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Taken {
    /// The addresses in use.
    pub network: IpNetwork,
    /// The user of it as an error message should name it, its range included:
    /// `network "db" (10.1.0.0/16)` or `route 10.0.0.0/16 dev eth0 on node h2`.
    pub holder: String,
}

/// A network was asked for that overlaps one in use.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("subnet {candidate} overlaps {holder}; choose another with --subnet")]
pub struct SubnetConflict {
    /// What was asked for.
    pub candidate: IpNetwork,
    /// What it overlaps.
    pub network: IpNetwork,
    /// Who uses that.
    pub holder: String,
}

/// Whether two networks share an address; networks of different families never do.
pub fn overlap(a: IpNetwork, b: IpNetwork) -> bool {
    address::nests(a, b) || address::nests(b, a)
}

/// Checks `candidate` against all of `taken`; the error names the first that it overlaps.
///
/// Default routes take nothing: every address is behind one. Two halves (/1) in place of one /0
/// are how VPN clients outrank a default route, so they count as one.
pub fn first_conflict(candidate: IpNetwork, taken: &[Taken]) -> Result<(), SubnetConflict> {
    taken
        .iter()
        .find(|taken| !is_default_route(taken.network) && overlap(candidate, taken.network))
        .map_or(Ok(()), |taken| {
            Err(SubnetConflict {
                candidate,
                network: taken.network,
                holder: taken.holder.clone(),
            })
        })
}

/// Whether a destination is everything, or one half of it.
pub(crate) fn is_default_route(network: IpNetwork) -> bool {
    network.prefix() <= 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlap_is_nesting_within_one_family() {
        let cases = [
            ("10.0.0.0/24", "10.0.0.0/24", true),
            ("10.0.0.0/16", "10.0.255.0/24", true),
            ("10.0.0.0/24", "10.0.1.0/24", false),
            ("0.0.0.0/0", "10.0.1.0/24", true),
            ("10.0.0.1/8", "10.255.0.0/16", true),
            ("::/0", "10.0.0.0/8", false),
            ("fd00::/8", "fd12::/64", true),
            ("fc00::/8", "fd12::/64", false),
        ];
        for (a, b, expected) in cases {
            let (a, b) = (a.parse().unwrap(), b.parse().unwrap());
            assert_eq!(overlap(a, b), expected, "{a} {b}");
            assert_eq!(overlap(b, a), expected, "{b} {a}");
        }
    }

    #[test]
    fn names_both_sides_of_the_first_conflict() {
        let taken = [
            taken("10.1.0.0/16", "network \"db\" (10.1.0.0/16)"),
            taken("10.0.0.0/16", "route 10.0.0.0/16 dev eth0 on node h2"),
            taken("10.0.0.0/20", "network \"later\" (10.0.0.0/20)"),
        ];

        let error = first_conflict("10.0.0.0/24".parse().unwrap(), &taken).unwrap_err();

        assert_eq!(
            error.to_string(),
            "subnet 10.0.0.0/24 overlaps route 10.0.0.0/16 dev eth0 on node h2; \
             choose another with --subnet"
        );
        assert_eq!(error.network.to_string(), "10.0.0.0/16");
    }

    #[test]
    fn default_routes_take_nothing() {
        let taken = [
            taken("0.0.0.0/0", "default"),
            taken("0.0.0.0/1", "vpn"),
            taken("::/0", "default"),
        ];

        assert_eq!(
            first_conflict("10.0.0.0/24".parse().unwrap(), &taken),
            Ok(())
        );
        assert_eq!(first_conflict("fd00::/64".parse().unwrap(), &taken), Ok(()));
    }

    fn taken(network: &str, holder: &str) -> Taken {
        Taken {
            network: network.parse().unwrap(),
            holder: holder.to_owned(),
        }
    }
}
