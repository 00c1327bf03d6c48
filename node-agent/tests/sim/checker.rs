//! Looks at every revision of the store and says which invariant it breaks. Shares no code with what it checks but the
//! reading of keys and records, and knows time and writers from the store itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use ipnetwork::IpNetwork;
use tokio::time::Instant;
use weft_overlay::{
    codec::decode_record,
    id::{EndpointId, NetworkId, NodeId, Vni},
    keys::{Key, Keyspace},
    model::{
        BlockRecord, BlockState, EndpointIndexRecord, EndpointKind, EndpointRecord, EndpointReference, FenceRecord,
        FenceState, NetworkSpec, NetworkState, VniRecord,
    },
    store::{Event, memory::Commit},
    txn::Revision,
};

/// The least rest of a block between two nodes. Its lease of 120 s may be some seconds old when it is attached.
const BLOCK_REST: Duration = Duration::from_secs(90);
/// The least rest of an address on one node, where there are plenty of others.
const ADDRESS_REST: Duration = Duration::from_secs(60);
/// The least rest of a VNI. Its lease of 600 s may be some seconds old when it is attached.
const VNI_REST: Duration = Duration::from_secs(570);

#[derive(Debug)]
pub(crate) struct Checker {
    keys: Keyspace,
    pub(crate) violations: Vec<String>,
    pub(crate) fingerprint: u64,
    pub(crate) revision: Revision,
    /// Which client is which node's agent.
    pub(crate) clients: BTreeMap<NodeId, String>,
    /// When each revision was made.
    pub(crate) times: BTreeMap<Revision, Instant>,
    fences: BTreeMap<NodeId, FenceRecord>,
    specs: BTreeMap<NetworkId, NetworkSpec>,
    vnis: BTreeMap<Vni, VniRecord>,
    vni_freed: BTreeMap<Vni, Instant>,
    members: BTreeSet<(NetworkId, NodeId)>,
    endpoints: BTreeMap<(NetworkId, IpAddr), EndpointRecord>,
    references: BTreeMap<(NetworkId, IpAddr), EndpointReference>,
    index: BTreeMap<(NodeId, EndpointId), EndpointIndexRecord>,
    blocks: BTreeMap<(NetworkId, IpAddr), BlockRecord>,
    /// Candidates of the election: creation and client.
    candidates: BTreeMap<i64, (Revision, String)>,
    known_ids: BTreeSet<EndpointId>,
    /// Endpoints in a block that their node owned when they were made; others have an address that somebody chose.
    backed: BTreeSet<(NetworkId, IpAddr)>,
    /// The last holder of a block's address and when it was deleted. An address that somebody chose has no rest.
    last: BTreeMap<(NetworkId, IpAddr), (NodeId, Instant)>,
    /// Versions of the keys under `net/`, to judge what others have seen: revision and mod revision, or deletion.
    history: BTreeMap<Vec<u8>, Vec<(Revision, bool)>>,
}

impl Checker {
    pub(crate) fn new(keys: Keyspace) -> Self {
        Self {
            keys,
            violations: Vec::new(),
            fingerprint: 0xcbf2_9ce4_8422_2325,
            revision: 1,
            clients: BTreeMap::new(),
            times: BTreeMap::new(),
            fences: BTreeMap::new(),
            specs: BTreeMap::new(),
            vnis: BTreeMap::new(),
            vni_freed: BTreeMap::new(),
            members: BTreeSet::new(),
            endpoints: BTreeMap::new(),
            references: BTreeMap::new(),
            index: BTreeMap::new(),
            blocks: BTreeMap::new(),
            candidates: BTreeMap::new(),
            known_ids: BTreeSet::new(),
            backed: BTreeSet::new(),
            last: BTreeMap::new(),
            history: BTreeMap::new(),
        }
    }

    /// Takes in one revision and checks it; whether a controller has cleaned up something in it.
    pub(crate) fn see(&mut self, commit: &Commit) -> bool {
        self.revision = commit.revision;
        self.times.insert(commit.revision, Instant::now());
        let cleans = self.leader_acts(commit);
        let before_blocks = self.blocks.clone();
        for event in &commit.events {
            self.note_history(event);
            self.mix(event);
            let Ok(key) = self.keys.decode(event.key()) else { continue };
            match event {
                Event::Put(kv) => self.put(&key, &kv.value, kv.create_revision == kv.mod_revision, commit),
                Event::Delete { .. } => self.delete(&key, commit),
            }
        }
        self.blocks_left_empty(&before_blocks);
        self.no_lost_members();
        self.one_to_one();
        self.indexed(commit);
        cleans
    }

