//! What travels over the agent's socket: requests, and replies in the shape that `--output json` prints.
//!
//! Field names are a promise to programs. Requests refuse fields that they do not know, so that a misspelt option is an
//! error and not silently nothing.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use weft_overlay::{
    id::{EndpointId, IfName, Mac, Name, NetworkId, NodeId, Vni},
    model::PublishedPort,
};

/// `weft network create`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateNetwork {
    /// The network's name.
    pub name: Name,
    /// Subnets, at most one of each family; none: the cluster picks one of each.
    #[serde(default)]
    pub subnets: Vec<IpNetwork>,
    /// Gateways, each in one of the subnets; absent: a subnet's first address.
    #[serde(default)]
    pub gateways: Vec<IpAddr>,
    /// Ranges to hand out addresses from, each in one of the subnets.
    #[serde(default)]
    pub ip_ranges: Vec<IpNetwork>,
    /// The VNI; absent: the cluster picks one.
    #[serde(default)]
    pub vni: Option<Vni>,
    /// MTU in bytes; absent: computed from the underlay.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// No way out and no NAT.
    #[serde(default)]
    pub internal: bool,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// `weft connect`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connect {
    /// The network's name.
    pub network: Name,
    /// The container: a namespace's name, a path, or `pid:N`.
    pub container: String,
    /// The endpoint's name; absent: the container's.
    #[serde(default)]
    pub name: Option<Name>,
    /// A chosen IPv4 address.
    #[serde(default)]
    pub ipv4: Option<Ipv4Addr>,
    /// A chosen IPv6 address.
    #[serde(default)]
    pub ipv6: Option<Ipv6Addr>,
    /// A chosen MAC address.
    #[serde(default)]
    pub mac: Option<Mac>,
    /// Further names.
    #[serde(default)]
    pub aliases: Vec<Name>,
    /// The interface's name in the container; absent: the first free of eth0, eth1, ...
    #[serde(default)]
    pub ifname: Option<IfName>,
    /// Ports of this host that lead to the endpoint.
    #[serde(default)]
    pub published: Vec<PublishedPort>,
}

/// `weft disconnect`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disconnect {
    /// The network's name.
    pub network: Name,
    /// The container, as it was given to connect.
    pub container: String,
}

/// A network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// Its name.
    pub name: Name,
    /// Its id.
    pub id: NetworkId,
    /// Its VNI.
    pub vni: Vni,
    /// Its subnets, IPv4 first.
    pub subnets: Vec<IpNetwork>,
    /// Their gateways, in the same order.
    pub gateways: Vec<IpAddr>,
    /// MTU in bytes as it is now.
    pub mtu: u32,
    /// No way out.
    pub internal: bool,
    /// `active` or `deleting`.
    pub state: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// How many containers are in it, on all nodes.
    pub endpoint_count: usize,
    /// What the agent that was asked remarks on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remark: Option<String>,
    /// Who is a member; only where one network is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<Vec<Member>>,
    /// Who is in it; only where one network is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Vec<Endpoint>>,
    /// Who may hand out which addresses; only where one network is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocks: Option<Vec<Block>>,
}

/// A node's part in a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The node's name.
    pub node: String,
    /// Its VTEP.
    pub vtep: IpAddr,
    /// MTU in bytes of its underlay.
    pub underlay_mtu: u32,
}

/// A block of addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// The block.
    pub block: IpNetwork,
    /// The name of the node that owns it.
    pub node: String,
    /// `owned` or `cooling`.
    pub state: String,
    /// How many of its addresses are in use.
    pub used: usize,
}

