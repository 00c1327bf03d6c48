//! The nodes of the cluster: showing, draining and removing them.
//!
//! Whatever is changed here is changed in the store by anybody's agent; the node concerned learns it from its fence. A
//! node is removed only when nothing is left of it.

use std::{collections::BTreeMap, net::IpAddr};

use serde::Serialize;
use thiserror::Error;
use tokio::time::{Instant, sleep};
use weft_overlay::{
    claims::{Claim, ClaimError, FenceChanged, NodeRemoved, RemoveNode, SetDraining, Stored},
    codec::encode_record,
    id::{Name, NodeId},
    keys::Key,
    model::{FenceRecord, FenceState, LiveRecord, NodeRecord, NodeReference, NodeRoute},
    store::Store,
    txn::{Compare, Op, Revision, Txn, TxnReply},
};

use super::{
    endpoints::ALL,
    submit::{Client, SubmitError},
};

/// A field of a node's record: the controller need not wait before it gives the node up. Its agent removes the field.
pub const EXPEL: &str = "expel";

/// Time between two looks at a node that is being cleaned up.
const POLL: std::time::Duration = std::time::Duration::from_millis(500);

/// A node, for people and programs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeView {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: Name,
    /// Its VTEP.
    pub vtep: IpAddr,
    /// What it may do and whether it is there.
    pub state: NodeState,
    /// Its agent's version.
    pub version: String,
    /// Which of its lives it is in.
    pub epoch: u64,
    /// The routes of its host.
    pub routes: Vec<NodeRoute>,
    /// When its record was last changed.
    pub revision: Revision,
}

/// What a node may do and whether it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Its agent is alive.
    Ready,
    /// Its agent gives no sign of life; nothing else has changed.
    Suspect,
    /// It takes on nothing new.
    Draining,
    /// The controller gave it up.
    Lost,
}

/// Why something could not be done with a node.
#[derive(Debug, Error)]
pub enum NodesError {
    /// There is no such node.
    #[error("there is no node {0:?}; `weft node ls` shows all")]
    Unknown(String),
    /// The node's agent is running.
    #[error("node {name} is running; stop its agent first, and it can be removed {within} s later")]
    Alive {
        /// The node.
        name: Name,
        /// When its sign of life ends.
        within: u64,
    },
    /// The node still has something.
    #[error("node {name} still has {}; move its containers, or give it up with `weft node rm --force {name}`", what.join(", "))]
    InUse {
        /// The node.
        name: Name,
        /// What: some of its endpoints and blocks.
        what: Vec<String>,
    },
    /// The controller has not finished cleaning up.
    #[error("node {name} is given up, but still has {}; `weft node rm {name}` completes it when a controller is running", what.join(", "))]
    CleaningUp {
        /// The node.
        name: Name,
        /// What: some of its endpoints and blocks.
        what: Vec<String>,
    },
    /// The node is lost.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The node changed at the same time.
    #[error("node {0} was changed by somebody else at this moment; try again")]
    Changed(Name),
    /// The store did not answer, or said no.
    #[error("nodes cannot be shown or changed")]
    Store(#[from] SubmitError),
}

/// The nodes, by id.
///
/// # Errors
/// When the store does not answer.
pub async fn list_nodes<S: Store>(client: &Client<S>, deadline: Instant) -> Result<Vec<NodeView>, NodesError> {
    let keys = client.keys();
    let then = [keys.nodes(), keys.fences(), keys.lives()].map(|range| Op::ReadRange(range, ALL)).to_vec();
    let reply = client.transact(Txn { then, ..Txn::default() }, deadline).await?;
    Ok(nodes_in(client, &reply))
}

/// One node, by name or id.
///
/// # Errors
/// When there is none, or the store does not answer.
pub async fn inspect_node<S: Store>(client: &Client<S>, node: &str, deadline: Instant) -> Result<NodeView, NodesError> {
    let mut nodes = list_nodes(client, deadline).await?;
    nodes.retain(|view| view.name.as_str() == node || view.id.to_string() == node);
    nodes.pop().ok_or_else(|| NodesError::Unknown(node.to_owned()))
}

/// Has a node take on nothing new, or ends that.
///
/// # Errors
/// When there is no such node, it is lost, or the store does not answer.
pub async fn set_draining<S: Store>(
    client: &Client<S>,
    node: &str,
    draining: bool,
    deadline: Instant,
) -> Result<NodeView, NodesError> {
    loop {
        let own = find(client, node, deadline).await?;
        let name = own.record.record.name.clone();
        let Some(fence) = own.fence else { return Err(NodesError::Changed(name)) };
        let wanted = if draining { FenceState::Draining } else { FenceState::Active };
        if fence.record.state != wanted {
            let claim = SetDraining::new(own.id, fence, draining)?;
            match client.submit(&claim, deadline).await? {
                FenceChanged::Done(_) => {}
                FenceChanged::Changed(_) if Instant::now() < deadline => continue,
                FenceChanged::Changed(_) => return Err(NodesError::Changed(name)),
            }
        }
        return inspect_node(client, node, deadline).await;
    }
}

/// Removes a node that is not running and of which nothing is left. With `force`, has the controller give it up at once
/// and clean up after it first.
///
/// # Errors
/// When the node is running or something of it is left.
pub async fn remove_node<S: Store>(
    client: &Client<S>,
    node: &str,
    force: bool,
    deadline: Instant,
) -> Result<NodeId, NodesError> {
    loop {
        let own = find(client, node, deadline).await?;
        let name = own.record.record.name.clone();
        let (id, record) = (own.id, own.record.clone());
        let Some(fence) = own.fence else { return Err(NodesError::Changed(name)) };
        let claim = RemoveNode { node: id, record, fence };
        let mut what = Vec::new();
        match client.submit(&claim, deadline).await? {
            NodeRemoved::Removed => return Ok(id),
            NodeRemoved::Alive(_) => {
                return Err(NodesError::Alive { name, within: super::registration::LIVE_TTL.as_secs() });
            }
            NodeRemoved::InUse(left) if !force => {
                return Err(NodesError::InUse { name, what: left.iter().map(describe).collect() });
            }
            NodeRemoved::InUse(left) => {
                what = left.iter().map(describe).collect();
                expel(client, id, own.record, deadline).await?;
            }
            NodeRemoved::Changed => {}
        }
        if Instant::now() + POLL >= deadline {
            return Err(NodesError::CleaningUp { name, what });
        }
        sleep(POLL).await;
    }
}

#[derive(Debug)]
struct Found {
    id: NodeId,
    record: Stored<NodeRecord>,
    fence: Option<Stored<FenceRecord>>,
}

async fn find<S: Store>(client: &Client<S>, node: &str, deadline: Instant) -> Result<Found, NodesError> {
    let unknown = || NodesError::Unknown(node.chars().take(80).collect());
    let by_name = match node.parse::<Name>() {
        Ok(name) => {
            let key = Key::NodeName(name);
            let reply = client.read([&key], deadline).await?;
            client.found::<NodeReference>(&reply, &key)?.map(|reference| reference.record.node)
        }
        Err(_) => None,
    };
    let id = by_name.or_else(|| node.parse().ok()).ok_or_else(unknown)?;
    let [record, fence] = [Key::Node(id), Key::Fence(id)];
    let reply = client.read([&record, &fence], deadline).await?;
    let fence = client.found(&reply, &fence)?;
    Ok(Found { id, record: client.found(&reply, &record)?.ok_or_else(unknown)?, fence })
}

/// Tells the controller that it need not wait. Nothing changes while the node's agent is alive.
async fn expel<S: Store>(
    client: &Client<S>,
    node: NodeId,
    stored: Stored<NodeRecord>,
    deadline: Instant,
) -> Result<(), NodesError> {
    let mut record = stored.record;
    if record.extra.insert(EXPEL.to_owned(), true.into()) == Some(true.into()) {
        return Ok(());
    }
    let claim = Expel { node, record, revision: stored.revision };
    client.submit(&claim, deadline).await?;
    Ok(())
}

/// Marks a node's record; a record that has changed meanwhile is looked at again.
#[derive(Debug)]
struct Expel {
    node: NodeId,
    record: NodeRecord,
    revision: Revision,
}

impl Claim for Expel {
    type Outcome = ();

