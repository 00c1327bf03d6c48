//! Hosts made of network namespaces, with the devices that the firewall's rules are about.
//!
//! Node N has a host namespace with `eth0` on a common underlay and a data plane namespace with a bridge, a VXLAN device
//! and a gateway leg per network. Bridges learn here, so that no other part of the agent is needed. One more host,
//! `out`, is on the underlay without being a member. Everything is removed when the world is dropped.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::PathBuf,
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
};

use weft_node_agent::{
    firewall::{Firewall, NftFirewall},
    netns::Namespace,
};
use weft_overlay::{
    id::{EndpointId, IfName, Mac, NetworkId, Vni},
    kernel::{Element, NodeObject, Object, ObjectId, Step, Table},
};

pub(crate) const VXLAN_PORT: u16 = 4789;

/// The networks that every node has.
pub(crate) const A: u8 = 1;
pub(crate) const B: u8 = 2;

pub(crate) struct World {
    tag: String,
    namespaces: Vec<String>,
    pub(crate) nodes: Vec<Node>,
}

pub(crate) struct Node {
    pub(crate) number: u8,
    pub(crate) host: String,
    pub(crate) data_plane: String,
    pub(crate) firewall: NftFirewall,
    pub(crate) elements: BTreeMap<Element, Object>,
}

/// A container in one or two networks, the first of which has the default route.
pub(crate) struct Container {
    pub(crate) namespace: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) mac: Mac,
    pub(crate) port: IfName,
}

impl World {
    /// A world with this many nodes, 1 to 3, their firewalls loaded.
    pub(crate) fn new(count: u8) -> Self {
        static WORLDS: AtomicU32 = AtomicU32::new(0);
        let tag = format!("ft{}-{}", std::process::id(), WORLDS.fetch_add(1, Ordering::Relaxed));
        let mut world = Self { tag, namespaces: Vec::new(), nodes: Vec::new() };
        let fab = world.namespace("fab");
        ip(&fab, "link add underlay type bridge\nlink set underlay up");
        world.underlay_host("out", 9);
        for number in 1..=count {
            world.add_node(number);
        }
        for node in &mut world.nodes {
            node.load();
        }
        world
    }

    pub(crate) fn out(&self) -> String {
        self.name("out")
    }

    /// Makes a container on a node (counted from 1) in networks, with host number `last` in each of their subnets.
    pub(crate) fn container(&mut self, node: u8, networks: &[u8], last: u8) -> Container {
        let namespace = self.namespace(&format!("c{node}x{last}n{}", networks[0]));
        let node = &mut self.nodes[usize::from(node) - 1];
        let mut addresses = Vec::new();
        let mut first = None;
        for (index, &network) in networks.iter().enumerate() {
            let port = endpoint(node.number, network, last).port_name();
            let (v4, v6) = (overlay4(network, last), overlay6(network, last));
            let mac = Mac::derived_from(v4);
            node.permit(&port, mac, &[v4, v6]);
            node.insert(Element::LocalEndpoint(v4), Object::Present);
            node.insert(Element::LocalEndpoint(v6), Object::Present);
            let bridge = network_id(network).bridge_name();
            ip(
                &node.data_plane,
                &format!(
                    "link add {port} type veth peer name eth{index} netns {namespace} address {mac}\n\
                     link set {port} master {bridge} up"
                ),
            );
            ip(
                &namespace,
                &format!(
                    "link set eth{index} up\naddress add {v4}/24 dev eth{index}\naddress add {v6}/64 dev eth{index} nodad"
                ),
            );
            if index == 0 {
                ip(
                    &namespace,
                    &format!(
                        "route add default via {}\nroute add default via {}",
                        overlay4(network, 1),
                        overlay6(network, 1)
                    ),
                );
            }
            addresses.extend([v4, v6]);
            first.get_or_insert((mac, port));
        }
        let (mac, port) = first.expect("a container is in a network");
        Container { namespace, addresses, mac, port }
    }

