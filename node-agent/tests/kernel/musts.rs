//! The settings without which traffic or safety breaks, each by what it prevents.

use std::time::{Duration, Instant};

use weft_node_agent::kernel::host;
use weft_overlay::kernel::{Family, Kernel, KernelState, NetworkObject, NodeObject, Object, ObjectId, Scope, Step};

use crate::{
    frames::{broadcast_from, send_frame},
    lab::{Host, LOCAL_MAC, Network, PORT, REMOTE_MAC, apply, eventually, ip, mac, received, same, sh},
};

fn built() -> (Host, Network) {
    let mut host = Host::new();
    let network = Network::new(1);
    host.create(&network.state);
    (host, network)
}

fn neighbours(state: &KernelState) -> usize {
    state.objects.keys().filter(|id| matches!(id, ObjectId::Network(_, NetworkObject::Neighbour(_)))).count()
}

fn setting(host: &Host, path: &str) -> String {
    sh(&host.host, &format!("cat /proc/sys/net/{path}")).trim().to_owned()
}

#[test]
fn ports_with_lower_macs_come_and_go_without_costing_neighbours() {
    let (mut host, network) = built();
    let bridge = network.id.bridge_name();

    sh(&host.data_plane, &format!("ip link add kt0 address 00:00:00:00:00:01 master {bridge} type veth peer kt1"));
    assert_eq!(neighbours(&host.observe_all(&network)), 3);
    sh(&host.data_plane, "ip link set kt0 nomaster && ip link del kt0");

    assert_eq!(neighbours(&host.observe_all(&network)), 3);
}

#[test]
fn a_frame_with_the_mac_of_another_endpoint_moves_no_row() {
    let (mut host, network) = built();
    let data_plane = host.data_plane.clone();
    let forwarded = || received(&data_plane, network.endpoint.port_name().as_str());
    let before = forwarded();

    send_frame(&network.container, "eth0", &broadcast_from(REMOTE_MAC));

    eventually("the frame reaches the port", || if forwarded() > before { Ok(()) } else { Err(before) });
    same(&host.observe_all(&network), &network.state);
}

#[test]
fn the_leg_neither_announces_the_gateway_nor_answers_for_the_host_nor_listens_to_routers() {
    let (host, network) = built();
    let leg = network.id.leg_name();
    let v4 = [("arp_announce", "2"), ("arp_ignore", "1"), ("send_redirects", "0"), ("accept_redirects", "0")];
    let v6 =
        [("accept_ra", "0"), ("accept_redirects", "0"), ("autoconf", "0"), ("addr_gen_mode", "0"), ("accept_dad", "0")];

    for (name, value) in v4 {
        assert_eq!(setting(&host, &format!("ipv4/conf/{leg}/{name}")), value, "{name}");
    }
    for (name, value) in v6 {
        assert_eq!(setting(&host, &format!("ipv6/conf/{leg}/{name}")), value, "{name}");
    }
    assert_eq!(setting(&host, &format!("ipv4/conf/{leg}/route_localnet")), "1");
    assert!(
        sh(&host.host, &format!("ip -6 addr show dev {leg}")).contains("fe80"),
        "forwarded IPv6 needs one to ask from"
    );
}

#[test]
fn a_host_that_lives_on_router_advertisements_goes_on_accepting_them_when_it_forwards() {
    let mut host = Host::new();
    sh(&host.host, "ip link add up0 type veth peer up1 && ip link add up2 type veth peer up3");
    sh(&host.host, "echo 1 > /proc/sys/net/ipv6/conf/up0/accept_ra; echo 0 > /proc/sys/net/ipv6/conf/up2/accept_ra");

    let forwarding = ObjectId::Node(NodeObject::HostForwarding);
    apply(&mut host.kernel, &[Step::Create(forwarding, Object::Present)]);

    assert_eq!(setting(&host, "ipv6/conf/up0/accept_ra"), "2");
    assert_eq!(setting(&host, "ipv6/conf/up2/accept_ra"), "0");
    assert_eq!(setting(&host, "ipv6/conf/default/accept_ra"), "1");
    assert_eq!(setting(&host, "ipv6/conf/all/forwarding"), "1");
    assert_eq!(setting(&host, "ipv4/ip_forward"), "1");
}

#[test]
fn a_changed_mac_is_announced_to_local_containers() {
    const NEW: &str = "02:42:99:99:99:99";
    let (mut host, network) = built();
    for address in ["10.33.0.6", "fd00:1::6"] {
        sh(&network.container, &format!("ip neigh replace {address} lladdr {REMOTE_MAC} dev eth0 nud reachable"));
        let step = Step::Replace {
            id: network.id(NetworkObject::Neighbour(ip(address))),
            observed: Object::Neighbour(mac(REMOTE_MAC)),
            desired: Object::Neighbour(mac(NEW)),
        };

        apply(&mut host.kernel, &[step]);

        eventually(&format!("{address} is known by its new MAC"), || {
            let entry = sh(&network.container, &format!("ip neigh show {address} dev eth0"));
            if entry.contains(NEW) { Ok(()) } else { Err(entry) }
        });
    }
}

