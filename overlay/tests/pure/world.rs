//! A store, the view of one node on it, and what its kernel holds, driven as the agent drives them.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use weft_overlay::{
    codec::encode_record,
    id::NetworkId,
    kernel::{KernelState, NetworkObject, ObjectId, Step},
    keys::{Key, Keyspace},
    plan::{Plan, plan, plan_everything},
    txn::{KeyValue, Revision},
    view::{Knowledge, NodeView},
};

use crate::builder::{empty_view, raw};

/// What the store says of one key.
#[derive(Debug, Clone)]
pub(crate) enum Said {
    Put(KeyValue),
    Deleted(Vec<u8>, Revision),
}

impl Said {
    pub(crate) fn key(&self) -> &[u8] {
        match self {
            Self::Put(kv) => &kv.key,
            Self::Deleted(key, _) => key,
        }
    }
}

/// Takes in an event about a network as the watch brings it.
pub(crate) fn hear(view: &mut NodeView, network: NetworkId, said: &Said) -> BTreeSet<ObjectId> {
    match said {
        Said::Put(kv) => view.put(network, kv),
        Said::Deleted(key, revision) => view.delete(network, key, *revision),
    }
}

/// Keys with their history.
#[derive(Debug, Default)]
pub(crate) struct Store {
    pub(crate) revision: Revision,
    pub(crate) kvs: BTreeMap<Vec<u8>, KeyValue>,
    pub(crate) history: Vec<Said>,
}

impl Store {
    pub(crate) fn put<T: Serialize>(&mut self, key: &Key, record: &T) -> Said {
        self.put_raw(key, encode_record(record))
    }

    pub(crate) fn put_raw(&mut self, key: &Key, value: Vec<u8>) -> Said {
        self.revision += 1;
        let kv = raw(key, value, self.revision);
        self.kvs.insert(kv.key.clone(), kv.clone());
        self.say(Said::Put(kv))
    }

    /// Deletes a key; nothing is said of one that is not there.
    pub(crate) fn delete(&mut self, key: &Key) -> Option<Said> {
        let key = Keyspace::default().encode(key);
        self.kvs.remove(&key)?;
        self.revision += 1;
        Some(self.say(Said::Deleted(key, self.revision)))
    }

    pub(crate) fn content_of(&self, network: NetworkId) -> Vec<KeyValue> {
        let range = Keyspace::default().network(network);
        self.kvs.values().filter(|kv| range.contains(&kv.key)).cloned().collect()
    }

    pub(crate) fn index(&self) -> Vec<KeyValue> {
        let range = Keyspace::default().network_names();
        self.kvs.values().filter(|kv| range.contains(&kv.key)).cloned().collect()
    }

    /// What it held after so many events, and its revision then.
    pub(crate) fn as_of(&self, events: usize) -> (BTreeMap<Vec<u8>, KeyValue>, Revision) {
        let mut kvs = BTreeMap::new();
        let mut revision = 0;
        for said in &self.history[..events] {
            revision = match said {
                Said::Put(kv) => {
                    kvs.insert(kv.key.clone(), kv.clone());
                    kv.mod_revision
                }
                Said::Deleted(key, revision) => {
                    kvs.remove(key);
                    *revision
                }
            };
        }
        (kvs, revision)
    }

    fn say(&mut self, said: Said) -> Said {
        self.history.push(said.clone());
        said
    }
}

/// The node: its view, its kernel, and what it has still to look at.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) store: Store,
    pub(crate) view: NodeView,
    pub(crate) observed: KernelState,
    pub(crate) dirty: BTreeSet<ObjectId>,
    deferred: BTreeSet<ObjectId>,
    knowledge: Knowledge,
}

impl Default for World {
    fn default() -> Self {
        let view = empty_view();
        Self {
            store: Store::default(),
            dirty: view.all(),
            view,
            observed: KernelState::default(),
            deferred: BTreeSet::new(),
            knowledge: Knowledge::default(),
        }
    }
}

impl World {
    /// Changes the view; what that affects becomes dirty.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut NodeView) -> BTreeSet<ObjectId>) {
        let affected = change(&mut self.view);
        self.dirty.extend(affected);
    }

    pub(crate) fn hear(&mut self, network: NetworkId, said: Option<&Said>) {
        self.change(|view| said.map(|said| hear(view, network, said)).unwrap_or_default());
    }

    /// Lists a followed network as of now.
    pub(crate) fn list(&mut self, network: NetworkId) {
        let (kvs, revision) = (self.store.content_of(network), self.store.revision);
        self.change(|view| view.set_network(network, kvs, revision));
    }

    pub(crate) fn list_index(&mut self) {
        let kvs = self.store.index();
        self.change(|view| view.set_index(&kvs));
    }

    /// One pass over what is dirty: its plan, which is then carried out.
    pub(crate) fn pass(&mut self) -> Plan {
        let plan = self.plan();
        apply(&mut self.observed, &plan);
        plan
    }

    /// The plan for what is dirty.
    fn plan(&mut self) -> Plan {
        let knowledge = self.view.knowledge();
        if knowledge != self.knowledge || self.dirty.iter().any(ObjectId::carries_others) {
            self.knowledge = knowledge;
            self.dirty.append(&mut self.deferred);
        }
        let ids = std::mem::take(&mut self.dirty);
        let plan = plan(&self.view, &self.observed, &ids);
        self.deferred.retain(|id| !ids.contains(id));
        self.deferred.extend(plan.deferred.iter().cloned());
        plan
    }

    /// What is known is forgotten and learned again; the kernel stays as it is.
    pub(crate) fn restart(&mut self) {
        let followed: Vec<NetworkId> = self.view.networks().map(|(network, _)| network).collect();
        self.view = empty_view();
        self.deferred.clear();
        self.dirty = self.view.all();
        self.dirty.extend(self.observed.objects.keys().cloned());
        for network in followed {
            self.view.follow(network);
            self.list(network);
        }
        self.list_index();
    }

    /// What a comparison of everything finds.
    pub(crate) fn audit(&self) -> Plan {
        plan_everything(&self.view, &self.observed)
    }
}

/// A kernel that does as it is told.
pub(crate) fn apply(observed: &mut KernelState, plan: &Plan) {
    for step in &plan.steps {
        match step.result() {
            Some(object) => observed.objects.insert(step.id().clone(), object.clone()),
            None => observed.objects.remove(step.id()),
        };
        if let Step::Delete(ObjectId::Network(network, NetworkObject::Port(endpoint)), _) = step {
            observed.objects.remove(&ObjectId::Network(*network, NetworkObject::Sandbox(*endpoint)));
        }
    }
}
