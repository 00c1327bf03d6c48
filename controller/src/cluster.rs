//! What a controller looks at in each pass: nodes, fences, signs of life, and specifications of networks.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;
use tracing::warn;
use weft_overlay::{
    claims::Stored,
    id::{NetworkId, NodeId},
    keys::{Key, KeyRange},
    model::{FenceRecord, NetworkNameRecord, NetworkSpec, NodeRecord},
    store::Store,
    txn::{KeyValue, Op},
};

use super::{LeadError, Leader};

/// More than any range holds: everything.
pub(super) const ALL: usize = 10_000_000;

/// Keys that are read in one transaction.
pub(super) const PER_READ: usize = 100;

/// The cluster, as far as cleaning up needs to know it.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    pub(super) nodes: BTreeMap<NodeId, NodeRecord>,
    pub(super) fences: BTreeMap<NodeId, Stored<FenceRecord>>,
    pub(super) alive: BTreeSet<NodeId>,
    pub(super) networks: BTreeMap<NetworkId, Stored<NetworkSpec>>,
}

pub(super) async fn observe<S: Store>(leader: &Leader<S>) -> Result<Cluster, LeadError> {
    let keys = &leader.keys;
    let ranges = [keys.nodes(), keys.fences(), keys.lives(), keys.network_names()];
    let reply = leader.read(ranges.map(|range| Op::ReadRange(range, ALL)).to_vec()).await?;
    let mut cluster = Cluster::default();
    let mut networks = Vec::new();
    for kv in reply.reads.iter().flatten() {
        match keys.decode(&kv.key) {
            Ok(Key::Node(node)) => {
                cluster.nodes.extend(readable(kv).map(|stored: Stored<_>| (node, stored.record)));
            }
            Ok(Key::Fence(node)) => cluster.fences.extend(readable(kv).map(|fence| (node, fence))),
            Ok(Key::Live(node)) => {
                // The key alone is the sign of life, whatever its value says.
                cluster.alive.insert(node);
            }
            Ok(Key::NetworkName(_)) => {
                networks.extend(readable::<NetworkNameRecord>(kv).map(|name| name.record.id));
            }
            _ => {}
        }
    }
    for ids in networks.chunks(PER_READ) {
        let reply = leader.read(ids.iter().map(|id| Op::Read(keys.encode(&Key::Spec(*id)))).collect()).await?;
        for kv in reply.reads.iter().flatten() {
            if let Ok(Key::Spec(network)) = keys.decode(&kv.key) {
                cluster.networks.extend(readable(kv).map(|spec| (network, spec)));
            }
        }
    }
    Ok(cluster)
}

/// A record that cannot be read is left alone, with everything that depends on it.
fn readable<T: DeserializeOwned>(kv: &KeyValue) -> Option<Stored<T>> {
    match Stored::decode(kv) {
        Ok(stored) => Some(stored),
        Err(error) => {
            warn!(key = %String::from_utf8_lossy(&kv.key), error = %error, "a record cannot be read");
            None
        }
    }
}

impl<S: Store> Leader<S> {
    /// The records of a range with their keys.
    pub(super) async fn records<T, K>(
        &self,
        range: KeyRange,
        select: impl Fn(Key) -> Option<K>,
    ) -> Result<Vec<(K, Stored<T>)>, LeadError>
    where
        T: DeserializeOwned,
    {
        let page = weft_overlay::store::list_all(&self.store, range, true).await?;
        let mut records = Vec::new();
        for kv in &page.kvs {
            if let Some(key) = self.keys.decode(&kv.key).ok().and_then(&select) {
                records.push((key, self.decode(kv)?));
            }
        }
        Ok(records)
    }

    /// The record under a key among what was read.
    pub(super) fn decode<T: DeserializeOwned>(&self, kv: &KeyValue) -> Result<Stored<T>, LeadError> {
        let unreadable = |source| LeadError::Record { key: String::from_utf8_lossy(&kv.key).into_owned(), source };
        Stored::decode(kv).map_err(unreadable)
    }
}
