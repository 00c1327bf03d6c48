use super::*;
use crate::subnet::Subnet;

const COOLDOWN: Duration = Duration::from_secs(60);

#[test]
fn hands_out_never_used_addresses_first_then_the_longest_released() {
    let mut pool = pool("10.0.0.0/16", 30, &["10.0.1.0"]);
    let taken: Vec<String> = (0..4).map(|_| take(&mut pool, 0).unwrap()).collect();
    assert_eq!(taken, ["10.0.1.0", "10.0.1.1", "10.0.1.2", "10.0.1.3"]);
    for (second, address) in ["10.0.1.2", "10.0.1.0", "10.0.1.3"].iter().enumerate() {
        pool.release(ip(address), seconds(10 + second as u64))
            .unwrap();
    }

    let order: Vec<Option<String>> = (69..74).map(|second| take(&mut pool, second)).collect();

    let expected = [
        None,
        Some("10.0.1.2"),
        Some("10.0.1.0"),
        Some("10.0.1.3"),
        None,
    ];
    assert_eq!(order, expected.map(|address| address.map(str::to_owned)));
}

#[test]
fn an_address_released_last_waits_behind_a_fresh_block() {
    let mut pool = pool("10.0.0.0/16", 30, &["10.0.1.0"]);
    pool.take_specific(ip("10.0.1.0")).unwrap();
    pool.release(ip("10.0.1.0"), seconds(0)).unwrap();
    pool.add_block(block("10.0.2.0", 30), seconds(100)).unwrap();

    let order: Vec<String> = std::iter::from_fn(|| take(&mut pool, 100)).collect();

    assert_eq!(order.len(), 8);
    assert_eq!(order.last().unwrap(), "10.0.1.0");
}

#[test]
fn cooldown_gives_way_when_nothing_else_is_free() {
    let mut pool = pool("10.0.0.0/16", 30, &["10.0.1.0"]);
    while take(&mut pool, 0).is_some() {}
    assert_eq!(pool.take_coolest(), None);
    pool.release(ip("10.0.1.2"), seconds(1)).unwrap();
    pool.release(ip("10.0.1.1"), seconds(2)).unwrap();

    assert_eq!(pool.take(seconds(3)), None);
    assert_eq!(pool.take_coolest(), Some(ip("10.0.1.2")));
    assert_eq!(pool.take_coolest(), Some(ip("10.0.1.1")));
    assert_eq!(pool.take_coolest(), None);
}

#[test]
fn never_hands_out_reserved_addresses() {
    let mut pool = pool("10.0.0.0/24", 28, &["10.0.0.0", "10.0.0.240"]);

    let all: Vec<String> = std::iter::from_fn(|| take(&mut pool, 0)).collect();

    assert_eq!(all.len(), 29);
    assert_eq!(pool.capacity(), 29);
    for address in ["10.0.0.0", "10.0.0.1", "10.0.0.255"] {
        assert!(!all.iter().any(|taken| taken == address));
        let error = pool.take_specific(ip(address)).unwrap_err();
        assert!(matches!(error, PoolError::Reserved { .. }), "{error}");
    }
}

#[test]
fn a_users_choice_may_be_cooling_but_not_in_use() {
    let mut pool = pool("10.0.0.0/16", 30, &["10.0.1.0"]);
    let chosen = ip("10.0.1.2");
    pool.take_specific(chosen).unwrap();
    assert_eq!(
        pool.take_specific(chosen),
        Err(PoolError::Held { ip: chosen })
    );
    pool.release(chosen, seconds(5)).unwrap();

    assert_eq!(pool.take_specific(chosen), Ok(()));
    let other = ip("10.0.2.1");
    assert_eq!(
        pool.take_specific(other),
        Err(PoolError::NotOwned { ip: other })
    );
}

#[test]
fn adoption_may_be_repeated() {
    let mut pool = pool("10.0.0.0/16", 30, &["10.0.1.0"]);

    pool.hold(ip("10.0.1.1")).unwrap();
    pool.hold(ip("10.0.1.1")).unwrap();

    assert_eq!(pool.counts(seconds(0)), counts(3, 1, 0, 0));
}

#[test]
fn a_second_release_changes_nothing() {
    let mut pool = pool("10.0.0.0/16", 30, &["10.0.1.0"]);
    let address = pool.take(seconds(0)).unwrap();
    pool.release(address, seconds(1)).unwrap();

    let again = pool.release(address, seconds(50));

    assert_eq!(again, Err(PoolError::NotHeld { ip: address }));
    let until = seconds(61);
    assert_eq!(
        pool.state(address, seconds(60)),
        Some(AddressState::Cooling { until })
    );
    assert_eq!(pool.state(address, until), Some(AddressState::Free));
    for stranger in ["10.0.9.9", "10.1.0.0", "fd00::1", "10.0.1.3"] {
        assert!(pool.release(ip(stranger), seconds(2)).is_err());
    }
    assert_eq!(pool.counts(seconds(60)), counts(3, 0, 1, 0));
}

