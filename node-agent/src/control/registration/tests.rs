use std::time::Duration;

use weft_overlay::{
    keys::{Key, Keyspace},
    model::{FenceRecord, FenceState, NodeRecord},
    store::memory::Partition,
};

use super::*;
use crate::control::testing::{Cluster, Node, eventually, identity};

fn active(standing: &Standing) -> bool {
    matches!(standing, Standing::Active(_))
}

async fn fence(cluster: &Cluster, number: u8, state: FenceState, epoch: u64) {
    let record = FenceRecord { v: 1, epoch, state, extra: Default::default() };
    cluster.overwrite(&Key::Fence(identity(number).node), &record).await;
}

#[tokio::test(start_paused = true)]
async fn a_new_node_becomes_active_and_stays_so() {
    let cluster = Cluster::new();
    let node = cluster.node(1).await;
    let first = node.lease();

    tokio::time::sleep(Duration::from_secs(3600)).await;

    assert!(active(&node.registration.standing.borrow()));
    assert_eq!(node.lease(), first);
    assert!(cluster.all().iter().any(|key| key.contains("/live/")), "{:?}", cluster.all());
}

#[tokio::test(start_paused = true)]
async fn a_restart_within_the_lease_changes_nothing_in_the_store() {
    let cluster = Cluster::new();
    let node = cluster.node(1).await;
    let lease = node.lease();
    drop(node);
    tokio::time::sleep(LIVE_TTL / 2).await;
    let before = cluster.store.revision();

    let again = cluster.start(1, Some(lease));
    again.until(active).await;
    tokio::time::sleep(LIVE_TTL * 3).await;

    assert_eq!(cluster.store.revision(), before);
    assert_eq!(again.lease(), lease);
}

#[tokio::test(start_paused = true)]
async fn a_restart_without_the_lease_waits_for_its_end() {
    let cluster = Cluster::new();
    drop(cluster.node(1).await);

    let again = cluster.start(1, None);
    let waiting = again.until(|s| matches!(s, Standing::Registering { why: Obstacle::AliveElsewhere { .. } })).await;
    again.until(active).await;

    let Standing::Registering { why } = waiting else { panic!("{waiting:?}") };
    assert!(why.to_string().contains("remove the state directory"), "{why}");
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_is_replaced_under_the_same_token() {
    let cluster = Cluster::new();
    let node = cluster.node(1).await;
    let (token, lease) = (node.registration.standing.borrow().token(), node.lease());

    cluster.store.expire_lease(lease);
    eventually("another lease", || node.lease() != lease).await;

    assert_eq!(node.until(active).await.token(), token);
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_is_replaced_before_the_next_renewal_and_without_a_word_of_an_outage() {
    let cluster = Cluster::new();
    let node = cluster.node(1).await;
    let is_alive = || cluster.all().iter().any(|key| key.contains("/live/"));
    let errors = node.registration.health.borrow().last_error.clone();

    cluster.store.expire_lease(node.lease());
    let ended = Instant::now();
    assert!(!is_alive());
    eventually("a sign of life", is_alive).await;

    assert!(ended.elapsed() < Duration::from_secs(1), "after {:?}", ended.elapsed());
    assert_eq!(node.registration.health.borrow().last_error, errors);
}

#[tokio::test(start_paused = true)]
async fn a_drained_node_learns_it_and_a_lost_one_returns_with_another_epoch() {
    let cluster = Cluster::new();
    let node = cluster.node(1).await;

    fence(&cluster, 1, FenceState::Draining, 1).await;
    node.until(|standing| matches!(standing, Standing::Draining(_))).await;
    fence(&cluster, 1, FenceState::Lost, 1).await;
    cluster.store.expire_lease(node.lease());
    let returned = node.until(active).await;

    assert_eq!(returned.token().unwrap().epoch, 2);
}

#[tokio::test(start_paused = true)]
async fn name_and_vtep_of_another_node_are_refused_with_a_remedy() {
    let cluster = Cluster::new();
    let _first = cluster.node(1).await;
    let refused = |standing: &Standing| {
        matches!(standing, Standing::Registering { why: Obstacle::NameTaken { .. } | Obstacle::VtepTaken { .. } })
    };

    let same_name = NodeIdentity { name: "h1".parse().unwrap(), ..identity(2) };
    let same_vtep = NodeIdentity { vtep: identity(1).vtep, ..identity(3) };
    let name = Node::start(&cluster.store.client("h2"), same_name, None).until(refused).await;
    let vtep = Node::start(&cluster.store.client("h3"), same_vtep, None).until(refused).await;

    let text = format!("{name:?} {vtep:?}");
    let (Standing::Registering { why: name }, Standing::Registering { why: vtep }) = (name, vtep) else {
        panic!("{text}")
    };
    assert!(name.to_string().contains("--node") && name.to_string().contains("192.168.56.11"), "{name}");
    assert!(vtep.to_string().contains("--underlay") && vtep.to_string().contains("h1"), "{vtep}");
}

#[tokio::test(start_paused = true)]
async fn a_copy_of_a_running_node_is_refused_even_with_its_lease() {
    let cluster = Cluster::new();
    let original = cluster.node(1).await;
    let copy = NodeIdentity { vtep: identity(2).vtep, ..identity(1) };

    let copy = Node::start(&cluster.store.client("copy"), copy, Some(original.lease()));
    copy.until(|s| matches!(s, Standing::Registering { why: Obstacle::AliveElsewhere { .. } })).await;
    tokio::time::sleep(LIVE_TTL * 4).await;

    assert!(active(&original.registration.standing.borrow()));
    assert!(copy.registration.standing.borrow().token().is_none());
}

#[tokio::test(start_paused = true)]
async fn an_outage_leaves_the_standing_as_it_was_and_is_reported() {
    let cluster = Cluster::new();
    let node = cluster.node(1).await;
    let link = cluster.store.client("h1");

    link.cut(Partition::Both);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let during = (node.registration.standing.borrow().clone(), node.registration.health.borrow().clone());
    link.cut(Partition::None);
    eventually("the store answers", || node.registration.health.borrow().reachable).await;
    node.until(active).await;
    eventually("a sign of life", || cluster.all().iter().any(|key| key.contains("/live/"))).await;

    assert!(active(&during.0), "{during:?}");
    assert!(!during.1.reachable && during.1.last_error.is_some(), "{during:?}");
}

#[tokio::test(start_paused = true)]
async fn a_changed_description_is_stored() {
    let cluster = Cluster::new();
    let node = cluster.node(1).await;
    let route = NodeRoute { destination: "10.0.0.0/16".parse().unwrap(), dev: "eth0".to_owned() };

    node.description.send_modify(|description| description.routes.push(route.clone()));

    let key = Keyspace::default().encode(&Key::Node(identity(1).node));
    let range = KeyRange { start: key.clone(), end: [key, vec![0]].concat() };
    eventually("the route is stored", || {
        let stored = cluster.store.read_now(&range);
        let record: NodeRecord = weft_overlay::codec::decode_record(&stored[0].value).unwrap();
        record.routes == std::slice::from_ref(&route)
    })
    .await;
}
