//! A search for what was left behind: keys that refer to something that is not there.
//!
//! None should exist; each would stand in somebody's way for ever. Something is removed only if it was found unchanged in
//! two searches, and only under the condition that makes it useless at that revision.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnetwork::IpNetwork;
use tokio::time::Instant;
use tracing::warn;
use weft_overlay::{
    claims::Stored,
    id::{NetworkId, NodeId},
    keys::{Key, Keyspace},
    model::{BlockRecord, EndpointIndexRecord, EndpointRecord, EndpointReference, NodeReference},
    store::{Store, list_all},
    txn::{Compare, KeyValue, Op, Revision, Txn},
};

use super::{LeadError, Leader};

/// A key without a purpose, and the conditions under which that is so.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Orphan {
    key: Vec<u8>,
    why: &'static str,
    revision: Revision,
    useless_if: Vec<Compare>,
}

#[derive(Debug)]
pub(super) struct Audit {
    due: Instant,
    suspects: BTreeMap<Vec<u8>, Orphan>,
}

impl Audit {
    pub(super) fn new(due: Instant) -> Self {
        Self { due, suspects: BTreeMap::new() }
    }

    pub(super) async fn run_when_due<S: Store>(&mut self, leader: &Leader<S>) -> Result<(), LeadError> {
        if Instant::now() < self.due {
            return Ok(());
        }
        self.due = Instant::now() + leader.settings.audit_every;
        let page = list_all(&leader.store, leader.keys.all(), true).await?;
        let found = orphans(&leader.keys, &page.kvs);
        let twice = found.values().filter(|orphan| self.suspects.get(&orphan.key) == Some(*orphan));
        for orphan in twice {
            let mut compares = vec![leader.leads(), Compare::At(orphan.key.clone(), orphan.revision)];
            compares.extend(orphan.useless_if.iter().cloned());
            let txn = Txn { compares, then: vec![Op::Delete(orphan.key.clone())], or_else: Vec::new() };
            if leader.store.txn(txn).await?.succeeded {
                let key = String::from_utf8_lossy(&orphan.key).into_owned();
                warn!(key, reason = orphan.why, "removed what was left behind");
            }
        }
        self.suspects = found;
        Ok(())
    }
}

/// What of the cluster's keys refers to something that is not among them.
fn orphans(keys: &Keyspace, kvs: &[KeyValue]) -> BTreeMap<Vec<u8>, Orphan> {
    let present = Present::of(keys, kvs);
    let mut orphans = BTreeMap::new();
    for kv in kvs {
        let Ok(key) = keys.decode(&kv.key) else { continue };
        if let Some((why, useless_if)) = present.useless(keys, &key, kv) {
            let orphan = Orphan { key: kv.key.clone(), why, revision: kv.mod_revision, useless_if };
            orphans.insert(kv.key.clone(), orphan);
        }
    }
    orphans
}

/// What there is to refer to.
#[derive(Debug, Default)]
struct Present {
    fences: BTreeSet<NodeId>,
    specs: BTreeSet<NetworkId>,
    endpoints: BTreeMap<Vec<u8>, (Stored<EndpointRecord>, Revision)>,
    blocks: BTreeMap<Vec<u8>, Stored<BlockRecord>>,
    unreadable: BTreeSet<Vec<u8>>,
}

