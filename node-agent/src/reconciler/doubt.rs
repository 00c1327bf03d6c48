//! What was observed but may no longer be so.
//!
//! A notification that says what we believe already is the echo of our own write, and dropped. Any other one is not
//! believed either: it only makes the object be read again, so that late or reordered notifications do no harm.

use std::collections::BTreeSet;

use weft_overlay::{
    id::NetworkId,
    kernel::{KernelState, NetworkObject, NodeObject, Object, ObjectId, Scope, Table},
};

/// Something observed may no longer be so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doubt {
    /// This object is said to be like this now, or to be gone.
    Changed(ObjectId, Option<Object>),
    /// Something happened to this object.
    Object(ObjectId),
    /// Something happened to a device that a whole network hangs on.
    Network(NetworkId),
    /// Something that may have been in the way is so no longer: what failed is tried again at once.
    Obstruction,
    /// Something happened to the nftables rules beside this table of ours, or to the table.
    Firewall(Table),
    /// Notifications were lost.
    Everything,
}

/// More single objects of a network in doubt than this are read by a dump of the network.
const SINGLE_READS: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Doubts {
    everything: bool,
    node: bool,
    pub(super) networks: BTreeSet<NetworkId>,
    pub(super) objects: BTreeSet<ObjectId>,
    pub(super) sandboxes: BTreeSet<ObjectId>,
}

impl Doubts {
    pub(super) fn is_empty(&self) -> bool {
        !self.everything
            && !self.node
            && self.networks.is_empty()
            && self.objects.is_empty()
            && self.sandboxes.is_empty()
    }

    pub(super) fn add(&mut self, doubt: Doubt, observed: &KernelState) {
        match doubt {
            Doubt::Changed(id, object) if observed.objects.get(&id) == object.as_ref() => {}
            Doubt::Changed(id, _) | Doubt::Object(id) => {
                if id.is_sandbox() {
                    self.sandboxes.insert(id);
                } else {
                    self.objects.insert(id);
                }
            }
            Doubt::Network(network) => {
                self.networks.insert(network);
            }
            Doubt::Firewall(table) => {
                let filter = |id: &&ObjectId| match id {
                    ObjectId::Node(NodeObject::Table(of)) => *of == table,
                    ObjectId::Node(NodeObject::Element(element)) => element.table() == table,
                    ObjectId::Node(NodeObject::ForeignAccepts) => table == Table::Host,
                    ObjectId::Node(_) | ObjectId::Network(..) => false,
                };
                self.objects.extend(observed.objects.keys().filter(filter).cloned());
            }
            Doubt::Everything => self.everything = true,
            // Says nothing of what was observed.
            Doubt::Obstruction => {}
        }
    }

    /// Doubts what the kernel does not announce changes of.
    pub(super) fn add_settings(&mut self, observed: &KernelState, networks: impl Iterator<Item = NetworkId>) {
        let node = [NodeObject::HostForwarding, NodeObject::DataPlaneSettings];
        let legs = networks.map(|network| ObjectId::Network(network, NetworkObject::Leg));
        let silent = node.into_iter().map(ObjectId::Node).chain(legs);
        self.objects.extend(silent.filter(|id| observed.objects.contains_key(id)));
    }

    /// Whether it is in doubt how an object is, or, for a port, whether its container is still there.
    pub(super) fn covers(&self, id: &ObjectId) -> bool {
        match id {
            ObjectId::Network(_, NetworkObject::Sandbox(_)) => return self.sandboxes.contains(id),
            ObjectId::Network(network, NetworkObject::Port(endpoint)) => {
                if self.sandboxes.contains(&ObjectId::Network(*network, NetworkObject::Sandbox(*endpoint))) {
                    return true;
                }
            }
            ObjectId::Network(..) | ObjectId::Node(_) => {}
        }
        self.everything
            || self.objects.contains(id)
            || id.network().map_or(self.node, |network| self.networks.contains(&network))
    }

    /// What to read, in few readings. Sandboxes are left: they are read by place.
    pub(super) fn take_scopes(&mut self) -> Vec<Scope> {
        let objects = std::mem::take(&mut self.objects);
        let mut networks = std::mem::take(&mut self.networks);
        let node = std::mem::take(&mut self.node);
        if std::mem::take(&mut self.everything) {
            return vec![Scope::Everything];
        }
        let mut counts = std::collections::BTreeMap::<NetworkId, usize>::new();
        for network in objects.iter().filter_map(ObjectId::network) {
            *counts.entry(network).or_default() += 1;
        }
        networks.extend(counts.into_iter().filter(|(_, count)| *count > SINGLE_READS).map(|(network, _)| network));
        let singles: BTreeSet<ObjectId> = objects
            .into_iter()
            .filter(|id| id.network().map_or(!node, |network| !networks.contains(&network)))
            .collect();
        let mut scopes: Vec<Scope> = networks.into_iter().map(Scope::Network).collect();
        if node {
            scopes.push(Scope::Node);
        }
        if !singles.is_empty() {
            scopes.push(Scope::Objects(singles));
        }
        scopes
    }

    /// A reading failed: what it was to settle is still in doubt.
    pub(super) fn put_back(&mut self, scope: &Scope) {
        match scope {
            Scope::Everything => self.everything = true,
            Scope::Node => self.node = true,
            Scope::Network(network) => {
                self.networks.insert(*network);
            }
            Scope::Objects(ids) => self.objects.extend(ids.iter().cloned()),
            Scope::Sandboxes(places) => self.sandboxes.extend(places.keys().cloned()),
        }
    }
}
