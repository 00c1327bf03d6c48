//! What Weft has in the kernel of one node, as values: the same types say what should be there and what was read.
//!
//! An [`ObjectId`] names one thing that is made, compared and removed by itself, an [`Object`] says how it is. Everything
//! that identifies a thing is in its id, so that an id can be read back from the kernel without knowing the store. The
//! port [`Kernel`] is carried out by the netlink adapter of the agent, and by the stateful [`fake`] in tests.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::id::{EndpointId, IfName, Mac, NetworkId, Vni};
use crate::model::Protocol;

pub mod fake;

/// The name of one thing in the kernel. Ids of one network lie together in order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectId {
    /// Something that the node has once.
    Node(NodeObject),
    /// Something of one network.
    Network(NetworkId, NetworkObject),
}

/// Things that a node has once, or whose id does not tell the network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodeObject {
    /// Forwarding of both families in the host's namespace.
    HostForwarding,
    /// The settings of the data plane's namespace.
    DataPlaneSettings,
    /// The routing rule that keeps unprivileged processes from sending to the VXLAN port.
    SendGuard(Family),
    /// One of our nftables tables: its chains, rules and sets, without the sets' elements.
    Table(Table),
    /// An element of a set in one of our tables.
    Element(Element),
    /// Accepting rules in the chains of others, where those would drop what passes through a leg.
    ForeignAccepts,
}

/// Things of one network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum NetworkObject {
    /// The bridge, in the data plane's namespace.
    Bridge,
    /// The VXLAN device, in the data plane's namespace with its socket in the host's.
    Vxlan,
    /// The gateway leg: a veth from the bridge to the host's namespace.
    Leg,
    /// An address of the leg's host end.
    LegAddress(IpAddr),
    /// A route of the host through the leg.
    LegRoute(IpNetwork),
    /// The bridge end of an endpoint's veth. Creating it makes the container's end too.
    Port(EndpointId),
    /// The container's end of an endpoint's veth.
    Sandbox(EndpointId),
    /// A static row of the bridge's forwarding table.
    BridgeFdb(Mac),
    /// A row of the VXLAN device's forwarding table: which VTEP a MAC is behind.
    TunnelFdb(Mac),
    /// An all-zero row of the VXLAN device: a VTEP that receives broadcast, unknown unicast and multicast.
    Flood(IpAddr),
    /// An externally learned, permanent neighbour on the bridge, so that ARP and ND are answered here.
    Neighbour(IpAddr),
}

/// Address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// Our nftables tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Table {
    /// `inet weft` in the host's namespace: who may send VXLAN, isolation, masquerade, published ports.
    Host,
    /// `bridge weft` in the data plane's namespace: what a container may send, what may cross the tunnel.
    DataPlane,
}

/// One element of one set. The variant tells the set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    /// VXLAN is accepted from this VTEP for this VNI.
    AcceptedPair(IpAddr, Vni),
    /// Nothing is forwarded to this address's VXLAN port.
    Vtep(IpAddr),
    /// The host end of a leg.
    Leg(IfName),
    /// The host end of the leg of a network without a way out.
    InternalLeg(IfName),
    /// A subnet of any network of the cluster.
    OverlaySubnet(IpNetwork),
    /// A subnet whose packets are masqueraded when they leave through anything but a leg.
    MasqueradedSubnet(IpNetwork),
    /// The address of a container on this node.
    LocalEndpoint(IpAddr),
    /// A port at an address of the host's that leads to an endpoint; the object says to which. An unspecified address
    /// stands for every one of its family, as with sockets. Both are of one family: no packet changes it.
    Published(Protocol, IpAddr, u16),
    /// A MAC address that may be the source of frames from this port.
    PortMac(IfName, Mac),
    /// An IP address that may be the source of packets from this port.
    PortAddress(IfName, IpAddr),
    /// A gateway's address: ARP and ND about it never cross the tunnel.
    Gateway(IpAddr),
}

