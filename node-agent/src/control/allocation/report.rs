//! Who holds what: the report of an exhausted network, and the state of this node's pools for people.

use std::{collections::BTreeMap, net::IpAddr};

use serde::Serialize;
use weft_ipam::{Exhaustion, OwnerUsage};
use weft_overlay::{
    id::{EndpointId, NetworkId, NodeId},
    keys::Key,
    model::{BlockRecord, BlockState, EndpointRecord, NodeRecord},
    store::Store,
};

use super::{AllocationError, Allocator, Book, NetworkBook, Place};

/// What this node may hand out in one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PoolReport {
    /// The network.
    pub network: NetworkId,
    /// The node's blocks.
    pub blocks: Vec<String>,
    /// Addresses that can be handed out at once.
    pub free: usize,
    /// Addresses that were released a short time ago.
    pub cooling: usize,
    /// Addresses in the node's blocks that endpoints of other nodes have.
    pub foreign: usize,
    /// Addresses with the endpoints that hold them.
    pub held: BTreeMap<IpAddr, EndpointId>,
}

impl<S: Store> Allocator<S> {
    /// What the node may hand out, per network that it has used since it started.
    pub fn pools(&self) -> Vec<PoolReport> {
        let networks = self.inner.networks.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let now = self.now();
        let report = |(network, entry): (NetworkId, std::sync::Arc<NetworkBook>)| {
            entry.with(|book| {
                let counts = book.counts(now);
                PoolReport {
                    network,
                    blocks: book.blocks().map(|(block, _)| block.to_string()).collect(),
                    free: counts.free,
                    cooling: counts.cooling,
                    foreign: counts.foreign,
                    held: book.holds().iter().map(|(ip, hold)| (*ip, hold.id)).collect(),
                }
            })
        };
        networks.into_iter().filter_map(report).collect()
    }

    /// Who holds what in a network that has no address left.
    pub(super) async fn exhausted(
        &self,
        place: &Place<'_>,
        entry: &NetworkBook,
    ) -> Result<AllocationError, AllocationError> {
        let client = &self.inner.client;
        let keys = client.keys();
        let blocks = client.list(keys.blocks(place.network), place.deadline).await?;
        let blocks = client.records::<BlockRecord, _>(&blocks, |key| match key {
            Key::Block(_, base) => Some(base),
            _ => None,
        })?;
        let nodes = client.list(keys.nodes(), place.deadline).await?;
        let names = client.records::<NodeRecord, _>(&nodes, |key| match key {
            Key::Node(node) => Some(node),
            _ => None,
        })?;
        let names: BTreeMap<NodeId, String> =
            names.into_iter().map(|(node, stored)| (node, stored.record.name.to_string())).collect();
        let page = client.list(keys.endpoints(place.network), place.deadline).await?;
        let primary_is_v4 = place.spec.record.subnet4().is_some();
        let endpoints: Vec<EndpointRecord> = client
            .records::<serde_json::Value, _>(&page, |key| match key {
                Key::Endpoint(_, ip) => (ip.is_ipv4() == primary_is_v4).then_some(ip),
                _ => None,
            })?
            .into_iter()
            .filter_map(|(_, stored)| serde_json::from_value(stored.record).ok())
            .collect();
        let resting = blocks.iter().filter(|(_, stored)| stored.record.st == BlockState::Cooling).count();
        let owned: Vec<(IpAddr, BlockRecord)> = blocks
            .into_iter()
            .filter(|(_, stored)| stored.record.st == BlockState::Owned)
            .map(|(base, stored)| (base, stored.record))
            .collect();
        let report = entry.with(|book| {
            let usage = usage(book, &owned, &endpoints, &names, (self.inner.node, self.now()));
            Exhaustion::new(&book.shape().layout, &book.shape().reserved, resting, usage)
        });
        Ok(match report {
            Some(report) => AllocationError::Exhausted(Box::new(report)),
            None => AllocationError::NetworkChanged(place.spec.record.name.clone()),
        })
    }
}

fn usage(
    book: &Book,
    blocks: &[(IpAddr, BlockRecord)],
    endpoints: &[EndpointRecord],
    names: &BTreeMap<NodeId, String>,
    (this, now): (NodeId, std::time::Duration),
) -> Vec<OwnerUsage> {
    let shape = book.shape();
    let mut owners: BTreeMap<NodeId, OwnerUsage> = BTreeMap::new();
    let blank = |node: &NodeId| OwnerUsage {
        owner: names.get(node).cloned().unwrap_or_else(|| node.to_string()),
        blocks: 0,
        held: 0,
        free: 0,
        cooling: (*node == this).then(|| book.counts(now).cooling),
    };
    for endpoint in endpoints {
        owners.entry(endpoint.node).or_insert_with(|| blank(&endpoint.node)).held += 1;
    }
    for (base, record) in blocks {
        let Some(block) = shape.layout.block_of(*base) else { continue };
        let inside = endpoints.iter().filter(|e| e.primary_address().is_some_and(|ip| block.contains(ip))).count();
        let usable = (block.size() as usize).saturating_sub(shape.reserved.count_in(block.network()));
        let owner = owners.entry(record.node).or_insert_with(|| blank(&record.node));
        owner.blocks += 1;
        owner.free += usable.saturating_sub(inside);
    }
    owners.into_values().collect()
}
