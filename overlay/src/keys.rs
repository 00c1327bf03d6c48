//! Where things are stored: the only place that builds or takes apart a key of the store.
//!
//! An endpoint's key is its address in fixed-width hexadecimal, so uniqueness of addresses is existence of keys, and a
//! block of addresses is a contiguous range of keys. Must not know what is stored under a key.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnetwork::IpNetwork;
use thiserror::Error;

use crate::id::{EndpointId, Name, NetworkId, NodeId, Vni};

/// A key that is not one of ours.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("key {0:?} is not of a known kind")]
pub struct UnknownKey(pub String);

/// The keys of one cluster: everything lies under one root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyspace {
    root: String,
}

/// The root unless another one is chosen, with the schema's major version.
pub const DEFAULT_ROOT: &str = "/weft/v1/";

impl Default for Keyspace {
    fn default() -> Self {
        Self { root: DEFAULT_ROOT.to_owned() }
    }
}

/// A half-open range of keys `[start, end)`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyRange {
    /// The first key.
    pub start: Vec<u8>,
    /// The first key after the range.
    pub end: Vec<u8>,
}

impl KeyRange {
    /// All keys that begin with `prefix`, which must not consist of 0xff bytes only.
    pub fn prefix(prefix: impl Into<Vec<u8>>) -> Self {
        let start = prefix.into();
        let mut end = start.clone();
        while end.last() == Some(&0xff) {
            end.pop();
        }
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        Self { start, end }
    }

    /// Whether a key lies in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.start.as_slice() <= key && key < self.end.as_slice()
    }
}

/// A key, taken apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// `meta/schema`
    Schema,
    /// `node/<nid>`
    Node(NodeId),
    /// `nodename/<name>`
    NodeName(Name),
    /// `fence/<nid>`
    Fence(NodeId),
    /// `vtep/<ip>`
    Vtep(IpAddr),
    /// `live/<nid>`
    Live(NodeId),
    /// `netname/<name>`
    NetworkName(Name),
    /// `vni/<6 hex>`
    Vni(Vni),
    /// `net/<netid>/spec`
    Spec(NetworkId),
    /// `net/<netid>/member/<nid>`
    Member(NetworkId, NodeId),
    /// `net/<netid>/ep/4/<ip>` or `ep/6/<ip>`
    Endpoint(NetworkId, IpAddr),
    /// `ipam/<netid>/blk/4/<base>` or `blk/6/<base>`
    Block(NetworkId, IpAddr),
    /// `idx/<nid>/ep/<eid>`
    EndpointIndex(NodeId, EndpointId),
    /// `idx/<nid>/blk/<netid>.<base>`
    BlockIndex(NodeId, NetworkId, IpAddr),
    /// `elect/controller/<lease hex>`
    Election(i64),
}

impl Keyspace {
    /// A key space under another root, which is given a trailing slash.
    pub fn under(root: &str) -> Self {
        Self { root: format!("{}/", root.trim_end_matches('/')) }
    }

    /// The bytes of a key.
    pub fn encode(&self, key: &Key) -> Vec<u8> {
        let root = &self.root;
        match key {
            Key::Schema => format!("{root}meta/schema"),
            Key::Node(node) => format!("{root}node/{node}"),
            Key::NodeName(name) => format!("{root}nodename/{name}"),
            Key::Fence(node) => format!("{root}fence/{node}"),
            Key::Vtep(ip) => format!("{root}vtep/{}", ip_path(*ip)),
            Key::Live(node) => format!("{root}live/{node}"),
            Key::NetworkName(name) => format!("{root}netname/{name}"),
            Key::Vni(vni) => format!("{root}vni/{:06x}", vni.get()),
            Key::Spec(network) => format!("{root}net/{network}/spec"),
            Key::Member(network, node) => format!("{root}net/{network}/member/{node}"),
            Key::Endpoint(network, ip) => format!("{root}net/{network}/ep/{}", ip_path(*ip)),
            Key::Block(network, base) => format!("{root}ipam/{network}/blk/{}", ip_path(*base)),
            Key::EndpointIndex(node, endpoint) => format!("{root}idx/{node}/ep/{endpoint}"),
            Key::BlockIndex(node, network, base) => format!("{root}idx/{node}/blk/{network}.{}", ip_path(*base)),
            Key::Election(lease) => format!("{root}elect/controller/{lease:016x}"),
        }
        .into_bytes()
    }

    /// Takes a key apart.
    pub fn decode(&self, key: &[u8]) -> Result<Key, UnknownKey> {
        let unknown = || UnknownKey(String::from_utf8_lossy(key).into_owned());
        let text = std::str::from_utf8(key).map_err(|_| unknown())?;
        let path = text.strip_prefix(self.root.as_str()).ok_or_else(unknown)?;
        decode_path(path).ok_or_else(unknown)
    }

    /// Everything of the cluster.
    pub fn all(&self) -> KeyRange {
        KeyRange::prefix(self.root.as_str())
    }