/// How one thing is, or should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Object {
    /// Present, and there is nothing more to say: elements, settings, guards, accepts as they should be.
    Present,
    /// Present but not as it should be, for things that have one right state only; says what is wrong.
    Deviant(String),
    /// Something that is not ours stands under our name; says what. Never touched.
    Foreign(String),
    /// A sandbox whose namespace no longer exists.
    Gone,
    /// A bridge.
    Bridge(Box<Bridge>),
    /// A VXLAN device.
    Vxlan(Box<Vxlan>),
    /// A gateway leg.
    Leg(Box<Leg>),
    /// An address of a leg.
    LegAddress {
        /// Prefix length.
        prefix: u8,
        /// Never chosen as a source (IPv6: preferred lifetime 0).
        deprecated: bool,
    },
    /// A route through a leg, with the source address that the host then uses.
    LegRoute(Option<IpAddr>),
    /// The bridge end of an endpoint's veth.
    Port(Box<Port>),
    /// The container's end.
    Sandbox(Box<SandboxState>),
    /// Where the bridge sends frames for a MAC.
    BridgeFdb(FdbPort),
    /// Which VTEP a MAC is behind.
    TunnelFdb(IpAddr),
    /// The MAC of an address.
    Neighbour(Mac),
    /// Which endpoint address and port a published port leads to.
    Published(IpAddr, u16),
}

/// A bridge. Multicast snooping and ageing have one right state and are part of `tuned`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bridge {
    /// Its MAC, given at creation: a changed one empties the neighbour table.
    pub mac: Mac,
    /// In bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Every option of the recipe holds.
    pub tuned: bool,
}

/// A VXLAN device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vxlan {
    /// Network identifier. A change needs a new device.
    pub vni: Vni,
    /// Outer source address. A change needs a new device.
    pub local: IpAddr,
    /// Outer UDP destination port. A change needs a new device.
    pub port: u16,
    /// Its MAC.
    pub mac: Mac,
    /// In bytes, of the inner packets.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// A port of the network's bridge with learning off and neighbour suppression on.
    pub attached: bool,
    /// `nolearning`, outer UDP checksum, not bound to a device: as the recipe says.
    pub tuned: bool,
}

/// A gateway leg: both ends of one veth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leg {
    /// MAC of the host's end: the gateway's, on this node.
    pub mac: Mac,
    /// In bytes, both ends.
    pub mtu: u32,
    /// Both ends administratively up.
    pub up: bool,
    /// The bridge end is a port of the network's bridge with learning off.
    pub attached: bool,
    /// Every setting of the host's end holds.
    pub tuned: bool,
}

/// The bridge end of an endpoint's veth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// In bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// A port of the network's bridge with learning off.
    pub attached: bool,
}

/// The container's end of an endpoint's veth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxState {
    /// The namespace.
    pub place: Place,
    /// The interface's MAC.
    pub mac: Mac,
    /// In bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Its addresses with the prefix lengths of their subnets, in order; IPv6 link-local ones are not listed.
    pub addresses: BTreeSet<IpNetwork>,
    /// Next hops of the default routes through it.
    pub default_routes: BTreeSet<IpAddr>,
}

/// Where a sandbox's interface is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// Path of the namespace.
    pub path: String,
    /// Device number of its inode.
    pub dev: u64,
    /// Its inode.
    pub inode: u64,
    /// The interface's name.
    pub ifname: IfName,
}

/// A port of a network's bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FdbPort {
    /// The VXLAN device.
    Vxlan,
    /// The gateway leg.
    Leg,
    /// An endpoint's veth.
    Port(EndpointId),
    /// Anything else, as it may be found but is never wanted.
    Other,
}

/// What a kernel holds of ours.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KernelState {
    /// Everything, by id.
    pub objects: BTreeMap<ObjectId, Object>,
}

impl KernelState {
    /// The ids of one network.
    pub fn network(&self, network: NetworkId) -> impl Iterator<Item = (&ObjectId, &Object)> {
        self.objects
            .range(ObjectId::Network(network, NetworkObject::Bridge)..)
            .take_while(move |(id, _)| id.network() == Some(network))
    }

    /// The objects that the node has once.
    pub fn node(&self) -> impl Iterator<Item = (&ObjectId, &Object)> {
        self.objects.iter().take_while(|(id, _)| id.network().is_none())
    }

