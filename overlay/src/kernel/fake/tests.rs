use super::*;
use crate::kernel::{Bridge, Element, FdbPort, Leg, Table, Vxlan};

const MTU: u32 = 1450;

fn network() -> NetworkId {
    NetworkId::from_entropy(1)
}

fn endpoint() -> EndpointId {
    EndpointId::from_entropy(2)
}

fn id(object: NetworkObject) -> ObjectId {
    ObjectId::Network(network(), object)
}

fn mac(last: u8) -> Mac {
    Mac::try_from([2, 0x42, 0, 0, 0, last]).unwrap()
}

fn vtep(last: u8) -> IpAddr {
    IpAddr::from([198, 18, 0, last])
}

fn place() -> Place {
    Place { path: "/run/netns/ct1".to_owned(), dev: 4, inode: 10, ifname: "eth0".parse().unwrap() }
}

fn bridge() -> Object {
    Object::Bridge(Box::new(Bridge { mac: mac(1), mtu: MTU, up: true, tuned: true }))
}

fn everything() -> Vec<Step> {
    let vxlan = Vxlan {
        vni: 77.try_into().unwrap(),
        local: vtep(1),
        port: 4789,
        mac: mac(2),
        mtu: MTU,
        up: true,
        attached: true,
        tuned: true,
    };
    let sandbox = SandboxState {
        place: place(),
        mac: mac(5),
        mtu: MTU,
        up: true,
        addresses: BTreeSet::from(["10.32.0.5/24".parse().unwrap()]),
        default_routes: BTreeSet::from([IpAddr::from([10, 32, 0, 1])]),
    };
    let leg = Leg { mac: mac(3), mtu: MTU, up: true, attached: true, tuned: true };
    [
        (NetworkObject::Bridge, bridge()),
        (NetworkObject::Vxlan, Object::Vxlan(Box::new(vxlan))),
        (NetworkObject::Leg, Object::Leg(Box::new(leg))),
        (NetworkObject::LegAddress([10, 32, 0, 1].into()), Object::LegAddress { prefix: 32, deprecated: false }),
        (NetworkObject::LegRoute("10.32.0.0/24".parse().unwrap()), Object::LegRoute(None)),
        (NetworkObject::Port(endpoint()), Object::Port(Box::new(Port { mtu: MTU, up: true, attached: true }))),
        (NetworkObject::Sandbox(endpoint()), Object::Sandbox(Box::new(sandbox))),
        (NetworkObject::BridgeFdb(mac(5)), Object::BridgeFdb(FdbPort::Port(endpoint()))),
        (NetworkObject::BridgeFdb(mac(6)), Object::BridgeFdb(FdbPort::Vxlan)),
        (NetworkObject::BridgeFdb(mac(3)), Object::BridgeFdb(FdbPort::Leg)),
        (NetworkObject::TunnelFdb(mac(6)), Object::TunnelFdb(vtep(2))),
        (NetworkObject::Flood(vtep(2)), Object::Present),
        (NetworkObject::Neighbour([10, 32, 0, 6].into()), Object::Neighbour(mac(6))),
    ]
    .map(|(kind, object)| Step::Create(id(kind), object))
    .to_vec()
}

fn filled() -> FakeKernel {
    let mut kernel = FakeKernel::new();
    for (step, outcome) in everything().iter().zip(kernel.apply(&everything())) {
        outcome.unwrap_or_else(|error| panic!("{step}: {error}"));
    }
    kernel
}

fn has(kernel: &FakeKernel, kind: NetworkObject) -> bool {
    kernel.state().objects.contains_key(&id(kind))
}

#[test]
fn what_was_created_is_observed() {
    let mut kernel = filled();

    let mut seen = kernel.observe(&Scope::Network(network())).unwrap();
    let places = BTreeMap::from([(id(NetworkObject::Sandbox(endpoint())), place())]);
    seen.objects.extend(kernel.observe(&Scope::Sandboxes(places)).unwrap().objects);

    let wanted: Objects = everything().into_iter().map(|s| (s.id().clone(), s.result().unwrap().clone())).collect();
    assert_eq!(seen.objects, wanted);
}

#[test]
fn a_bridge_takes_its_rows_along_and_leaves_its_ports_outside() {
    let kernel = filled();

    kernel.remove(&id(NetworkObject::Bridge));

    assert!(!has(&kernel, NetworkObject::BridgeFdb(mac(6))));
    assert!(!has(&kernel, NetworkObject::Neighbour([10, 32, 0, 6].into())));
    assert!(has(&kernel, NetworkObject::TunnelFdb(mac(6))));
    let Object::Port(port) = &kernel.state().objects[&id(NetworkObject::Port(endpoint()))] else { panic!() };
    assert!(!port.attached);
}

#[test]
fn a_vxlan_device_takes_its_rows_and_the_bridges_rows_towards_it_along() {
    let kernel = filled();

    kernel.remove(&id(NetworkObject::Vxlan));

    assert!(!has(&kernel, NetworkObject::TunnelFdb(mac(6))));
    assert!(!has(&kernel, NetworkObject::Flood(vtep(2))));
    assert!(!has(&kernel, NetworkObject::BridgeFdb(mac(6))));
    assert!(has(&kernel, NetworkObject::BridgeFdb(mac(5))));
}

