//! Networks: created when name, VNI and id are free; deleted when nobody uses them, or by force.

use weft_overlay::{claims::*, id::NetworkId, keys::Key, model::*};

use crate::{
    on_both_stores, outcome,
    rig::{Network, Rig, TestStore, block, block_key, create, dual, endpoint, endpoint_key, network},
    samples,
};

on_both_stores! {
    a_network_is_created_once,
    a_network_in_use_is_not_deleted_and_says_who_uses_it,
    a_network_with_nothing_but_known_legs_is_deleted_and_one_with_anything_else_is_not,
    beginning_to_delete_a_network_voids_claims_of_its_old_specification,
    a_network_ends_when_nothing_is_left_in_it_and_its_vni_cools_down,
}

async fn a_network_is_created_once<S: TestStore>(rig: Rig<S>) {
    let first = rig.network(1).await;
    let (id, spec) = network(1);
    let other = NetworkId::from_entropy(99);
    let renamed = NetworkSpec { name: "other".parse().unwrap(), ..spec.clone() };
    let new_vni = NetworkSpec { vni: "80000".parse().unwrap(), ..renamed.clone() };

    let again = rig.perform(&CreateNetwork { network: id, spec: spec.clone() }).await;
    let same_name = rig.perform(&CreateNetwork { network: other, spec }).await;
    let same_vni = rig.perform(&CreateNetwork { network: other, spec: renamed }).await;
    let same_id = rig.perform(&CreateNetwork { network: id, spec: new_vni }).await;

    assert_eq!(again, NetworkCreated::Created(first.spec.revision));
    outcome!(same_name, NetworkCreated::NameTaken(taken) => assert_eq!(taken.record.id, id));
    assert_eq!(same_vni, NetworkCreated::VniTaken(Some(id)));
    outcome!(same_id, NetworkCreated::IdTaken(spec) => assert_eq!(spec, first.spec));
}

async fn a_network_in_use_is_not_deleted_and_says_who_uses_it<S: TestStore>(rig: Rig<S>) {
    let node = rig.node(1).await;
    let network = rig.network(1).await;
    let used = dual(&node, 17);
    let revision = outcome!(rig.perform(&create(&node, &network, used.clone())).await, EndpointCreated::Created(revision) => revision);
    let used = Stored { record: used, revision, lease: 0 };
    let claim = BeginDeleteNetwork { network: network.id, spec: network.spec.clone(), force: false, legs: Vec::new() };

    assert_eq!(rig.perform(&claim).await, DeletionBegun::InUse(vec![used]));
    let forced = BeginDeleteNetwork { force: true, ..claim.clone() };
    let revision = outcome!(rig.perform(&forced).await, DeletionBegun::Deleting(revision) => revision);

    let spec: Stored<NetworkSpec> = rig.stored(&Key::Spec(network.id)).await.unwrap();
    assert_eq!((spec.record.state, spec.record.force_delete), (NetworkState::Deleting, true));
    assert_eq!(rig.perform(&forced).await, DeletionBegun::Deleting(revision));
    outcome!(rig.perform(&claim).await, DeletionBegun::Changed(Some(now)) => assert_eq!(now, spec));
}

async fn a_network_with_nothing_but_known_legs_is_deleted_and_one_with_anything_else_is_not<S: TestStore>(rig: Rig<S>) {
    let node = rig.node(1).await;
    let network = rig.network(1).await;
    let mut legs = Vec::new();
    for n in [17, 19] {
        let record = EndpointRecord { kind: EndpointKind::Leg, ..dual(&node, n) };
        let created = rig.perform(&create(&node, &network, record.clone())).await;
        let revision = outcome!(created, EndpointCreated::Created(revision) => revision);
        legs.push(Stored { record, revision, lease: 0 });
    }
    let claim =
        BeginDeleteNetwork { network: network.id, spec: network.spec.clone(), force: false, legs: legs.clone() };
    let ignorant = BeginDeleteNetwork { legs: legs[..1].to_vec(), ..claim.clone() };
    outcome!(rig.perform(&ignorant).await, DeletionBegun::InUse(users) => assert_eq!(users, legs));
    for between in [16, 18, 20] {
        outcome!(rig.perform(&create(&node, &network, endpoint(&node, between))).await, EndpointCreated::Created(_));
        outcome!(rig.perform(&claim).await, DeletionBegun::InUse(users) => assert_eq!(users.len(), 3));
        rig.delete_raw(&endpoint_key(&network, between)).await;
    }

    outcome!(rig.perform(&claim).await, DeletionBegun::Deleting(_));

    let spec: Stored<NetworkSpec> = rig.stored(&Key::Spec(network.id)).await.unwrap();
    assert_eq!((spec.record.state, spec.record.force_delete), (NetworkState::Deleting, false));
}

