//! The same scenarios through the kernel in memory and the real one: they must end in the same state, step by step.

use weft_overlay::{
    id::Mac,
    kernel::{FdbPort, Kernel, KernelState, NetworkObject, Object, ObjectId, Scope, Step, Vxlan, fake::FakeKernel},
};

use crate::lab::{Host, LOCAL_MAC, Network, REMOTE_MAC, diff, ip, mac, sh};

/// One thing that happens.
enum Act {
    /// Everything of the network is created.
    CreateAll,
    /// These are created as the network has them.
    Create(fn(&Network) -> Vec<NetworkObject>),
    /// This is created or replaced with something else.
    Put(fn(&Network) -> (NetworkObject, Object)),
    /// These are deleted by us.
    Delete(fn(&Network) -> Vec<NetworkObject>),
    /// Somebody else deletes this device or row.
    Remove(fn(&Network) -> NetworkObject),
    /// Buried devices are deleted.
    Sweep,
    /// Passes of reading and mending until nothing is left to do.
    Converge,
}

use Act::{Converge, Create, CreateAll, Delete, Put, Remove, Sweep};

const SCENARIOS: &[(&str, &[Act])] = &[
    ("everything is created", &[CreateAll]),
    ("everything is created twice", &[CreateAll, CreateAll]),
    ("rows without devices", &[Create(rows)]),
    ("devices without a bridge", &[Create(|n| vec![NetworkObject::Vxlan, NetworkObject::Leg, port(n)])]),
    ("a port without its container's end", &[Create(|n| vec![NetworkObject::Bridge, port(n)])]),
    ("a container's end without its port", &[Create(|n| vec![NetworkObject::Bridge, sandbox(n)])]),
    ("an object of another kind", &[Create(bridge), Put(|_| (NetworkObject::Bridge, Object::Present))]),
    ("the bridge is lost", &[CreateAll, Remove(|_| NetworkObject::Bridge), Converge]),
    ("the tunnel is lost", &[CreateAll, Remove(|_| NetworkObject::Vxlan), Converge]),
    ("the leg is lost", &[CreateAll, Remove(|_| NetworkObject::Leg), Converge]),
    ("a port is lost", &[CreateAll, Remove(port), Converge]),
    ("a lost port is created alone", &[CreateAll, Remove(port), Create(|n| vec![port(n)])]),
    ("a neighbour is lost", &[CreateAll, Remove(|_| NetworkObject::Neighbour(ip("10.33.0.6"))), Converge]),
    ("a tunnel row is lost", &[CreateAll, Remove(|_| NetworkObject::TunnelFdb(mac(REMOTE_MAC))), Converge]),
    ("a bridge row is lost", &[CreateAll, Remove(|_| NetworkObject::BridgeFdb(mac(LOCAL_MAC))), Converge]),
    ("a flood row is lost", &[CreateAll, Remove(|_| NetworkObject::Flood(ip("198.18.0.2"))), Converge]),
    ("a route is lost", &[CreateAll, Remove(|_| NetworkObject::LegRoute("10.33.0.0/24".parse().unwrap())), Converge]),
    ("the bridge gets another MAC", &[CreateAll, Put(bridge_with_other_mac), Converge]),
    ("the bridge is put down", &[CreateAll, Put(bridge_down), Converge]),
    ("the tunnel gets another VNI", &[CreateAll, Put(tunnel_with_other_vni), Converge]),
    ("the leg is put down", &[CreateAll, Put(leg_down), Converge]),
    ("a port gets another MTU", &[CreateAll, Put(port_with_other_mtu), Converge]),
    ("an endpoint moves away", &[CreateAll, Put(|_| (NetworkObject::BridgeFdb(mac(LOCAL_MAC)), to_tunnel()))]),
    (
        "a MAC moves to another VTEP",
        &[CreateAll, Put(|_| (NetworkObject::TunnelFdb(mac(REMOTE_MAC)), behind("198.18.0.9")))],
    ),
    (
        "an address changes its MAC",
        &[CreateAll, Put(|_| (NetworkObject::Neighbour(ip("10.33.0.6")), Object::Neighbour(mac(LOCAL_MAC))))],
    ),
    ("an endpoint is detached", &[CreateAll, Delete(|n| vec![port(n), sandbox(n)]), Sweep, Converge]),
    ("an endpoint is detached and attached unswept", &[CreateAll, Delete(|n| vec![port(n), sandbox(n)]), Converge]),
    ("a port is deleted alone", &[CreateAll, Delete(|n| vec![port(n)]), Sweep]),
    ("a container's end is deleted alone", &[CreateAll, Delete(|n| vec![sandbox(n)])]),
    ("the bridge is deleted", &[CreateAll, Delete(bridge), Delete(bridge), Converge]),
    ("the tunnel is deleted", &[CreateAll, Delete(|_| vec![NetworkObject::Vxlan]), Converge]),
    ("the leg is deleted", &[CreateAll, Delete(|_| vec![NetworkObject::Leg]), Converge]),
    ("rows are deleted twice", &[CreateAll, Delete(rows), Delete(rows)]),
    ("everything is deleted", &[CreateAll, Delete(everything), Sweep, Delete(everything)]),
];