    /// Whether a view of the keys under `net/` is what the store had at a revision: key and mod revision. With I7 at each
    /// revision of the store this is I7 for whoever has the view.
    pub(crate) fn check_view(&mut self, who: &str, view: &BTreeMap<Vec<u8>, Revision>, revision: Revision) {
        for (key, versions) in &self.history {
            let at = versions.iter().rev().find(|(r, _)| *r <= revision).copied();
            let expected = at.and_then(|(r, exists)| exists.then_some(r));
            if view.get(key).copied() != expected {
                let key = String::from_utf8_lossy(key);
                let text = format!(
                    "view: {who} has {key} at {:?}, at {revision} it was {expected:?}",
                    view.get(key.as_bytes())
                );
                self.violations.push(text);
            }
        }
    }

    pub(crate) fn endpoints(&self) -> &BTreeMap<(NetworkId, IpAddr), EndpointRecord> {
        &self.endpoints
    }

    pub(crate) fn owned_blocks(&self, node: NodeId) -> BTreeSet<(NetworkId, IpAddr)> {
        let owned = |b: &BlockRecord| b.node == node && b.st == BlockState::Owned;
        self.blocks.iter().filter(|(_, block)| owned(block)).map(|(key, _)| *key).collect()
    }

    pub(crate) fn members(&self) -> &BTreeSet<(NetworkId, NodeId)> {
        &self.members
    }

    fn violation(&mut self, text: String) {
        let revision = self.revision;
        self.violations.push(format!("{text} (revision {revision})"));
    }

    fn put(&mut self, key: &Key, value: &[u8], created: bool, commit: &Commit) {
        match key {
            Key::Fence(node) => {
                self.fences.insert(*node, decode_record(value).unwrap());
            }
            Key::Spec(network) => self.put_spec(*network, decode_record(value).unwrap()),
            Key::Vni(vni) => self.put_vni(*vni, decode_record(value).unwrap()),
            Key::Member(network, node) => {
                self.members.insert((*network, *node));
            }
            Key::Endpoint(network, ip) => match decode_record::<EndpointRecord>(value) {
                Ok(record) => self.put_endpoint((*network, *ip), record, created, commit),
                Err(_) => {
                    self.references.insert((*network, *ip), decode_record(value).unwrap());
                }
            },
            Key::EndpointIndex(node, id) => {
                self.index.insert((*node, *id), decode_record(value).unwrap());
            }
            Key::Block(network, base) => self.put_block(*network, *base, decode_record(value).unwrap()),
            Key::Election(lease) => {
                let client = commit.client.clone().unwrap_or_default();
                self.candidates.entry(*lease).or_insert((commit.revision, client));
            }
            _ => {}
        }
    }

    fn delete(&mut self, key: &Key, commit: &Commit) {
        match key {
            Key::Fence(node) => {
                self.fences.remove(node);
            }
            Key::Spec(network) => {
                self.specs.remove(network);
            }
            Key::Vni(vni) => {
                self.vnis.remove(vni);
            }
            Key::Member(network, node) => {
                self.members.remove(&(*network, *node));
            }
            Key::Endpoint(network, ip) => self.delete_endpoint(*network, *ip, commit),
            Key::EndpointIndex(node, id) => {
                self.index.remove(&(*node, *id));
            }
            Key::Block(network, base) => {
                self.blocks.remove(&(*network, *base));
            }
            Key::Election(lease) => {
                self.candidates.remove(lease);
            }
            _ => {}
        }
    }

    /// A network in use begins to go only when somebody insists.
    fn put_spec(&mut self, network: NetworkId, spec: NetworkSpec) {
        let is_container = |held: &EndpointRecord| held.kind == EndpointKind::Container;
        let used = self.endpoints.iter().any(|((of, _), held)| *of == network && is_container(held));
        if spec.state == NetworkState::Deleting && !spec.force_delete && used {
            self.violation(format!("in use: the removal of {network} began with containers in it"));
        }
        self.specs.insert(network, spec);
    }

    fn put_vni(&mut self, vni: Vni, record: VniRecord) {
        if record.network.is_none() {
            self.vni_freed.insert(vni, Instant::now());
        } else if let Some(freed) = self.vni_freed.get(&vni)
            && freed.elapsed() < VNI_REST
        {
            let rest = freed.elapsed();
            self.violation(format!("I8: VNI {vni} was reused after {rest:?}"));
        }
        self.vnis.insert(vni, record);
    }