#[test]
fn passes_over_addresses_that_other_nodes_have() {
    let mut pool = pool("10.0.0.0/16", 30, &["10.0.1.0"]);
    let address = ip("10.0.1.1");
    assert_eq!(pool.mark_foreign(address), Ok(ForeignMark::Foreign));
    assert_eq!(pool.mark_foreign(address), Ok(ForeignMark::Foreign));
    assert_eq!(
        pool.take_specific(address),
        Err(PoolError::Foreign { ip: address })
    );
    assert_eq!(pool.hold(address), Err(PoolError::Foreign { ip: address }));
    assert_eq!(
        pool.release(address, seconds(1)),
        Err(PoolError::NotHeld { ip: address })
    );
    let others: Vec<String> = std::iter::from_fn(|| take(&mut pool, 0)).collect();
    assert_eq!(others, ["10.0.1.0", "10.0.1.2", "10.0.1.3"]);

    pool.unmark_foreign(address, seconds(10)).unwrap();

    assert_eq!(take(&mut pool, 69), None);
    assert_eq!(take(&mut pool, 70).as_deref(), Some("10.0.1.1"));
    let error = pool.unmark_foreign(address, seconds(70));
    assert_eq!(error, Err(PoolError::NotForeign { ip: address }));
}

#[test]
fn an_address_lost_to_another_node_becomes_foreign_on_release() {
    let mut pool = pool("10.0.0.0/16", 30, &["10.0.1.0"]);
    let address = pool.take(seconds(0)).unwrap();
    assert_eq!(pool.mark_foreign(address), Ok(ForeignMark::Contested));
    assert_eq!(
        pool.state(address, seconds(0)),
        Some(AddressState::Contested)
    );
    assert_eq!(pool.counts(seconds(0)), counts(3, 1, 0, 0));

    pool.release(address, seconds(1)).unwrap();

    assert_eq!(pool.state(address, seconds(1)), Some(AddressState::Foreign));
    assert_eq!(pool.counts(seconds(1)), counts(3, 0, 0, 1));
}

#[test]
fn a_contested_address_is_ours_again_when_the_other_leaves_first() {
    let mut pool = pool("10.0.0.0/16", 30, &["10.0.1.0"]);
    let address = pool.take(seconds(0)).unwrap();
    pool.mark_foreign(address).unwrap();

    pool.unmark_foreign(address, seconds(1)).unwrap();

    assert_eq!(pool.state(address, seconds(1)), Some(AddressState::Held));
}

#[test]
fn after_journal_loss_every_free_address_cools_down() {
    let mut pool = pool("10.0.0.0/16", 30, &[]);
    pool.add_block_cooling(block("10.0.1.0", 30), seconds(100))
        .unwrap();
    pool.hold(ip("10.0.1.0")).unwrap();

    assert_eq!(pool.counts(seconds(159)), counts(0, 1, 3, 0));
    assert_eq!(take(&mut pool, 159), None);
    assert_eq!(take(&mut pool, 160).as_deref(), Some("10.0.1.1"));
}

#[test]
fn what_the_journal_knows_survives_a_restart() {
    let mut before = pool("10.0.0.0/16", 30, &["10.0.1.0"]);
    for (address, released) in [("10.0.1.3", 20), ("10.0.1.1", 30)] {
        before.take_specific(ip(address)).unwrap();
        before.release(ip(address), seconds(released)).unwrap();
    }
    let journal: Vec<_> = before.cooling(seconds(40)).collect();
    assert_eq!(
        journal,
        [(ip("10.0.1.1"), seconds(30)), (ip("10.0.1.3"), seconds(20))]
    );

    let mut after = pool("10.0.0.0/16", 30, &["10.0.1.0"]);
    for (address, released) in journal {
        after.restore_cooling(address, released).unwrap();
    }

    let order: Vec<Option<String>> = [41, 41, 41, 80, 80, 90]
        .into_iter()
        .map(|second| take(&mut after, second))
        .collect();
    let expected = [
        Some("10.0.1.0"),
        Some("10.0.1.2"),
        None,
        Some("10.0.1.3"),
        None,
        Some("10.0.1.1"),
    ];
    assert_eq!(order, expected.map(|address| address.map(str::to_owned)));
    let held = after
        .restore_cooling(ip("10.0.1.0"), seconds(1))
        .unwrap_err();
    assert!(matches!(held, PoolError::Held { .. }), "{held}");
}

#[test]
fn wants_a_block_below_eight_or_a_quarter() {
    let mut pool = pool("10.0.0.0/16", 26, &[]);
    assert!(pool.needs_block(seconds(0)), "an empty pool needs a block");
    pool.add_block(block("10.0.1.0", 26), seconds(0)).unwrap();

    let mut last_enough = 64;
    while !pool.needs_block(seconds(0)) {
        last_enough = pool.counts(seconds(0)).free;
        pool.take(seconds(0)).unwrap();
    }

    assert_eq!(last_enough, 16, "a quarter of 64");
}

