//! A host in namespaces of its own, a network to put on it, and shorthands to look at it from outside.
//!
//! The namespaces have no names: they live as long as the test holds them, so nothing is left behind.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    os::fd::{AsFd, AsRawFd},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, unshare};
use weft_node_agent::{
    kernel::{Firewall, LinuxKernel, Places},
    netns::Namespace,
};
use weft_overlay::{
    id::{EndpointId, Mac, NetworkId, NodeId, Vni},
    kernel::{
        Bridge, FdbPort, Kernel, KernelState, Leg, NetworkObject, NodeObject, Object, ObjectId, ObserveError, Place,
        Port, SandboxState, Scope, Step, StepError, Vxlan,
    },
};

/// The UDP port of the tests' VXLAN.
pub(crate) const PORT: u16 = 4789;

/// A firewall that is a map.
#[derive(Debug, Default)]
pub(crate) struct MapFirewall(pub(crate) BTreeMap<NodeObject, Object>);

impl Firewall for MapFirewall {
    fn observe(&mut self, ids: Option<&BTreeSet<NodeObject>>) -> Result<BTreeMap<NodeObject, Object>, ObserveError> {
        let wanted = |id: &NodeObject| ids.is_none_or(|ids| ids.contains(id));
        Ok(self.0.iter().filter(|(id, _)| wanted(id)).map(|(id, o)| (id.clone(), o.clone())).collect())
    }

    fn apply(&mut self, steps: &[Step]) -> Vec<Result<(), StepError>> {
        for step in steps {
            let ObjectId::Node(id) = step.id() else { panic!("{step} is not the firewall's") };
            match step.result() {
                Some(object) => drop(self.0.insert(id.clone(), object.clone())),
                None => drop(self.0.remove(id)),
            }
        }
        steps.iter().map(|_| Ok(())).collect()
    }
}

/// A new namespace with its loopback up.
pub(crate) fn namespace() -> Namespace {
    let made = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        Namespace::current().unwrap()
    };
    let namespace = thread::spawn(made).join().unwrap();
    sh(&namespace, "ip link set lo up");
    namespace
}

/// Runs a shell command in a namespace; it must succeed.
pub(crate) fn sh(namespace: &Namespace, command: &str) -> String {
    let output = namespace.run(|| Command::new("sh").args(["-c", command]).output().unwrap()).unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// Packets that an interface has received.
pub(crate) fn received(namespace: &Namespace, ifname: &str) -> u64 {
    let line = sh(namespace, &format!("grep '{ifname}:' /proc/net/dev"));
    let (_, counters) = line.split_once(':').unwrap();
    counters.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A path by which this process can open a namespace.
pub(crate) fn place(namespace: &Namespace, ifname: &str) -> Place {
    let (dev, inode) = namespace.identity().unwrap();
    let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_fd().as_raw_fd());
    Place { path, dev, inode, ifname: ifname.parse().unwrap() }
}

/// A host: its namespace, the data plane's, and the kernel adapter over both.
pub(crate) struct Host {
    pub(crate) host: Namespace,
    pub(crate) data_plane: Namespace,
    pub(crate) kernel: LinuxKernel<MapFirewall>,
}

impl Host {
    pub(crate) fn new() -> Self {
        let (host, data_plane) = (namespace(), namespace());
        let places = Places { host: host.clone(), data_plane: data_plane.clone(), vxlan_port: PORT };
        let mut kernel = LinuxKernel::new(places, MapFirewall::default());
        let settings = ObjectId::Node(NodeObject::DataPlaneSettings);
        apply(&mut kernel, &[Step::Create(settings, Object::Present)]);
        Self { host, data_plane, kernel }
    }

    /// Creates everything that a state contains, in the order of its ids.
    pub(crate) fn create(&mut self, state: &KernelState) {
        let steps: Vec<Step> = state.objects.iter().map(|(id, o)| Step::Create(id.clone(), o.clone())).collect();
        apply(&mut self.kernel, &steps);
    }

    pub(crate) fn observe(&mut self, scope: &Scope) -> KernelState {
        self.kernel.observe(scope).unwrap()
    }

    /// Everything of a network, insides of containers included.
    pub(crate) fn observe_all(&mut self, network: &Network) -> KernelState {
        let mut state = self.observe(&Scope::Network(network.id));
        state.objects.extend(self.observe(&Scope::Sandboxes(network.places())).objects);
        state
    }
}

/// Carries out steps that must all succeed.
pub(crate) fn apply(kernel: &mut dyn Kernel, steps: &[Step]) {
    for (step, outcome) in steps.iter().zip(kernel.apply(steps)) {
        if let Err(error) = outcome {
            panic!("{step}: {error}: {}", error.cause);
        }
    }
}

/// Waits for a condition; panics with what was seen last.
pub(crate) fn eventually<T: std::fmt::Debug>(what: &str, mut look: impl FnMut() -> Result<(), T>) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match look() {
            Ok(()) => return,
            Err(seen) if Instant::now() > deadline => panic!("{what}: last seen {seen:?}"),
            Err(_) => thread::sleep(Duration::from_millis(2)),
        }
    }
}