type Useless = Option<(&'static str, Vec<Compare>)>;

impl Present {
    fn of(keys: &Keyspace, kvs: &[KeyValue]) -> Self {
        let mut present = Self::default();
        for kv in kvs {
            match keys.decode(&kv.key) {
                Ok(Key::Fence(node)) => {
                    present.fences.insert(node);
                }
                Ok(Key::Spec(network)) => {
                    present.specs.insert(network);
                }
                Ok(Key::Endpoint(..)) => match Stored::decode(kv) {
                    Ok(stored) => {
                        present.endpoints.insert(kv.key.clone(), (stored, kv.mod_revision));
                    }
                    Err(_) => {
                        present.unreadable.insert(kv.key.clone());
                    }
                },
                Ok(Key::Block(..)) => {
                    present.blocks.extend(Stored::decode(kv).ok().map(|stored| (kv.key.clone(), stored)));
                }
                _ => {}
            }
        }
        present
    }

    fn useless(&self, keys: &Keyspace, key: &Key, kv: &KeyValue) -> Useless {
        match key {
            Key::Member(_, node) => self.without_node(keys, *node, "member of a network on a node that was removed"),
            Key::Vtep(_) | Key::NodeName(_) => {
                let reference = Stored::<NodeReference>::decode(kv).ok()?;
                self.without_node(keys, reference.record.node, "name or address of a node that was removed")
            }
            Key::Endpoint(network, _) => self.endpoint(keys, *network, kv),
            Key::EndpointIndex(..) => self.index(keys, key, kv),
            Key::BlockIndex(node, network, base) => {
                let block = keys.encode(&Key::Block(*network, *base));
                match self.blocks.get(&block) {
                    Some(stored) if stored.record.node == *node => None,
                    Some(stored) => Some(("index of another node's block", vec![Compare::At(block, stored.revision)])),
                    None => Some(("index of a block that does not exist", vec![Compare::Absent(block)])),
                }
            }
            Key::Block(network, base) => self.block(keys, *network, *base, kv),
            _ => None,
        }
    }

    fn without_node(&self, keys: &Keyspace, node: NodeId, why: &'static str) -> Useless {
        let gone = !self.fences.contains(&node);
        gone.then(|| (why, vec![Compare::Absent(keys.encode(&Key::Fence(node)))]))
    }

    fn endpoint(&self, keys: &Keyspace, network: NetworkId, kv: &KeyValue) -> Useless {
        if let Some((stored, _)) = self.endpoints.get(&kv.key) {
            return self.without_node(keys, stored.record.node, "endpoint on a node that was removed");
        }
        let reference = Stored::<EndpointReference>::decode(kv).ok()?.record;
        let record = keys.encode(&Key::Endpoint(network, reference.record));
        match self.endpoints.get(&record) {
            Some((stored, _)) if stored.record.id == reference.id => None,
            Some((_, revision)) => Some(("second address of another endpoint", vec![Compare::At(record, *revision)])),
            None if self.unreadable.contains(&record) => None,
            None => Some(("second address of an endpoint that does not exist", vec![Compare::Absent(record)])),
        }
    }

    fn index(&self, keys: &Keyspace, key: &Key, kv: &KeyValue) -> Useless {
        let Key::EndpointIndex(node, id) = key else { return None };
        let entry = Stored::<EndpointIndexRecord>::decode(kv).ok()?.record;
        let record = keys.encode(&Key::Endpoint(entry.network, entry.ip));
        match self.endpoints.get(&record) {
            Some((stored, _)) if (stored.record.id, stored.record.node) == (*id, *node) => None,
            Some((_, revision)) => Some(("index of another endpoint", vec![Compare::At(record, *revision)])),
            None if self.unreadable.contains(&record) => None,
            None => Some(("index of an endpoint that does not exist", vec![Compare::Absent(record)])),
        }
    }

    /// A block that cools down ends by its lease; one that is owned needs an owner and a network. One with an endpoint in
    /// it waits for the next search, so that it rests before it can be claimed again.
    fn block(&self, keys: &Keyspace, network: NetworkId, base: IpAddr, kv: &KeyValue) -> Useless {
        let stored = self.blocks.get(&kv.key)?;
        let range = keys.endpoints_in(network, IpNetwork::new(base, stored.record.len).ok()?);
        let mut inside = self.endpoints.keys().chain(&self.unreadable);
        if stored.lease != 0 || inside.any(|endpoint| range.contains(endpoint)) {
            return None;
        }
        let (why, mut useless_if) = if self.specs.contains(&network) {
            self.without_node(keys, stored.record.node, "block of a node that was removed")?
        } else {
            ("block of a network that was removed", vec![Compare::Absent(keys.encode(&Key::Spec(network)))])
        };
        useless_if.push(Compare::Empty(range));
        Some((why, useless_if))
    }
}
