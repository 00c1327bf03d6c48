use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use weft_overlay::{
    claims::Stored,
    id::NetworkId,
    keys::Keyspace,
    model::{FenceRecord, FenceState, NetworkSpec},
    store::memory::{Faults, MemoryStore, Partition},
};

use super::*;
use crate::control::testing::{Cluster, Node, eventually};

async fn attach(
    node: &Node,
    network: &(NetworkId, Stored<NetworkSpec>),
    request: EndpointRequest,
) -> Result<Stored<EndpointRecord>, String> {
    let reserved = node.allocator.reserve(network.0, &network.1, request).await;
    let mut reservation = reserved.map_err(|error| error.to_string())?;
    let revision = node.allocator.commit(&mut reservation, None).await.map_err(|error| error.to_string())?;
    Ok(Stored { record: reservation.record.clone(), revision, lease: 0 })
}

fn address(stored: &Stored<EndpointRecord>) -> IpAddr {
    stored.record.primary_address().unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_gets_an_address_of_each_family_and_a_derived_mac() {
    let cluster = Cluster::new();
    let (node, network) = (cluster.node(1).await, cluster.network(None).await);

    let stored = attach(&node, &network, node.request(1)).await.unwrap();

    let (v4, v6) = (stored.record.ipv4.unwrap(), stored.record.ipv6.unwrap());
    assert_eq!(stored.record.mac, Mac::derived_from(IpAddr::V4(v4)));
    assert_eq!(v6.octets()[12..], v4.octets());
}

#[tokio::test(start_paused = true)]
async fn a_free_address_at_hand_costs_one_round_trip() {
    let cluster = Cluster::new();
    let (node, network) = (cluster.node(1).await, cluster.network(None).await);
    attach(&node, &network, node.request(1)).await.unwrap();
    let before = cluster.store.revision();

    for id in 2..6 {
        attach(&node, &network, node.request(id)).await.unwrap();
    }

    assert_eq!(cluster.store.revision(), before + 4, "something else was written");
}

#[tokio::test(start_paused = true)]
async fn many_attaches_at_once_get_different_addresses() {
    let cluster = Cluster::new();
    let (node, network) = (cluster.node(1).await, cluster.network(None).await);

    let attaches = (0..100).map(|id| attach(&node, &network, node.request(id)));
    let stored = futures::future::join_all(attaches).await;

    let addresses: BTreeSet<IpAddr> = stored.iter().map(|stored| address(stored.as_ref().unwrap())).collect();
    assert_eq!(addresses.len(), 100);
}

#[tokio::test(start_paused = true)]
async fn nodes_that_race_for_a_small_network_share_it_without_a_double() {
    let cluster = Cluster::new();
    let network = cluster.network(Some("10.9.0.0/26")).await;
    let mut nodes = Vec::new();
    for number in 1..=8 {
        nodes.push(cluster.node(number).await);
    }

    let attaches = nodes.iter().enumerate().flat_map(|(n, node)| {
        let network = &network;
        (0..10_u64).map(move |id| attach(node, network, node.request(u64::try_from(n).unwrap() * 100 + id)))
    });
    let results = futures::future::join_all(attaches).await;

    let got: Vec<IpAddr> = results.iter().flatten().map(address).collect();
    let refusals: Vec<&String> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    assert_eq!(got.len(), 61, "64 less network, broadcast and gateway");
    assert_eq!(got.iter().collect::<BTreeSet<_>>().len(), 61);
    assert!(refusals.iter().all(|text| text.contains("no free address in subnet 10.9.0.0/26")), "{refusals:?}");
    assert!(refusals[0].contains("h1:") && refusals[0].contains("held"), "{}", refusals[0]);
}

#[tokio::test(start_paused = true)]
async fn a_chosen_address_is_had_wherever_its_block_is_and_refused_by_name() {
    let cluster = Cluster::new();
    let network = cluster.network(Some("10.9.0.0/20")).await;
    let (one, two) = (cluster.node(1).await, cluster.node(2).await);
    let first = attach(&one, &network, one.request(1)).await.unwrap();
    let IpAddr::V4(base) = address(&first) else { panic!("not IPv4") };
    let near = Ipv4Addr::from_bits(base.to_bits() + 5);
    let asks = |node: &Node, id, ip| EndpointRequest { ipv4: Some(ip), ..node.request(id) };

    let here = attach(&one, &network, asks(&one, 2, near)).await.unwrap();
    let there = attach(&two, &network, asks(&two, 3, Ipv4Addr::from_bits(base.to_bits() + 6))).await.unwrap();
    let taken = attach(&two, &network, asks(&two, 4, near)).await.unwrap_err();
    let outside = attach(&two, &network, asks(&two, 5, Ipv4Addr::new(10, 10, 0, 1))).await.unwrap_err();
    let reserve = Ipv4Addr::from_bits((base.to_bits() & !15) + 14);
    let kept = attach(&two, &network, asks(&two, 6, reserve)).await.unwrap_err();

    assert_eq!(address(&here), IpAddr::V4(near));
    assert_eq!(there.record.node, two.identity.node);
    assert!(taken.contains("taken by endpoint ct2") && taken.contains("node h1"), "{taken}");
    assert!(outside.contains("outside subnet 10.9.0.0/20"), "{outside}");
    assert!(kept.contains("kept by node h1"), "{kept}");
}

#[tokio::test(start_paused = true)]
async fn a_chosen_address_in_our_block_is_not_handed_out_again_while_it_is_seen() {
    let cluster = Cluster::new();
    let network = cluster.network(Some("10.9.0.0/20")).await;
    let (one, two) = (cluster.node(1).await, cluster.node(2).await);
    let first = attach(&one, &network, one.request(1)).await.unwrap();
    let IpAddr::V4(base) = address(&first) else { panic!("not IPv4") };
    let next = Ipv4Addr::from_bits(base.to_bits() + 1);
    let foreign = attach(&two, &network, EndpointRequest { ipv4: Some(next), ..two.request(2) }).await.unwrap();

    one.allocator.observe_endpoint(network.0, IpAddr::V4(next), Some(&foreign.record));
    let mut mine = BTreeSet::new();
    for id in 10..20 {
        mine.insert(address(&attach(&one, &network, one.request(id)).await.unwrap()));
    }

    assert!(!mine.contains(&IpAddr::V4(next)), "{mine:?}");
}

#[tokio::test(start_paused = true)]
async fn without_having_seen_it_the_commit_says_to_take_another_address() {
    let cluster = Cluster::new();
    let network = cluster.network(Some("10.9.0.0/20")).await;
    let (one, two) = (cluster.node(1).await, cluster.node(2).await);
    attach(&one, &network, one.request(1)).await.unwrap();
    let mut reserved = one.allocator.reserve(network.0, &network.1, one.request(2)).await.unwrap();
    attach(&two, &network, EndpointRequest { ipv4: reserved.record.ipv4, ..two.request(3) }).await.unwrap();

    let error = one.allocator.commit(&mut reserved, None).await.unwrap_err();
    drop(reserved);
    let again = attach(&one, &network, one.request(2)).await.unwrap();

    assert!(error.wants_another_address(), "{error}");
    assert_eq!(again.record.id, EndpointId::from_entropy(2));
}

#[tokio::test(start_paused = true)]
async fn a_released_address_rests_unless_there_is_no_other() {
    let cluster = Cluster::new();
    let node = cluster.node(1).await;
    let roomy = cluster.network(Some("10.9.0.0/20")).await;
    let tight = cluster.network(Some("10.10.0.0/30")).await;

    let first = attach(&node, &roomy, node.request(1)).await.unwrap();
    node.allocator.release(roomy.0, &first, false).await.unwrap();
    let second = attach(&node, &roomy, node.request(2)).await.unwrap();
    let only = attach(&node, &tight, node.request(3)).await.unwrap();
    node.allocator.release(tight.0, &only, false).await.unwrap();
    let again = attach(&node, &tight, node.request(4)).await.unwrap();

    assert_ne!(address(&first), address(&second));
    assert_eq!(address(&only), address(&again));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_reservation_leaves_nothing() {
    let cluster = Cluster::new();
    let (node, network) = (cluster.node(1).await, cluster.network(None).await);
    let reserved = node.allocator.reserve(network.0, &network.1, node.request(1)).await.unwrap();
    let held = |node: &Node| node.allocator.pools()[0].held.len();
    assert_eq!(held(&node), 1);

    drop(reserved);

    assert_eq!(held(&node), 0);
    assert!(cluster.stored(&Keyspace::default().endpoints(network.0)).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_asked_for_again_and_nothing_is_done_twice() {
    let faults = Faults { lost_reply: 0.4, seed: 3, ..Faults::none() };
    let cluster = Cluster::over(MemoryStore::new(faults));
    let (node, network) = (cluster.node(1).await, cluster.network(None).await);

    let mut stored = Vec::new();
    for id in 0..20 {
        stored.extend(attach(&node, &network, node.request(id)).await);
    }
    // Those that were given up are removed within minutes.
    let keys = Keyspace::default();
    let known = |text: &str| stored.iter().any(|s| text.contains(&s.record.id.to_string()));
    eventually("only acknowledged endpoints are left", || {
        let mut index = cluster.stored(&keys.endpoint_index(node.identity.node));
        // A leg comes by itself where the node has containers and is no member.
        index.retain(|key| (0..20).any(|id| key.ends_with(&EndpointId::from_entropy(id).to_string())));
        index.iter().all(|key| known(key)) && index.len() == stored.len()
    })
    .await;

    assert!(stored.len() > 10, "only {} of 20", stored.len());
}

#[tokio::test(start_paused = true)]
async fn while_the_store_is_away_an_attach_fails_in_time_and_says_so() {
    let cluster = Cluster::new();
    let (node, network) = (cluster.node(1).await, cluster.network(None).await);
    attach(&node, &network, node.request(1)).await.unwrap();
    cluster.store.client("h1").cut(Partition::Both);
    let begun = Instant::now();

    let error = attach(&node, &network, node.request(2)).await.unwrap_err();

    assert!(begun.elapsed() <= Duration::from_secs(11), "{:?}", begun.elapsed());
    assert!(error.contains("was not registered"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_draining_node_takes_nothing_on_and_gives_its_blocks_back() {
    let cluster = Cluster::new();
    let (node, network) = (cluster.node(1).await, cluster.network(None).await);
    let stored = attach(&node, &network, node.request(1)).await.unwrap();
    let fence = FenceRecord { v: 1, epoch: 1, state: FenceState::Draining, extra: BTreeMap::default() };

    cluster.overwrite(&Key::Fence(node.identity.node), &fence).await;
    node.until(|standing| matches!(standing, Standing::Draining(_))).await;
    let refused = attach(&node, &network, node.request(2)).await.unwrap_err();
    node.allocator.release(network.0, &stored, false).await.unwrap();

    assert!(refused.contains("being drained"), "{refused}");
    let keys = Keyspace::default();
    eventually("no block is left", || cluster.stored(&keys.block_index(node.identity.node)).is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_restarted_agent_hands_out_nothing_that_is_in_use() {
    let cluster = Cluster::new();
    let network = cluster.network(Some("10.9.0.0/20")).await;
    let node = cluster.node(1).await;
    let mut before = BTreeSet::new();
    for id in 0..9 {
        before.insert(address(&attach(&node, &network, node.request(id)).await.unwrap()));
    }
    let lease = node.lease();
    drop(node);

    let node = cluster.start(1, Some(lease));
    node.until(|standing| standing.token().is_some()).await;
    let mut after = BTreeSet::new();
    for id in 10..30 {
        after.insert(address(&attach(&node, &network, node.request(id)).await.unwrap()));
    }

    assert!(before.is_disjoint(&after), "{before:?} {after:?}");
    assert_eq!(after.len(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_block_is_claimed_ahead_and_a_spare_one_goes_back_after_a_while() {
    let cluster = Cluster::new();
    let network = cluster.network(Some("10.9.0.0/20")).await;
    let node = cluster.node(1).await;
    let mut stored = Vec::new();
    for id in 0..9 {
        stored.push(attach(&node, &network, node.request(id)).await.unwrap());
    }
    let keys = Keyspace::default();
    let blocks = || cluster.stored(&keys.block_index(node.identity.node)).len();

    eventually("a block is claimed ahead", || blocks() == 2).await;
    for endpoint in &stored {
        node.allocator.release(network.0, endpoint, false).await.unwrap();
    }
    eventually("a spare block goes back", || blocks() == 1).await;
    let cooling = weft_overlay::store::list_all(&cluster.store, keys.blocks(network.0), true).await.unwrap();

    assert_eq!(cooling.kvs.iter().filter(|kv| kv.lease != 0).count(), 1);
}
