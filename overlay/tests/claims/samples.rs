//! One claim of each kind, with small numbers that show where they end up.

use weft_overlay::{
    claims::*,
    id::{EndpointId, Mac, NetworkId, NodeId},
    keys::{Key, Keyspace},
    model::*,
};

pub(crate) const LEASE: i64 = 0x1f;

pub(crate) fn node(n: u64) -> NodeId {
    NodeId::from_entropy(n)
}

pub(crate) fn network() -> NetworkId {
    NetworkId::from_entropy(0xcafe)
}

pub(crate) fn token() -> Token {
    Token { node: node(1), epoch: 1, fence_revision: 11 }
}

pub(crate) fn leadership() -> Leadership {
    Leadership { key: Keyspace::default().encode(&Key::Election(0x77)), create_revision: 5 }
}

pub(crate) fn stored<T>(record: T, revision: i64) -> Stored<T> {
    Stored { record, revision, lease: 0 }
}

pub(crate) fn fence(state: FenceState) -> Stored<FenceRecord> {
    stored(FenceRecord { v: 1, epoch: 1, state, extra: Unknown::new() }, 11)
}

fn node_record(name: &str, vtep: &str) -> NodeRecord {
    NodeRecord {
        v: 1,
        name: name.parse().unwrap(),
        vtep: vtep.parse().unwrap(),
        version: "0.1.0".to_owned(),
        routes: Vec::new(),
        extra: Unknown::new(),
    }
}

pub(crate) fn spec() -> NetworkSpec {
    let subnet = |subnet: &str, gateway: &str, block_len| SubnetSpec {
        subnet: subnet.parse().unwrap(),
        gateway: gateway.parse().unwrap(),
        ip_range: None,
        auxiliary: Vec::new(),
        block_len,
    };
    NetworkSpec {
        v: 1,
        name: "blue".parse().unwrap(),
        vni: "70000".parse().unwrap(),
        subnets: vec![subnet("10.32.0.0/20", "10.32.0.1", 28), subnet("fd00:1::/64", "fd00:1::1", 80)],
        mtu: None,
        internal: false,
        labels: Default::default(),
        docker_options: Default::default(),
        state: NetworkState::Active,
        force_delete: false,
        extra: Unknown::new(),
    }
}

pub(crate) fn endpoint(n: u8) -> EndpointRecord {
    let ipv4 = std::net::Ipv4Addr::new(10, 32, 0, n);
    EndpointRecord {
        v: 1,
        id: EndpointId::from_entropy(u64::from(n)),
        node: node(1),
        epoch: 1,
        mac: Mac::derived_from(ipv4.into()),
        vtep: "192.0.2.1".parse().unwrap(),
        kind: EndpointKind::Container,
        name: format!("ct{n}").parse().unwrap(),
        aliases: Vec::new(),
        ipv4: Some(ipv4),
        ipv6: None,
        sandbox: None,
        docker: None,
        published: Vec::new(),
        extra: Unknown::new(),
    }
}

fn dual(n: u8) -> EndpointRecord {
    EndpointRecord { ipv6: Some(format!("fd00:1::{n:x}").parse().unwrap()), ..endpoint(n) }
}

pub(crate) fn member() -> MemberRecord {
    MemberRecord { v: 1, vtep: "192.0.2.1".parse().unwrap(), epoch: 1, underlay_mtu: 1500, extra: Unknown::new() }
}

pub(crate) fn block_record() -> BlockRecord {
    BlockRecord { v: 1, node: node(1), epoch: 1, len: 28, st: BlockState::Owned, extra: Unknown::new() }
}

pub(crate) fn register() -> Register {
    Register { node: node(1), record: node_record("h1", "192.0.2.1"), boot_id: "boot".to_owned(), lease: LEASE }
}

pub(crate) fn rejoin() -> Rejoin {
    Rejoin { token: token(), boot_id: "boot".to_owned(), version: "0.1.0".to_owned(), lease: LEASE }
}

pub(crate) fn come_back() -> Return {
    let (boot_id, version) = ("boot".to_owned(), "0.1.0".to_owned());
    Return { node: node(1), fence: fence(FenceState::Lost), boot_id, version, lease: LEASE }
}

pub(crate) fn update_node() -> UpdateNode {
    let record = NodeRecord { version: "0.2.0".to_owned(), ..node_record("h1", "192.0.2.1") };
    UpdateNode { token: token(), previous: stored(node_record("h1", "192.0.2.1"), 10), record }
}

pub(crate) fn rename_node() -> UpdateNode {
    UpdateNode { record: node_record("h9", "192.0.2.9"), ..update_node() }
}