#[test]
fn an_address_that_left_and_returns_with_another_mac_is_announced_too() {
    const NEW: &str = "02:42:99:99:99:99";
    let (mut host, network) = built();
    let id = network.id(NetworkObject::Neighbour(ip("10.33.0.6")));
    sh(&network.container, &format!("ip neigh replace 10.33.0.6 lladdr {REMOTE_MAC} dev eth0 nud reachable"));

    apply(&mut host.kernel, &[Step::Delete(id.clone(), Object::Neighbour(mac(REMOTE_MAC)))]);
    apply(&mut host.kernel, &[Step::Create(id, Object::Neighbour(mac(NEW)))]);

    eventually("the address is known by its new MAC", || {
        let entry = sh(&network.container, "ip neigh show 10.33.0.6 dev eth0");
        if entry.contains(NEW) { Ok(()) } else { Err(entry) }
    });
}

#[test]
fn the_tunnel_survives_the_underlay_device_that_has_its_address() {
    let mut host = Host::new();
    sh(&host.host, "ip link add up0 type veth peer up1 && ip addr add 198.18.0.1/24 dev up0 && ip link set up0 up");
    let network = Network::new(1);
    host.create(&network.state);

    sh(&host.host, "ip link del up0");

    same(&host.observe_all(&network), &network.state);
}

#[test]
fn a_detached_endpoint_is_out_of_use_at_once_and_swept_later() {
    const PORTS: u32 = 16;
    let mut host = Host::new();
    let first = Network::new(1);
    host.create(&first.state);
    let mut deletions = Vec::new();
    let mut containers = Vec::new();
    for number in 0..PORTS {
        let mut other = Network::new(1);
        other.endpoint = weft_overlay::id::EndpointId::from_entropy(0xf000 + u64::from(number));
        let objects = [
            (other.port(), first.state.objects[&first.port()].clone()),
            (
                other.sandbox(),
                other.state.objects[&ObjectId::Network(other.id, NetworkObject::Sandbox(first.endpoint))].clone(),
            ),
        ];
        host.create(&KernelState { objects: objects.clone().into() });
        deletions.push(objects.map(|(id, object)| Step::Delete(id, object)));
        containers.push(other.container);
    }

    let detached = deletions.iter().map(|steps| {
        let started = Instant::now();
        apply(&mut host.kernel, steps);
        started.elapsed()
    });
    // The quickest, since the machine may be busy; deleting the device at once takes 16 ms, often 50.
    let quickest = detached.min().unwrap();
    println!("one endpoint out of use in {quickest:?}");
    assert!(quickest < Duration::from_millis(5), "{quickest:?}");
    let graves = || sh(&host.data_plane, "ip -o link | grep -c 'weft grave' || true").trim().parse::<u32>().unwrap();
    assert_eq!(graves(), PORTS);
    same(&host.kernel.observe(&Scope::Network(first.id)).map(|s| with_sandbox(s, &first)).unwrap(), &first.state);
    host.kernel.sweep().unwrap();
    assert_eq!(graves(), 0);
    same(&host.observe_all(&first), &first.state);
}

fn with_sandbox(mut state: KernelState, network: &Network) -> KernelState {
    state.objects.insert(network.sandbox(), network.state.objects[&network.sandbox()].clone());
    state
}

#[test]
fn an_interface_name_is_free_again_right_after_a_detach() {
    let (mut host, network) = built();
    let deletions =
        [network.port(), network.sandbox()].map(|id| Step::Delete(id.clone(), network.state.objects[&id].clone()));
    let creations =
        [network.port(), network.sandbox()].map(|id| Step::Create(id.clone(), network.state.objects[&id].clone()));
    let row = network.id(NetworkObject::BridgeFdb(mac(LOCAL_MAC)));

    apply(&mut host.kernel, &deletions);
    apply(&mut host.kernel, &creations);
    apply(&mut host.kernel, &[Step::Create(row.clone(), network.state.objects[&row].clone())]);

    same(&host.observe_all(&network), &network.state);
}

#[test]
fn sweeping_leaves_devices_of_others_in_the_same_group() {
    let (mut host, network) = built();
    let deletion = Step::Delete(network.port(), network.state.objects[&network.port()].clone());
    apply(&mut host.kernel, &[deletion]);
    let group = 0x5765_6674 + 1;
    sh(&host.data_plane, &format!("ip link add kt0 type veth peer kt1 && ip link set kt0 group {group}"));

    host.kernel.sweep().unwrap();

    let left = sh(&host.data_plane, "ip -o link");
    assert!(left.contains("kt0") && !left.contains("weft grave"), "{left}");
}

