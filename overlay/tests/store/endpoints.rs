//! Endpoints: created once, changed and deleted by their node only, moved from a lost one.

use weft_overlay::{claims::*, id::EndpointId, keys::Key, model::*};

use crate::{
    on_both_stores, outcome,
    rig::{Rig, TestStore, block, create, dual, endpoint, endpoint_key},
    samples,
};

on_both_stores! {
    an_endpoint_is_created_with_all_its_keys_and_a_repetition_finds_it,
    an_address_has_one_holder_in_either_family,
    an_endpoint_id_is_registered_at_one_address,
    an_endpoint_needs_its_block_its_specification_and_its_token,
    a_static_address_in_anothers_block_is_decided_by_the_address_alone,
    a_burst_is_created_as_a_whole_or_not_at_all,
    an_endpoint_is_deleted_as_it_was_read,
    an_endpoint_is_rewritten_as_it_was_read,
    a_membership_is_written_for_the_present_specification,
    an_address_moves_from_a_lost_node,
}

async fn an_endpoint_is_created_with_all_its_keys_and_a_repetition_finds_it<S: TestStore>(rig: Rig<S>) {
    let node = rig.node(1).await;
    let network = rig.network(1).await;
    let held = rig.block(&node, &network).await;
    let record = dual(&node, 17);
    let claim =
        create(&node, &network, record.clone()).in_block(block().network(), held.revision).joining(samples::member());

    let revision = outcome!(rig.perform(&claim).await, EndpointCreated::Created(revision) => revision);

    let again = rig.perform(&claim).await;
    outcome!(again, EndpointCreated::AlreadyOurs(stored) => assert_eq!((stored.record, stored.revision), (record.clone(), revision)));
    let reference = rig.read(&Key::Endpoint(network.id, "fd00:1::11".parse().unwrap())).await.unwrap();
    let reference: EndpointReference = weft_overlay::codec::decode_record(&reference.value).unwrap();
    assert_eq!(reference.id, record.id);
    for key in [Key::EndpointIndex(node.token.node, record.id), Key::Member(network.id, node.token.node)] {
        assert_eq!(rig.read(&key).await.map(|kv| kv.mod_revision), Some(revision), "{key:?}");
    }
}

async fn an_address_has_one_holder_in_either_family<S: TestStore>(rig: Rig<S>) {
    let (node, rival) = (rig.node(1).await, rig.node(2).await);
    let network = rig.network(1).await;
    let holder = dual(&node, 17);
    outcome!(rig.perform(&create(&node, &network, holder.clone())).await, EndpointCreated::Created(_));
    let other = EndpointRecord { id: EndpointId::from_entropy(99), ..endpoint(&rival, 17) };
    let other6 = EndpointRecord { id: EndpointId::from_entropy(98), ipv6: holder.ipv6, ..endpoint(&rival, 18) };

    let same4 = rig.perform(&create(&rival, &network, other)).await;
    let same6 = rig.perform(&create(&rival, &network, other6)).await;

    outcome!(same4, EndpointCreated::AddressTaken { address, by: Holder::Endpoint(by) } => {
        assert_eq!((Some(address), by.record.id), (holder.primary_address(), holder.id));
    });
    outcome!(same6, EndpointCreated::AddressTaken { address, by: Holder::Reference(by) } => {
        assert_eq!((address.to_string().as_str(), by.id, Some(by.record)), ("fd00:1::11", holder.id, holder.primary_address()));
    });
    assert!(!rig.exists(&endpoint_key(&network, 18)).await, "a claim that lost one address has taken the other");
}

async fn an_endpoint_id_is_registered_at_one_address<S: TestStore>(rig: Rig<S>) {
    let node = rig.node(1).await;
    let network = rig.network(1).await;
    outcome!(rig.perform(&create(&node, &network, endpoint(&node, 17))).await, EndpointCreated::Created(_));
    let elsewhere = EndpointRecord { id: endpoint(&node, 17).id, ..endpoint(&node, 18) };

    let outcome = rig.perform(&create(&node, &network, elsewhere)).await;

    outcome!(outcome, EndpointCreated::RegisteredElsewhere(index) => assert_eq!(index.ip.to_string(), "10.32.0.17"));
}