    /// All nodes.
    pub fn nodes(&self) -> KeyRange {
        self.section("node/")
    }

    /// All fences.
    pub fn fences(&self) -> KeyRange {
        self.section("fence/")
    }

    /// All signs of life.
    pub fn lives(&self) -> KeyRange {
        self.section("live/")
    }

    /// All names of networks.
    pub fn network_names(&self) -> KeyRange {
        self.section("netname/")
    }

    /// Everything of all networks.
    pub fn all_networks(&self) -> KeyRange {
        self.section("net/")
    }

    /// What the members of a network watch: its specification, members and endpoints.
    pub fn network(&self, network: NetworkId) -> KeyRange {
        self.section(&format!("net/{network}/"))
    }

    /// The members of a network.
    pub fn members(&self, network: NetworkId) -> KeyRange {
        self.section(&format!("net/{network}/member/"))
    }

    /// The endpoints of a network, of both families.
    pub fn endpoints(&self, network: NetworkId) -> KeyRange {
        self.section(&format!("net/{network}/ep/"))
    }

    /// The endpoint keys of a block of addresses.
    pub fn endpoints_in(&self, network: NetworkId, block: IpNetwork) -> KeyRange {
        let start = self.encode(&Key::Endpoint(network, block.network()));
        let last = match block {
            IpNetwork::V4(v4) => IpAddr::V4(v4.broadcast()),
            IpNetwork::V6(v6) => IpAddr::V6(v6.broadcast()),
        };
        let mut end = self.encode(&Key::Endpoint(network, last));
        end.push(0);
        KeyRange { start, end }
    }

    /// The blocks of a network, of both families.
    pub fn blocks(&self, network: NetworkId) -> KeyRange {
        self.section(&format!("ipam/{network}/"))
    }

    /// The index of everything that a node has.
    pub fn index(&self, node: NodeId) -> KeyRange {
        self.section(&format!("idx/{node}/"))
    }

    /// The index of the endpoints of a node.
    pub fn endpoint_index(&self, node: NodeId) -> KeyRange {
        self.section(&format!("idx/{node}/ep/"))
    }

    /// The index of the blocks of a node.
    pub fn block_index(&self, node: NodeId) -> KeyRange {
        self.section(&format!("idx/{node}/blk/"))
    }

    /// The candidates of the controller's election.
    pub fn election(&self) -> KeyRange {
        self.section("elect/controller/")
    }

    fn section(&self, path: &str) -> KeyRange {
        KeyRange::prefix(format!("{}{path}", self.root))
    }
}

fn ip_path(ip: IpAddr) -> String {
    let mut text = String::with_capacity(34);
    let (family, octets): (_, &[u8]) = match &ip {
        IpAddr::V4(v4) => ("4/", &v4.octets()),
        IpAddr::V6(v6) => ("6/", &v6.octets()),
    };
    text.push_str(family);
    for octet in octets {
        write!(text, "{octet:02x}").expect("writing to a String cannot fail");
    }
    text
}

fn decode_path(path: &str) -> Option<Key> {
    let (section, rest) = path.split_once('/')?;
    match section {
        "meta" => (rest == "schema").then_some(Key::Schema),
        "node" => rest.parse().ok().map(Key::Node),
        "nodename" => rest.parse().ok().map(Key::NodeName),
        "fence" => rest.parse().ok().map(Key::Fence),
        "vtep" => decode_ip(rest).map(Key::Vtep),
        "live" => rest.parse().ok().map(Key::Live),
        "netname" => rest.parse().ok().map(Key::NetworkName),
        "vni" => decode_vni(rest),
        "net" => decode_network(rest),
        "ipam" => {
            let (network, base) = rest.split_once("/blk/")?;
            Some(Key::Block(network.parse().ok()?, decode_ip(base)?))
        }
        "idx" => decode_index(rest),
        "elect" => decode_election(rest.strip_prefix("controller/")?),
        _ => None,
    }
}

fn decode_network(rest: &str) -> Option<Key> {
    let (network, path) = rest.split_once('/')?;
    let network = network.parse().ok()?;
    if path == "spec" {
        return Some(Key::Spec(network));
    }
    let (section, name) = path.split_once('/')?;
    match section {
        "member" => Some(Key::Member(network, name.parse().ok()?)),
        "ep" => Some(Key::Endpoint(network, decode_ip(name)?)),
        _ => None,
    }
}

fn decode_index(rest: &str) -> Option<Key> {
    let (node, path) = rest.split_once('/')?;
    let node = node.parse().ok()?;
    let (section, name) = path.split_once('/')?;
    match section {
        "ep" => Some(Key::EndpointIndex(node, name.parse().ok()?)),
        "blk" => {
            let (network, base) = name.split_once('.')?;
            Some(Key::BlockIndex(node, network.parse().ok()?, decode_ip(base)?))
        }
        _ => None,
    }
}

fn decode_vni(text: &str) -> Option<Key> {
    let number = plain_hex(text, 6)?;
    Vni::try_from(u32::try_from(number).ok()?).ok().map(Key::Vni)
}