fn bridge(_: &Network) -> Vec<NetworkObject> {
    vec![NetworkObject::Bridge]
}

fn port(network: &Network) -> NetworkObject {
    NetworkObject::Port(network.endpoint)
}

fn sandbox(network: &Network) -> NetworkObject {
    NetworkObject::Sandbox(network.endpoint)
}

fn everything(network: &Network) -> Vec<NetworkObject> {
    let kinds = network.state.objects.keys().rev();
    kinds.filter_map(|id| if let ObjectId::Network(_, kind) = id { Some(kind.clone()) } else { None }).collect()
}

fn rows(network: &Network) -> Vec<NetworkObject> {
    let mut rows = everything(network);
    rows.retain(|kind| !network.id(kind.clone()).is_device() && *kind != sandbox(network));
    rows
}

fn bridge_with_other_mac(network: &Network) -> (NetworkObject, Object) {
    let Object::Bridge(mut bridge) = network.get(NetworkObject::Bridge) else { unreachable!() };
    bridge.mac = mac("02:57:00:00:00:99");
    (NetworkObject::Bridge, Object::Bridge(bridge))
}

fn bridge_down(network: &Network) -> (NetworkObject, Object) {
    let Object::Bridge(mut bridge) = network.get(NetworkObject::Bridge) else { unreachable!() };
    bridge.up = false;
    (NetworkObject::Bridge, Object::Bridge(bridge))
}

fn tunnel_with_other_vni(network: &Network) -> (NetworkObject, Object) {
    let Object::Vxlan(tunnel) = network.get(NetworkObject::Vxlan) else { unreachable!() };
    let tunnel = Vxlan { vni: 79_999.try_into().unwrap(), ..*tunnel };
    (NetworkObject::Vxlan, Object::Vxlan(Box::new(tunnel)))
}

fn leg_down(network: &Network) -> (NetworkObject, Object) {
    let Object::Leg(mut leg) = network.get(NetworkObject::Leg) else { unreachable!() };
    leg.up = false;
    (NetworkObject::Leg, Object::Leg(leg))
}

fn port_with_other_mtu(network: &Network) -> (NetworkObject, Object) {
    let Object::Port(mut state) = network.get(port(network)) else { unreachable!() };
    state.mtu = 1300;
    (port(network), Object::Port(state))
}

fn to_tunnel() -> Object {
    Object::BridgeFdb(FdbPort::Vxlan)
}

fn behind(vtep: &str) -> Object {
    Object::TunnelFdb(ip(vtep))
}

/// One of the two kernels.
struct Subject<'a> {
    kernel: &'a mut dyn Kernel,
    remove: &'a dyn Fn(&ObjectId),
    network: &'a Network,
}