async fn an_endpoint_needs_its_block_its_specification_and_its_token<S: TestStore>(rig: Rig<S>) {
    let node = rig.node(1).await;
    let network = rig.network(1).await;
    let held = rig.block(&node, &network).await;
    let record = endpoint(&node, 17);
    let claim = create(&node, &network, record.clone());
    let base = block().network();

    let wrong_block = rig.perform(&claim.clone().in_block(base, held.revision + 1)).await;
    let no_block = rig.perform(&claim.clone().in_block("10.32.0.32".parse().unwrap(), 1)).await;
    let old_spec = CreateEndpoint::new(node.token, network.id, 1, record.clone()).unwrap();
    let fenced = Token { fence_revision: 1, ..node.token };
    let fenced = CreateEndpoint::new(fenced, network.id, network.spec.revision, record.clone()).unwrap();

    outcome!(wrong_block, EndpointCreated::BlockLost(Some(block)) => assert_eq!(block, held));
    outcome!(no_block, EndpointCreated::BlockLost(None));
    outcome!(rig.perform(&old_spec).await, EndpointCreated::SpecChanged(Some(_)));
    outcome!(rig.perform(&fenced).await, EndpointCreated::Fenced(Some(fence)) => assert_eq!(fence.revision, node.token.fence_revision));
    assert!(!rig.exists(&endpoint_key(&network, 17)).await);
    let no_address = EndpointRecord { ipv4: None, ..record.clone() };
    let error = CreateEndpoint::new(node.token, network.id, 1, no_address).unwrap_err();
    assert_eq!(error, ClaimError::NoAddress(record.id));
}

async fn a_static_address_in_anothers_block_is_decided_by_the_address_alone<S: TestStore>(rig: Rig<S>) {
    let (owner, other) = (rig.node(1).await, rig.node(2).await);
    let network = rig.network(1).await;
    let held = rig.block(&owner, &network).await;
    let wanted = EndpointRecord { id: EndpointId::from_entropy(99), ..endpoint(&other, 20) };

    outcome!(rig.perform(&create(&other, &network, wanted)).await, EndpointCreated::Created(_));

    let own = create(&owner, &network, endpoint(&owner, 20)).in_block(block().network(), held.revision);
    outcome!(rig.perform(&own).await, EndpointCreated::AddressTaken { .. });
}

async fn a_burst_is_created_as_a_whole_or_not_at_all<S: TestStore>(rig: Rig<S>) {
    let node = rig.node(1).await;
    let network = rig.network(1).await;
    let held = rig.block(&node, &network).await;
    let claims = |numbers: std::ops::Range<u8>| {
        let claim = |n| create(&node, &network, dual(&node, n)).in_block(block().network(), held.revision);
        CreateEndpoints::grouped(&numbers.map(claim).collect::<Vec<_>>()).remove(0)
    };

    let created = rig.perform(&claims(17..22)).await;
    let overlapping = rig.perform(&claims(21..25)).await;

    outcome!(created, EndpointsCreated::Created(_));
    assert_eq!(overlapping, EndpointsCreated::Refused);
    assert!(rig.exists(&endpoint_key(&network, 21)).await);
    assert!(!rig.exists(&endpoint_key(&network, 22)).await);
    let mut singles = claims(21..23).into_singles().into_iter();
    outcome!(rig.perform(&singles.next().unwrap()).await, EndpointCreated::AlreadyOurs(_));
    outcome!(rig.perform(&singles.next().unwrap()).await, EndpointCreated::Created(_));
}

async fn an_endpoint_is_deleted_as_it_was_read<S: TestStore>(rig: Rig<S>) {
    let node = rig.node(1).await;
    let network = rig.network(1).await;
    let creation = create(&node, &network, dual(&node, 17)).joining(samples::member());
    outcome!(rig.perform(&creation).await, EndpointCreated::Created(_));
    let stored: Stored<EndpointRecord> = rig.stored(&endpoint_key(&network, 17)).await.unwrap();
    let claim = DeleteEndpoint { token: node.token, network: network.id, endpoint: stored.clone(), leave: true };

    let stale = DeleteEndpoint { endpoint: Stored { revision: 1, ..stored.clone() }, ..claim.clone() };
    outcome!(rig.perform(&stale).await, EndpointDeleted::Changed(now) => assert_eq!(*now, stored));
    let fenced = DeleteEndpoint { token: Token { fence_revision: 1, ..node.token }, ..claim.clone() };
    outcome!(rig.perform(&fenced).await, EndpointDeleted::Fenced(Some(_)));
    outcome!(rig.perform(&claim).await, EndpointDeleted::Deleted(_));

    assert_eq!(rig.perform(&claim).await, EndpointDeleted::AlreadyGone);
    assert_eq!(rig.list(rig.keys.index(node.token.node)).await, []);
    assert_eq!(rig.list(rig.keys.members(network.id)).await, []);
    assert_eq!(rig.list(rig.keys.endpoints(network.id)).await, []);
    let successor = EndpointRecord { id: EndpointId::from_entropy(99), ..endpoint(&node, 17) };
    outcome!(rig.perform(&create(&node, &network, successor)).await, EndpointCreated::Created(_));
    assert_eq!(rig.perform(&claim).await, EndpointDeleted::AlreadyGone);
    assert!(rig.exists(&endpoint_key(&network, 17)).await, "the address's next holder was deleted");
}