pub(crate) fn drain(draining: bool) -> SetDraining {
    let state = if draining { FenceState::Active } else { FenceState::Draining };
    SetDraining::new(node(1), fence(state), draining).unwrap()
}

pub(crate) fn remove_node() -> RemoveNode {
    let record = stored(node_record("h1", "192.0.2.1"), 10);
    RemoveNode { node: node(1), record, fence: fence(FenceState::Draining) }
}

pub(crate) fn claim_block() -> ClaimBlock {
    ClaimBlock { token: token(), network: network(), spec_revision: 20, block: "10.32.0.16/28".parse().unwrap() }
}

pub(crate) fn release_block() -> ReleaseBlock {
    ReleaseBlock {
        token: token(),
        network: network(),
        block: "10.32.0.16/28".parse().unwrap(),
        record: stored(block_record(), 30),
        cooling_lease: LEASE,
    }
}

fn create(record: EndpointRecord) -> CreateEndpoint {
    CreateEndpoint::new(token(), network(), 20, record).unwrap()
}

pub(crate) fn create_endpoint() -> CreateEndpoint {
    create(dual(17)).in_block("10.32.0.16".parse().unwrap(), 30)
}

pub(crate) fn create_second() -> CreateEndpoint {
    create(endpoint(18)).in_block("10.32.0.16".parse().unwrap(), 30)
}

pub(crate) fn create_leg() -> CreateEndpoint {
    let leg = EndpointRecord { kind: EndpointKind::Leg, name: "h1".parse().unwrap(), ..endpoint(16) };
    create(leg).in_block("10.32.0.16".parse().unwrap(), 30).joining(member())
}

pub(crate) fn create_static() -> CreateEndpoint {
    create(endpoint(200))
}

pub(crate) fn delete_endpoint(leave: bool) -> DeleteEndpoint {
    DeleteEndpoint { token: token(), network: network(), endpoint: stored(dual(17), 40), leave }
}

pub(crate) fn update_endpoint() -> UpdateEndpoint {
    let record = EndpointRecord { aliases: vec!["web".parse().unwrap()], ..dual(17) };
    UpdateEndpoint::new(token(), network(), &stored(dual(17), 40), record).unwrap()
}

pub(crate) fn update_member() -> UpdateMember {
    UpdateMember { token: token(), network: network(), spec_revision: 20, record: member() }
}

pub(crate) fn move_endpoint() -> MoveEndpoint {
    let old = EndpointRecord { node: node(2), id: EndpointId::from_entropy(0xdead), ..dual(17) };
    MoveEndpoint::new(token(), network(), stored(old, 40), 50, dual(17)).unwrap().joining(member())
}

pub(crate) fn create_network() -> CreateNetwork {
    CreateNetwork { network: network(), spec: spec() }
}

pub(crate) fn begin_delete(force: bool) -> BeginDeleteNetwork {
    BeginDeleteNetwork { network: network(), spec: stored(spec(), 20), force, legs: Vec::new() }
}

pub(crate) fn finish_delete() -> FinishDeleteNetwork {
    let spec = NetworkSpec { state: NetworkState::Deleting, ..spec() };
    let blocks = [NetworkBlock { base: "10.32.0.16".parse().unwrap(), node: node(1) }];
    finish_delete_network(&leadership(), network(), &stored(spec, 60), &blocks, LEASE).pop().unwrap()
}

pub(crate) fn declare_lost(networks: u64) -> DeclareLost {
    let networks = (0..networks).map(NetworkId::from_entropy).collect();
    DeclareLost { leadership: leadership(), node: node(1), fence: fence(FenceState::Active), networks }
}

pub(crate) fn expel() -> ExpelMembers {
    expel_members(&leadership(), node(1), 50, &[network()]).pop().unwrap()
}

pub(crate) fn reap() -> Reap {
    let entry = |n, record: Option<EndpointRecord>| ReapedEndpoint {
        id: EndpointId::from_entropy(n),
        network: network(),
        record: record.map(|record| stored(record, 40)),
    };
    let entries = [entry(17, Some(dual(17))), entry(18, Some(endpoint(18))), entry(19, None)];
    weft_overlay::claims::reap(&leadership(), node(1), 50, &entries).pop().unwrap()
}

pub(crate) fn quarantine() -> Quarantine {
    Quarantine {
        leadership: leadership(),
        node: node(1),
        lost: 50,
        network: network(),
        block: ("10.32.0.16/28".parse().unwrap(), stored(block_record(), 30)),
        cooling_lease: LEASE,
    }
}