async fn beginning_to_delete_a_network_voids_claims_of_its_old_specification<S: TestStore>(rig: Rig<S>) {
    let node = rig.node(1).await;
    let network = rig.network(1).await;
    let claim = BeginDeleteNetwork { network: network.id, spec: network.spec.clone(), force: false, legs: Vec::new() };

    outcome!(rig.perform(&claim).await, DeletionBegun::Deleting(_));

    outcome!(rig.perform(&create(&node, &network, endpoint(&node, 17))).await, EndpointCreated::SpecChanged(Some(spec)) => {
        assert_eq!(spec.record.state, NetworkState::Deleting);
    });
    outcome!(rig.perform(&crate::rig::claim_block(&node, &network)).await, BlockClaimed::SpecChanged(Some(_)));
}

async fn a_network_ends_when_nothing_is_left_in_it_and_its_vni_cools_down<S: TestStore>(rig: Rig<S>) {
    let node = rig.node(1).await;
    let network = rig.network(1).await;
    rig.block(&node, &network).await;
    let creation = create(&node, &network, endpoint(&node, 17)).joining(samples::member());
    outcome!(rig.perform(&creation).await, EndpointCreated::Created(_));
    let begin = BeginDeleteNetwork { network: network.id, spec: network.spec.clone(), force: true, legs: Vec::new() };
    outcome!(rig.perform(&begin).await, DeletionBegun::Deleting(_));
    let spec: Stored<NetworkSpec> = rig.stored(&Key::Spec(network.id)).await.unwrap();
    let leader = rig.leader().await;
    let blocks = [NetworkBlock { base: block().network(), node: node.token.node }];
    let unused_lease = rig.lease(600).await;
    let finish = |leader: &Leadership, spec: &Stored<NetworkSpec>| {
        finish_delete_network(leader, network.id, spec, &blocks, unused_lease).remove(0)
    };

    outcome!(rig.perform(&finish(&leader, &spec)).await, DeletionFinished::InUse(key) => assert_eq!(key, endpoint_key(&network, 17)));
    rig.delete_raw(&endpoint_key(&network, 17)).await;
    let member = Key::Member(network.id, node.token.node);
    outcome!(rig.perform(&finish(&leader, &spec)).await, DeletionFinished::InUse(key) => assert_eq!(key, member));
    rig.delete_raw(&member).await;
    outcome!(rig.perform(&finish(&leader, &network.spec)).await, DeletionFinished::Changed(now) => assert_eq!(now, spec));
    let deposed = Leadership { create_revision: 1, ..leader.clone() };
    assert_eq!(rig.perform(&finish(&deposed, &spec)).await, DeletionFinished::NotLeader);
    let vni_lease = rig.lease(5).await;
    let last = finish_delete_network(&leader, network.id, &spec, &blocks, vni_lease).remove(0);
    assert_eq!(rig.perform(&last).await, DeletionFinished::Done);

    let (id, spec_again) = crate::rig::network(1);
    let again = CreateNetwork { network: NetworkId::from_entropy(2), spec: spec_again };
    assert_eq!(rig.perform(&again).await, NetworkCreated::VniTaken(None));
    nothing_is_left(&rig, &network, node.token).await;
    rig.gone(&Key::Vni(spec.record.vni)).await;
    outcome!(rig.perform(&again).await, NetworkCreated::Created(_));
    assert_ne!(again.network, id);
    assert_eq!(rig.perform(&finish(&leader, &spec)).await, DeletionFinished::Done);
}

async fn nothing_is_left<S: TestStore>(rig: &Rig<S>, network: &Network, token: Token) {
    for key in [
        Key::Spec(network.id),
        Key::NetworkName(network.spec.record.name.clone()),
        block_key(network),
        Key::BlockIndex(token.node, network.id, block().network()),
    ] {
        assert!(!rig.exists(&key).await, "{key:?} is left");
    }
}
