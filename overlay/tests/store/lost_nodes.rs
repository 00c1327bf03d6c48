//! Lost nodes: declared by the leader while there is no sign of life, shut out at once, cleaned up after.

use weft_overlay::{claims::*, id::EndpointId, keys::Key, model::*};

use crate::{
    on_both_stores, outcome,
    rig::{Network, Node, Rig, TestStore, block, block_key, claim_block, create, dual, endpoint, endpoint_key},
    samples,
};

on_both_stores! {
    a_node_is_declared_lost_only_without_a_sign_of_life,
    a_node_that_was_declared_lost_writes_nothing,
    the_endpoints_of_a_lost_node_are_reaped,
    reaping_spares_an_address_that_has_moved_to_another_node,
    an_empty_block_of_a_lost_node_cools_down_and_is_free_again,
    cleaning_up_stops_when_the_node_returns_or_the_leader_is_deposed,
    an_empty_block_is_left_alone_when_the_node_returns_or_the_leader_is_deposed,
}

async fn inhabited<S: TestStore>(rig: &Rig<S>) -> (Node, Network, Leadership, Stored<BlockRecord>) {
    let node = rig.node(1).await;
    let network = rig.network(1).await;
    let held = rig.block(&node, &network).await;
    let creation = create(&node, &network, dual(&node, 17)).in_block(block().network(), held.revision);
    outcome!(rig.perform(&creation.joining(samples::member())).await, EndpointCreated::Created(_));
    (node, network, rig.leader().await, held)
}

async fn entries<S: TestStore>(rig: &Rig<S>, network: &Network, n: u8) -> Vec<ReapedEndpoint> {
    let record: Stored<EndpointRecord> = rig.stored(&endpoint_key(network, n)).await.unwrap();
    vec![ReapedEndpoint { id: record.record.id, network: network.id, record: Some(record) }]
}

async fn come_back<S: TestStore>(rig: &Rig<S>, node: &Node) -> Token {
    let lease = rig.lease(600).await;
    let fence = rig.stored(&Key::Fence(node.token.node)).await.unwrap();
    let claim = Return { node: node.token.node, fence, boot_id: String::new(), version: String::new(), lease };
    outcome!(rig.perform(&claim).await, NodeReturned::Returned(token) => token)
}

async fn a_node_is_declared_lost_only_without_a_sign_of_life<S: TestStore>(rig: Rig<S>) {
    let (node, network, leader, _) = inhabited(&rig).await;
    let id = node.token.node;
    let fence: Stored<FenceRecord> = rig.stored(&Key::Fence(id)).await.unwrap();
    let claim = DeclareLost { leadership: leader.clone(), node: id, fence: fence.clone(), networks: vec![network.id] };

    outcome!(rig.perform(&claim).await, LostDeclared::Alive(live) => assert_eq!(live.lease, node.lease));
    rig.store.revoke(node.lease).await.unwrap();
    let deposed = DeclareLost { leadership: Leadership { create_revision: 1, ..leader }, ..claim.clone() };
    assert_eq!(rig.perform(&deposed).await, LostDeclared::NotLeader);
    let stale = DeclareLost { fence: Stored { revision: 1, ..fence }, ..claim.clone() };
    outcome!(rig.perform(&stale).await, LostDeclared::Changed(Some(_)));
    let lost = rig.perform(&claim).await;

    outcome!(&lost, LostDeclared::Lost { remaining, .. } => assert_eq!(*remaining, []));
    assert_eq!(rig.perform(&claim).await, lost);
    assert!(!rig.exists(&Key::Member(network.id, id)).await);
    assert!(rig.exists(&endpoint_key(&network, 17)).await, "endpoints are reaped later");
}