#[test]
fn a_port_that_never_got_further_than_its_creation_is_swept() {
    let (mut host, network) = built();
    let half_made = weft_overlay::id::EndpointId::from_entropy(0xdead).port_name();
    sh(&host.data_plane, &format!("ip link add {half_made} group {} type veth peer kt1", 0x5765_6674));

    host.kernel.sweep().unwrap();

    assert!(!sh(&host.data_plane, "ip link").contains(half_made.as_str()));
    same(&host.observe_all(&network), &network.state);
}

#[test]
fn the_udp_socket_is_in_the_hosts_namespace_and_the_device_is_not() {
    let (host, network) = built();

    assert_eq!(host::udp_port_users(&host.host, PORT).unwrap(), [host::PortUser::Unseen]);
    assert!(host::udp_port_users(&host.data_plane, PORT).unwrap().is_empty());
    let name = network.id.vxlan_name().to_string();
    assert!(!sh(&host.host, "ip link").contains(&name));
    assert!(sh(&host.data_plane, "ip link").contains(&name));
}

#[test]
fn bridged_frames_pass_no_filter_of_the_hosts() {
    let mut host = Host::new();
    let switches = host::bridge_netfilter(&host.data_plane).unwrap();
    assert!(switches.iptables != Some(true) && switches.ip6tables != Some(true), "{switches:?}");
    // Nothing to switch where the kernel has no br_netfilter.
    let Some(_) = switches.iptables else { return };

    sh(&host.data_plane, "echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables");

    let settings = ObjectId::Node(NodeObject::DataPlaneSettings);
    let seen = host.observe(&Scope::Node).objects[&settings].clone();
    assert!(matches!(&seen, Object::Deviant(what) if what.contains("bridge-nf-call-iptables")), "{seen}");
    apply(&mut host.kernel, &[Step::Replace { id: settings.clone(), observed: seen, desired: Object::Present }]);
    assert_eq!(host.observe(&Scope::Node).objects[&settings], Object::Present);
}

#[test]
fn ipv6_addresses_of_a_container_survive_its_link_going_down() {
    let (_host, network) = built();

    sh(&network.container, "ip link set eth0 down && ip link set eth0 up");

    let addresses = sh(&network.container, "ip -6 addr show dev eth0");
    assert!(addresses.contains("fd00:1::5/64"), "{addresses}");
}

#[test]
fn a_strict_reverse_path_filter_is_loosened_on_our_interface_only() {
    let mut host = Host::new();
    let network = Network::new(1);
    sh(&network.container, "ip link add kt0 type veth peer kt1; echo 1 > /proc/sys/net/ipv4/conf/all/rp_filter");
    sh(&network.container, "echo 1 > /proc/sys/net/ipv4/conf/kt0/rp_filter");

    host.create(&network.state);

    let filter = |device: &str| sh(&network.container, &format!("cat /proc/sys/net/ipv4/conf/{device}/rp_filter"));
    assert_eq!(filter("eth0").trim(), "2");
    assert_eq!(filter("kt0").trim(), "1");
}

#[test]
fn only_root_may_send_to_the_vxlan_port() {
    let mut host = Host::new();
    sh(
        &host.host,
        "ip link add up0 type veth peer up1 && ip addr add 198.18.0.1/24 dev up0 && ip link set up0 up && ip link set up1 up",
    );
    let send = |uid: u32, port: u16| {
        let script = format!("echo x > /dev/udp/198.18.0.2/{port}");
        let as_user = format!("setpriv --reuid {uid} --clear-groups bash -c '{script}' 2>&1 && echo sent || true");
        sh(&host.host, &as_user)
    };
    assert!(send(65534, PORT).contains("sent"), "{}", send(65534, PORT));
    let guards =
        [Family::Ipv4, Family::Ipv6].map(|f| Step::Create(ObjectId::Node(NodeObject::SendGuard(f)), Object::Present));

    for (step, outcome) in guards.iter().zip(host.kernel.apply(&guards)) {
        outcome.unwrap_or_else(|error| panic!("{step}: {error}"));
    }

    assert!(!send(65534, PORT).contains("sent"));
    assert!(send(65534, 4790).contains("sent"));
    assert!(send(0, PORT).contains("sent"));
}

#[test]
fn ports_of_a_network_carry_a_readable_mark() {
    let (host, network) = built();
    let link = sh(&host.data_plane, &format!("ip link show {}", network.endpoint.port_name()));

    assert!(link.contains(&format!("alias weft {} {}", network.id, network.endpoint)), "{link}");
}
