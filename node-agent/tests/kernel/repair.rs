//! Every way in which somebody else can spoil a network: it is seen when read, told by the watch, and mended.

use std::collections::BTreeSet;

use weft_node_agent::kernel::{
    Places,
    watch::{Doubts, KernelWatch},
};
use weft_overlay::kernel::{Kernel, NetworkObject, Object, ObjectId, Step};

use crate::lab::{Host, LOCAL_MAC, Network, PORT, REMOTE_MAC, diff, eventually, ip, mac, sh};

/// Where the spoiling command runs.
#[derive(Clone, Copy)]
enum Place {
    DataPlane,
    Host,
    Container,
}

/// How the agent learns of it.
#[derive(Clone, Copy, PartialEq)]
enum Told {
    /// A notification casts doubt on the object or its network.
    Notified,
    /// Only by reading again.
    Audit,
}

use Place::{Container, DataPlane, Host as InHost};
use Told::{Audit, Notified};

type Spoiler = (Place, &'static str, Told, fn(&Network) -> NetworkObject);

/// The command, with BR, VX, LEGP, LEG, PORT for the devices' names, LOCAL and REMOTE for MACs; one object it changes.
const SPOILERS: &[Spoiler] = &[
    (DataPlane, "ip link del BR", Notified, |_| NetworkObject::Bridge),
    (DataPlane, "ip link del VX", Notified, |_| NetworkObject::Vxlan),
    (DataPlane, "ip link del LEGP", Notified, |_| NetworkObject::Leg),
    (DataPlane, "ip link del PORT", Notified, port),
    (DataPlane, "ip link set BR down", Notified, |_| NetworkObject::Bridge),
    (DataPlane, "ip link set VX down", Notified, |_| NetworkObject::Vxlan),
    (DataPlane, "ip link set LEGP down", Notified, |_| NetworkObject::Leg),
    (DataPlane, "ip link set PORT down", Notified, port),
    (DataPlane, "ip link set BR address 02:00:00:00:00:77", Notified, |_| NetworkObject::Bridge),
    (DataPlane, "ip link set VX address 02:00:00:00:00:77", Notified, |_| NetworkObject::Vxlan),
    (DataPlane, "ip link set BR mtu 1300", Notified, |_| NetworkObject::Bridge),
    (DataPlane, "ip link set VX mtu 1300", Notified, |_| NetworkObject::Vxlan),
    (DataPlane, "ip link set PORT mtu 1300", Notified, port),
    (DataPlane, "ip link set VX nomaster", Notified, |_| NetworkObject::Vxlan),
    (DataPlane, "ip link set LEGP nomaster", Notified, |_| NetworkObject::Leg),
    (DataPlane, "ip link set PORT nomaster", Notified, port),
    (DataPlane, "bridge link set dev PORT learning on", Notified, port),
    (DataPlane, "bridge link set dev VX neigh_suppress off", Notified, |_| NetworkObject::Vxlan),
    (DataPlane, "ip link set VX type vxlan learning", Notified, |_| NetworkObject::Vxlan),
    (DataPlane, "ip link set BR type bridge mcast_snooping 1", Notified, |_| NetworkObject::Bridge),
    (DataPlane, "ip link set BR arp off", Notified, |_| NetworkObject::Bridge),
    (DataPlane, "ip link set BR alias mine", Notified, |_| NetworkObject::Bridge),
    (DataPlane, "ip link set PORT alias mine", Notified, port),
    (DataPlane, "bridge fdb flush dev VX self", Notified, |_| NetworkObject::TunnelFdb(mac(REMOTE_MAC))),
    (DataPlane, "bridge fdb flush dev BR self", Notified, |_| NetworkObject::BridgeFdb(mac(LOCAL_MAC))),
    (DataPlane, "ip neigh flush dev BR nud all", Notified, |_| NetworkObject::Neighbour(ip("10.33.0.6"))),
    (DataPlane, "bridge fdb replace REMOTE dev VX self permanent dst 198.18.0.9", Notified, |_| {
        NetworkObject::TunnelFdb(mac(REMOTE_MAC))
    }),
    (DataPlane, "bridge fdb replace LOCAL dev VX master static", Notified, |_| {
        NetworkObject::BridgeFdb(mac(LOCAL_MAC))
    }),
    (
        DataPlane,
        "ip link add kt0 master BR type veth peer kt1 && bridge fdb replace LOCAL dev kt0 master static",
        Notified,
        |_| NetworkObject::BridgeFdb(mac(LOCAL_MAC)),
    ),
    (DataPlane, "bridge fdb append 00:00:00:00:00:00 dev VX self permanent dst 198.18.0.9", Notified, |_| {
        NetworkObject::Flood(ip("198.18.0.9"))
    }),
    (DataPlane, "echo 1 > /proc/sys/net/ipv6/conf/BR/disable_ipv6", Audit, |_| NetworkObject::Bridge),
    (InHost, "ip link set LEG down", Notified, |_| NetworkObject::Leg),
    (InHost, "ip link set LEG name kt0", Notified, |_| NetworkObject::Leg),
    (InHost, "ip route flush dev LEG proto 87", Notified, |_| NetworkObject::LegRoute("10.33.0.0/24".parse().unwrap())),
    (InHost, "ip addr flush dev LEG", Notified, |_| NetworkObject::LegRoute("fd00:1::/64".parse().unwrap())),
    (InHost, "ip addr flush dev LEG", Notified, |_| NetworkObject::LegRoute("10.33.0.0/24".parse().unwrap())),
    (InHost, "ip addr del 10.33.0.1/32 dev LEG", Notified, |_| NetworkObject::LegAddress(ip("10.33.0.1"))),
    (InHost, "ip addr del fd00:1::2/64 dev LEG && ip addr add fd00:1::2/64 dev LEG", Notified, |_| {
        NetworkObject::LegAddress(ip("fd00:1::2"))
    }),
    (InHost, "echo 0 > /proc/sys/net/ipv4/conf/LEG/arp_announce", Audit, |_| NetworkObject::Leg),
    (Container, "ip link del eth0", Notified, port),
];

/// The same for the inside of a container, which no notification tells of.
const INSIDE: [&str; 7] = [
    "ip link set eth0 down",
    "ip link set eth0 down && ip link set eth0 up",
    "ip addr flush dev eth0",
    "ip route del default",
    "ip link set eth0 mtu 1300",
    "ip link set eth0 address 02:00:00:00:00:77",
    "ip link set eth0 down && ip link set eth0 name kt0",
];

fn port(network: &Network) -> NetworkObject {
    NetworkObject::Port(network.endpoint)
}

fn spell(command: &str, network: &Network) -> String {
    [
        ("LEGP", network.id.leg_port_name().to_string()),
        ("LEG", network.id.leg_name().to_string()),
        ("BR", network.id.bridge_name().to_string()),
        ("VX", network.id.vxlan_name().to_string()),
        ("PORT", network.endpoint.port_name().to_string()),
        ("LOCAL", LOCAL_MAC.to_owned()),
        ("REMOTE", REMOTE_MAC.to_owned()),
    ]
    .iter()
    .fold(command.to_owned(), |text, (word, name)| text.replace(word, name))
}

fn casts_doubt(doubts: &Doubts, id: &ObjectId) -> bool {
    let network = id.network().is_some_and(|network| doubts.networks.contains(&network));
    doubts.everything || network || doubts.objects.contains_key(id)
}

/// Passes of reading and mending until nothing is left to do; each pass sees what the one before took along.
fn converge(host: &mut Host, network: &Network) {
    let mut failures = Vec::new();
    for _ in 0..4 {
        let steps = diff(&host.observe_all(network), &network.state);
        if steps.is_empty() {
            return;
        }
        for (step, outcome) in steps.iter().zip(host.kernel.apply(&steps)) {
            failures.extend(outcome.err().map(|error| format!("{step}: {error}: {}", error.cause)));
        }
    }
    panic!("still to do: {:#?}\nfailed: {failures:#?}", diff(&host.observe_all(network), &network.state));
}

#[test]
fn whatever_is_spoilt_outside_is_seen_told_and_mended() {
    let mut host = Host::new();
    let network = Network::new(1);
    host.create(&network.state);
    let places = Places { host: host.host.clone(), data_plane: host.data_plane.clone(), vxlan_port: PORT };
    let watch = KernelWatch::start(&places, BTreeSet::new()).unwrap();
    for &(place, command, told, object) in SPOILERS {
        drop(watch.take());
        let command = spell(command, &network);
        let id = network.id(object(&network));
        let namespace = match place {
            DataPlane => &host.data_plane,
            InHost => &host.host,
            Container => &network.container,
        };

        sh(namespace, &command);

        let mut doubts = Doubts::default();
        if told == Notified {
            eventually(&format!("{command}: doubt about {id}"), || {
                let more = watch.take();
                doubts.networks.extend(more.networks);
                doubts.objects.extend(more.objects);
                if casts_doubt(&doubts, &id) { Ok(()) } else { Err(doubts.clone()) }
            });
        }
        let seen = host.observe_all(&network);
        assert_ne!(seen.objects.get(&id), network.state.objects.get(&id), "{command} is not seen");
        converge(&mut host, &network);
        println!("ok: {command}");
    }
}

#[test]
fn whatever_is_spoilt_inside_a_container_is_seen_and_mended() {
    let mut host = Host::new();
    let network = Network::new(1);
    host.create(&network.state);
    for command in INSIDE {
        sh(&network.container, command);

        let seen = host.observe_all(&network);
        assert_ne!(seen.objects.get(&network.sandbox()), network.state.objects.get(&network.sandbox()), "{command}");
        converge(&mut host, &network);
        println!("ok: {command}");
    }
}

#[test]
fn only_the_named_interface_of_a_container_is_touched() {
    let mut host = Host::new();
    let network = Network::new(1);
    sh(
        &network.container,
        "ip link add kt0 type veth peer kt1 && ip addr add 192.0.2.1/24 dev kt0 && ip link set kt0 up",
    );
    let look = "ip -o addr show dev kt0; cat /proc/sys/net/ipv6/conf/kt0/accept_ra";
    let before = sh(&network.container, look);

    host.create(&network.state);
    let deletion = Step::Delete(network.sandbox(), network.get(NetworkObject::Sandbox(network.endpoint)));
    crate::lab::apply(&mut host.kernel, &[deletion]);

    assert_eq!(sh(&network.container, look), before);
}

#[test]
fn a_port_alone_is_made_again_with_the_containers_end_set_up() {
    let mut host = Host::new();
    let network = Network::new(1);
    host.create(&network.state);
    sh(&host.data_plane, &format!("ip link del {}", network.endpoint.port_name()));
    let port = network.port();

    crate::lab::apply(&mut host.kernel, &[Step::Create(port.clone(), network.state.objects[&port].clone())]);

    let seen = host.observe_all(&network);
    assert_eq!(seen.objects.get(&network.sandbox()), network.state.objects.get(&network.sandbox()));
}

#[test]
fn a_container_whose_namespace_was_made_anew_is_gone() {
    let mut host = Host::new();
    let mut network = Network::new(1);
    host.create(&network.state);
    let Object::Sandbox(mut state) = network.get(NetworkObject::Sandbox(network.endpoint)) else { unreachable!() };
    state.place.inode += 1;
    let places = [(network.sandbox(), state.place.clone())].into();

    let seen = host.observe(&weft_overlay::kernel::Scope::Sandboxes(places));
    assert_eq!(seen.objects[&network.sandbox()], Object::Gone);

    network.put(NetworkObject::Sandbox(network.endpoint), Object::Sandbox(state));
    let outcome =
        host.kernel.apply(&[Step::Create(network.sandbox(), network.state.objects[&network.sandbox()].clone())]);
    let error = outcome[0].as_ref().unwrap_err().to_string();
    assert!(error.contains("is gone"), "{error}");
}
