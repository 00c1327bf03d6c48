//! Taking in what the store says: listings, events, and what cannot be read.
//!
//! What is older than what is known changes nothing, whether it is late, repeated, or from a member of the store that lags
//! behind. Every change answers which kernel objects it may affect. Must not act on the absence of what was never listed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{NodeView, Stored, Unreadable};
use crate::{
    cause::chain,
    codec::decode_record,
    id::{EndpointId, NetworkId, NodeId},
    kernel::ObjectId,
    keys::Key,
    model::{EndpointKind, EndpointRecord, EndpointReference, MemberRecord, NetworkNameRecord, NetworkSpec},
    txn::{KeyValue, Revision},
};

impl NodeView {
    /// Takes in the complete index of network names. With the first one the view is loaded: the networks that concern
    /// this node must be followed by then, because what is not followed is unwanted from then on.
    pub fn set_index(&mut self, kvs: &[KeyValue]) -> BTreeSet<ObjectId> {
        let mut index = BTreeMap::new();
        for kv in kvs {
            let Ok(Key::NetworkName(name)) = self.keys.decode(&kv.key) else { continue };
            match self.read::<NetworkNameRecord>(kv) {
                Some(stored) => {
                    index.insert(name, stored.record);
                }
                None => {
                    if let Some(good) = self.index.as_ref().and_then(|i| i.get(&name)) {
                        index.insert(name, good.clone());
                    }
                }
            }
        }
        let names = self.keys.network_names();
        let listed: BTreeSet<&[u8]> = kvs.iter().map(|kv| kv.key.as_slice()).collect();
        self.quarantine.retain(|key, _| !names.contains(key) || listed.contains(key.as_slice()));
        let mut affected = self.of_index();
        if self.index.replace(index).is_none() {
            affected.extend(self.all());
        }
        affected.extend(self.of_index());
        affected
    }

    /// Takes in the complete content of a followed network as of a revision; what is not in it is gone. A listing that is
    /// not newer than the last one changes nothing.
    pub fn set_network(&mut self, network: NetworkId, kvs: Vec<KeyValue>, revision: Revision) -> BTreeSet<ObjectId> {
        let Some(view) = self.networks.get(&network) else { return BTreeSet::new() };
        if view.listed() >= Some(revision) {
            return BTreeSet::new();
        }
        let first = !view.is_complete();
        let listed: BTreeSet<&[u8]> = kvs.iter().map(|kv| kv.key.as_slice()).collect();
        let gone: Vec<Vec<u8>> =
            view.keys(&self.keys, network).filter(|key| !listed.contains(key.as_slice())).collect();
        let keyspace = self.keys.network(network);
        self.quarantine.retain(|key, unreadable| {
            !keyspace.contains(key) || listed.contains(key.as_slice()) || unreadable.revision > revision
        });
        let mut affected = BTreeSet::new();
        // One at a time, each freed once it is read: of a large network there is never a second copy.
        for kv in kvs {
            affected.extend(self.take_in(network, &kv));
        }
        for key in gone {
            affected.extend(self.take_out(network, &key, revision));
        }
        if let Some(view) = self.networks.get_mut(&network) {
            view.set_listed(revision);
        }
        if first {
            affected.extend(self.all_of(network));
        }
        affected
    }

    /// Takes in the content of a followed network in a store that has another history: what it has counts, what it lacks
    /// stays until [`Self::set_network`] leaves it out, and no revision can be compared with one from before.
    pub fn replace_network(&mut self, network: NetworkId, kvs: &[KeyValue], revision: Revision) -> BTreeSet<ObjectId> {
        let Some(view) = self.networks.get_mut(&network) else { return BTreeSet::new() };
        view.forget_revisions();
        let keyspace = self.keys.network(network);
        self.quarantine.retain(|key, _| !keyspace.contains(key));
        let affected = kvs.iter().flat_map(|kv| self.take_in(network, kv)).collect();
        self.advance(network, revision);
        affected
    }

    /// Takes in one changed key of a followed network. A version that is older than what is known changes nothing, be
    /// that another version, a deletion, or the last listing.
    pub fn put(&mut self, network: NetworkId, kv: &KeyValue) -> BTreeSet<ObjectId> {
        if self.is_listed_since(network, kv.mod_revision) { BTreeSet::new() } else { self.take_in(network, kv) }
    }