    /// Replaces what is known within a scope by what was read; answers the ids that differ from what was known. Costs as
    /// much as the scope holds, not as much as is known.
    pub fn absorb(&mut self, scope: &Scope, read: Self) -> BTreeSet<ObjectId> {
        let mut differing = self.missing_from(&read, scope);
        for id in &differing {
            self.objects.remove(id);
        }
        for (id, object) in read.objects {
            if self.objects.get(&id) != Some(&object) {
                differing.insert(id.clone());
                self.objects.insert(id, object);
            }
        }
        differing
    }

    /// What is known within a scope and was not read.
    fn missing_from(&self, read: &Self, scope: &Scope) -> BTreeSet<ObjectId> {
        let missing = |ids: &mut dyn Iterator<Item = &ObjectId>| -> BTreeSet<ObjectId> {
            ids.filter(|id| !read.objects.contains_key(id) && scope.covers(id)).cloned().collect()
        };
        match scope {
            Scope::Everything => missing(&mut self.objects.keys()),
            Scope::Node => missing(&mut self.node().map(|(id, _)| id)),
            Scope::Network(network) => missing(&mut self.network(*network).map(|(id, _)| id)),
            Scope::Objects(ids) => missing(&mut ids.iter().filter(|id| self.objects.contains_key(id))),
            Scope::Sandboxes(places) => missing(&mut places.keys().filter(|id| self.objects.contains_key(id))),
        }
    }
}

impl ObjectId {
    /// The network that it belongs to, if the id tells.
    pub fn network(&self) -> Option<NetworkId> {
        match self {
            Self::Node(_) => None,
            Self::Network(network, _) => Some(*network),
        }
    }

    /// Whether it lies inside a container's namespace.
    pub fn is_sandbox(&self) -> bool {
        matches!(self, Self::Network(_, NetworkObject::Sandbox(_)))
    }

    /// Whether others cannot be written while it is foreign or gone: devices, tables, and what is inside of containers.
    pub fn carries_others(&self) -> bool {
        self.is_device() || self.is_sandbox() || matches!(self, Self::Node(NodeObject::Table(_)))
    }

    /// Whether it is a device, whose loss takes other objects along.
    pub fn is_device(&self) -> bool {
        matches!(
            self,
            Self::Network(
                _,
                NetworkObject::Bridge | NetworkObject::Vxlan | NetworkObject::Leg | NetworkObject::Port(_)
            )
        )
    }
}

/// What to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Everything but the insides of containers.
    Everything,
    /// Everything that the node has once.
    Node,
    /// Everything of one network but the insides of containers.
    Network(NetworkId),
    /// These, by themselves. Sandboxes are not read this way.
    Objects(BTreeSet<ObjectId>),
    /// The insides of these containers.
    Sandboxes(BTreeMap<ObjectId, Place>),
}

impl Scope {
    /// Whether an object is read with this scope. Dumps of a node's namespaces do not enter containers.
    pub fn covers(&self, id: &ObjectId) -> bool {
        match self {
            Self::Everything => !id.is_sandbox(),
            Self::Node => id.network().is_none(),
            Self::Network(network) => id.network() == Some(*network) && !id.is_sandbox(),
            Self::Objects(ids) => ids.contains(id),
            Self::Sandboxes(places) => places.contains_key(id),
        }
    }
}

/// One write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make what is not there.
    Create(ObjectId, Object),
    /// Change what is there, in place where the kernel can, so that traffic does not blink.
    Replace {
        /// What.
        id: ObjectId,
        /// How it was read.
        observed: Object,
        /// How it should be.
        desired: Object,
    },
    /// Remove what is there.
    Delete(ObjectId, Object),
}

impl Step {
    /// What it is about.
    pub fn id(&self) -> &ObjectId {
        match self {
            Self::Create(id, _) | Self::Replace { id, .. } | Self::Delete(id, _) => id,
        }
    }

    /// What is there when it succeeds.
    pub fn result(&self) -> Option<&Object> {
        match self {
            Self::Create(_, object) | Self::Replace { desired: object, .. } => Some(object),
            Self::Delete(..) => None,
        }
    }
}

