//! The end of networks that are being removed, once no member and no endpoint is left in them.

use tracing::info;
use weft_overlay::{
    claims::{DeletionFinished, NetworkBlock, finish_delete_network},
    keys::Key,
    model::{BlockRecord, NetworkState},
    store::Store,
    txn::Op,
};

use super::{LeadError, Leader, VNI_COOLDOWN, cluster::Cluster};

pub(super) async fn finish_deletions<S: Store>(leader: &Leader<S>, cluster: &Cluster) -> Result<(), LeadError> {
    for (network, spec) in &cluster.networks {
        if spec.record.state != NetworkState::Deleting {
            continue;
        }
        let ranges = [leader.keys.endpoints(*network), leader.keys.members(*network)];
        let reply = leader.read(ranges.map(|range| Op::ReadRange(range, 1)).to_vec()).await?;
        if reply.reads.iter().any(|read| !read.is_empty()) {
            continue;
        }
        let blocks = leader
            .records::<BlockRecord, _>(leader.keys.blocks(*network), |key| match key {
                Key::Block(_, base) => Some(base),
                _ => None,
            })
            .await?;
        let blocks: Vec<NetworkBlock> =
            blocks.into_iter().map(|(base, stored)| NetworkBlock { base, node: stored.record.node }).collect();
        let lease = leader.store.grant(VNI_COOLDOWN).await?.id;
        for step in finish_delete_network(&leader.leadership, *network, spec, &blocks, lease) {
            match leader.submit(&step).await? {
                DeletionFinished::Done => {}
                DeletionFinished::NotLeader => return Err(LeadError::NotLeader),
                DeletionFinished::InUse(_) | DeletionFinished::Changed(_) => break,
            }
        }
        info!(%network, name = %spec.record.name, "removed what was left of a network");
    }
    Ok(())
}
