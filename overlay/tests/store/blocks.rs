//! Blocks: claimed by one node, given back when empty, free again after they have cooled down.

use weft_overlay::{claims::*, keys::Key, model::*};

use crate::{
    on_both_stores, outcome,
    rig::{Rig, TestStore, block, block_key, claim_block, create, endpoint, endpoint_key},
};

on_both_stores! {
    a_block_has_one_owner,
    a_block_is_given_back_only_when_empty_and_cools_down_without_anybody,
}

async fn a_block_has_one_owner<S: TestStore>(rig: Rig<S>) {
    let (node, rival) = (rig.node(1).await, rig.node(2).await);
    let network = rig.network(1).await;
    let claim = claim_block(&node, &network);

    let revision = outcome!(rig.perform(&claim).await, BlockClaimed::Claimed(revision) => revision);

    outcome!(rig.perform(&claim).await, BlockClaimed::AlreadyOurs(block) => assert_eq!(block.revision, revision));
    outcome!(rig.perform(&claim_block(&rival, &network)).await, BlockClaimed::Taken(taken) => {
        assert_eq!(taken.record.node, node.token.node);
    });
    assert!(rig.exists(&Key::BlockIndex(node.token.node, network.id, block().network())).await);
    let next = "10.32.0.32/28".parse().unwrap();
    let old_spec = ClaimBlock { spec_revision: 1, block: next, ..claim.clone() };
    outcome!(rig.perform(&old_spec).await, BlockClaimed::SpecChanged(Some(spec)) => {
        assert_eq!(spec.revision, network.spec.revision);
    });
    let fenced = ClaimBlock { token: Token { fence_revision: 1, ..node.token }, block: next, ..claim };
    outcome!(rig.perform(&fenced).await, BlockClaimed::Fenced(Some(_)));
}

async fn a_block_is_given_back_only_when_empty_and_cools_down_without_anybody<S: TestStore>(rig: Rig<S>) {
    let (node, rival) = (rig.node(1).await, rig.node(2).await);
    let network = rig.network(1).await;
    let record = rig.block(&node, &network).await;
    // Another node's static address, the block's last.
    outcome!(rig.perform(&create(&rival, &network, endpoint(&rival, 31))).await, EndpointCreated::Created(_));
    let cooling_lease = rig.lease(600).await;
    let claim = ReleaseBlock { token: node.token, network: network.id, block: block(), record, cooling_lease };

    outcome!(rig.perform(&claim).await, BlockReleased::InUse(key) => assert_eq!(key, endpoint_key(&network, 31)));
    rig.delete_raw(&endpoint_key(&network, 31)).await;
    // The first addresses after and before the block are none of its own.
    for n in [15, 32] {
        outcome!(rig.perform(&create(&rival, &network, endpoint(&rival, n))).await, EndpointCreated::Created(_));
    }
    let fenced = ReleaseBlock { token: Token { fence_revision: 1, ..node.token }, ..claim.clone() };
    outcome!(rig.perform(&fenced).await, BlockReleased::Fenced(Some(_)));
    let claim = ReleaseBlock { cooling_lease: rig.lease(5).await, ..claim };
    assert_eq!(rig.perform(&claim).await, BlockReleased::Released);
    assert_eq!(rig.perform(&claim).await, BlockReleased::Released);

    outcome!(rig.perform(&claim_block(&rival, &network)).await, BlockClaimed::Taken(taken) => {
        assert_eq!(taken.record.st, BlockState::Cooling);
    });
    outcome!(rig.perform(&claim_block(&node, &network)).await, BlockClaimed::Taken(_));
    rig.gone(&block_key(&network)).await;
    outcome!(rig.perform(&claim_block(&rival, &network)).await, BlockClaimed::Claimed(_));
    let other_lease = ReleaseBlock { cooling_lease: rig.lease(600).await, ..claim };
    outcome!(rig.perform(&other_lease).await, BlockReleased::Lost(block) => {
        assert_eq!(block.record.node, rival.token.node);
    });
}