    fn add_node(&mut self, number: u8) {
        let host = self.underlay_host(&format!("h{number}"), number);
        let data_plane = self.namespace(&format!("d{number}"));
        // With br_netfilter loaded, IP rules see bridged frames and cut off what follows the packet.
        let see = "/proc/sys/net/bridge/bridge-nf-call-";
        run(&data_plane, &format!("for f in {see}*; do [ ! -e $f ] || echo 0 > $f; done"));
        let firewall = NftFirewall::new(open(&host), open(&data_plane), VXLAN_PORT).expect("opening the firewall");
        let mut node = Node { number, host, data_plane, firewall, elements: BTreeMap::new() };
        run(&node.host, "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
        for network in [A, B] {
            node.add_network(network);
        }
        for peer in (1..=3).filter(|peer| *peer != number) {
            for vtep in [underlay4(peer), underlay6(peer)] {
                node.elements.insert(Element::Vtep(vtep), Object::Present);
                for network in [A, B] {
                    node.elements.insert(Element::AcceptedPair(vtep, vni(network)), Object::Present);
                }
            }
        }
        self.nodes.push(node);
    }

    fn underlay_host(&mut self, role: &str, number: u8) -> String {
        let namespace = self.namespace(role);
        ip(
            &self.name("fab"),
            &format!(
                "link add u{number} type veth peer name eth0 netns {namespace}\nlink set u{number} master underlay up"
            ),
        );
        ip(
            &namespace,
            &format!(
                "link set eth0 up\naddress add {}/24 dev eth0\naddress add {}/64 dev eth0 nodad",
                underlay4(number),
                underlay6(number)
            ),
        );
        namespace
    }

    fn namespace(&mut self, role: &str) -> String {
        let name = self.name(role);
        succeed(Command::new("ip").args(["netns", "add", &name]));
        self.namespaces.push(name.clone());
        run(&name, "sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0");
        ip(&name, "link set lo up");
        name
    }

    fn name(&self, role: &str) -> String {
        format!("{}-{role}", self.tag)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for name in &self.namespaces {
            drop(Command::new("ip").args(["netns", "del", name]).status());
        }
    }
}

impl Node {
    /// Puts both tables with all elements in place.
    pub(crate) fn load(&mut self) {
        let tables = [Table::Host, Table::DataPlane].map(|table| (NodeObject::Table(table), Object::Present));
        let elements =
            self.elements.iter().map(|(element, object)| (NodeObject::Element(element.clone()), object.clone()));
        let steps: Vec<Step> =
            tables.into_iter().chain(elements).map(|(id, object)| Step::Create(ObjectId::Node(id), object)).collect();
        self.apply(&steps);
    }

    pub(crate) fn insert(&mut self, element: Element, object: Object) {
        self.elements.insert(element.clone(), object.clone());
        self.apply(&[Step::Create(ObjectId::Node(NodeObject::Element(element)), object)]);
    }

    pub(crate) fn remove(&mut self, element: Element) {
        let object = self.elements.remove(&element).expect("it was inserted");
        self.apply(&[Step::Delete(ObjectId::Node(NodeObject::Element(element)), object)]);
    }

    pub(crate) fn permit(&mut self, port: &IfName, mac: Mac, addresses: &[IpAddr]) {
        self.insert(Element::PortMac(port.clone(), mac), Object::Present);
        for ip in addresses {
            self.insert(Element::PortAddress(port.clone(), *ip), Object::Present);
        }
    }

    pub(crate) fn apply(&mut self, steps: &[Step]) {
        for (step, result) in steps.iter().zip(self.firewall.apply(steps)) {
            result.unwrap_or_else(|error| panic!("{step}: {error}: {}", error.cause));
        }
    }

    /// Loads a table again, as a repair does.
    pub(crate) fn restore(&mut self, table: Table) {
        let id = ObjectId::Node(NodeObject::Table(table));
        let observed = Object::Deviant("by the test".to_owned());
        self.apply(&[Step::Replace { id, observed, desired: Object::Present }]);
    }

    /// What is observed, and whether that is exactly what should be there.
    pub(crate) fn observed(&mut self) -> BTreeMap<NodeObject, Object> {
        self.firewall.observe(None).unwrap_or_else(|error| panic!("{error}: {}", error.cause))
    }

    pub(crate) fn expected(&self) -> BTreeMap<NodeObject, Object> {
        let fixed = [NodeObject::Table(Table::Host), NodeObject::Table(Table::DataPlane), NodeObject::ForeignAccepts];
        let elements = self.elements.iter().map(|(e, object)| (NodeObject::Element(e.clone()), object.clone()));
        fixed.into_iter().map(|id| (id, Object::Present)).chain(elements).collect()
    }

    /// Deletes the rules of a chain whose text contains `pattern`; at least one must.
    pub(crate) fn delete_rules(&self, table: Table, chain: &str, pattern: &str) {
        let (namespace, family) = self.place(table);
        let listing = run(namespace, &format!("nft -a -s list chain {family} weft {chain}"));
        let handles: Vec<&str> = listing
            .lines()
            .filter(|line| line.contains(pattern) && !line.contains("chain "))
            .filter_map(|line| line.rsplit_once("# handle ").map(|(_, handle)| handle))
            .collect();
        assert!(!handles.is_empty(), "no rule of {chain} contains {pattern:?}:\n{listing}");
        for handle in handles {
            run(namespace, &format!("nft delete rule {family} weft {chain} handle {handle}"));
        }
    }

    pub(crate) fn place(&self, table: Table) -> (&str, &'static str) {
        match table {
            Table::Host => (&self.host, "inet"),
            Table::DataPlane => (&self.data_plane, "bridge"),
        }
    }

    pub(crate) fn leg(&self, network: u8) -> IfName {
        network_id(network).leg_name()
    }

