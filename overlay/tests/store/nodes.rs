//! Nodes: registration, signs of life, draining, removal.

use weft_overlay::{claims::*, keys::Key, model::*};

use crate::{
    on_both_stores, outcome,
    rig::{Rig, TestStore, block, claim_block, create, endpoint, is_lease_error, register},
};

on_both_stores! {
    a_node_registers_once_and_a_repetition_finds_its_own_registration,
    names_vteps_and_ids_are_unique,
    a_put_under_an_ended_lease_voids_the_whole_registration,
    an_ended_lease_takes_the_sign_of_life_away_and_a_node_rejoins,
    a_lost_node_returns_in_the_next_epoch,
    a_node_changes_its_description_name_and_vtep,
    draining_changes_the_fence_and_voids_the_token,
    a_node_is_removed_only_when_it_is_neither_alive_nor_in_use,
    a_record_that_cannot_be_read_is_an_error_that_names_the_key,
}

async fn a_node_registers_once_and_a_repetition_finds_its_own_registration<S: TestStore>(rig: Rig<S>) {
    let lease = rig.lease(600).await;
    let claim = register(1, lease);

    let token = outcome!(rig.perform(&claim).await, NodeRegistered::Registered(token) => token);
    let again = rig.perform(&claim).await;

    assert_eq!(again, NodeRegistered::Registered(token));
    assert_eq!(token.epoch, 1);
    let fence: Stored<FenceRecord> = rig.stored(&Key::Fence(claim.node)).await.unwrap();
    assert_eq!((fence.revision, fence.record.state), (token.fence_revision, FenceState::Active));
    let live: Stored<LiveRecord> = rig.stored(&Key::Live(claim.node)).await.unwrap();
    assert_eq!(live.lease, lease);
}

async fn names_vteps_and_ids_are_unique<S: TestStore>(rig: Rig<S>) {
    let first = rig.node(1).await;
    let lease = rig.lease(600).await;

    let cloned = rig.perform(&register(1, lease)).await;
    let same_name =
        Register { record: NodeRecord { name: "h1".parse().unwrap(), ..register(2, 0).record }, ..register(2, lease) };
    let same_vtep = Register {
        record: NodeRecord { vtep: "192.0.2.1".parse().unwrap(), ..register(2, 0).record },
        ..register(2, lease)
    };

    let live = outcome!(cloned, NodeRegistered::Known { live: Some(live), fence: Some(_), .. } => live);
    assert_eq!(live.lease, first.lease);
    assert_eq!(rig.perform(&same_name).await, NodeRegistered::NameTaken { by: first.token.node });
    assert_eq!(rig.perform(&same_vtep).await, NodeRegistered::VtepTaken { by: first.token.node });
    rig.delete_raw(&Key::Node(first.token.node)).await;
    let stray = Register { record: register(2, 0).record, ..register(1, lease) };
    outcome!(rig.perform(&stray).await, NodeRegistered::LiveElsewhere(_));
}

async fn a_put_under_an_ended_lease_voids_the_whole_registration<S: TestStore>(rig: Rig<S>) {
    let lease = rig.lease(600).await;
    rig.store.revoke(lease).await.unwrap();

    let error = rig.store.txn(register(1, lease).txn(&rig.keys)).await.unwrap_err();

    assert!(is_lease_error(&error, lease), "{error:?}");
    assert_eq!(rig.list(rig.keys.all()).await, []);
}

