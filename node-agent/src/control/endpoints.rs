//! The endpoints of the cluster, for people and programs; and this node's own, for its agent.
//!
//! Results are plain values as of one revision. Reading only.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use serde::Serialize;
use thiserror::Error;
use tokio::time::Instant;
use weft_overlay::{
    claims::Stored,
    id::{EndpointId, Mac, Name, NetworkId, NodeId},
    keys::Key,
    model::{EndpointIndexRecord, EndpointKind, EndpointRecord, NetworkSpec, PublishedPort},
    store::Store,
    txn::{KeyValue, Op, Revision, Txn, TxnReply},
};

use super::{
    nodes::{NodeState, NodeView, nodes_in},
    submit::{Client, SubmitError},
};

/// More than any range holds: everything.
pub(super) const ALL: usize = 10_000_000;

/// Records that are read in one transaction.
const PER_READ: usize = 100;

/// An endpoint, for people and programs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EndpointView {
    /// Its id.
    pub id: EndpointId,
    /// Its name.
    pub name: Name,
    /// Further names.
    pub aliases: Vec<Name>,
    /// The name of its network.
    pub network: String,
    /// The id of its network.
    pub network_id: NetworkId,
    /// The name of its node.
    pub node: String,
    /// The id of its node.
    pub node_id: NodeId,
    /// What stands behind it.
    pub kind: EndpointKind,
    /// The IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// The IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// The Ethernet address.
    pub mac: Mac,
    /// The container as its user named it.
    pub container: Option<String>,
    /// Ports of the node's that lead to it.
    pub published: Vec<PublishedPort>,
    /// Whether its node is there.
    pub state: EndpointState,
    /// When its record was last changed.
    pub revision: Revision,
}

/// Whether an endpoint's node is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointState {
    /// It is.
    Active,
    /// Its agent gives no sign of life; the endpoint may well be reachable.
    Suspect,
    /// It was given up; the endpoint will be removed.
    Lost,
}

/// Why endpoints could not be shown.
#[derive(Debug, Error)]
pub enum EndpointsError {
    /// There is no such endpoint.
    #[error("there is no endpoint {0}; `weft endpoint ls` shows all")]
    Unknown(EndpointId),
    /// The store did not answer, or has an unreadable record.
    #[error("endpoints cannot be shown")]
    Store(#[from] SubmitError),
}

/// The endpoints of the cluster, optionally of one network or one node, in the order of networks and addresses.
///
/// # Errors
/// When the store does not answer.
pub async fn list_endpoints<S: Store>(
    client: &Client<S>,
    network: Option<NetworkId>,
    node: Option<NodeId>,
    deadline: Instant,
) -> Result<Vec<EndpointView>, EndpointsError> {
    let keys = client.keys();
    let range = network.map_or_else(|| keys.all_networks(), |network| keys.network(network));
    let mut then = vec![Op::ReadRange(range, ALL)];
    then.extend([keys.nodes(), keys.fences(), keys.lives()].map(|range| Op::ReadRange(range, ALL)));
    let reply = client.transact(Txn { then, ..Txn::default() }, deadline).await?;
    let mut views = endpoints_in(client, &reply);
    views.retain(|view| node.is_none_or(|node| view.node_id == node));
    Ok(views)
}

/// One endpoint.
///
/// # Errors
/// When there is none with that id, or the store does not answer.
pub async fn inspect_endpoint<S: Store>(
    client: &Client<S>,
    id: EndpointId,
    deadline: Instant,
) -> Result<EndpointView, EndpointsError> {
    let all = list_endpoints(client, None, None, deadline).await?;
    all.into_iter().find(|view| view.id == id).ok_or(EndpointsError::Unknown(id))
}

/// This node's endpoints as the store has them: what an agent that has lost its state directory still has to care for.
///
/// # Errors
/// When the store does not answer, or one of the records cannot be read.
pub async fn own_endpoints<S: Store>(
    client: &Client<S>,
    node: NodeId,
    deadline: Instant,
) -> Result<Vec<(NetworkId, Stored<EndpointRecord>)>, SubmitError> {
    let keys = client.keys();
    let page = client.list(keys.endpoint_index(node), deadline).await?;
    let index = client.records::<EndpointIndexRecord, _>(&page, |key| match key {
        Key::EndpointIndex(_, id) => Some(id),
        _ => None,
    })?;
    let mut own = Vec::new();
    for entries in index.chunks(PER_READ) {
        let endpoint = |entry: &EndpointIndexRecord| Key::Endpoint(entry.network, entry.ip);
        let then = entries.iter().map(|(_, entry)| Op::Read(keys.encode(&endpoint(&entry.record)))).collect();
        let reply = client.transact(Txn { then, ..Txn::default() }, deadline).await?;
        for (id, entry) in entries {
            let stored = client.found::<EndpointRecord>(&reply, &endpoint(&entry.record))?;
            own.extend(stored.filter(|stored| stored.record.id == *id).map(|stored| (entry.record.network, stored)));
        }
    }
    Ok(own)
}

/// The endpoints among what was read, together with the names of their networks and nodes. A record that cannot be read
/// is left out here: it is reported where it is followed.
pub(super) fn endpoints_in<S: Store>(client: &Client<S>, reply: &TxnReply) -> Vec<EndpointView> {
    let nodes: BTreeMap<NodeId, NodeView> = nodes_in(client, reply).into_iter().map(|node| (node.id, node)).collect();
    let mut networks = BTreeMap::new();
    let mut endpoints = Vec::new();
    for kv in reply.reads.iter().flatten() {
        match client.keys().decode(&kv.key) {
            Ok(Key::Spec(network)) => {
                if let Ok(spec) = Stored::<NetworkSpec>::decode(kv) {
                    networks.insert(network, spec.record.name.to_string());
                }
            }
            Ok(Key::Endpoint(network, ip)) => endpoints.extend(record_at(kv, ip).map(|stored| (network, stored))),
            _ => {}
        }
    }
    let named = |network: &NetworkId| networks.get(network).cloned().unwrap_or_else(|| network.to_string());
    endpoints.into_iter().map(|(network, stored)| view(stored, network, named(&network), &nodes)).collect()
}

/// The record under an endpoint's key; the second key of a dual-stack endpoint has none.
fn record_at(kv: &KeyValue, ip: IpAddr) -> Option<Stored<EndpointRecord>> {
    let stored = Stored::<EndpointRecord>::decode(kv).ok()?;
    (stored.record.primary_address() == Some(ip)).then_some(stored)
}

fn view(
    stored: Stored<EndpointRecord>,
    network_id: NetworkId,
    network: String,
    nodes: &BTreeMap<NodeId, NodeView>,
) -> EndpointView {
    let EndpointRecord { id, node, mac, kind, name, aliases, ipv4, ipv6, sandbox, published, docker, .. } =
        stored.record;
    let state = match nodes.get(&node).map(|node| node.state) {
        Some(NodeState::Ready | NodeState::Draining) => EndpointState::Active,
        Some(NodeState::Suspect) => EndpointState::Suspect,
        Some(NodeState::Lost) | None => EndpointState::Lost,
    };
    EndpointView {
        id,
        name,
        aliases,
        network,
        network_id,
        node: nodes.get(&node).map_or_else(|| node.to_string(), |node| node.name.to_string()),
        node_id: node,
        kind,
        ipv4,
        ipv6,
        mac,
        container: sandbox.map(|sandbox| sandbox.container).or_else(|| docker?.container),
        published,
        state,
        revision: stored.revision,
    }
}
