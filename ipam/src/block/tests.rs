use std::collections::BTreeSet;

use super::*;

#[test]
fn block_length_follows_the_table() {
    let cases = [
        ("10.0.0.0/8", 26),
        ("10.0.0.0/14", 26),
        ("10.0.0.0/15", 27),
        ("10.0.0.0/16", 27),
        ("10.0.0.0/17", 27),
        ("10.0.0.0/18", 28),
        ("10.0.0.0/20", 28),
        ("10.0.0.0/21", 28),
        ("10.0.0.0/22", 29),
        ("10.0.0.0/23", 30),
        ("10.0.0.0/24", 32),
        ("10.0.0.0/30", 32),
        ("fd00::/48", 124),
        ("fd00::/64", 124),
        ("fd00::/119", 124),
        ("fd00::/120", 128),
        ("fd00::/126", 128),
    ];
    for (subnet, expected) in cases {
        let subnet: Subnet = subnet.parse().unwrap();
        let prefix_len = block_prefix_len(subnet, None);
        assert_eq!(prefix_len, expected, "{subnet}");
        let layout = BlockLayout::new(subnet, None, prefix_len).unwrap();
        assert!(layout.block_count() * u128::from(layout.block_size()) == subnet.size());
        assert!(!subnet.is_ipv4() || layout.block_count() <= SEARCH_LIMIT);
    }
}

#[test]
fn block_length_follows_a_range_within_the_subnet() {
    let subnet: Subnet = "10.0.0.0/16".parse().unwrap();
    let cases = [
        ("10.0.0.0/16", 27),
        ("10.0.16.0/20", 28),
        ("10.0.1.64/26", 32),
    ];
    for (range, expected) in cases {
        let range = IpRange::parse(subnet, range).unwrap();
        let prefix_len = block_prefix_len(subnet, Some(range));
        assert_eq!(prefix_len, expected, "{range}");
        assert!(BlockLayout::new(subnet, Some(range), prefix_len).is_ok());
    }
}

#[test]
fn finds_the_block_of_an_address() {
    let cases = [
        ("10.0.0.0/16", 27, "10.0.0.0", Some("10.0.0.0/27")),
        ("10.0.0.0/16", 27, "10.0.255.255", Some("10.0.255.224/27")),
        ("10.0.0.0/16", 27, "10.1.0.0", None),
        ("10.0.0.0/16", 27, "9.255.255.255", None),
        ("10.0.0.0/16", 27, "fd00::", None),
        ("10.0.0.0/24", 32, "10.0.0.9", Some("10.0.0.9/32")),
        ("fd00::/64", 124, "fd00::1:2345", Some("fd00::1:2340/124")),
        ("fd00::/64", 124, "10.0.0.1", None),
    ];
    for (subnet, prefix_len, ip, expected) in cases {
        let layout = layout(subnet, prefix_len);
        let block = layout.block_of(ip.parse().unwrap());
        let text = block.map(|block| block.to_string());
        assert_eq!(text.as_deref(), expected, "{subnet} {ip}");
    }
}

#[test]
fn refuses_damaged_blocks() {
    let layout = layout("10.0.0.0/16", 27);
    let cases = [
        ("10.0.0.1", 27, "not aligned"),
        ("10.0.0.0", 33, "no valid prefix length"),
        ("10.0.0.0", 8, "no valid prefix length"),
        ("fd00::", 64, "no valid prefix length"),
    ];
    for (base, prefix_len, reason) in cases {
        let error = Block::new(base.parse().unwrap(), prefix_len).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }
    for (base, prefix_len) in [("10.0.0.0", 28), ("10.1.0.0", 27), ("fd00::", 124)] {
        let block = Block::new(base.parse().unwrap(), prefix_len).unwrap();
        let error = layout.check_block(block).unwrap_err();
        assert!(matches!(error, BlockError::Foreign { .. }), "{error}");
    }
}

