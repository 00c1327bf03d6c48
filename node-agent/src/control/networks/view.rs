//! Networks as people and programs see them, and what of the address space is taken.

use super::*;
use crate::control::{
    endpoints::{EndpointView, endpoints_in},
    nodes::NodeView,
};
use weft_ipam::Taken;
use weft_overlay::{
    model::{BlockRecord, MemberRecord, NodeRecord},
    txn::TxnReply,
};

/// A network.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NetworkView {
    /// Its name.
    pub name: Name,
    /// Its id.
    pub id: NetworkId,
    /// Its VNI.
    pub vni: Vni,
    /// Its subnets, IPv4 first.
    pub subnets: Vec<SubnetView>,
    /// Its gateways, in the order of the subnets.
    pub gateways: Vec<IpAddr>,
    /// The user's MTU in bytes; absent: computed from the underlay.
    pub mtu: Option<u32>,
    /// No way out.
    pub internal: bool,
    /// The user's labels.
    pub labels: BTreeMap<String, String>,
    /// The driver's options that Docker's user gave.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub docker_options: BTreeMap<String, String>,
    /// In use, or being removed.
    pub state: NetworkState,
    /// When its specification was last changed.
    pub revision: Revision,
}

/// One subnet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SubnetView {
    /// The subnet.
    pub subnet: IpNetwork,
    /// The gateway's address.
    pub gateway: IpAddr,
    /// Where addresses are handed out from, if not from all of it.
    pub ip_range: Option<IpNetwork>,
    /// Prefix length of the blocks that nodes claim.
    pub block_len: u8,
}

/// A network with everything in it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NetworkDetails {
    /// The network.
    #[serde(flatten)]
    pub network: NetworkView,
    /// The nodes that take part.
    pub members: Vec<MemberView>,
    /// The endpoints, by address.
    pub endpoints: Vec<EndpointView>,
    /// The blocks, by address.
    pub blocks: Vec<BlockView>,
    /// The revision of all this.
    pub as_of: Revision,
}

/// A node's part in a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemberView {
    /// The node's name.
    pub node: String,
    /// The node's id.
    pub node_id: NodeId,
    /// Where its VXLAN packets come from.
    pub vtep: IpAddr,
    /// The MTU of its underlay in bytes.
    pub underlay_mtu: u32,
}

/// A block of addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BlockView {
    /// The block.
    pub block: String,
    /// The name of the node that owns or last owned it.
    pub node: String,
    /// Owned, or cooling down.
    pub state: BlockState,
    /// Endpoints in it.
    pub held: usize,
}

impl NetworkView {
    pub(super) fn of(id: NetworkId, spec: &NetworkSpec, revision: Revision) -> Self {
        let subnets = spec.subnets.iter().map(|part| SubnetView {
            subnet: part.subnet,
            gateway: part.gateway,
            ip_range: part.ip_range,
            block_len: part.block_len,
        });
        Self {
            name: spec.name.clone(),
            id,
            vni: spec.vni,
            subnets: subnets.collect(),
            gateways: spec.subnets.iter().map(|part| part.gateway).collect(),
            mtu: spec.mtu,
            internal: spec.internal,
            labels: spec.labels.clone(),
            docker_options: spec.docker_options.clone(),
            state: spec.state,
            revision,
        }
    }
}

pub(super) fn details<S: Store>(
    client: &Client<S>,
    id: NetworkId,
    spec: &Stored<NetworkSpec>,
    reply: &TxnReply,
    nodes: &[NodeView],
) -> NetworkDetails {
    let names: BTreeMap<NodeId, String> = nodes.iter().map(|node| (node.id, node.name.to_string())).collect();
    let named = |node: NodeId| names.get(&node).cloned().unwrap_or_else(|| node.to_string());
    let endpoints = endpoints_in(client, reply);
    let (mut members, mut blocks) = (Vec::new(), Vec::new());
    for kv in reply.reads.iter().flatten() {
        match client.keys().decode(&kv.key) {
            Ok(Key::Member(_, node_id)) => members.extend(Stored::<MemberRecord>::decode(kv).ok().map(|stored| {
                let MemberRecord { vtep, underlay_mtu, .. } = stored.record;
                MemberView { node: named(node_id), node_id, vtep, underlay_mtu }
            })),
            Ok(Key::Block(_, base)) => blocks.extend(Stored::<BlockRecord>::decode(kv).ok().and_then(|stored| {
                let block = IpNetwork::new(base, stored.record.len).ok()?;
                let inside = |e: &&EndpointView| {
                    e.ipv4.map(IpAddr::V4).or_else(|| e.ipv6.map(IpAddr::V6)).is_some_and(|ip| block.contains(ip))
                };
                Some(BlockView {
                    block: block.to_string(),
                    node: named(stored.record.node),
                    state: stored.record.st,
                    held: endpoints.iter().filter(inside).count(),
                })
            })),
            _ => {}
        }
    }
    let network = NetworkView::of(id, &spec.record, spec.revision);
    NetworkDetails { network, members, endpoints, blocks, as_of: reply.revision }
}

/// What is in use in the cluster.
#[derive(Debug)]
pub(super) struct TakenSpace {
    pub(super) ranges: Vec<Taken>,
    names: BTreeMap<Name, NetworkId>,
}

impl TakenSpace {
    pub(super) fn named(&self, name: &Name) -> Option<NetworkId> {
        self.names.get(name).copied()
    }

    pub(super) fn name_of(&self, network: NetworkId) -> String {
        let found = self.names.iter().find(|(_, id)| **id == network);
        found.map_or_else(|| network.to_string(), |(name, _)| name.to_string())
    }
}

/// Every network's subnets, every node's routes and every VTEP, as of one revision.
pub(super) async fn taken<S: Store>(client: &Client<S>, deadline: Instant) -> Result<TakenSpace, NetworksError> {
    let keys = client.keys();
    let then = [keys.network_names(), keys.nodes()].map(|range| Op::ReadRange(range, ALL)).to_vec();
    let reply = client.transact(Txn { then, ..Txn::default() }, deadline).await?;
    let mut taken = TakenSpace { ranges: Vec::new(), names: BTreeMap::new() };
    for kv in reply.reads.iter().flatten() {
        match keys.decode(&kv.key) {
            Ok(Key::NetworkName(name)) => {
                let Ok(stored) = Stored::<NetworkNameRecord>::decode(kv) else { continue };
                for network in stored.record.subnets {
                    let holder = format!("network {:?} ({network})", name.as_str());
                    taken.ranges.push(Taken { network, holder });
                }
                taken.names.insert(name, stored.record.id);
            }
            Ok(Key::Node(_)) => {
                let Ok(stored) = Stored::<NodeRecord>::decode(kv) else { continue };
                taken.ranges.extend(of_node(&stored.record));
            }
            _ => {}
        }
    }
    Ok(taken)
}

fn of_node(node: &NodeRecord) -> impl Iterator<Item = Taken> + '_ {
    let route = |route: &weft_overlay::model::NodeRoute| {
        let (network, name) = (route.destination, &node.name);
        Taken { network, holder: format!("route {network} dev {} on node {name}", route.dev) }
    };
    let vtep = Taken {
        network: IpNetwork::from(node.vtep),
        holder: format!("underlay address {} of node {}", node.vtep, node.name),
    };
    node.routes.iter().map(route).chain([vtep])
}