#[test]
fn another_bridge_mac_empties_the_neighbour_table() {
    let kernel = filled();

    kernel.set(
        &id(NetworkObject::Bridge),
        Object::Bridge(Box::new(Bridge { mac: mac(9), mtu: MTU, up: true, tuned: true })),
    );

    assert!(!has(&kernel, NetworkObject::Neighbour([10, 32, 0, 6].into())));
    assert!(has(&kernel, NetworkObject::BridgeFdb(mac(6))));
}

#[test]
fn a_row_without_its_device_is_refused_with_enodev() {
    let mut kernel = FakeKernel::new();
    let row = Step::Create(id(NetworkObject::TunnelFdb(mac(6))), Object::TunnelFdb(vtep(2)));

    let outcome = kernel.apply(&[row]).pop().unwrap();

    assert_eq!(outcome.unwrap_err().cause.raw_os_error(), Some(errno::ENODEV));
}

#[test]
fn an_element_without_its_table_is_refused_and_goes_with_it() {
    let mut kernel = FakeKernel::new();
    let table = ObjectId::Node(NodeObject::Table(Table::Host));
    let element = ObjectId::Node(NodeObject::Element(Element::Vtep(vtep(2))));
    let put = |id: &ObjectId| Step::Create(id.clone(), Object::Present);

    assert!(kernel.apply(&[put(&element)])[0].is_err());
    assert!(kernel.apply(&[put(&table), put(&element)]).iter().all(Result::is_ok));
    kernel.remove(&table);

    assert!(!kernel.state().objects.contains_key(&element));
}

#[test]
fn a_foreign_device_is_neither_changed_nor_deleted() {
    let mut kernel = FakeKernel::new();
    let foreign = Object::Foreign("dummy device".to_owned());
    kernel.set(&id(NetworkObject::Bridge), foreign.clone());

    let steps = [Step::Create(id(NetworkObject::Bridge), bridge()), Step::Delete(id(NetworkObject::Bridge), bridge())];
    let outcomes = kernel.apply(&steps);

    assert!(outcomes.iter().all(Result::is_err));
    assert_eq!(kernel.state().objects[&id(NetworkObject::Bridge)], foreign);
}

#[test]
fn the_end_of_a_namespace_takes_the_port_along() {
    let mut kernel = filled();

    kernel.end_namespace(&place());

    let sandbox = id(NetworkObject::Sandbox(endpoint()));
    let places = BTreeMap::from([(sandbox.clone(), place())]);
    assert!(!has(&kernel, NetworkObject::Port(endpoint())));
    assert_eq!(kernel.observe(&Scope::Sandboxes(places)).unwrap().objects[&sandbox], Object::Gone);
}

#[test]
fn a_lost_port_is_made_with_the_containers_end_as_last_wanted() {
    let mut kernel = filled();
    kernel.remove(&id(NetworkObject::Port(endpoint())));
    assert!(!has(&kernel, NetworkObject::Sandbox(endpoint())));
    let port = everything().into_iter().find(|step| *step.id() == id(NetworkObject::Port(endpoint()))).unwrap();

    assert!(kernel.apply(&[port])[0].is_ok());

    assert!(has(&kernel, NetworkObject::Sandbox(endpoint())));
}

#[test]
fn a_planned_failure_happens_as_often_as_asked_and_changes_nothing() {
    let mut kernel = FakeKernel::new();
    let step = [Step::Create(id(NetworkObject::Bridge), bridge())];
    kernel.fail(&id(NetworkObject::Bridge), errno::EINVAL, 1);

    assert!(kernel.apply(&step)[0].is_err());
    assert!(!has(&kernel, NetworkObject::Bridge));
    assert!(kernel.apply(&step)[0].is_ok());
    assert_eq!(kernel.writes(), 2);
}

#[test]
fn an_address_that_returns_with_another_mac_is_announced_and_one_with_the_same_is_not() {
    let mut kernel = filled();
    let address = IpAddr::from([10, 32, 0, 6]);
    let neighbour = id(NetworkObject::Neighbour(address));
    let gone = Step::Delete(neighbour.clone(), Object::Neighbour(mac(6)));

    kernel.apply(&[gone.clone(), Step::Create(neighbour.clone(), Object::Neighbour(mac(6)))]);
    assert_eq!(kernel.announced(), []);
    kernel.apply(&[gone, Step::Create(neighbour, Object::Neighbour(mac(7)))]);

    assert_eq!(kernel.announced(), [(network(), address, mac(7))]);
}

#[test]
fn an_unreadable_kernel_fails_observations_only_until_it_is_readable() {
    let mut kernel = filled();

    kernel.set_unreadable(true);
    assert!(kernel.observe(&Scope::Everything).is_err());
    kernel.set_unreadable(false);

    assert!(kernel.observe(&Scope::Everything).is_ok());
}