    /// Takes in the deletion of a key of a followed network, at a revision. One that is older than what is known changes
    /// nothing.
    pub fn delete(&mut self, network: NetworkId, key: &[u8], revision: Revision) -> BTreeSet<ObjectId> {
        if self.is_listed_since(network, revision) { BTreeSet::new() } else { self.take_out(network, key, revision) }
    }

    fn take_in(&mut self, network: NetworkId, kv: &KeyValue) -> BTreeSet<ObjectId> {
        let Ok(key) = self.keys.decode(&kv.key) else { return BTreeSet::new() };
        let Some(view) = self.networks.get(&network) else { return BTreeSet::new() };
        let is_stale = view.is_outdated(&key, kv.mod_revision) || self.is_unreadable_since(&kv.key, kv.mod_revision);
        if is_stale || !is_of(&key, network) {
            return BTreeSet::new();
        }
        match key {
            Key::Spec(_) => self.read(kv).map(|spec| self.change_spec(network, Some(spec))),
            Key::Member(_, node) => self.read(kv).map(|member| self.change_member(network, node, Some(member))),
            Key::Endpoint(_, ip) => self.take_in_endpoint(network, ip, kv),
            _ => None,
        }
        .unwrap_or_default()
    }

    fn take_out(&mut self, network: NetworkId, key: &[u8], revision: Revision) -> BTreeSet<ObjectId> {
        let Ok(decoded) = self.keys.decode(key) else { return BTreeSet::new() };
        if self.is_unreadable_since(key, revision) || !is_of(&decoded, network) {
            return BTreeSet::new();
        }
        let Some(view) = self.networks.get_mut(&network) else { return BTreeSet::new() };
        let known = view.revision_of(&decoded);
        if known.is_some_and(|known| known >= revision) {
            return BTreeSet::new();
        }
        view.note_deleted(decoded.clone(), revision);
        self.quarantine.remove(key);
        match decoded {
            Key::Spec(_) if known.is_some() => self.change_spec(network, None),
            Key::Member(_, node) if known.is_some() => self.change_member(network, node, None),
            Key::Endpoint(_, ip) if known.is_some() => self.change_endpoint(network, ip, None),
            _ => BTreeSet::new(),
        }
    }

    fn take_in_endpoint(&mut self, network: NetworkId, ip: IpAddr, kv: &KeyValue) -> Option<BTreeSet<ObjectId>> {
        if ip.is_ipv6() && decode_record::<EndpointReference>(&kv.value).is_ok() {
            self.quarantine.remove(&kv.key);
            return None;
        }
        let stored = self.read::<EndpointRecord>(kv)?;
        let primary = stored.record.primary_address();
        if primary != Some(ip) {
            self.set_aside(kv, format!("the record is for {primary:?}, not for {ip}"));
            return None;
        }
        Some(self.change_endpoint(network, ip, Some(stored)))
    }

    fn change_spec(&mut self, network: NetworkId, spec: Option<Stored<NetworkSpec>>) -> BTreeSet<ObjectId> {
        let mut affected = self.all_of(network);
        if let Some(view) = self.networks.get_mut(&network) {
            view.spec = spec;
        }
        affected.extend(self.all_of(network));
        affected
    }

    fn change_member(
        &mut self,
        network: NetworkId,
        node: NodeId,
        member: Option<Stored<MemberRecord>>,
    ) -> BTreeSet<ObjectId> {
        let mut affected = self.of_member(network, node);
        let Some(view) = self.networks.get_mut(&network) else { return affected };
        let before = view.smallest_underlay_mtu(self.config.node);
        match member {
            Some(member) => view.members.insert(node, member),
            None => view.members.remove(&node),
        };
        let after = view.smallest_underlay_mtu(self.config.node);
        affected.extend(self.of_member(network, node));
        if before != after {
            affected.extend(self.devices_of(network));
        }
        affected
    }

