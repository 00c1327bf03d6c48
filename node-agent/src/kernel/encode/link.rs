//! Requests that make, change and remove devices, one builder for all.
//!
//! Nothing here is Weft's recipe; that is `recipe`.

use std::{
    net::IpAddr,
    os::fd::{AsRawFd, BorrowedFd},
};

use rtnetlink::{
    packet_core::{NLM_F_CREATE, NLM_F_EXCL},
    packet_route::{
        RouteNetlinkMessage,
        link::{
            AfSpecInet6, AfSpecUnspec, BridgeStpState, In6AddrGenMode, InfoBridge, InfoBridgePort, InfoData, InfoKind,
            InfoPortData, InfoPortKind, InfoVeth, InfoVxlan, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo,
            LinkMessage,
        },
    },
};
use weft_overlay::id::{Mac, Vni};

use crate::kernel::netlink::Request;

/// A description of a device or of a change to one, taken from left to right.
#[derive(Debug, Clone, Default)]
pub(crate) struct LinkRequest(LinkMessage);

impl LinkRequest {
    /// By name: the device that is there, or is to be made.
    pub(crate) fn named(name: &str) -> Self {
        Self::default().with(LinkAttribute::IfName(name.to_owned()))
    }

    /// By index.
    pub(crate) fn indexed(index: u32) -> Self {
        let mut request = Self::default();
        request.0.header.index = index;
        request
    }

    /// Every device of a group.
    pub(crate) fn grouped(group: u32) -> Self {
        Self::default().with(LinkAttribute::Group(group))
    }

    pub(crate) fn mac(self, mac: Mac) -> Self {
        self.with(LinkAttribute::Address(mac.octets().to_vec()))
    }

    pub(crate) fn mtu(self, bytes: u32) -> Self {
        self.with(LinkAttribute::Mtu(bytes))
    }

    pub(crate) fn group(self, group: u32) -> Self {
        self.with(LinkAttribute::Group(group))
    }

    pub(crate) fn alias(self, alias: &str) -> Self {
        self.with(LinkAttribute::IfAlias(alias.to_owned()))
    }

    /// Makes it a port of a bridge; 0 takes it out.
    pub(crate) fn master(self, bridge: u32) -> Self {
        self.with(LinkAttribute::Controller(bridge))
    }

    pub(crate) fn up(mut self, up: bool) -> Self {
        self.0.header.flags.set(LinkFlags::Up, up);
        self.0.header.change_mask |= LinkFlags::Up;
        self
    }

    /// Switches ARP on.
    pub(crate) fn with_arp(mut self) -> Self {
        self.0.header.flags.remove(LinkFlags::Noarp);
        self.0.header.change_mask |= LinkFlags::Noarp;
        self
    }

    /// Makes or moves it into the namespace behind a descriptor. Borrowed until the request has been sent.
    pub(crate) fn namespace(self, namespace: BorrowedFd<'_>) -> Self {
        self.with(LinkAttribute::NetNsFd(namespace.as_raw_fd()))
    }

    /// Gives itself no IPv6 link-local address.
    pub(crate) fn without_link_local(self) -> Self {
        let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        self.with(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])]))
    }

    /// A bridge that neither learns about multicast nor calls the host's filters.
    pub(crate) fn bridge(self) -> Self {
        let options = vec![
            InfoBridge::StpState(BridgeStpState::Disabled),
            // Otherwise each row is kept a second time for the default VLAN. Kernels without VLANs ignore it.
            InfoBridge::VlanDefaultPvid(0),
            InfoBridge::GroupFwdMask(0),
            // Off: a group's members on other nodes are not known by snooping, and there is no querier.
            InfoBridge::MulticastSnooping(false),
            InfoBridge::NfCallIpTables(false),
            InfoBridge::NfCallIp6Tables(false),
            InfoBridge::NfCallArpTables(false),
        ];
        self.kind(InfoKind::Bridge, InfoData::Bridge(options))
    }

    /// Switches VLAN filtering off on a bridge that has it on; a kernel built without VLANs refuses even this.
    pub(crate) fn bridge_without_vlans(self) -> Self {
        self.kind(InfoKind::Bridge, InfoData::Bridge(vec![InfoBridge::VlanFiltering(false)]))
    }

    /// A VXLAN device that only sends where its table says, and is bound to no device.
    ///
    /// TTL and DF stay the kernel's: the host's hop limit, and DF unset. A wrong MTU then costs fragments of the outer
    /// packet rather than a connection that hangs.
    pub(crate) fn vxlan(self, vni: Vni, local: IpAddr, port: u16) -> Self {
        let source = match local {
            IpAddr::V4(v4) => InfoVxlan::Local(v4),
            IpAddr::V6(v6) => InfoVxlan::Local6(v6),
        };
        let options = vec![
            InfoVxlan::Id(vni.get()),
            source,
            InfoVxlan::Port(port),
            InfoVxlan::Learning(false),
            InfoVxlan::UDPCsum(true),
            InfoVxlan::UDPZeroCsumTX(false),
            InfoVxlan::UDPZeroCsumRX(false),
        ];
        self.kind(InfoKind::Vxlan, InfoData::Vxlan(options))
    }

    /// Switches learning off on a VXLAN device that is there.
    pub(crate) fn vxlan_without_learning(self) -> Self {
        self.kind(InfoKind::Vxlan, InfoData::Vxlan(vec![InfoVxlan::Learning(false)]))
    }

    /// A veth and its other end.
    pub(crate) fn veth(self, peer: Self) -> Self {
        self.kind(InfoKind::Veth, InfoData::Veth(InfoVeth::Peer(peer.0)))
    }

    /// The flags of a bridge port: nothing is learnt, everything floods.
    pub(crate) fn port_flags(self, suppress_neighbours: bool) -> Self {
        let flags = vec![
            InfoBridgePort::Learning(false),
            InfoBridgePort::NeighSupress(suppress_neighbours),
            InfoBridgePort::Isolated(false),
            InfoBridgePort::UnicastFlood(true),
            InfoBridgePort::MulticastFlood(true),
            InfoBridgePort::BroadcastFlood(true),
        ];
        self.with(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(flags)),
        ]))
    }

    /// Makes it; refused if the name is taken.
    pub(crate) fn create(self) -> Request {
        Request { message: RouteNetlinkMessage::NewLink(self.0), flags: NLM_F_CREATE | NLM_F_EXCL }
    }

    /// Changes what is there, options of its kind and its port included.
    pub(crate) fn change(self) -> Request {
        Request { message: RouteNetlinkMessage::NewLink(self.0), flags: 0 }
    }

    pub(crate) fn delete(self) -> Request {
        Request { message: RouteNetlinkMessage::DelLink(self.0), flags: 0 }
    }

    pub(crate) fn find(self) -> Request {
        Request { message: RouteNetlinkMessage::GetLink(self.without_statistics().0), flags: 0 }
    }

    /// Asks for every device.
    pub(crate) fn list() -> RouteNetlinkMessage {
        RouteNetlinkMessage::GetLink(Self::default().without_statistics().0)
    }

    fn without_statistics(self) -> Self {
        self.with(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]))
    }

    fn kind(self, kind: InfoKind, options: InfoData) -> Self {
        self.with(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(options)]))
    }

    fn with(mut self, attribute: LinkAttribute) -> Self {
        self.0.attributes.push(attribute);
        self
    }
}