    fn put_endpoint(&mut self, place: (NetworkId, IpAddr), record: EndpointRecord, created: bool, commit: &Commit) {
        let (network, ip) = place;
        if record.primary_address() != Some(ip) {
            self.violation(format!("I1: {} is stored under {ip} but has {:?}", record.id, record.primary_address()));
        }
        if let Some(before) = self.endpoints.get(&place)
            && before.id != record.id
        {
            let (old, new) = (before.id, record.id);
            self.violation(format!("I1: {ip} went from {old} to {new} without being free"));
        }
        if commit.client.as_ref() != self.clients.get(&record.node) {
            self.violation(format!("I2: {} of node {} was written by {:?}", record.id, record.node, commit.client));
        }
        if self.fences.get(&record.node).is_none_or(|fence| fence.state == FenceState::Lost) {
            self.violation(format!("I2: {} was written while its node {} was lost", record.id, record.node));
        }
        let fresh = self.known_ids.insert(record.id);
        if created && fresh && is_dynamic(&record) {
            self.chosen_rightly(network, ip, &record);
        }
        if created && self.owner_of(network, ip).is_some_and(|block| block.node == record.node) {
            self.backed.insert(place);
        }
        self.endpoints.insert(place, record);
    }

    /// I2 and I6, and the rest of an address, for an endpoint whose address its node chose.
    fn chosen_rightly(&mut self, network: NetworkId, ip: IpAddr, record: &EndpointRecord) {
        let owner = self.owner_of(network, ip).map(|block| block.node);
        if owner != Some(record.node) {
            self.violation(format!("I2: {} of node {} got {ip} in a block of {owner:?}", record.id, record.node));
        }
        let Some((last, deleted)) = self.last.get(&(network, ip)).copied() else { return };
        let rest = deleted.elapsed();
        if last != record.node && rest < BLOCK_REST {
            self.violation(format!("I6: {ip} went from node {last} to {} after {rest:?}", record.node));
        }
        let roomy = self.specs.get(&network).and_then(|s| s.subnet4()).is_some_and(|s| s.subnet.prefix() <= 20);
        if roomy && rest < ADDRESS_REST {
            self.violation(format!("cooldown: {ip} was handed out again after {rest:?}"));
        }
    }

    fn delete_endpoint(&mut self, network: NetworkId, ip: IpAddr, commit: &Commit) {
        self.references.remove(&(network, ip));
        let Some(record) = self.endpoints.remove(&(network, ip)) else { return };
        if self.backed.remove(&(network, ip)) {
            self.last.insert((network, ip), (record.node, Instant::now()));
        } else {
            self.last.remove(&(network, ip));
        }
        let by_owner = commit.client.as_ref() == self.clients.get(&record.node);
        let given_up = self.fences.get(&record.node).is_none_or(|fence| fence.state == FenceState::Lost);
        let by_controller = commit.client.as_ref().is_some_and(|client| client.starts_with("controller"));
        let allowed = by_owner || (given_up && by_controller);
        if !allowed {
            self.violation(format!("I4: {} of node {} was deleted by {:?}", record.id, record.node, commit.client));
        }
        if by_owner && given_up {
            self.violation(format!("I4: {} was deleted by its node {} which was lost", record.id, record.node));
        }
    }

    fn put_block(&mut self, network: NetworkId, base: IpAddr, record: BlockRecord) {
        let Some(right) = self.block_of(network, base) else {
            self.violation(format!("I3: block {base} of no network"));
            return;
        };
        if right.network() != base || right.prefix() != record.len {
            self.violation(format!("I3: block {base}/{} is not one of the network's {right}", record.len));
        }
        if let Some(before) = self.blocks.get(&(network, base))
            && before.node != record.node
        {
            let (old, new) = (before.node, record.node);
            self.violation(format!("I6: block {base} went from node {old} to {new} without being free"));
        }
        self.blocks.insert((network, base), record);
    }

    fn owner_of(&self, network: NetworkId, ip: IpAddr) -> Option<&BlockRecord> {
        let base = self.block_of(network, ip)?.network();
        self.blocks.get(&(network, base)).filter(|block| block.st == BlockState::Owned)
    }

    fn block_of(&self, network: NetworkId, ip: IpAddr) -> Option<IpNetwork> {
        let spec = self.specs.get(&network)?.primary()?;
        let range = spec.ip_range.unwrap_or(spec.subnet);
        let block = IpNetwork::new(ip, spec.block_len).ok()?;
        range.contains(ip).then(|| IpNetwork::new(block.network(), spec.block_len).ok()).flatten()
    }