    pub(super) fn change_endpoint(
        &mut self,
        network: NetworkId,
        ip: IpAddr,
        endpoint: Option<Stored<EndpointRecord>>,
    ) -> BTreeSet<ObjectId> {
        let mut affected = BTreeSet::new();
        let Some(view) = self.networks.get_mut(&network) else { return affected };
        self.changes.insert((network, ip));
        let before = view.remove(ip);
        if let Some(stored) = &endpoint {
            view.insert(ip, stored.clone());
        }
        let lost = before.as_ref().map(|stored| stored.record.clone());
        let lost = lost.filter(|lost| endpoint.as_ref().is_none_or(|after| after.record.id != lost.id));
        let comes = endpoint.as_ref().map(|stored| stored.record.clone());
        let records = [before, endpoint].into_iter().flatten().map(|stored| stored.record);
        for record in records {
            affected.extend(self.of_record(network, &record));
            if record.node == self.config.node {
                // The store's word on an endpoint of ours ends what was only intended for it.
                affected.extend(self.clear_pending(record.id));
                // While it changes its address it has two records, and one of them speaks for it.
                affected.extend(self.of_endpoint(record.id));
            }
        }
        if let Some(record) = comes.filter(|record| record.kind == EndpointKind::Leg) {
            affected.extend(self.replace_leg(network, &record));
        }
        if let Some(record) = lost {
            affected.extend(self.lose(network, record));
        }
        affected
    }

    /// A leg that was lost is not missed any longer once another one is registered.
    fn replace_leg(&mut self, network: NetworkId, leg: &EndpointRecord) -> BTreeSet<ObjectId> {
        if leg.node != self.config.node {
            return BTreeSet::new();
        }
        let is_leg = |(n, record): &(NetworkId, &EndpointRecord)| *n == network && record.kind == EndpointKind::Leg;
        let missed: Vec<EndpointId> = self.adrift().filter(is_leg).map(|(_, record)| record.id).collect();
        missed.into_iter().flat_map(|endpoint| self.clear_pending(endpoint)).collect()
    }

    /// A record of ours is gone: either we have removed it, or somebody else has, and then what it stands for stays in use
    /// until it is known whether it can be registered again. A leg is missed only while a container needs it.
    fn lose(&mut self, network: NetworkId, record: EndpointRecord) -> BTreeSet<ObjectId> {
        let endpoint = record.id;
        if self.detaching.remove(&endpoint) {
            // Another record that it has, as while it changes its address, is in force again.
            return self.of_endpoint(endpoint);
        }
        let is_ours = record.node == self.config.node && !self.is_detaching(endpoint);
        if !is_ours || self.local(endpoint).is_some() {
            return BTreeSet::new();
        }
        let needed = record.kind == EndpointKind::Container
            || self.locals_in(network).any(|local| local.record.kind == EndpointKind::Container);
        if !needed {
            return BTreeSet::new();
        }
        let affected = self.of_record(network, &record);
        self.pending.insert(endpoint, (network, record));
        self.adrift.insert(endpoint);
        affected
    }

    /// Reads a value, or puts it into quarantine.
    fn read<T: serde::de::DeserializeOwned>(&mut self, kv: &KeyValue) -> Option<Stored<T>> {
        match decode_record(&kv.value) {
            Ok(record) => {
                self.quarantine.remove(&kv.key);
                Some(Stored { record, revision: kv.mod_revision, lease: kv.lease })
            }
            Err(error) => {
                self.set_aside(kv, chain(&error));
                None
            }
        }
    }

    fn set_aside(&mut self, kv: &KeyValue, reason: String) {
        self.quarantine.insert(kv.key.clone(), Unreadable { reason, revision: kv.mod_revision });
    }

    /// Whether a network has been listed completely as of this revision or a later one.
    pub(super) fn is_listed_since(&self, network: NetworkId, revision: Revision) -> bool {
        self.networks.get(&network).is_some_and(|view| view.listed() >= Some(revision))
    }

    /// Whether the value of a key is known to be unreadable at this revision or a later one.
    fn is_unreadable_since(&self, key: &[u8], revision: Revision) -> bool {
        self.quarantine.get(key).is_some_and(|unreadable| unreadable.revision >= revision)
    }
}

/// Whether a key belongs to what the members of a network watch.
fn is_of(key: &Key, network: NetworkId) -> bool {
    matches!(key, Key::Spec(n) | Key::Member(n, _) | Key::Endpoint(n, _) if *n == network)
}