/// An endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its id.
    pub id: EndpointId,
    /// Its name.
    pub name: Name,
    /// Its network's name.
    pub network: Name,
    /// Its node's name.
    pub node: String,
    /// Its IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// Its MAC address.
    pub mac: Mac,
    /// `ready`; `pending` while it is being set up; `unreachable` while its node shows no sign of life; `lost` when its
    /// node was given up.
    pub state: String,
    /// `container`, or `leg` for a node's own leg.
    pub kind: String,
    /// The container as it was given to connect.
    pub container: Option<String>,
    /// The interface's name in the container.
    pub ifname: Option<IfName>,
    /// Further names.
    pub aliases: Vec<Name>,
    /// Ports of its node that lead to it.
    pub published: Vec<PublishedPort>,
    /// What the user should know about how it was set up, such as a resolver file that is not ours.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: Name,
    /// Its id.
    pub id: NodeId,
    /// Its VTEP.
    pub vtep: IpAddr,
    /// `ready`, `unreachable` (no sign of life), `draining` or `lost`.
    pub state: String,
    /// The agent's version.
    pub version: String,
    /// How many containers it has in networks.
    pub endpoint_count: usize,
    /// Its routes, which subnets of networks stay clear of; only where one node is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<Vec<String>>,
}

/// `weft status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// This node's name.
    pub node: Name,
    /// Its id.
    pub id: NodeId,
    /// The agent's version.
    pub version: String,
    /// Its VTEP.
    pub vtep: IpAddr,
    /// The data plane's network namespace: a name in /run/netns.
    pub netns: String,
    /// UDP port of VXLAN.
    pub vxlan_port: u16,
    /// MTU in bytes of the underlay.
    pub underlay_mtu: u32,
    /// `registering`, `active`, `draining` or `lost`.
    pub standing: String,
    /// The store.
    pub store: StoreStatus,
    /// The newest revision of the store that the agent has seen, of the networks that it follows and of the index of all.
    pub revision: i64,
    /// Whether the kernel is as the store says, as far as this node knows.
    pub converged: bool,
    /// What is still to be done, shortened.
    pub pending: Vec<String>,
    /// The networks on this node.
    pub networks: Vec<NetworkStatus>,
    /// What is wrong now: failed steps, obstacles, unreadable values, an unreachable store.
    pub errors: Vec<String>,
    /// Counters since the agent's start.
    pub counters: Counters,
}

/// The store, as this agent sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStatus {
    /// Whom the agent talks to.
    pub endpoint: String,
    /// Whether it answers.
    pub reachable: bool,
    /// The last error, if it does not.
    pub error: Option<String>,
}

/// A network, as it is on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkStatus {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: NetworkId,
    /// MTU in bytes.
    pub mtu: u32,
    /// The bridge in the data plane's namespace.
    pub bridge: IfName,
    /// The VXLAN device in the data plane's namespace.
    pub vxlan: IfName,
    /// The leg in the host's namespace.
    pub leg: IfName,
    /// Containers on this node.
    pub local: usize,
    /// Endpoints on other nodes.
    pub remote: usize,
    /// Other nodes in it.
    pub peers: usize,
}

/// Counters since the agent's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Passes of the reconciler.
    pub passes: u64,
    /// Writes to the kernel that succeeded.
    pub writes: u64,
    /// Writes that failed.
    pub failures: u64,
    /// Full comparisons of everything.
    pub audits: u64,
    /// Differences that only an audit found: each is a notification that was missed.
    pub audit_findings: u64,
}

/// `weft plan`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanReply {
    /// What would be changed now, in order.
    pub steps: Vec<String>,
    /// What is in the way.
    pub obstacles: Vec<String>,
}

/// `weft dump`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DumpReply {
    /// What the kernel should hold: object to state.
    pub desired: BTreeMap<String, String>,
    /// What the kernel was just read to hold.
    pub observed: BTreeMap<String, String>,
    /// What this node knows of the store, by key.
    pub store: BTreeMap<String, serde_json::Value>,
}

/// `weft network rm`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedNetwork {
    /// Its name.
    pub name: Name,
    /// Its id.
    pub id: NetworkId,
}

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReply {
    /// What kind of failure it is.
    pub class: ErrorClass,
    /// The thing, the reason and the remedy.
    pub error: String,
}

/// Kinds of failure, each with an exit code of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// The request is malformed or asks for something that cannot be.
    Invalid,
    /// Something that it names does not exist.
    NotFound,
    /// It contradicts something that exists.
    Conflict,
    /// The store or the agent cannot be reached now.
    Unavailable,
    /// Anything else went wrong.
    Internal,
}
