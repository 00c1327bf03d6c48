//! The choice of a free subnet when the user names none.
//!
//! The search begins at a place given by a seed, so rivals that choose at the same moment rarely
//! choose the same; the record of the network decides between those that do. It always finds a
//! free subnet if there is one, in time that depends on what is taken, not on the pool's size.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv4Network};
use thiserror::Error;

use super::conflict::{Taken, first_conflict, is_default_route, overlap};
use super::{Subnet, SubnetError, canonical};
use crate::{address, seed};

/// Prefix length of a chosen IPv4 subnet.
pub const DEFAULT_PREFIX_LEN: u8 = 20;

/// The pool for chosen IPv4 subnets, 10.32.0.0/11: private, and clear of what Docker (172.17.0.0/16
/// and up), kubeadm (services in 10.96.0.0/12) and most home routers (192.168.0.0/16) use unasked.
pub fn default_pool() -> IpNetwork {
    let pool = Ipv4Network::new_checked(Ipv4Addr::new(10, 32, 0, 0), 11);
    IpNetwork::V4(pool.expect("11 is a prefix length"))
}

/// Attempts to find a clear ULA. Each is one of 2^56, so a second is needed only when a route
/// covers a large part of fd00::/8.
const ULA_ATTEMPTS: u64 = 1024;

/// Why no subnet was chosen.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ChooseSubnetError {
    /// The pool cannot be cut into subnets of that length.
    #[error(
        "pool {pool} cannot be cut into subnets of length /{prefix_len}; choose one with --subnet"
    )]
    PrefixLen {
        /// Where to choose from.
        pool: IpNetwork,
        /// The length asked for.
        prefix_len: u8,
    },
    /// The pool holds networks that are not valid subnets.
    #[error("pool {pool} cannot be used; choose a subnet with --subnet")]
    Pool {
        /// Where to choose from.
        pool: IpNetwork,
        /// What is wrong with its subnets.
        #[source]
        source: SubnetError,
    },
    /// Every subnet of the pool overlaps something in use.
    #[error(
        "no free /{prefix_len} in {pool}: {taken} networks and routes use it; remove a network or choose a subnet with --subnet"
    )]
    Exhausted {
        /// Where to choose from.
        pool: IpNetwork,
        /// The length asked for.
        prefix_len: u8,
        /// How many entries of the list overlap the pool.
        taken: usize,
    },
}

/// Chooses a subnet of `prefix_len` in `pool` that overlaps nothing in `taken`.
///
/// The first candidate is given by `seed`, the others follow it, around the end of the pool.
/// Default routes in `taken` are ignored, as [`first_conflict`] does.
pub fn choose_subnet(
    pool: IpNetwork,
    prefix_len: u8,
    taken: &[Taken],
    seed: u64,
) -> Result<Subnet, ChooseSubnetError> {
    let pool = canonical(pool);
    if prefix_len < pool.prefix() || prefix_len > address::width(pool.ip()) {
        return Err(ChooseSubnetError::PrefixLen { pool, prefix_len });
    }
    let grid = Grid::new(pool, prefix_len);
    // All candidates have one size; whether that is allowed is known before the search.
    Subnet::new(grid.subnet(0)).map_err(|source| ChooseSubnetError::Pool { pool, source })?;
    let used = used_spans(pool, taken);
    let start = seed::place(seed, grid.last + 1);
    let index = grid
        .first_clear(start, grid.last, &used)
        .or_else(|| grid.first_clear(0, start, &used))
        .ok_or(ChooseSubnetError::Exhausted {
            pool,
            prefix_len,
            taken: used.len(),
        })?;
    Subnet::new(grid.subnet(index)).map_err(|source| ChooseSubnetError::Pool { pool, source })
}