async fn an_ended_lease_takes_the_sign_of_life_away_and_a_node_rejoins<S: TestStore>(rig: Rig<S>) {
    let short = rig.lease(5).await;
    let token = outcome!(rig.perform(&register(1, short)).await, NodeRegistered::Registered(token) => token);
    let rejoin = |lease| Rejoin { token, boot_id: "boot".to_owned(), version: "0.1.0".to_owned(), lease };
    let lease = rig.lease(600).await;

    outcome!(rig.perform(&rejoin(lease)).await, NodeRejoined::LiveElsewhere(live) => assert_eq!(live.lease, short));
    rig.gone(&Key::Live(token.node)).await;

    assert!(rig.store.keep_alive(short).await.unwrap().is_zero());
    assert_eq!(rig.perform(&rejoin(lease)).await, NodeRejoined::Alive);
    assert_eq!(rig.perform(&rejoin(lease)).await, NodeRejoined::Alive);
    assert!(rig.exists(&Key::Fence(token.node)).await, "ownership hangs on no lease");
    let void = Rejoin { token: Token { fence_revision: 1, ..token }, ..rejoin(lease) };
    outcome!(rig.perform(&void).await, NodeRejoined::Fenced(Some(fence)) => assert_eq!(fence.revision, token.fence_revision));
}

async fn a_lost_node_returns_in_the_next_epoch<S: TestStore>(rig: Rig<S>) {
    let node = rig.node(1).await;
    let leader = rig.leader().await;
    let lost = rig.lose(&node, &leader, Vec::new()).await;
    let fence = rig.stored(&Key::Fence(node.token.node)).await.unwrap();
    let lease = rig.lease(600).await;
    let (boot_id, version) = ("boot".to_owned(), "0.1.0".to_owned());
    let claim = Return { node: node.token.node, fence, boot_id: boot_id.clone(), version: version.clone(), lease };
    let rejoin = Rejoin { token: node.token, boot_id, version, lease };

    outcome!(rig.perform(&rejoin).await, NodeRejoined::Fenced(Some(fence)) => assert_eq!(fence.revision, lost));
    let token = outcome!(rig.perform(&claim).await, NodeReturned::Returned(token) => token);

    assert_eq!(token.epoch, 2);
    assert_eq!(rig.perform(&claim).await, NodeReturned::Returned(token));
    let other = Return { lease: rig.lease(600).await, ..claim.clone() };
    outcome!(rig.perform(&other).await, NodeReturned::Fenced(Some(fence)) => assert_eq!(fence.revision, token.fence_revision));
    let current = Return { fence: rig.stored(&Key::Fence(node.token.node)).await.unwrap(), ..other };
    outcome!(rig.perform(&current).await, NodeReturned::LiveElsewhere(live) => assert_eq!(live.lease, lease));
}

async fn a_node_changes_its_description_name_and_vtep<S: TestStore>(rig: Rig<S>) {
    let node = rig.node(1).await;
    let other = rig.node(2).await;
    let previous: Stored<NodeRecord> = rig.stored(&Key::Node(node.token.node)).await.unwrap();
    let update = |record: NodeRecord| UpdateNode { token: node.token, previous: previous.clone(), record };
    let record = previous.record.clone();

    let name_taken = update(NodeRecord { name: "h2".parse().unwrap(), ..record.clone() });
    let vtep_taken = update(NodeRecord { vtep: "192.0.2.2".parse().unwrap(), ..record.clone() });
    let moved =
        update(NodeRecord { name: "h9".parse().unwrap(), vtep: "192.0.2.9".parse().unwrap(), ..record.clone() });
    let fenced = UpdateNode { token: Token { fence_revision: 1, ..node.token }, ..moved.clone() };

    assert_eq!(rig.perform(&name_taken).await, NodeUpdated::NameTaken { by: other.token.node });
    assert_eq!(rig.perform(&vtep_taken).await, NodeUpdated::VtepTaken { by: other.token.node });
    outcome!(rig.perform(&fenced).await, NodeUpdated::Fenced(Some(_)));
    let revision = outcome!(rig.perform(&moved).await, NodeUpdated::Updated(revision) => revision);
    assert_eq!(rig.perform(&moved).await, NodeUpdated::Updated(revision));
    outcome!(rig.perform(&name_taken).await, NodeUpdated::Changed(Some(now)) => assert_eq!(now.revision, revision));
    assert!(!rig.exists(&Key::NodeName("h1".parse().unwrap())).await);
    assert!(rig.exists(&Key::Vtep("192.0.2.9".parse().unwrap())).await);
}