fn decode_election(text: &str) -> Option<Key> {
    let number = u64::try_from(plain_hex(text, 16)?).ok()?;
    Some(Key::Election(number.cast_signed()))
}

fn decode_ip(text: &str) -> Option<IpAddr> {
    match text.split_once('/')? {
        ("4", hex) => Some(IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(plain_hex(hex, 8)?).ok()?))),
        ("6", hex) => Some(IpAddr::V6(Ipv6Addr::from_bits(plain_hex(hex, 32)?))),
        _ => None,
    }
}

/// A number in exactly `digits` lower-case hexadecimal digits, so that every key has one spelling.
fn plain_hex(text: &str, digits: usize) -> Option<u128> {
    let plain = text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    plain.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_key() -> impl Strategy<Value = Key> {
        let node = any::<u64>().prop_map(NodeId::from_entropy).boxed();
        let network = any::<u64>().prop_map(NetworkId::from_entropy).boxed();
        let endpoint = any::<u64>().prop_map(EndpointId::from_entropy);
        let name = "[a-z0-9][a-z0-9-]{0,20}".prop_map(|n| n.parse::<Name>().unwrap()).boxed();
        let ip = any::<IpAddr>().boxed();
        prop_oneof![
            Just(Key::Schema),
            node.clone().prop_map(Key::Node),
            name.clone().prop_map(Key::NodeName),
            node.clone().prop_map(Key::Fence),
            ip.clone().prop_map(Key::Vtep),
            node.clone().prop_map(Key::Live),
            name.prop_map(Key::NetworkName),
            (1u32..=0x00ff_ffff).prop_map(|v| Key::Vni(Vni::try_from(v).unwrap())),
            network.clone().prop_map(Key::Spec),
            (network.clone(), node.clone()).prop_map(|(n, m)| Key::Member(n, m)),
            (network.clone(), ip.clone()).prop_map(|(n, i)| Key::Endpoint(n, i)),
            (network.clone(), ip.clone()).prop_map(|(n, i)| Key::Block(n, i)),
            (node.clone(), endpoint).prop_map(|(n, e)| Key::EndpointIndex(n, e)),
            (node, network, ip).prop_map(|(n, w, i)| Key::BlockIndex(n, w, i)),
            any::<i64>().prop_map(Key::Election),
        ]
    }

    proptest! {
        #[test]
        fn keys_round_trip(key in any_key()) {
            let keys = Keyspace::default();

            prop_assert_eq!(keys.decode(&keys.encode(&key)).unwrap(), key);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let keys = Keyspace::default();
            let mut key = DEFAULT_ROOT.as_bytes().to_vec();
            key.extend(&bytes);

            if let Ok(decoded) = keys.decode(&key) {
                prop_assert_eq!(keys.encode(&decoded), key);
            }
        }

        #[test]
        fn a_block_is_exactly_the_range_of_its_endpoint_keys(base in any::<u32>(), len in 20u8..=32, other in any::<u32>()) {
            let keys = Keyspace::default();
            let network = NetworkId::from_entropy(7);
            let block = IpNetwork::new(IpAddr::V4(Ipv4Addr::from_bits(base)), len).unwrap();
            let block = IpNetwork::new(block.network(), len).unwrap();
            let near = Ipv4Addr::from_bits(base ^ (other & 0xfff));
            let range = keys.endpoints_in(network, block);

            let key = keys.encode(&Key::Endpoint(network, IpAddr::V4(near)));

            prop_assert_eq!(range.contains(&key), block.contains(IpAddr::V4(near)));
        }
    }

    #[test]
    fn keys_are_written_as_documented() {
        let keys = Keyspace::default();
        let network = "00000000ab".parse().unwrap();
        let node = "00000000cd".parse().unwrap();
        let shown = |key| String::from_utf8(keys.encode(&key)).unwrap();

        assert_eq!(
            shown(Key::Endpoint(network, "10.32.0.5".parse().unwrap())),
            "/weft/v1/net/00000000ab/ep/4/0a200005"
        );
        assert_eq!(
            shown(Key::Endpoint(network, "fd00::1".parse().unwrap())),
            "/weft/v1/net/00000000ab/ep/6/fd000000000000000000000000000001"
        );
        assert_eq!(
            shown(Key::BlockIndex(node, network, "10.32.0.16".parse().unwrap())),
            "/weft/v1/idx/00000000cd/blk/00000000ab.4/0a200010"
        );
        assert_eq!(shown(Key::Vni("65536".parse().unwrap())), "/weft/v1/vni/010000");
        assert_eq!(shown(Key::Election(0x1234)), "/weft/v1/elect/controller/0000000000001234");
    }

    #[test]
    fn a_second_cluster_shares_no_key() {
        let (one, two) = (Keyspace::default(), Keyspace::under("/lab"));

        assert!(!one.all().contains(&two.encode(&Key::Schema)));
        assert_eq!(two.encode(&Key::Schema), b"/lab/meta/schema");
    }
}
