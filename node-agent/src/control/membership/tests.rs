use weft_overlay::{
    keys::Keyspace,
    model::{FenceRecord, FenceState},
    store::Store,
    txn::{Op, Txn},
};

use super::*;
use crate::control::testing::{Cluster, Node, eventually};

fn members(cluster: &Cluster, network: NetworkId) -> usize {
    cluster.stored(&Keyspace::default().members(network)).len()
}

fn endpoints(cluster: &Cluster, node: &Node) -> usize {
    cluster.stored(&Keyspace::default().endpoint_index(node.identity.node)).len()
}

async fn attach(node: &Node, network: NetworkId, spec: &Stored<NetworkSpec>, id: u64) -> Stored<EndpointRecord> {
    let mut reserved = node.allocator.reserve(network, spec, node.request(id)).await.unwrap();
    let revision = node.allocator.commit(&mut reserved, None).await.unwrap();
    Stored { record: reserved.record.clone(), revision, lease: 0 }
}

/// What the controller does to a node that was away: everything of it goes in few revisions.
async fn lose(cluster: &Cluster, node: &Node, network: NetworkId) {
    let keys = Keyspace::default();
    let fence = FenceRecord { v: 1, epoch: 1, state: FenceState::Lost, extra: BTreeMap::new() };
    cluster.store.expire_lease(node.lease());
    cluster.overwrite(&Key::Fence(node.identity.node), &fence).await;
    let ranges = [keys.members(network), keys.endpoints(network), keys.index(node.identity.node), keys.blocks(network)];
    let then = ranges.map(Op::DeleteRange).to_vec();
    cluster.store.txn(Txn { then, ..Txn::default() }).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn joins_with_a_leg_in_one_revision_and_once() {
    let cluster = Cluster::new();
    let (node, (network, spec)) = (cluster.node(1).await, cluster.network(None).await);

    let (one, two) = tokio::join!(node.membership.join(network, &spec), node.membership.join(network, &spec));

    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.leg, two.leg);
    assert_eq!(one.leg.record.kind, EndpointKind::Leg);
    assert_eq!(one.leg.record.name.as_str(), "gateway-h1");
    let keys = Keyspace::default();
    let member = cluster.store.read_now(&keys.members(network))[0].create_revision;
    assert_eq!(member, one.leg.revision);
    assert_eq!(endpoints(&cluster, &node), 1);
}

#[tokio::test(start_paused = true)]
async fn stays_while_a_container_is_there_and_leaves_soon_after_the_last() {
    let cluster = Cluster::new();
    let (node, (network, spec)) = (cluster.node(1).await, cluster.network(None).await);
    let stay = node.membership.join(network, &spec).await.unwrap();
    node.membership.set_in_use(network, true);
    drop(stay);

    tokio::time::sleep(LINGER * 10).await;
    assert_eq!(members(&cluster, network), 1);
    node.membership.set_in_use(network, false);
    tokio::time::sleep(LINGER / 2).await;
    assert_eq!(members(&cluster, network), 1);
    tokio::time::sleep(LINGER).await;

    assert_eq!(members(&cluster, network), 0);
    assert_eq!(endpoints(&cluster, &node), 0);
}

#[tokio::test(start_paused = true)]
async fn a_restarted_agent_keeps_its_legs_until_it_is_told_that_nothing_is_there() {
    let cluster = Cluster::new();
    let (node, (network, spec)) = (cluster.node(1).await, cluster.network(None).await);
    node.membership.set_in_use(network, true);
    let leg = node.membership.join(network, &spec).await.unwrap().leg.clone();
    let lease = node.lease();
    drop(node);

    let node = cluster.start(1, Some(lease));
    node.until(|standing| standing.token().is_some()).await;
    tokio::time::sleep(LINGER * 10).await;
    let joined = node.membership.joined().await.unwrap();

    assert_eq!(joined[&network].leg, leg);
    node.membership.set_in_use(network, false);
    eventually("it has left", || members(&cluster, network) == 0).await;
}

#[tokio::test(start_paused = true)]
async fn peers_are_told_of_a_new_mtu() {
    let cluster = Cluster::new();
    let (node, (network, spec)) = (cluster.node(1).await, cluster.network(None).await);
    let _stay = node.membership.join(network, &spec).await.unwrap();

    node.mtu.send_replace(1400);

    let range = Keyspace::default().members(network);
    eventually("the MTU is stored", || {
        let stored = cluster.store.read_now(&range);
        let member: MemberRecord = weft_overlay::codec::decode_record(&stored[0].value).unwrap();
        member.underlay_mtu == 1400
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_lost_gets_back_what_it_had_at_the_same_addresses() {
    let cluster = Cluster::new();
    let (node, (network, spec)) = (cluster.node(1).await, cluster.network(None).await);
    node.membership.set_in_use(network, true);
    let leg = node.membership.join(network, &spec).await.unwrap().leg.clone();
    let container = attach(&node, network, &spec, 1).await;

    lose(&cluster, &node, network).await;
    node.until(|standing| standing.token().is_some_and(|token| token.epoch == 2)).await;
    let recovered = node.membership.recover(&[(network, container.record.clone())]).await.unwrap();

    let [Recovered { outcome: RecoveryOutcome::Kept(kept), .. }] = recovered.as_slice() else {
        panic!("{recovered:?}")
    };
    assert_eq!(kept.record, EndpointRecord { epoch: 2, ..container.record });
    let now = node.membership.joined().await.unwrap()[&network].leg.record.clone();
    assert_eq!(now, EndpointRecord { epoch: 2, ..leg.record });
    assert_eq!(members(&cluster, network), 1);
}

#[tokio::test(start_paused = true)]
async fn an_address_that_went_to_another_node_meanwhile_is_not_fought_over() {
    let cluster = Cluster::new();
    let (one, two) = (cluster.node(1).await, cluster.node(2).await);
    let (network, spec) = cluster.network(None).await;
    one.membership.set_in_use(network, true);
    drop(one.membership.join(network, &spec).await.unwrap());
    let container = attach(&one, network, &spec, 1).await;

    lose(&cluster, &one, network).await;
    let request = EndpointRequest { ipv4: container.record.ipv4, ..two.request(2) };
    let mut reserved = two.allocator.reserve(network, &spec, request).await.unwrap();
    two.allocator.commit(&mut reserved, None).await.unwrap();
    one.until(|standing| standing.token().is_some_and(|token| token.epoch == 2)).await;
    let recovered = one.membership.recover(&[(network, container.record.clone())]).await.unwrap();

    let [Recovered { outcome: RecoveryOutcome::Renumbered(now), .. }] = recovered.as_slice() else {
        panic!("{recovered:?}")
    };
    assert_ne!(now.record.ipv4, container.record.ipv4);
    assert_eq!(now.record.id, container.record.id);
}