async fn a_node_that_was_declared_lost_writes_nothing<S: TestStore>(rig: Rig<S>) {
    let (node, network, leader, held) = inhabited(&rig).await;
    let stored: Stored<EndpointRecord> = rig.stored(&endpoint_key(&network, 17)).await.unwrap();
    let lost = rig.lose(&node, &leader, vec![network.id]).await;
    let next = ClaimBlock { block: "10.32.0.32/28".parse().unwrap(), ..claim_block(&node, &network) };
    let (token, id) = (node.token, network.id);
    let before = rig.list(rig.keys.all()).await;

    let creation = create(&node, &network, endpoint(&node, 18)).in_block(block().network(), held.revision);
    outcome!(rig.perform(&creation).await, EndpointCreated::Fenced(Some(fence)) => assert_eq!(fence.revision, lost));
    outcome!(rig.perform(&create(&node, &network, endpoint(&node, 200))).await, EndpointCreated::Fenced(_));
    outcome!(rig.perform(&next).await, BlockClaimed::Fenced(_));
    let delete = DeleteEndpoint { token, network: id, endpoint: stored.clone(), leave: false };
    outcome!(rig.perform(&delete).await, EndpointDeleted::Fenced(_));
    let update = UpdateEndpoint::new(token, id, &stored, EndpointRecord { epoch: 9, ..stored.record.clone() }).unwrap();
    outcome!(rig.perform(&update).await, EndpointUpdated::Fenced(_));
    let member = UpdateMember { token, network: id, spec_revision: network.spec.revision, record: samples::member() };
    outcome!(rig.perform(&member).await, MemberUpdated::Fenced(_));

    assert_eq!(rig.list(rig.keys.all()).await, before);
}

async fn the_endpoints_of_a_lost_node_are_reaped<S: TestStore>(rig: Rig<S>) {
    let (node, network, leader, _) = inhabited(&rig).await;
    let lost = rig.lose(&node, &leader, vec![network.id]).await;
    let orphan = Key::EndpointIndex(node.token.node, EndpointId::from_entropy(77));
    rig.put_raw(&orphan, b"{}").await;
    let mut entries = entries(&rig, &network, 17).await;
    entries.push(ReapedEndpoint { id: EndpointId::from_entropy(77), network: network.id, record: None });

    let claim = reap(&leader, node.token.node, lost, &entries).remove(0);

    assert_eq!(rig.perform(&claim).await, Reaping::Reaped);
    assert_eq!(rig.perform(&claim).await, Reaping::Stale);
    assert_eq!(rig.list(rig.keys.endpoints(network.id)).await, []);
    assert_eq!(rig.list(rig.keys.endpoint_index(node.token.node)).await, []);
}

async fn reaping_spares_an_address_that_has_moved_to_another_node<S: TestStore>(rig: Rig<S>) {
    let (node, network, leader, _) = inhabited(&rig).await;
    let heir = rig.node(2).await;
    let lost = rig.lose(&node, &leader, vec![network.id]).await;
    let seen = entries(&rig, &network, 17).await;
    let stored = seen[0].record.clone().unwrap();
    let record = EndpointRecord { id: EndpointId::from_entropy(99), ..dual(&heir, 17) };
    let moving = MoveEndpoint::new(heir.token, network.id, stored, lost, record).unwrap();
    outcome!(rig.perform(&moving).await, EndpointMoved::Moved(_));

    let outcome = rig.perform(&reap(&leader, node.token.node, lost, &seen)[0]).await;

    assert_eq!(outcome, Reaping::Stale);
    assert!(rig.exists(&endpoint_key(&network, 17)).await, "the new holder's endpoint was deleted");
}