    /// I5: a block leaves its owner empty; that of a lost node without any endpoint of this node. I6: it rests first.
    fn blocks_left_empty(&mut self, before: &BTreeMap<(NetworkId, IpAddr), BlockRecord>) {
        let mut found = Vec::new();
        for ((network, base), old) in before {
            if old.st != BlockState::Owned {
                continue;
            }
            let now = self.blocks.get(&(*network, *base));
            if now.is_some_and(|now| now.st == BlockState::Owned && now.node == old.node) {
                continue;
            }
            let Ok(block) = IpNetwork::new(*base, old.len) else { continue };
            let lost = self.fences.get(&old.node).is_none_or(|fence| fence.state == FenceState::Lost);
            let inside = self
                .endpoints
                .iter()
                .find(|((n, ip), record)| n == network && block.contains(*ip) && (!lost || record.node == old.node));
            if let Some(((_, ip), _)) = inside {
                found.push(format!("I5: block {block} was taken from node {} with {ip} in it", old.node));
            }
            let in_use = self.specs.get(network).is_some_and(|spec| spec.state == NetworkState::Active);
            if now.is_none() && in_use {
                found.push(format!("I6: block {block} of node {} was free at once", old.node));
            }
        }
        found.into_iter().for_each(|text| self.violation(text));
    }

    /// I7, where it begins: the revision that makes a node lost ends its memberships, and none begins while it is.
    fn no_lost_members(&mut self) {
        let lost = |node: &NodeId| self.fences.get(node).is_none_or(|fence| fence.state == FenceState::Lost);
        let found: Vec<_> = self.members.iter().filter(|(_, node)| lost(node)).copied().collect();
        for (network, node) in found {
            self.violation(format!("I7: lost node {node} is a member of {network}"));
        }
    }

    /// I8.
    fn one_to_one(&mut self) {
        let mut seen: BTreeMap<Vni, NetworkId> = BTreeMap::new();
        let mut found = Vec::new();
        for (network, spec) in &self.specs {
            if let Some(other) = seen.insert(spec.vni, *network) {
                found.push(format!("I8: networks {other} and {network} share VNI {}", spec.vni));
            }
            if self.vnis.get(&spec.vni).and_then(|vni| vni.network) != Some(*network) {
                found.push(format!("I8: VNI {} is not registered for network {network}", spec.vni));
            }
        }
        found.into_iter().for_each(|text| self.violation(text));
    }

    /// Every endpoint is in its node's index, under one id once, and has the second key that its record says.
    fn indexed(&mut self, commit: &Commit) {
        let touched =
            |event: &Event| matches!(self.keys.decode(event.key()), Ok(Key::Endpoint(..) | Key::EndpointIndex(..)));
        if !commit.events.iter().any(touched) {
            return;
        }
        let mut found = Vec::new();
        for ((network, ip), record) in &self.endpoints {
            let entry = self.index.get(&(record.node, record.id));
            if entry.is_none_or(|entry| (entry.network, entry.ip) != (*network, *ip)) {
                found.push(format!("I1: {} at {ip} is not in the index of its node", record.id));
            }
            if let (Some(_), Some(v6)) = (record.ipv4, record.ipv6) {
                let reference = self.references.get(&(*network, IpAddr::V6(v6)));
                if reference.is_none_or(|reference| reference.id != record.id) {
                    found.push(format!("I1: {} does not have its {v6}", record.id));
                }
            }
        }
        if self.index.len() != self.endpoints.len() {
            found.push(format!("I1: {} endpoints, {} in indices", self.endpoints.len(), self.index.len()));
        }
        found.into_iter().for_each(|text| self.violation(text));
    }

    /// A controller writes only while its candidacy is the oldest there is.
    fn leader_acts(&mut self, commit: &Commit) -> bool {
        let Some(client) = commit.client.as_ref().filter(|client| client.starts_with("controller")) else {
            return false;
        };
        let stands = |event: &Event| matches!(self.keys.decode(event.key()), Ok(Key::Election(_)));
        if commit.events.iter().all(stands) {
            return false;
        }
        let leader = self.candidates.values().min_by_key(|(created, _)| *created).map(|(_, client)| client);
        if leader != Some(client) {
            self.violation(format!("leadership: {client} cleaned up while {leader:?} led"));
        }
        true
    }

    fn note_history(&mut self, event: &Event) {
        if self.keys.all_networks().contains(event.key()) {
            let exists = matches!(event, Event::Put(_));
            self.history.entry(event.key().to_vec()).or_default().push((event.revision(), exists));
        }
    }

    fn mix(&mut self, event: &Event) {
        let bytes = event.key().iter().chain(match event {
            Event::Put(kv) => kv.value.iter(),
            Event::Delete { .. } => [].iter(),
        });
        for byte in bytes {
            self.fingerprint = (self.fingerprint ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

/// Whether the endpoint's node chose its address: the simulation's users name those that they chose with an `s`.
fn is_dynamic(record: &EndpointRecord) -> bool {
    record.kind == EndpointKind::Leg || record.name.as_str().starts_with('d')
}