/// Chooses a unique local /64 (RFC 4193: fd00::/8, a global id of 40 bits, a subnet id of 16 bits).
///
/// `seed` should be unique to the network, such as its id; equal seeds choose equal subnets while
/// nothing in the way has changed.
pub fn choose_ula(seed: &[u8], taken: &[Taken]) -> Result<Subnet, ChooseSubnetError> {
    let seed = seed::from_bytes(seed);
    (0..ULA_ATTEMPTS)
        .map(|attempt| ula(seed::mix(seed.wrapping_add(attempt))))
        .filter_map(|candidate| Subnet::new(candidate).ok())
        .find(|candidate| first_conflict(candidate.network(), taken).is_ok())
        .ok_or_else(|| ChooseSubnetError::Exhausted {
            pool: ula_pool(),
            prefix_len: 64,
            taken: used_spans(ula_pool(), taken).len(),
        })
}

/// The half of fc00::/7 whose ids are chosen locally (RFC 4193 3.1).
fn ula_pool() -> IpNetwork {
    network(IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0)), 8)
}

/// The /64 whose 56 bits after `fd` are the low bits of `id`.
fn ula(id: u64) -> IpNetwork {
    let id = id & ((1 << 56) - 1);
    let bits = address::bits(ula_pool().ip()) | (u128::from(id) << 64);
    network(IpAddr::V6(Ipv6Addr::from_bits(bits)), 64)
}

/// First and last address of each entry of `taken` that overlaps the pool, as numbers, sorted.
fn used_spans(pool: IpNetwork, taken: &[Taken]) -> Vec<(u128, u128)> {
    let mut spans: Vec<_> = taken
        .iter()
        .map(|taken| taken.network)
        .filter(|network| !is_default_route(*network) && overlap(pool, *network))
        .map(address::span)
        .collect();
    spans.sort_unstable();
    spans
}

/// The subnets of one length in a pool, numbered from 0 to `last`.
struct Grid {
    pool: IpNetwork,
    prefix_len: u8,
    base: u128,
    last: u128,
}

impl Grid {
    fn new(pool: IpNetwork, prefix_len: u8) -> Self {
        let (base, end) = address::span(pool);
        let host_bits = u32::from(address::width(pool.ip()) - prefix_len);
        Self {
            pool,
            prefix_len,
            base,
            last: (end - base).checked_shr(host_bits).unwrap_or(0),
        }
    }

    fn subnet(&self, index: u128) -> IpNetwork {
        let host_bits = u32::from(address::width(self.pool.ip()) - self.prefix_len);
        let offset = index.checked_shl(host_bits).unwrap_or(0);
        let base = address::with_bits(self.pool.ip(), self.base + offset);
        network(base, self.prefix_len)
    }

    /// The number of the subnet that holds the address with the number `bits`, which is in the pool
    /// or beyond its end.
    fn index_of(&self, bits: u128) -> u128 {
        let host_bits = u32::from(address::width(self.pool.ip()) - self.prefix_len);
        (bits - self.base).checked_shr(host_bits).unwrap_or(0)
    }

    /// The first subnet from `from` to `to` that touches no span; `used` is sorted by start.
    ///
    /// Each span in the way moves the search to the subnet after its end; the list is in order, so
    /// one walk over it is enough.
    fn first_clear(&self, from: u128, to: u128, used: &[(u128, u128)]) -> Option<u128> {
        let mut index = from;
        for (first, last) in used {
            let (low, high) = address::span(self.subnet(index));
            if *last < low {
                continue;
            }
            if *first > high {
                break;
            }
            index = self.index_of(*last) + 1;
            if index > to {
                return None;
            }
        }
        (index <= to).then_some(index)
    }
}

