//! What is stored: the values of the keys of [`crate::keys`], as JSON that `etcdctl get` shows readably.
//!
//! Every record carries its major version `v` and keeps the fields that this version does not know, so that an older
//! agent that reads, changes and writes a record erases nothing. Must not know keys, transactions or the kernel.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::id::{EndpointId, IfName, Mac, Name, NetworkId, NodeId, Vni};

/// The record version that this code writes, and the highest that it reads.
pub const RECORD_VERSION: u32 = 1;

/// Fields of a record that this version does not know, kept for those that do.
pub type Unknown = BTreeMap<String, serde_json::Value>;

/// A host that runs the agent: `node/<nid>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Record version.
    pub v: u32,
    /// The node's name, unique in the cluster.
    pub name: Name,
    /// The tunnel endpoint's address.
    pub vtep: IpAddr,
    /// The agent's version.
    pub version: String,
    /// Where this node's own routes lead, so that no overlay subnet hides one of them.
    #[serde(default)]
    pub routes: Vec<NodeRoute>,
    /// Unknown fields.
    #[serde(flatten)]
    pub extra: Unknown,
}

/// One route of a node's host namespace, as far as overlay subnets must stay clear of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeRoute {
    /// The destination; never a default route.
    pub destination: IpNetwork,
    /// The interface that it leads to.
    pub dev: String,
}

/// Who has a node's name or VTEP: `nodename/<name>`, `vtep/<ip>`. Their existence makes both unique.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReference {
    /// Record version.
    pub v: u32,
    /// The node.
    pub node: NodeId,
}

/// Whether a node may write: `fence/<nid>`. The key's mod revision is the node's fencing token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FenceRecord {
    /// Record version.
    pub v: u32,
    /// Counts the node's lives; raised when it comes back from `lost`.
    pub epoch: u64,
    /// Active, draining or lost.
    pub state: FenceState,
    /// Unknown fields.
    #[serde(flatten)]
    pub extra: Unknown,
}

/// What a node may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FenceState {
    /// Everything.
    Active,
    /// Keep what it has, take on nothing new.
    Draining,
    /// Nothing: the controller gave it up, and its endpoints are being removed.
    Lost,
}

/// That an agent is running: `live/<nid>`, on a lease of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LiveRecord {
    /// Record version.
    pub v: u32,
    /// The kernel's boot id.
    pub boot_id: String,
    /// The agent's version.
    pub version: String,
    /// The epoch that the agent believes in.
    pub epoch: u64,
    /// Unknown fields.
    #[serde(flatten)]
    pub extra: Unknown,
}

/// The index of names: `netname/<name>`. Repeats what never changes, so that one small watch shows every network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkNameRecord {
    /// Record version.
    pub v: u32,
    /// The network.
    pub id: NetworkId,
    /// Its VNI.
    pub vni: Vni,
    /// Its subnets.
    pub subnets: Vec<IpNetwork>,
    /// Unknown fields.
    #[serde(flatten)]
    pub extra: Unknown,
}

/// What a network is: `net/<netid>/spec`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// Record version.
    pub v: u32,
    /// The network's name.
    pub name: Name,
    /// The VXLAN network identifier.
    pub vni: Vni,
    /// At most one subnet of each family, IPv4 first.
    pub subnets: Vec<SubnetSpec>,
    /// The user's MTU in bytes; absent: computed from the underlay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// No way out and no NAT.
    #[serde(default)]
    pub internal: bool,
    /// The user's labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The driver's options that Docker's user gave: every copy in an engine has them, since Compose compares them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub docker_options: BTreeMap<String, String>,
    /// Active or being deleted.
    pub state: NetworkState,
    /// Whether deletion removes endpoints too.
    #[serde(default)]
    pub force_delete: bool,
    /// Unknown fields.
    #[serde(flatten)]
    pub extra: Unknown,
}

impl NetworkSpec {
    /// The IPv4 subnet.
    pub fn subnet4(&self) -> Option<&SubnetSpec> {
        self.subnets.iter().find(|s| s.subnet.is_ipv4())
    }

    /// The IPv6 subnet.
    pub fn subnet6(&self) -> Option<&SubnetSpec> {
        self.subnets.iter().find(|s| s.subnet.is_ipv6())
    }

    /// The subnet whose addresses are the keys of endpoint records and are handed out from blocks: IPv4 if there is one.
    pub fn primary(&self) -> Option<&SubnetSpec> {
        self.subnet4().or_else(|| self.subnet6())
    }
}

/// One subnet of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetSpec {
    /// The subnet; its host bits are zero.
    pub subnet: IpNetwork,
    /// The anycast gateway's address, the same on every node.
    pub gateway: IpAddr,
    /// Where addresses are handed out from; the rest is for `--ip`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_range: Option<IpNetwork>,
    /// Addresses that no endpoint may have, because machines outside the cluster do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub auxiliary: Vec<IpAddr>,
    /// Prefix length of this subnet's blocks; never changed once chosen.
    pub block_len: u8,
}

/// Where a network is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkState {
    /// In use.
    Active,
    /// Agents detach from it; the controller removes it when nothing is left.
    Deleting,
}

/// That a node takes part in a network: `net/<netid>/member/<nid>`. Flood list and receiver's allow-list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// Record version.
    pub v: u32,
    /// Where the node's VXLAN packets come from and go to.
    pub vtep: IpAddr,
    /// The node's epoch when it joined.
    pub epoch: u64,
    /// The smallest MTU in bytes of the node's routes to the other VTEPs, before the encapsulation is taken off.
    pub underlay_mtu: u32,
    /// Unknown fields.
    #[serde(flatten)]
    pub extra: Unknown,
}

