//! Subnets, their choice, their cutting into blocks, and the dual stack.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use proptest::prelude::*;
use weft_ipam::{
    Block, BlockLayout, DualStack, IpRange, ReservedAddresses, Subnet, Taken, block_prefix_len,
    choose_subnet, choose_ula, first_conflict, offline_reserve, overlap,
};

proptest! {
    #[test]
    fn a_subnet_reads_back_as_it_was_written(network in any_network()) {
        let canonical = IpNetwork::new(network.network(), network.prefix()).unwrap();
        let result = Subnet::new(network);
        prop_assert_eq!(result.is_ok() && canonical != network, false);
        if let Ok(subnet) = Subnet::new(canonical) {
            prop_assert_eq!(subnet.to_string().parse::<Subnet>(), Ok(subnet));
            let json = serde_json::to_string(&subnet).unwrap();
            prop_assert_eq!(serde_json::from_str::<Subnet>(&json).unwrap(), subnet);
            prop_assert!(subnet.check_gateway(subnet.default_gateway()).is_ok());
            let layout = BlockLayout::new(subnet, None, block_prefix_len(subnet, None));
            prop_assert!(layout.is_ok(), "{:?}", layout);
        }
    }

    #[test]
    fn any_text_is_a_subnet_or_a_short_error(text in "\\PC{0,300}|[0-9a-f.:/]{0,60}") {
        if let Err(error) = text.parse::<Subnet>() {
            prop_assert!(error.to_string().contains("subnet"));
            prop_assert!(error.to_string().chars().count() < 1000);
        }
    }

    #[test]
    fn overlapping_means_sharing_an_address(a in small_network(), b in small_network()) {
        let shared = a.iter().any(|ip| b.contains(ip));
        prop_assert_eq!(overlap(a, b), shared);
        prop_assert_eq!(overlap(b, a), shared);
    }

    #[test]
    fn a_chosen_subnet_is_clear_and_none_only_if_none_is(
        prefix_len in 26..=30_u8,
        networks in prop::collection::vec(small_network(), 0..24),
        seed in any::<u64>(),
    ) {
        let pool: IpNetwork = "10.32.0.0/24".parse().unwrap();
        let taken: Vec<Taken> = networks.iter().map(|network| taken(*network)).collect();
        let candidates: Vec<IpNetwork> = pool
            .iter()
            .map(|ip| IpNetwork::new(ip, prefix_len).unwrap())
            .filter(|candidate| candidate.network() == candidate.ip())
            .collect();

        match choose_subnet(pool, prefix_len, &taken, seed) {
            Ok(subnet) => {
                prop_assert!(candidates.contains(&subnet.network()));
                prop_assert_eq!(first_conflict(subnet.network(), &taken), Ok(()));
                prop_assert!(!networks.iter().any(|other| overlap(*other, subnet.network())));
            }
            Err(error) => {
                let clear = candidates
                    .iter()
                    .find(|candidate| !networks.iter().any(|other| overlap(*other, **candidate)));
                prop_assert_eq!(clear, None, "{}", error);
            }
        }
    }

    #[test]
    fn ulas_chosen_one_after_another_never_overlap(seeds in prop::collection::vec(any::<u8>(), 1..40)) {
        let mut networks: Vec<Taken> = Vec::new();
        for seed in seeds {
            let ula = choose_ula(&[seed], &networks).unwrap();
            prop_assert_eq!(first_conflict(ula.network(), &networks), Ok(()));
            networks.push(taken(ula.network()));
        }
    }

    #[test]
    fn blocks_tile_what_is_handed_out(
        subnet in prop::sample::select(vec!["10.0.0.0/22", "10.0.0.0/26", "fd00::/118"]),
        range_len in 0..=6_u8,
        part in any::<prop::sample::Index>(),
        block_len in 0..=12_u8,
        seed in any::<u64>(),
    ) {
        let subnet: Subnet = subnet.parse().unwrap();
        let prefix_len = subnet.prefix_len() + range_len;
        let parts: Vec<IpAddr> = subnet
            .network()
            .iter()
            .filter(|ip| IpNetwork::new(*ip, prefix_len).unwrap().network() == *ip)
            .collect();
        let network = IpNetwork::new(parts[part.index(parts.len())], prefix_len).unwrap();
        let range = IpRange::new(subnet, network).unwrap();
        let width = if subnet.is_ipv4() { 32 } else { 128 };
        let block_len = (prefix_len + block_len).min(width);

        let layout = BlockLayout::new(subnet, Some(range), block_len).unwrap();
        let reserved = ReservedAddresses::new(subnet, &[], &[]).unwrap();
        let blocks: Vec<Block> = layout.candidates(seed, &reserved, |_| false).collect();

        let mut covered: BTreeSet<IpAddr> = BTreeSet::new();
        for block in &blocks {
            prop_assert!(layout.check_block(*block).is_ok());
            for ip in block.addresses() {
                prop_assert!(covered.insert(ip), "{ip} is in two blocks");
                prop_assert_eq!(layout.block_of(ip), Some(*block));
            }
        }
        for ip in network.iter().filter(|ip| !covered.contains(ip)) {
            let left_out = layout.block_of(ip).unwrap();
            let mut addresses = left_out.addresses();
            prop_assert!(addresses.all(|ip| reserved.reason(ip).is_some()), "{ip} in no block");
        }
        prop_assert!(covered.iter().all(|ip| network.contains(*ip)));
    }

    #[test]
    fn the_offline_reserve_is_a_quarter_at_the_end(base in any::<u32>(), prefix_len in 20..=32_u8) {
        let network = IpNetwork::new(Ipv4Addr::from_bits(base).into(), prefix_len).unwrap();
        let block = Block::new(network.network(), prefix_len).unwrap();
        let addresses: Vec<IpAddr> = block.addresses().collect();

        let kept: Vec<IpAddr> = match offline_reserve(block) {
            Some(range) => addresses.iter().copied().filter(|ip| range.contains(ip)).collect(),
            None => Vec::new(),
        };

        prop_assert_eq!(kept.len(), addresses.len() / 4);
        prop_assert_eq!(kept.as_slice(), &addresses[addresses.len() - kept.len()..]);
    }

    #[test]
    fn ipv6_counterparts_are_in_the_subnet_and_lead_back(
        v4_len in 20..=30_u8,
        v6_len in 64..=126_u8,
        base in any::<u32>(),
        offset in any::<u32>(),
    ) {
        let v4 = Ipv4Addr::from_bits((base & 0x00ff_ffff) | 0x0a00_0000);
        let v4 = IpNetwork::new(v4.into(), v4_len).unwrap();
        let v4 = Subnet::new(IpNetwork::new(v4.network(), v4_len).unwrap()).unwrap();
        let v6 = IpNetwork::new("fd00:1::".parse().unwrap(), v6_len).unwrap();
        let v6 = Subnet::new(v6).unwrap();
        let pair = DualStack::new(v4, v6);
        prop_assert_eq!(pair.is_ok(), v6.size() >= v4.size());
        if let (Ok(pair), IpAddr::V4(first)) = (pair, v4.base()) {
            let offset = offset % u32::try_from(v4.size()).unwrap();
            let address = Ipv4Addr::from_bits(first.to_bits() + offset);
            let embedded = pair.embed(address).unwrap();
            prop_assert!(v6.contains(embedded.into()));
            prop_assert_eq!(pair.counterpart(embedded.into()), Some(address));
        }
    }
}

fn any_network() -> impl Strategy<Value = IpNetwork> {
    let v4 = (any::<u32>(), 0..=32_u8).prop_map(|(bits, prefix_len)| {
        IpNetwork::new(Ipv4Addr::from_bits(bits).into(), prefix_len).unwrap()
    });
    let v6 = (any::<u128>(), 0..=128_u8).prop_map(|(bits, prefix_len)| {
        IpNetwork::new(Ipv6Addr::from_bits(bits).into(), prefix_len).unwrap()
    });
    prop_oneof![v4, v6]
}

/// A network in or around 10.32.0.0/24, host bits not always zero.
fn small_network() -> impl Strategy<Value = IpNetwork> {
    (any::<u8>(), 24..=32_u8).prop_map(|(last, prefix_len)| {
        IpNetwork::new(IpAddr::from([10, 32, 0, last]), prefix_len).unwrap()
    })
}

fn taken(network: IpNetwork) -> Taken {
    Taken {
        network,
        holder: format!("network {network}"),
    }
}