async fn an_endpoint_is_rewritten_as_it_was_read<S: TestStore>(rig: Rig<S>) {
    let node = rig.node(1).await;
    let network = rig.network(1).await;
    outcome!(rig.perform(&create(&node, &network, dual(&node, 17))).await, EndpointCreated::Created(_));
    let stored: Stored<EndpointRecord> = rig.stored(&endpoint_key(&network, 17)).await.unwrap();
    let renamed = |alias: &str| EndpointRecord { aliases: vec![alias.parse().unwrap()], ..stored.record.clone() };
    let update = |token, record| UpdateEndpoint::new(token, network.id, &stored, record).unwrap();

    let fenced = Token { fence_revision: 1, ..node.token };
    outcome!(rig.perform(&update(fenced, renamed("web"))).await, EndpointUpdated::Fenced(Some(_)));
    let revision = outcome!(rig.perform(&update(node.token, renamed("web"))).await, EndpointUpdated::Updated(revision) => revision);
    assert_eq!(rig.perform(&update(node.token, renamed("web"))).await, EndpointUpdated::Updated(revision));
    outcome!(rig.perform(&update(node.token, renamed("db"))).await, EndpointUpdated::Changed(now) => assert_eq!(now.revision, revision));
    rig.delete_raw(&endpoint_key(&network, 17)).await;
    assert_eq!(rig.perform(&update(node.token, renamed("db"))).await, EndpointUpdated::Gone);

    let other_address = EndpointRecord { ipv6: None, ..stored.record.clone() };
    let error = UpdateEndpoint::new(node.token, network.id, &stored, other_address).unwrap_err();
    assert_eq!(error, ClaimError::Identity { id: stored.record.id, what: "addresses" });
}

async fn a_membership_is_written_for_the_present_specification<S: TestStore>(rig: Rig<S>) {
    let node = rig.node(1).await;
    let network = rig.network(1).await;
    let (token, id, record) = (node.token, network.id, samples::member());
    let claim = UpdateMember { token, network: id, spec_revision: network.spec.revision, record };

    outcome!(rig.perform(&claim).await, MemberUpdated::Updated(_));
    outcome!(rig.perform(&claim).await, MemberUpdated::Updated(_));
    let old = UpdateMember { spec_revision: 1, ..claim.clone() };
    outcome!(rig.perform(&old).await, MemberUpdated::SpecChanged(Some(_)));
    let fenced = UpdateMember { token: Token { fence_revision: 1, ..token }, ..claim.clone() };
    outcome!(rig.perform(&fenced).await, MemberUpdated::Fenced(Some(_)));
    rig.delete_raw(&Key::Spec(id)).await;
    outcome!(rig.perform(&claim).await, MemberUpdated::SpecChanged(None));
}

async fn an_address_moves_from_a_lost_node<S: TestStore>(rig: Rig<S>) {
    let (old, new) = (rig.node(1).await, rig.node(2).await);
    let network = rig.network(1).await;
    let leader = rig.leader().await;
    outcome!(rig.perform(&create(&old, &network, dual(&old, 17))).await, EndpointCreated::Created(_));
    let stored: Stored<EndpointRecord> = rig.stored(&endpoint_key(&network, 17)).await.unwrap();
    let record = EndpointRecord { id: EndpointId::from_entropy(99), ..dual(&new, 17) };
    let claim = |token, fence| MoveEndpoint::new(token, network.id, stored.clone(), fence, record.clone()).unwrap();

    let lost = rig.lose(&old, &leader, Vec::new()).await;
    outcome!(rig.perform(&claim(new.token, old.token.fence_revision)).await, EndpointMoved::HolderBack(Some(fence)) => {
        assert_eq!(fence.revision, lost);
    });
    outcome!(rig.perform(&claim(Token { fence_revision: 1, ..new.token }, lost)).await, EndpointMoved::Fenced(Some(_)));
    let moving = claim(new.token, lost).joining(samples::member());
    let revision = outcome!(rig.perform(&moving).await, EndpointMoved::Moved(revision) => revision);

    assert_eq!(rig.perform(&moving).await, EndpointMoved::Moved(revision));
    assert_eq!(rig.list(rig.keys.index(old.token.node)).await, []);
    assert!(rig.exists(&Key::EndpointIndex(new.token.node, record.id)).await);
    assert!(rig.exists(&Key::Member(network.id, new.token.node)).await);
    let third = rig.node(3).await;
    let late = EndpointRecord { id: EndpointId::from_entropy(98), ..dual(&third, 17) };
    let late = MoveEndpoint::new(third.token, network.id, stored.clone(), lost, late).unwrap();
    outcome!(rig.perform(&late).await, EndpointMoved::Changed(Some(now)) => assert_eq!(now.record.node, new.token.node));
}