/// A network with a leg, a local endpoint in a container's namespace, and a remote endpoint.
pub(crate) struct Network {
    pub(crate) id: NetworkId,
    pub(crate) endpoint: EndpointId,
    pub(crate) container: Namespace,
    pub(crate) state: KernelState,
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn mac(text: &str) -> Mac {
    text.parse().unwrap()
}

/// The MAC of the local endpoint.
pub(crate) const LOCAL_MAC: &str = "02:42:0a:20:00:05";
/// The MAC of the remote endpoint.
pub(crate) const REMOTE_MAC: &str = "02:42:0a:20:00:06";

impl Network {
    pub(crate) fn new(number: u8) -> Self {
        let id = NetworkId::from_entropy(0xa000 + u64::from(number));
        let endpoint = EndpointId::from_entropy(0xe000 + u64::from(number));
        let container = namespace();
        let mut network = Self { id, endpoint, container, state: KernelState::default() };
        network.devices(number);
        network.rows();
        network
    }

    pub(crate) fn id(&self, object: NetworkObject) -> ObjectId {
        ObjectId::Network(self.id, object)
    }

    pub(crate) fn sandbox(&self) -> ObjectId {
        self.id(NetworkObject::Sandbox(self.endpoint))
    }

    pub(crate) fn port(&self) -> ObjectId {
        self.id(NetworkObject::Port(self.endpoint))
    }

    pub(crate) fn places(&self) -> BTreeMap<ObjectId, Place> {
        BTreeMap::from([(self.sandbox(), place(&self.container, "eth0"))])
    }

    pub(crate) fn put(&mut self, object: NetworkObject, how: Object) {
        let id = self.id(object);
        self.state.objects.insert(id, how);
    }

    pub(crate) fn get(&self, object: NetworkObject) -> Object {
        self.state.objects[&self.id(object)].clone()
    }