    /// The leg's own address, which is another one on each node.
    pub(crate) fn leg_address(&self, network: u8) -> IpAddr {
        overlay4(network, 100 + self.number)
    }

    fn add_network(&mut self, network: u8) {
        let id = network_id(network);
        let (bridge, vxlan, leg, leg_port) = (id.bridge_name(), id.vxlan_name(), id.leg_name(), id.leg_port_name());
        let (host, data_plane, number) = (&self.host, &self.data_plane, self.number);
        ip(data_plane, &format!("link add {bridge} type bridge mcast_snooping 0\nlink set {bridge} up"));
        let (vni, local) = (vni(network), underlay4(number));
        ip(
            host,
            &format!(
                "link add {vxlan} netns {data_plane} type vxlan id {vni} local {local} dstport {VXLAN_PORT} udpcsum\n\
                 link add {leg} type veth peer name {leg_port} netns {data_plane}\n\
                 link set {leg} up\n\
                 address add {gateway4}/32 dev {leg}\naddress add {own4}/24 dev {leg}\n\
                 address add {gateway6}/128 dev {leg} nodad preferred_lft 0\naddress add {own6}/64 dev {leg} nodad",
                gateway4 = overlay4(network, 1),
                own4 = overlay4(network, 100 + number),
                gateway6 = overlay6(network, 1),
                own6 = overlay6(network, 100 + number),
            ),
        );
        run(
            host,
            &format!(
                "sysctl -qw net.ipv4.conf.{leg}.arp_announce=2 net.ipv4.conf.{leg}.arp_ignore=1 \
                 net.ipv4.conf.{leg}.route_localnet=1 net.ipv4.conf.{leg}.rp_filter=0"
            ),
        );
        ip(data_plane, &format!("link set {leg_port} master {bridge} up\nlink set {vxlan} master {bridge} up"));
        for peer in (1..=3).filter(|peer| *peer != number) {
            let vtep = underlay4(peer);
            run(data_plane, &format!("bridge fdb append 00:00:00:00:00:00 dev {vxlan} dst {vtep} self permanent"));
        }
        let subnets = [format!("10.77.{network}.0/24"), format!("fd77:{network}::/64")];
        for subnet in subnets.map(|text| text.parse().expect("a subnet")) {
            self.elements.insert(Element::OverlaySubnet(subnet), Object::Present);
            self.elements.insert(Element::MasqueradedSubnet(subnet), Object::Present);
        }
        self.elements.insert(Element::Leg(leg), Object::Present);
        self.elements.insert(Element::Gateway(overlay4(network, 1)), Object::Present);
        self.elements.insert(Element::Gateway(overlay6(network, 1)), Object::Present);
    }
}

pub(crate) fn network_id(network: u8) -> NetworkId {
    NetworkId::from_entropy(0xf0_0000_0000 + u64::from(network))
}

pub(crate) fn endpoint(node: u8, network: u8, last: u8) -> EndpointId {
    EndpointId::from_entropy(u64::from(node) << 16 | u64::from(network) << 8 | u64::from(last))
}

pub(crate) fn vni(network: u8) -> Vni {
    Vni::try_from(70_000 + u32::from(network)).expect("a VNI")
}

pub(crate) fn overlay4(network: u8, last: u8) -> IpAddr {
    IpAddr::from([10, 77, network, last])
}

pub(crate) fn overlay6(network: u8, last: u8) -> IpAddr {
    format!("fd77:{network}::{last}").parse().expect("an address")
}

pub(crate) fn underlay4(node: u8) -> IpAddr {
    IpAddr::from([192, 168, 56, 10 + node])
}

pub(crate) fn underlay6(node: u8) -> IpAddr {
    format!("fd56::{}", 10 + node).parse().expect("an address")
}

pub(crate) fn open(namespace: &str) -> Namespace {
    Namespace::open(&PathBuf::from("/run/netns").join(namespace)).expect("the namespace was made")
}

/// Runs a shell command in a namespace and returns what it printed; it must succeed.
pub(crate) fn run(namespace: &str, command: &str) -> String {
    succeed(Command::new("ip").args(["netns", "exec", namespace, "sh", "-c", command]))
}

/// Whether a shell command succeeds in a namespace.
pub(crate) fn succeeds(namespace: &str, command: &str) -> bool {
    Command::new("ip")
        .args(["netns", "exec", namespace, "sh", "-c", command])
        .output()
        .expect("ip runs")
        .status
        .success()
}

/// Runs lines of `ip` in a namespace.
pub(crate) fn ip(namespace: &str, lines: &str) {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), lines).expect("writing it");
    succeed(Command::new("ip").args(["-n", namespace, "-batch"]).arg(file.path()));
}

fn succeed(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("the program runs");
    assert!(status.success(), "{command:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8_lossy(&stdout).into_owned()
}