impl Subject<'_> {
    /// The errno of each step; `None` where it succeeded.
    fn act(&mut self, act: &Act) -> Vec<Option<i32>> {
        let network = self.network;
        let create = |kind: NetworkObject| Step::Create(network.id(kind.clone()), network.get(kind));
        match act {
            CreateAll => {
                let objects = &network.state.objects;
                self.apply(&objects.iter().map(|(id, o)| Step::Create(id.clone(), o.clone())).collect::<Vec<_>>())
            }
            Create(kinds) => self.apply(&kinds(network).into_iter().map(create).collect::<Vec<_>>()),
            Put(what) => {
                let (kind, desired) = what(network);
                let (id, observed) = (network.id(kind.clone()), network.get(kind));
                self.apply(&[Step::Replace { id, observed, desired }])
            }
            Delete(kinds) => {
                let delete = |kind: NetworkObject| Step::Delete(network.id(kind.clone()), network.get(kind));
                self.apply(&kinds(network).into_iter().map(delete).collect::<Vec<_>>())
            }
            Remove(kind) => {
                (self.remove)(&network.id(kind(network)));
                Vec::new()
            }
            Sweep => {
                self.kernel.sweep().unwrap();
                Vec::new()
            }
            Converge => self.converge(),
        }
    }

    fn converge(&mut self) -> Vec<Option<i32>> {
        let mut outcomes = Vec::new();
        for _ in 0..4 {
            let steps = diff(&self.observe(), &self.network.state);
            outcomes.extend(self.apply(&steps));
        }
        outcomes
    }

    fn apply(&mut self, steps: &[Step]) -> Vec<Option<i32>> {
        let errno =
            |outcome: Result<(), weft_overlay::kernel::StepError>| outcome.err().and_then(|e| e.cause.raw_os_error());
        self.kernel.apply(steps).into_iter().map(errno).collect()
    }

    fn observe(&mut self) -> KernelState {
        let mut state = self.kernel.observe(&Scope::Network(self.network.id)).unwrap();
        state.objects.extend(self.kernel.observe(&Scope::Sandboxes(self.network.places())).unwrap().objects);
        state
    }
}

/// The command by which somebody else deletes an object.
fn removal(network: &Network, id: &ObjectId) -> String {
    let ObjectId::Network(_, kind) = id else { unreachable!("only things of networks") };
    let (bridge, vxlan) = (network.id.bridge_name(), network.id.vxlan_name());
    let row = |mac: &Mac, rest: String| format!("bridge fdb del {mac} {rest}");
    match kind {
        NetworkObject::Bridge => format!("ip link del {bridge}"),
        NetworkObject::Vxlan => format!("ip link del {vxlan}"),
        NetworkObject::Leg => format!("ip link del {}", network.id.leg_port_name()),
        NetworkObject::Port(endpoint) => format!("ip link del {}", endpoint.port_name()),
        NetworkObject::Neighbour(address) => format!("ip neigh del {address} dev {bridge}"),
        NetworkObject::TunnelFdb(mac) => row(mac, format!("dev {vxlan} self")),
        NetworkObject::BridgeFdb(mac) => row(mac, format!("dev {} master", network.endpoint.port_name())),
        NetworkObject::Flood(vtep) => format!("bridge fdb del 00:00:00:00:00:00 dev {vxlan} dst {vtep} self"),
        NetworkObject::LegRoute(to) => format!("ip route del {to} dev {}", network.id.leg_name()),
        other => unreachable!("no scenario removes {other:?}"),
    }
}

#[test]
fn the_kernel_in_memory_behaves_as_the_real_one() {
    for (name, acts) in SCENARIOS {
        let network = Network::new(1);
        let mut host = Host::new();
        let (in_host, in_data_plane) = (host.host.clone(), host.data_plane.clone());
        let delete = |id: &ObjectId| {
            let route = matches!(id, ObjectId::Network(_, NetworkObject::LegRoute(_)));
            drop(sh(if route { &in_host } else { &in_data_plane }, &removal(&network, id)));
        };
        let mut fake = FakeKernel::new();
        let shared = fake.clone();
        let forget = |id: &ObjectId| shared.remove(id);
        let mut real = Subject { kernel: &mut host.kernel, remove: &delete, network: &network };
        let mut imagined = Subject { kernel: &mut fake, remove: &forget, network: &network };
        for (number, act) in acts.iter().enumerate() {
            let outcomes = (real.act(act), imagined.act(act));
            assert_eq!(outcomes.0, outcomes.1, "{name}: outcomes of act {number}, real and imagined");
            let (is, thought) = (real.observe(), imagined.observe());
            let steps: Vec<String> = diff(&thought, &is).iter().map(ToString::to_string).collect();
            assert!(steps.is_empty(), "{name}: after act {number}, from imagined to real:\n{}", steps.join("\n"));
        }
    }
}
