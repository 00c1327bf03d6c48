//! Records, ids and views for tests, from small numbers. The node that looks at the world is always node 1.

use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::IpNetwork;
use serde::Serialize;
use weft_overlay::{
    codec::encode_record,
    id::{EndpointId, Mac, NetworkId, NodeId, Vni},
    keys::{Key, Keyspace},
    model::{
        EndpointKind, EndpointRecord, MemberRecord, NetworkNameRecord, NetworkSpec, NetworkState, Sandbox, SubnetSpec,
    },
    txn::{KeyValue, Revision},
    view::{NodeConfig, NodeView},
};

/// The boot of the node that looks at the world.
pub(crate) const BOOT: &str = "this-boot";

/// A view of node 1 that knows nothing yet.
pub(crate) fn empty_view() -> NodeView {
    let config = NodeConfig { node: node(1), boot_id: BOOT.to_owned(), vtep: vtep(1), vxlan_port: 4789 };
    NodeView::new(config, Keyspace::default(), 1500)
}

pub(crate) fn node(number: u64) -> NodeId {
    NodeId::from_entropy(number)
}

pub(crate) fn network(number: u64) -> NetworkId {
    NetworkId::from_entropy(number)
}

pub(crate) fn endpoint(number: u64) -> EndpointId {
    EndpointId::from_entropy(number)
}

/// 192.168.56.11 for node 1 and so on.
pub(crate) fn vtep(node: u64) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(0xc0a8_380a + u32::try_from(node).unwrap()))
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A network whose gateways are the first addresses of its subnets.
pub(crate) fn spec(number: u64, subnets: &[&str]) -> NetworkSpec {
    let subnets = subnets.iter().map(|text| subnet(text)).collect();
    NetworkSpec {
        v: 1,
        name: format!("net{number}").parse().unwrap(),
        vni: Vni::try_from(65_536 + u32::try_from(number).unwrap()).unwrap(),
        subnets,
        mtu: None,
        internal: false,
        labels: [].into(),
        docker_options: [].into(),
        state: NetworkState::Active,
        force_delete: false,
        extra: [].into(),
    }
}

fn subnet(text: &str) -> SubnetSpec {
    let subnet: IpNetwork = text.parse().unwrap();
    let gateway = match subnet.network() {
        IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() + 1)),
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() + 1).into()),
    };
    let block_len = if subnet.is_ipv4() { 28 } else { 124 };
    SubnetSpec { subnet, gateway, ip_range: None, auxiliary: Vec::new(), block_len }
}

/// The entry of a network in the index of names.
pub(crate) fn name_of(number: u64, spec: &NetworkSpec) -> NetworkNameRecord {
    let subnets = spec.subnets.iter().map(|s| s.subnet).collect();
    NetworkNameRecord { v: 1, id: network(number), vni: spec.vni, subnets, extra: [].into() }
}

pub(crate) fn member(node: u64, underlay_mtu: u32) -> MemberRecord {
    MemberRecord { v: 1, vtep: vtep(node), epoch: 1, underlay_mtu, extra: [].into() }
}

/// A container's endpoint with the MAC of its first address, in a namespace of this boot.
pub(crate) fn container(number: u64, on: u64, addresses: &[IpAddr]) -> EndpointRecord {
    let name = format!("ct{number}");
    let sandbox = Sandbox {
        container: name.clone(),
        path: format!("/run/netns/{name}"),
        dev: 4,
        inode: 4_026_532_000 + number,
        boot_id: BOOT.to_owned(),
        ifname: "eth0".parse().unwrap(),
        default_route: true,
    };
    EndpointRecord {
        v: 1,
        id: endpoint(number),
        node: node(on),
        epoch: 1,
        mac: Mac::derived_from(addresses[0]),
        vtep: vtep(on),
        kind: EndpointKind::Container,
        name: name.parse().unwrap(),
        aliases: vec![],
        ipv4: addresses.iter().find_map(|ip| if let IpAddr::V4(v4) = ip { Some(*v4) } else { None }),
        ipv6: addresses.iter().find_map(|ip| if let IpAddr::V6(v6) = ip { Some(*v6) } else { None }),
        sandbox: Some(sandbox),
        docker: None,
        published: vec![],
        extra: [].into(),
    }
}

/// A node's gateway leg.
pub(crate) fn leg(number: u64, on: u64, addresses: &[IpAddr]) -> EndpointRecord {
    let name = format!("leg-h{on}").parse().unwrap();
    EndpointRecord { kind: EndpointKind::Leg, name, sandbox: None, ..container(number, on, addresses) }
}

/// A key with a record, as the store would show it.
pub(crate) fn stored<T: Serialize>(key: &Key, record: &T, revision: Revision) -> KeyValue {
    raw(key, encode_record(record), revision)
}

/// A key with any value.
pub(crate) fn raw(key: &Key, value: Vec<u8>, revision: Revision) -> KeyValue {
    let key = Keyspace::default().encode(key);
    KeyValue { key, value, create_revision: revision, mod_revision: revision, lease: 0 }
}