    fn txn(&self, keys: &weft_overlay::keys::Keyspace) -> Txn {
        let key = keys.encode(&Key::Node(self.node));
        let compares =
            vec![Compare::At(key.clone(), self.revision), Compare::Absent(keys.encode(&Key::Live(self.node)))];
        Txn { compares, then: vec![Op::put(key, encode_record(&self.record))], or_else: Vec::new() }
    }

    fn outcome(&self, _: &weft_overlay::keys::Keyspace, _: &TxnReply) -> Result<(), weft_overlay::claims::ReplyError> {
        Ok(())
    }
}

/// The nodes among what was read. A record that cannot be read is left out here: it is reported where it is followed.
pub(super) fn nodes_in<S: Store>(client: &Client<S>, reply: &TxnReply) -> Vec<NodeView> {
    let (mut records, mut fences, mut lives) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for kv in reply.reads.iter().flatten() {
        match client.keys().decode(&kv.key) {
            Ok(Key::Node(node)) => {
                if let Ok(record) = Stored::<NodeRecord>::decode(kv) {
                    records.insert(node, record);
                }
            }
            Ok(Key::Fence(node)) => {
                if let Ok(fence) = Stored::<FenceRecord>::decode(kv) {
                    fences.insert(node, fence.record);
                }
            }
            Ok(Key::Live(node)) => {
                if let Ok(live) = Stored::<LiveRecord>::decode(kv) {
                    lives.insert(node, live.record);
                }
            }
            _ => {}
        }
    }
    let view = |(id, stored): (NodeId, Stored<NodeRecord>)| {
        let fence = fences.get(&id);
        let NodeRecord { name, vtep, version, routes, .. } = stored.record;
        let state = node_state(fence, lives.contains_key(&id));
        let epoch = fence.map_or(0, |fence| fence.epoch);
        NodeView { id, name, vtep, state, version, epoch, routes, revision: stored.revision }
    };
    records.into_iter().map(view).collect()
}

fn node_state(fence: Option<&FenceRecord>, alive: bool) -> NodeState {
    match (fence.map(|fence| fence.state), alive) {
        (None | Some(FenceState::Lost), _) => NodeState::Lost,
        (Some(_), false) => NodeState::Suspect,
        (Some(FenceState::Draining), true) => NodeState::Draining,
        (Some(FenceState::Active), true) => NodeState::Ready,
    }
}

fn describe(key: &Key) -> String {
    match key {
        Key::EndpointIndex(_, endpoint) => format!("endpoint {endpoint}"),
        Key::BlockIndex(_, network, base) => format!("block {base} of network {network}"),
        other => format!("{other:?}"),
    }
}