async fn draining_changes_the_fence_and_voids_the_token<S: TestStore>(rig: Rig<S>) {
    let node = rig.node(1).await;
    let network = rig.network(1).await;
    let fence: Stored<FenceRecord> = rig.stored(&Key::Fence(node.token.node)).await.unwrap();
    let drain = SetDraining::new(node.token.node, fence.clone(), true).unwrap();

    let revision = outcome!(rig.perform(&drain).await, FenceChanged::Done(revision) => revision);

    assert_eq!(rig.perform(&drain).await, FenceChanged::Done(revision));
    outcome!(rig.perform(&claim_block(&node, &network)).await, BlockClaimed::Fenced(Some(fence)) => {
        assert_eq!(fence.record.state, FenceState::Draining);
    });
    let stale = SetDraining::new(node.token.node, fence.clone(), false).unwrap();
    outcome!(rig.perform(&stale).await, FenceChanged::Changed(Some(_)));
    let lost = Stored { record: FenceRecord { state: FenceState::Lost, ..fence.record.clone() }, ..fence };
    assert_eq!(SetDraining::new(node.token.node, lost, true).unwrap_err(), ClaimError::Lost(node.token.node));
}

async fn a_node_is_removed_only_when_it_is_neither_alive_nor_in_use<S: TestStore>(rig: Rig<S>) {
    let node = rig.node(1).await;
    let network = rig.network(1).await;
    let held = rig.block(&node, &network).await;
    let id = node.token.node;
    let claim = RemoveNode {
        node: id,
        record: rig.stored(&Key::Node(id)).await.unwrap(),
        fence: rig.stored(&Key::Fence(id)).await.unwrap(),
    };

    outcome!(rig.perform(&claim).await, NodeRemoved::Alive(live) => assert_eq!(live.lease, node.lease));
    rig.store.revoke(node.lease).await.unwrap();
    outcome!(rig.perform(&claim).await, NodeRemoved::InUse(left) => {
        assert_eq!(left, [Key::BlockIndex(id, network.id, block().network())]);
    });
    let release = ReleaseBlock {
        token: node.token,
        network: network.id,
        block: block(),
        record: held,
        cooling_lease: rig.lease(600).await,
    };
    outcome!(rig.perform(&release).await, BlockReleased::Released);
    let stale = RemoveNode { fence: Stored { revision: 1, ..claim.fence.clone() }, ..claim.clone() };
    assert_eq!(rig.perform(&stale).await, NodeRemoved::Changed);
    assert_eq!(rig.perform(&claim).await, NodeRemoved::Removed);
    assert_eq!(rig.perform(&claim).await, NodeRemoved::Removed);
    for key in
        [Key::Node(id), Key::Fence(id), Key::NodeName("h1".parse().unwrap()), Key::Vtep("192.0.2.1".parse().unwrap())]
    {
        assert!(!rig.exists(&key).await, "{key:?} is left");
    }
    rig.node(1).await;
}

async fn a_record_that_cannot_be_read_is_an_error_that_names_the_key<S: TestStore>(rig: Rig<S>) {
    let node = rig.node(1).await;
    let network = rig.network(1).await;
    let key = crate::rig::endpoint_key(&network, 17);
    rig.put_raw(&key, b"{\"v\":1").await;
    let claim = create(&node, &network, endpoint(&node, 17));

    let reply = rig.store.txn(claim.txn(&rig.keys)).await.unwrap();
    let error = claim.outcome(&rig.keys, &reply).unwrap_err();

    let text = String::from_utf8(rig.keys.encode(&key)).unwrap();
    assert!(matches!(&error, ReplyError::Record { key, .. } if *key == text), "{error:?}");
}