fn network(base: IpAddr, prefix_len: u8) -> IpNetwork {
    IpNetwork::new(base, prefix_len).expect("the prefix length fits the family")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_where_the_seed_says() {
        let pool = default_pool();

        let chosen: Vec<Subnet> = (0..20)
            .map(|seed| choose_subnet(pool, DEFAULT_PREFIX_LEN, &[], seed).unwrap())
            .collect();

        let mut different = chosen.clone();
        different.sort_unstable();
        different.dedup();
        assert!(different.len() > 15, "rivals met: {chosen:?}");
        let again = choose_subnet(pool, DEFAULT_PREFIX_LEN, &[], 3).unwrap();
        assert_eq!(again, chosen[3]);
    }

    #[test]
    fn finds_the_only_free_one_from_every_start() {
        let pool = "10.32.0.0/20".parse().unwrap();
        let taken: Vec<Taken> = (0..16)
            .filter(|third| *third != 5)
            .map(|third| taken(&format!("10.32.{third}.0/24")))
            .collect();

        for seed in 0..64 {
            let subnet = choose_subnet(pool, 24, &taken, seed).unwrap();
            assert_eq!(subnet.to_string(), "10.32.5.0/24");
        }
    }

    #[test]
    fn says_when_all_are_taken() {
        let taken = [
            taken("0.0.0.0/0"),
            taken("10.32.0.0/12"),
            taken("10.48.0.0/12"),
            taken("fd00::/8"),
        ];

        let error = choose_subnet(default_pool(), 20, &taken, 1).unwrap_err();

        let text = error.to_string();
        assert!(
            text.contains("no free /20 in 10.32.0.0/11: 2 networks"),
            "{text}"
        );
        assert!(text.contains("--subnet"), "{text}");
    }

    #[test]
    fn one_address_in_use_takes_its_whole_subnet() {
        let pool = "10.32.0.0/23".parse().unwrap();

        for seed in 0..16 {
            let subnet = choose_subnet(pool, 24, &[taken("10.32.0.7/32")], seed).unwrap();
            assert_eq!(subnet.to_string(), "10.32.1.0/24");
        }
    }

    #[test]
    fn searches_a_huge_pool_without_walking_it() {
        let pool: IpNetwork = "fd00::/8".parse().unwrap();
        let taken = [taken("fd00::/9"), taken("fd80::/10"), taken("fdc0::/11")];

        for seed in 0..16 {
            let subnet = choose_subnet(pool, 64, &taken, seed).unwrap();
            assert!(subnet.network().network() >= "fde0::".parse::<IpAddr>().unwrap());
        }
    }

    #[test]
    fn refuses_a_length_that_does_not_fit() {
        let pool = default_pool();

        for prefix_len in [10, 33, 255] {
            let error = choose_subnet(pool, prefix_len, &[], 1).unwrap_err();
            assert!(
                matches!(error, ChooseSubnetError::PrefixLen { .. }),
                "{error}"
            );
        }
        let error = choose_subnet(pool, 31, &[], 1).unwrap_err();
        assert!(matches!(error, ChooseSubnetError::Pool { .. }), "{error}");
        let error = choose_subnet("127.0.0.0/8".parse().unwrap(), 24, &[], 1).unwrap_err();
        assert!(matches!(error, ChooseSubnetError::Pool { .. }), "{error}");
    }

    #[test]
    fn a_ula_is_a_64_under_fd_and_differs_by_seed() {
        let mut chosen: Vec<Subnet> = (0..200_u32)
            .map(|id| choose_ula(&id.to_be_bytes(), &[]).unwrap())
            .collect();

        for subnet in &chosen {
            assert_eq!(subnet.prefix_len(), 64);
            assert!(subnet.to_string().starts_with("fd"), "{subnet}");
        }
        chosen.sort_unstable();
        chosen.dedup();
        assert_eq!(chosen.len(), 200);
    }

    #[test]
    fn a_ula_in_use_is_passed_over() {
        let first = choose_ula(b"net1", &[]).unwrap();
        let block = taken(&first.to_string());

        let second = choose_ula(b"net1", std::slice::from_ref(&block)).unwrap();

        assert_ne!(first, second);
        assert!(!overlap(second.network(), block.network));
        let error = choose_ula(b"net1", &[taken("fc00::/7")]).unwrap_err();
        assert!(
            error.to_string().contains("no free /64 in fd00::/8: 1"),
            "{error}"
        );
    }

    fn taken(network: &str) -> Taken {
        Taken {
            network: network.parse().unwrap(),
            holder: format!("network {network}"),
        }
    }
}