    fn devices(&mut self, number: u8) {
        let node = NodeId::from_entropy(1);
        let (bridge, vxlan, leg) =
            (Mac::for_device(self.id, node, 0), Mac::for_device(self.id, node, 1), Mac::for_device(self.id, node, 2));
        let mtu = 1450;
        self.put(NetworkObject::Bridge, Object::Bridge(Box::new(Bridge { mac: bridge, mtu, up: true, tuned: true })));
        let vxlan = Vxlan {
            vni: Vni::try_from(70_000 + u32::from(number)).unwrap(),
            local: ip("198.18.0.1"),
            port: PORT,
            mac: vxlan,
            mtu,
            up: true,
            attached: true,
            tuned: true,
        };
        self.put(NetworkObject::Vxlan, Object::Vxlan(Box::new(vxlan)));
        let leg = Leg { mac: leg, mtu, up: true, attached: true, tuned: true };
        self.put(NetworkObject::Leg, Object::Leg(Box::new(leg)));
        let address = |prefix, deprecated| Object::LegAddress { prefix, deprecated };
        let (v4, v6) = (format!("10.{}.0", 32 + number), format!("fd00:{number}::"));
        self.put(NetworkObject::LegAddress(ip(&format!("{v4}.1"))), address(32, false));
        self.put(NetworkObject::LegAddress(ip(&format!("{v4}.2"))), address(24, false));
        self.put(NetworkObject::LegAddress(ip(&format!("{v6}1"))), address(128, true));
        self.put(NetworkObject::LegAddress(ip(&format!("{v6}2"))), address(64, false));
        let route = |source: String| Object::LegRoute(Some(ip(&source)));
        self.put(NetworkObject::LegRoute(format!("{v4}.0/24").parse().unwrap()), route(format!("{v4}.2")));
        self.put(NetworkObject::LegRoute(format!("{v6}/64").parse().unwrap()), route(format!("{v6}2")));
        self.put(NetworkObject::Port(self.endpoint), Object::Port(Box::new(Port { mtu, up: true, attached: true })));
        let sandbox = SandboxState {
            place: place(&self.container, "eth0"),
            mac: mac(LOCAL_MAC),
            mtu,
            up: true,
            addresses: [format!("{v4}.5/24"), format!("{v6}5/64")].iter().map(|a| a.parse().unwrap()).collect(),
            default_routes: [ip(&format!("{v4}.1")), ip(&format!("{v6}1"))].into(),
        };
        self.put(NetworkObject::Sandbox(self.endpoint), Object::Sandbox(Box::new(sandbox)));
    }

    fn rows(&mut self) {
        let (local, remote) = (mac(LOCAL_MAC), mac(REMOTE_MAC));
        self.put(NetworkObject::BridgeFdb(local), Object::BridgeFdb(FdbPort::Port(self.endpoint)));
        self.put(NetworkObject::BridgeFdb(remote), Object::BridgeFdb(FdbPort::Vxlan));
        let Object::Leg(leg) = self.get(NetworkObject::Leg) else { unreachable!("just put") };
        self.put(NetworkObject::BridgeFdb(leg.mac), Object::BridgeFdb(FdbPort::Leg));
        self.put(NetworkObject::TunnelFdb(remote), Object::TunnelFdb(ip("198.18.0.2")));
        self.put(NetworkObject::Flood(ip("198.18.0.2")), Object::Present);
        self.put(NetworkObject::Flood(ip("198.18.0.3")), Object::Present);
        self.put(NetworkObject::Neighbour(ip("10.33.0.5")), Object::Neighbour(local));
        self.put(NetworkObject::Neighbour(ip("10.33.0.6")), Object::Neighbour(remote));
        self.put(NetworkObject::Neighbour(ip("fd00:1::6")), Object::Neighbour(remote));
    }
}

/// The steps from one state to another: what is surplus goes first, devices before what is in them.
pub(crate) fn diff(seen: &KernelState, wanted: &KernelState) -> Vec<Step> {
    let surplus = seen.objects.iter().filter(|(id, _)| !wanted.objects.contains_key(id));
    let mut steps: Vec<Step> = surplus.map(|(id, o)| Step::Delete(id.clone(), o.clone())).collect();
    for (id, desired) in &wanted.objects {
        match seen.objects.get(id) {
            Some(observed) if observed == desired => {}
            Some(observed) => {
                steps.push(Step::Replace { id: id.clone(), observed: observed.clone(), desired: desired.clone() })
            }
            None => steps.push(Step::Create(id.clone(), desired.clone())),
        }
    }
    steps
}

/// Two states are the same; panics with the steps between them.
#[track_caller]
pub(crate) fn same(seen: &KernelState, wanted: &KernelState) {
    let steps: Vec<String> = diff(seen, wanted).iter().map(ToString::to_string).collect();
    assert!(steps.is_empty(), "not the same:\n{}", steps.join("\n"));
}