#[test]
fn cooling_addresses_do_not_count_as_free() {
    let mut pool = pool("10.0.0.0/16", 28, &["10.0.1.0"]);
    for _ in 0..9 {
        let address = pool.take(seconds(0)).unwrap();
        pool.release(address, seconds(0)).unwrap();
    }

    assert!(pool.needs_block(seconds(59)));
    assert!(!pool.needs_block(seconds(60)));
}

#[test]
fn one_address_blocks_are_never_claimed_ahead_of_need() {
    let pool = pool("10.0.0.0/24", 32, &[]);

    assert!(!pool.needs_block(seconds(0)));
}

#[test]
fn gives_back_old_idle_blocks_but_never_the_last() {
    let mut pool = pool("10.0.0.0/16", 30, &["10.0.1.0"]);
    pool.add_block(block("10.0.2.0", 30), seconds(10)).unwrap();
    pool.add_block(block("10.0.3.0", 30), seconds(20)).unwrap();
    let returnable = |pool: &NodePool, now: u64| -> Vec<String> {
        let blocks = pool.returnable(seconds(now), MIN_RETURN_AGE);
        blocks
            .iter()
            .map(|block| block.base().to_string())
            .collect()
    };

    assert_eq!(returnable(&pool, 59), Vec::<String>::new());
    assert_eq!(returnable(&pool, 75), ["10.0.1.0", "10.0.2.0"]);
    assert_eq!(returnable(&pool, 80), ["10.0.2.0", "10.0.3.0"]);

    pool.hold(ip("10.0.2.3")).unwrap();
    assert_eq!(returnable(&pool, 80), ["10.0.1.0", "10.0.3.0"]);
    pool.mark_foreign(ip("10.0.1.3")).unwrap();
    assert_eq!(returnable(&pool, 80), ["10.0.3.0"]);
}

#[test]
fn a_block_in_use_stays() {
    let mut pool = pool("10.0.0.0/16", 30, &["10.0.1.0", "10.0.2.0"]);
    let used = block("10.0.1.0", 30);
    pool.hold(ip("10.0.1.3")).unwrap();

    let refused = pool.remove_block(used).unwrap_err();

    assert_eq!(
        refused,
        PoolError::BlockInUse {
            block: used,
            held: 1
        }
    );
    pool.release(ip("10.0.1.3"), seconds(1)).unwrap();
    pool.remove_block(used).unwrap();
    assert_eq!(
        pool.remove_block(used),
        Err(PoolError::BlockNotOwned { block: used })
    );
    assert_eq!(pool.capacity(), 4);
    let rest: Vec<String> = std::iter::from_fn(|| take(&mut pool, 500)).collect();
    assert_eq!(rest, ["10.0.2.0", "10.0.2.1", "10.0.2.2", "10.0.2.3"]);
}

#[test]
fn refuses_blocks_that_it_has_or_that_are_not_the_networks() {
    let mut pool = pool("10.0.0.0/16", 30, &["10.0.1.0"]);
    pool.hold(ip("10.0.1.1")).unwrap();
    let owned = block("10.0.1.0", 30);

    assert_eq!(
        pool.add_block(owned, seconds(9)),
        Err(PoolError::BlockOwned { block: owned })
    );
    for stranger in [
        block("10.0.1.0", 29),
        block("10.1.0.0", 30),
        block("fd00::", 124),
    ] {
        let error = pool.add_block(stranger, seconds(9)).unwrap_err();
        assert!(matches!(error, PoolError::Block(_)), "{error}");
    }
    assert_eq!(pool.counts(seconds(9)), counts(3, 1, 0, 0));
    assert_eq!(pool.blocks().collect::<Vec<_>>(), [owned]);
}

fn pool(subnet: &str, prefix_len: u8, blocks: &[&str]) -> NodePool {
    let subnet: Subnet = subnet.parse().unwrap();
    let layout = BlockLayout::new(subnet, None, prefix_len).unwrap();
    let reserved = ReservedAddresses::new(subnet, &[subnet.default_gateway()], &[]).unwrap();
    let mut pool = NodePool::new(layout, reserved, COOLDOWN);
    for base in blocks {
        pool.add_block(block(base, prefix_len), seconds(0)).unwrap();
    }
    pool
}

fn take(pool: &mut NodePool, second: u64) -> Option<String> {
    pool.take(seconds(second)).map(|ip| ip.to_string())
}

fn counts(free: usize, held: usize, cooling: usize, foreign: usize) -> Counts {
    Counts {
        free,
        held,
        cooling,
        foreign,
    }
}

fn block(base: &str, prefix_len: u8) -> Block {
    Block::new(ip(base), prefix_len).unwrap()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