/// Why the kernel could not be read.
#[derive(Debug, Error)]
#[error("reading {what} in {namespace}")]
pub struct ObserveError {
    /// What was read.
    pub what: &'static str,
    /// Where.
    pub namespace: String,
    /// What the kernel said.
    #[source]
    pub cause: std::io::Error,
}

/// Why a step failed.
#[derive(Debug, Error)]
#[error("{action}{}", hint.map(|h| format!(" ({h})")).unwrap_or_default())]
pub struct StepError {
    /// What was being done, such as "creating wx-00000000ab (vxlan)".
    pub action: String,
    /// The likely cause and its remedy, where it can be guessed.
    pub hint: Option<&'static str>,
    /// What the kernel said.
    #[source]
    pub cause: std::io::Error,
}

/// The kernel of one node. Blocking: a pass runs on a thread of its own.
pub trait Kernel: Send {
    /// Reads what is there within a scope.
    ///
    /// # Errors
    /// When the kernel cannot be read; then nothing may be concluded.
    fn observe(&mut self, scope: &Scope) -> Result<KernelState, ObserveError>;

    /// Carries out steps in order, as many as possible in one message; the answers are in the order of the steps.
    /// What exists already as wanted, or is missing already, is no error. A failed step does not stop the others.
    fn apply(&mut self, steps: &[Step]) -> Vec<Result<(), StepError>>;

    /// Deletes for good the devices that deleting steps have only put out of use. Slow (tens of milliseconds), so it is
    /// called when nobody waits.
    ///
    /// # Errors
    /// When the kernel refuses; what is left over is swept the next time.
    fn sweep(&mut self) -> Result<(), StepError>;
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(object) => object.fmt(f),
            Self::Network(network, object) => match object {
                NetworkObject::Bridge => write!(f, "bridge {}", network.bridge_name()),
                NetworkObject::Vxlan => write!(f, "vxlan {}", network.vxlan_name()),
                NetworkObject::Leg => write!(f, "leg {}", network.leg_name()),
                NetworkObject::LegAddress(ip) => write!(f, "address {ip} dev {}", network.leg_name()),
                NetworkObject::LegRoute(to) => write!(f, "route {to} dev {}", network.leg_name()),
                NetworkObject::Port(endpoint) => {
                    write!(f, "port {} of {}", endpoint.port_name(), network.bridge_name())
                }
                NetworkObject::Sandbox(endpoint) => write!(f, "sandbox {endpoint} of {}", network.bridge_name()),
                NetworkObject::BridgeFdb(mac) => write!(f, "fdb {mac} on {}", network.bridge_name()),
                NetworkObject::TunnelFdb(mac) => write!(f, "fdb {mac} on {}", network.vxlan_name()),
                NetworkObject::Flood(vtep) => write!(f, "flood {vtep} on {}", network.vxlan_name()),
                NetworkObject::Neighbour(ip) => write!(f, "neighbour {ip} on {}", network.bridge_name()),
            },
        }
    }
}

impl fmt::Display for NodeObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HostForwarding => f.write_str("forwarding in the host's namespace"),
            Self::DataPlaneSettings => f.write_str("settings of the data plane's namespace"),
            Self::SendGuard(Family::Ipv4) => f.write_str("rule against sending VXLAN (IPv4)"),
            Self::SendGuard(Family::Ipv6) => f.write_str("rule against sending VXLAN (IPv6)"),
            Self::Table(Table::Host) => f.write_str("table inet weft"),
            Self::Table(Table::DataPlane) => f.write_str("table bridge weft"),
            Self::Element(element) => element.fmt(f),
            Self::ForeignAccepts => f.write_str("accepting rules in chains of others"),
        }
    }
}