async fn an_empty_block_of_a_lost_node_cools_down_and_is_free_again<S: TestStore>(rig: Rig<S>) {
    let (node, network, leader, held) = inhabited(&rig).await;
    let heir = rig.node(2).await;
    let lost = rig.lose(&node, &leader, vec![network.id]).await;
    let claim = Quarantine {
        leadership: leader.clone(),
        node: node.token.node,
        lost,
        network: network.id,
        block: (block(), held),
        cooling_lease: rig.lease(600).await,
    };

    outcome!(rig.perform(&claim).await, Quarantined::InUse(key) => assert_eq!(key, endpoint_key(&network, 17)));
    let reaping = reap(&leader, node.token.node, lost, &entries(&rig, &network, 17).await).remove(0);
    assert_eq!(rig.perform(&reaping).await, Reaping::Reaped);
    let claim = Quarantine { cooling_lease: rig.lease(5).await, ..claim };
    assert_eq!(rig.perform(&claim).await, Quarantined::Cooling);
    assert_eq!(rig.perform(&claim).await, Quarantined::Cooling);
    outcome!(rig.perform(&claim_block(&heir, &network)).await, BlockClaimed::Taken(_));
    rig.gone(&block_key(&network)).await;

    outcome!(rig.perform(&claim_block(&heir, &network)).await, BlockClaimed::Claimed(_));
    let late = Quarantine { cooling_lease: rig.lease(600).await, ..claim };
    outcome!(rig.perform(&late).await, Quarantined::Changed(block) => assert_eq!(block.record.node, heir.token.node));
    assert_eq!(rig.list(rig.keys.block_index(node.token.node)).await, []);
}

async fn cleaning_up_stops_when_the_node_returns_or_the_leader_is_deposed<S: TestStore>(rig: Rig<S>) {
    let (node, network, leader, held) = inhabited(&rig).await;
    let id = node.token.node;
    let lost = rig.lose(&node, &leader, Vec::new()).await;
    let entries = entries(&rig, &network, 17).await;
    let cooling_lease = rig.lease(600).await;
    let quarantine = |leader: &Leadership| Quarantine {
        leadership: leader.clone(),
        node: id,
        lost,
        network: network.id,
        block: (block(), held.clone()),
        cooling_lease,
    };
    let deposed = Leadership { create_revision: 1, ..leader.clone() };

    assert_eq!(rig.perform(&reap(&deposed, id, lost, &entries)[0]).await, Reaping::NotLeader);
    assert_eq!(rig.perform(&quarantine(&deposed)).await, Quarantined::NotLeader);
    assert_eq!(rig.perform(&expel_members(&deposed, id, lost, &[network.id])[0]).await, MembersExpelled::NotLeader);
    let token = come_back(&rig, &node).await;
    let member =
        UpdateMember { token, network: network.id, spec_revision: network.spec.revision, record: samples::member() };
    outcome!(rig.perform(&member).await, MemberUpdated::Updated(_));

    outcome!(rig.perform(&reap(&leader, id, lost, &entries)[0]).await, Reaping::NodeBack(Some(_)));
    outcome!(rig.perform(&quarantine(&leader)).await, Quarantined::NodeBack(Some(_)));
    outcome!(
        rig.perform(&expel_members(&leader, id, lost, &[network.id])[0]).await,
        MembersExpelled::NodeBack(Some(_))
    );
    assert!(rig.exists(&endpoint_key(&network, 17)).await);
    assert!(rig.exists(&Key::Member(network.id, id)).await);
    let again =
        rig.lose(&Node { token, lease: rig.read(&Key::Live(id)).await.unwrap().lease }, &leader, Vec::new()).await;
    assert_eq!(rig.perform(&expel_members(&leader, id, again, &[network.id])[0]).await, MembersExpelled::Done);
    assert!(!rig.exists(&Key::Member(network.id, id)).await);
}

async fn an_empty_block_is_left_alone_when_the_node_returns_or_the_leader_is_deposed<S: TestStore>(rig: Rig<S>) {
    let node = rig.node(1).await;
    let network = rig.network(1).await;
    let held = rig.block(&node, &network).await;
    let leadership = rig.leader().await;
    let lost = rig.lose(&node, &leadership, Vec::new()).await;
    let claim = Quarantine {
        leadership: leadership.clone(),
        node: node.token.node,
        lost,
        network: network.id,
        block: (block(), held.clone()),
        cooling_lease: rig.lease(600).await,
    };

    let deposed = Leadership { create_revision: 1, ..leadership };
    assert_eq!(rig.perform(&Quarantine { leadership: deposed, ..claim.clone() }).await, Quarantined::NotLeader);
    come_back(&rig, &node).await;
    outcome!(rig.perform(&claim).await, Quarantined::NodeBack(Some(_)));

    assert_eq!(rig.stored(&block_key(&network)).await, Some(held));
}
