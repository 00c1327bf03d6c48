//! Taking away what a lost node has: memberships, endpoints, then blocks.
//!
//! Done in every pass for every lost node until nothing is left, so that a leader which died on the way is made up for.
//! Every write compares the fence as it was read: where the node comes back, cleaning up stops.

use ipnetwork::IpNetwork;
use tracing::{debug, info};
use weft_overlay::{
    claims::{Claim, Quarantine, Quarantined, ReapedEndpoint, Reaping, Stored, reap},
    id::NodeId,
    keys::Key,
    model::{BlockRecord, BlockState, EndpointIndexRecord, EndpointRecord, FenceState},
    store::Store,
    txn::{Compare, Op, Revision},
};

use super::{
    BLOCK_COOLDOWN, LeadError, Leader,
    cluster::{Cluster, PER_READ},
    fencing::{expel, memberships},
};

pub(super) async fn reap_lost<S: Store>(leader: &Leader<S>, cluster: &Cluster) -> Result<(), LeadError> {
    for (node, fence) in &cluster.fences {
        if fence.record.state == FenceState::Lost {
            let members = memberships(leader, cluster, *node).await?;
            expel(leader, *node, fence.revision, &members).await?;
            reap_endpoints(leader, *node, fence.revision).await?;
            quarantine_blocks(leader, *node, fence.revision).await?;
        }
    }
    Ok(())
}

async fn reap_endpoints<S: Store>(leader: &Leader<S>, node: NodeId, lost: Revision) -> Result<(), LeadError> {
    let index = leader
        .records::<EndpointIndexRecord, _>(leader.keys.endpoint_index(node), |key| match key {
            Key::EndpointIndex(_, id) => Some(id),
            _ => None,
        })
        .await?;
    for entries in index.chunks(PER_READ) {
        let key = |entry: &EndpointIndexRecord| leader.keys.encode(&Key::Endpoint(entry.network, entry.ip));
        let reply = leader.read(entries.iter().map(|(_, entry)| Op::Read(key(&entry.record))).collect()).await?;
        let mut endpoints = Vec::new();
        for (id, entry) in entries {
            let found = reply.found(&key(&entry.record)).map(|kv| leader.decode::<EndpointRecord>(kv)).transpose()?;
            let record = found.filter(|stored| stored.record.id == *id && stored.record.node == node);
            endpoints.push(ReapedEndpoint { id: *id, network: entry.record.network, record });
        }
        for claim in reap(&leader.leadership, node, lost, &endpoints) {
            match leader.submit(&claim).await? {
                Reaping::Reaped => info!(%node, "removed endpoints of a lost node"),
                Reaping::NotLeader => return Err(LeadError::NotLeader),
                Reaping::NodeBack(_) => return Ok(()),
                Reaping::Stale => debug!(%node, "endpoints of a lost node changed; reading again in the next pass"),
            }
        }
    }
    Ok(())
}

async fn quarantine_blocks<S: Store>(leader: &Leader<S>, node: NodeId, lost: Revision) -> Result<(), LeadError> {
    let page = weft_overlay::store::list_all(&leader.store, leader.keys.block_index(node), true).await?;
    let index: Vec<_> = page
        .kvs
        .iter()
        .filter_map(|kv| match leader.keys.decode(&kv.key) {
            Ok(Key::BlockIndex(_, network, base)) => Some((network, base)),
            _ => None,
        })
        .collect();
    if index.is_empty() {
        return Ok(());
    }
    let cooling_lease = leader.store.grant(BLOCK_COOLDOWN).await?.id;
    for (network, base) in index {
        let key = leader.keys.encode(&Key::Block(network, base));
        let reply = leader.read(vec![Op::Read(key.clone())]).await?;
        let Some(kv) = reply.found(&key) else { continue };
        let record: Stored<BlockRecord> = leader.decode(kv)?;
        let Ok(block) = IpNetwork::new(base, record.record.len) else { continue };
        if record.record.node != node || record.record.st == BlockState::Cooling {
            continue;
        }
        let leadership = leader.leadership.clone();
        let claim = Quarantine { leadership, node, lost, network, block: (block, record), cooling_lease };
        match leader.submit(&claim).await? {
            Quarantined::Cooling => info!(%node, %network, %block, "took a block from a lost node"),
            Quarantined::NotLeader => return Err(LeadError::NotLeader),
            Quarantined::NodeBack(_) => return Ok(()),
            Quarantined::InUse(_) => quarantine_around_others(leader, &claim).await?,
            Quarantined::Changed(_) => debug!(%node, %network, %block, "a block of a lost node has changed"),
        }
    }
    Ok(())
}

/// Takes a block in which only endpoints of other nodes are left, at addresses that their users chose. They would keep
/// the lost node's name and VTEP occupied for as long as they live, and need the block for nothing: whoever claims it
/// next finds them in it. That none of the lost node's own is left is the condition, by its empty index.
async fn quarantine_around_others<S: Store>(leader: &Leader<S>, refused: &Quarantine) -> Result<(), LeadError> {
    let keys = &leader.keys;
    let Quarantine { node, network, block: (block, _), .. } = refused;
    let mut txn = refused.txn(keys);
    let own = Compare::Empty(keys.endpoint_index(*node));
    for compare in &mut txn.compares {
        if matches!(compare, Compare::Empty(_)) {
            *compare = own.clone();
        }
    }
    if leader.store.txn(txn).await?.succeeded {
        info!(%node, %network, %block, "took a block from a lost node, with endpoints of other nodes in it");
    }
    Ok(())
}