impl Element {
    /// The table that it is in.
    pub const fn table(&self) -> Table {
        match self {
            Self::PortMac(..) | Self::PortAddress(..) | Self::Gateway(_) => Table::DataPlane,
            Self::AcceptedPair(..)
            | Self::Vtep(_)
            | Self::Leg(_)
            | Self::InternalLeg(_)
            | Self::OverlaySubnet(_)
            | Self::MasqueradedSubnet(_)
            | Self::LocalEndpoint(_)
            | Self::Published(..) => Table::Host,
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AcceptedPair(vtep, vni) => write!(f, "element accepted {vtep} vni {vni}"),
            Self::Vtep(vtep) => write!(f, "element vtep {vtep}"),
            Self::Leg(name) => write!(f, "element leg {name}"),
            Self::InternalLeg(name) => write!(f, "element internal leg {name}"),
            Self::OverlaySubnet(subnet) => write!(f, "element overlay subnet {subnet}"),
            Self::MasqueradedSubnet(subnet) => write!(f, "element masqueraded subnet {subnet}"),
            Self::LocalEndpoint(ip) => write!(f, "element local endpoint {ip}"),
            Self::Published(Protocol::Tcp, ip, port) => {
                write!(f, "element published {}/tcp", SocketAddr::new(*ip, *port))
            }
            Self::Published(Protocol::Udp, ip, port) => {
                write!(f, "element published {}/udp", SocketAddr::new(*ip, *port))
            }
            Self::PortMac(port, mac) => write!(f, "element source {mac} from {port}"),
            Self::PortAddress(port, ip) => write!(f, "element source {ip} from {port}"),
            Self::Gateway(ip) => write!(f, "element gateway {ip}"),
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = |up: bool| if up { "up" } else { "down" };
        let flag = |held: bool, text: &'static str| if held { "" } else { text };
        match self {
            Self::Present => f.write_str("present"),
            Self::Deviant(what) => write!(f, "deviant: {what}"),
            Self::Foreign(what) => write!(f, "foreign: {what}"),
            Self::Gone => f.write_str("gone"),
            Self::Bridge(b) => write!(f, "mac {} mtu {} {}{}", b.mac, b.mtu, state(b.up), flag(b.tuned, " untuned")),
            Self::Vxlan(v) => write!(
                f,
                "vni {} local {} port {} mac {} mtu {} {}{}{}",
                v.vni,
                v.local,
                v.port,
                v.mac,
                v.mtu,
                state(v.up),
                flag(v.attached, " detached"),
                flag(v.tuned, " untuned")
            ),
            Self::Leg(l) => write!(
                f,
                "mac {} mtu {} {}{}{}",
                l.mac,
                l.mtu,
                state(l.up),
                flag(l.attached, " detached"),
                flag(l.tuned, " untuned")
            ),
            Self::LegAddress { prefix, deprecated } => {
                write!(f, "prefix {prefix}{}", flag(!deprecated, " deprecated"))
            }
            Self::LegRoute(Some(source)) => write!(f, "source {source}"),
            Self::LegRoute(None) => f.write_str("no source"),
            Self::Port(p) => write!(f, "mtu {} {}{}", p.mtu, state(p.up), flag(p.attached, " detached")),
            Self::Sandbox(s) => {
                write!(f, "{} in {} mac {} mtu {} {}", s.place.ifname, s.place.path, s.mac, s.mtu, state(s.up))?;
                s.addresses.iter().try_for_each(|a| write!(f, " {a}"))?;
                s.default_routes.iter().try_for_each(|r| write!(f, " via {r}"))
            }
            Self::BridgeFdb(FdbPort::Vxlan) => f.write_str("to the tunnel"),
            Self::BridgeFdb(FdbPort::Leg) => f.write_str("to the leg"),
            Self::BridgeFdb(FdbPort::Port(endpoint)) => write!(f, "to {}", endpoint.port_name()),
            Self::BridgeFdb(FdbPort::Other) => f.write_str("to a foreign port"),
            Self::TunnelFdb(vtep) => write!(f, "behind {vtep}"),
            Self::Neighbour(mac) => write!(f, "is {mac}"),
            Self::Published(ip, port) => write!(f, "to {ip} port {port}"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(id, object) => write!(f, "+ {id}: {object}"),
            Self::Replace { id, observed, desired } => write!(f, "~ {id}: {observed} -> {desired}"),
            Self::Delete(id, object) => write!(f, "- {id}: {object}"),
        }
    }
}