/// An endpoint: `net/<netid>/ep/4/<ip>`, or `ep/6/<ip>` in a network without IPv4.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndpointRecord {
    /// Record version.
    pub v: u32,
    /// The endpoint.
    pub id: EndpointId,
    /// The node that it is on.
    pub node: NodeId,
    /// That node's epoch when it was created.
    pub epoch: u64,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Its node's VTEP.
    pub vtep: IpAddr,
    /// What it is an endpoint of.
    pub kind: EndpointKind,
    /// The name that it is known by in the network.
    pub name: Name,
    /// Further names, possibly shared with other endpoints.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<Name>,
    /// The IPv4 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<Ipv4Addr>,
    /// The IPv6 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Addr>,
    /// Where its interface is; absent for a gateway leg.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<Sandbox>,
    /// Ports of the node's that lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<PublishedPort>,
    /// What Docker calls it, where Docker made it: then there is no `sandbox`, because only Docker knows where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker: Option<Box<DockerEndpoint>>,
    /// Unknown fields.
    #[serde(flatten)]
    pub extra: Unknown,
}

impl EndpointRecord {
    /// The endpoint's addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.ipv4.map(IpAddr::V4).into_iter().chain(self.ipv6.map(IpAddr::V6))
    }

    /// The boot of its node's kernel that its interface belongs to; absent for a gateway leg.
    pub fn boot_id(&self) -> Option<&str> {
        let sandbox = self.sandbox.as_ref().map(|sandbox| sandbox.boot_id.as_str());
        sandbox.or_else(|| self.docker.as_ref().map(|docker| docker.boot_id.as_str()))
    }

    /// The address that is the record's key.
    pub fn primary_address(&self) -> Option<IpAddr> {
        self.addresses().next()
    }
}

/// What stands behind an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointKind {
    /// A container.
    Container,
    /// The host end of a node's gateway leg.
    Leg,
}

/// The network namespace and interface of a container's endpoint, as its node knows them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// The container as the user named it: a namespace's name, a path, or `pid:N`.
    pub container: String,
    /// Path of the namespace.
    pub path: String,
    /// Device number of the namespace's inode.
    pub dev: u64,
    /// The namespace's inode: a namespace made later under the same path is another one.
    pub inode: u64,
    /// The boot of the kernel that the inode belongs to.
    pub boot_id: String,
    /// The interface's name inside.
    pub ifname: IfName,
    /// Whether the container's default routes go through this network: so for its first one.
    pub default_route: bool,
}

/// An endpoint as the Docker engine of its node knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DockerEndpoint {
    /// Docker's id of the endpoint: 64 hexadecimal digits, of which the first twelve are ours.
    pub endpoint: String,
    /// That engine's id of the network: 64 hexadecimal digits.
    pub network: String,
    /// The container's id, once the engine has said whose endpoint it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The boot of the kernel that the endpoint was made in.
    pub boot_id: String,
}

/// A port of the node's that leads to an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PublishedPort {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The host's address; absent: every address of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
    /// The host's port.
    pub host_port: u16,
    /// The endpoint's port.
    pub port: u16,
}

impl PublishedPort {
    /// Where the host answers: an unspecified address stands for every one of its family. Without an address of its own,
    /// a port is published over both families.
    pub fn host_addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let anywhere = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let named = self.host_ip;
        anywhere.into_iter().filter(move |_| named.is_none()).chain(named)
    }
}

/// A transport protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// The second address of a dual-stack endpoint: `net/<netid>/ep/6/<ip>`, pointing to the record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndpointReference {
    /// Record version.
    pub v: u32,
    /// The IPv4 address that the record is kept under.
    #[serde(rename = "ref")]
    pub record: IpAddr,
    /// The endpoint.
    pub id: EndpointId,
}

/// An aligned range of addresses that one node may hand out: `ipam/<netid>/blk/4/<base>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BlockRecord {
    /// Record version.
    pub v: u32,
    /// The node that owns or last owned it.
    pub node: NodeId,
    /// Its epoch at the claim.
    pub epoch: u64,
    /// Prefix length.
    pub len: u8,
    /// Owned or cooling.
    pub st: BlockState,
    /// Unknown fields.
    #[serde(flatten)]
    pub extra: Unknown,
}

/// Whether a block may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlockState {
    /// By its node.
    Owned,
    /// By nobody until the key's lease has run out.
    Cooling,
}

/// Who has a VNI: `vni/<6 hex>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VniRecord {
    /// Record version.
    pub v: u32,
    /// The network; absent while the VNI cools down after its network's end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkId>,
}

/// A node's index of its endpoints: `idx/<nid>/ep/<eid>`. Also shows that a creation succeeded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndpointIndexRecord {
    /// Record version.
    pub v: u32,
    /// The endpoint's network.
    pub network: NetworkId,
    /// The address that its record is kept under.
    pub ip: IpAddr,
}

/// What readers must know: `meta/schema`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SchemaRecord {
    /// Record version.
    pub v: u32,
    /// The lowest [`RECORD_VERSION`] that may still write.
    pub min_reader: u32,
    /// Unknown fields.
    #[serde(flatten)]
    pub extra: Unknown,
}