#[test]
fn refuses_layouts_that_do_not_tile() {
    let subnet: Subnet = "10.0.0.0/16".parse().unwrap();
    let range = IpRange::parse(subnet, "10.0.1.0/28").unwrap();
    let other = IpRange::parse("10.9.0.0/16".parse().unwrap(), "10.9.1.0/24").unwrap();

    let larger = BlockLayout::new(subnet, Some(range), 27).unwrap_err();
    let outside = BlockLayout::new(subnet, Some(other), 27).unwrap_err();

    assert!(
        matches!(larger, BlockError::LargerThanRange { .. }),
        "{larger}"
    );
    assert!(
        matches!(outside, BlockError::RangeOutside { .. }),
        "{outside}"
    );
    for prefix_len in [33, 255, 19, 0] {
        let error = BlockLayout::new(subnet, None, prefix_len).unwrap_err();
        assert!(matches!(error, BlockError::Size { .. }), "{error}");
    }
}

#[test]
fn candidates_visit_each_free_block_once() {
    let layout = layout("10.0.0.0/20", 28);
    let reserved = reserved("10.0.0.0/20");
    let claimed: BTreeSet<Block> = layout
        .candidates(1, &reserved, |_| false)
        .take(100)
        .collect();

    let rest: Vec<Block> = layout
        .candidates(2, &reserved, |block| claimed.contains(&block))
        .collect();

    assert_eq!(rest.len(), 156);
    let all: BTreeSet<Block> = rest.iter().chain(&claimed).copied().collect();
    assert_eq!(all.len(), 256);
}

#[test]
fn candidates_leave_out_blocks_of_reserved_addresses_only() {
    let layout = layout("10.0.0.0/29", 32);
    let reserved = reserved("10.0.0.0/29");

    let mut bases: Vec<String> = layout
        .candidates(7, &reserved, |_| false)
        .map(|block| block.base().to_string())
        .collect();

    bases.sort();
    assert_eq!(
        bases,
        ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]
    );
}

#[test]
fn candidates_stay_in_the_range() {
    let subnet: Subnet = "10.0.0.0/16".parse().unwrap();
    let range = IpRange::parse(subnet, "10.0.8.0/21").unwrap();
    let layout = BlockLayout::new(subnet, Some(range), 28).unwrap();
    let reserved = reserved("10.0.0.0/16");

    let blocks: Vec<Block> = layout.candidates(3, &reserved, |_| false).collect();

    assert_eq!(blocks.len(), 128);
    assert!(blocks.iter().all(|block| range.contains(block.base())));
}

#[test]
fn a_huge_subnet_is_searched_from_the_seeded_place() {
    let layout = layout("fd00::/64", 124);
    let reserved = reserved("fd00::/64");
    let starts: BTreeSet<Block> = (0..50)
        .filter_map(|seed| layout.candidates(seed, &reserved, |_| false).next())
        .collect();

    assert_eq!(starts.len(), 50);
    let high = "fd00::8000:0:0:0".parse::<IpAddr>().unwrap();
    assert!(starts.iter().any(|block| block.base() > high));
    assert_eq!(layout.candidates(1, &reserved, |_| true).next(), None);
}

#[test]
fn the_offline_reserve_is_the_top_quarter() {
    let cases = [
        ("10.0.0.32", 27, Some(("10.0.0.56", "10.0.0.63"))),
        ("10.0.0.0", 30, Some(("10.0.0.3", "10.0.0.3"))),
        ("10.0.0.0", 31, None),
        ("10.0.0.9", 32, None),
        ("fd00::10", 124, Some(("fd00::1c", "fd00::1f"))),
    ];
    for (base, prefix_len, expected) in cases {
        let block = Block::new(base.parse().unwrap(), prefix_len).unwrap();
        let range = expected.map(|(first, last)| {
            RangeInclusive::new(first.parse::<IpAddr>().unwrap(), last.parse().unwrap())
        });
        assert_eq!(offline_reserve(block), range, "{block}");
    }
}

fn layout(subnet: &str, prefix_len: u8) -> BlockLayout {
    BlockLayout::new(subnet.parse().unwrap(), None, prefix_len).unwrap()
}

fn reserved(subnet: &str) -> ReservedAddresses {
    let subnet: Subnet = subnet.parse().unwrap();
    ReservedAddresses::new(subnet, &[subnet.default_gateway()], &[]).unwrap()
}
