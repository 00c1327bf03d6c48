//! Rows, devices, addresses and routes that others change or delete: B2, B18, B19.

use std::time::{Duration, Instant};

use weft_e2e::topology::OUTSIDE_SERVER;
use weft_e2e::{LabOptions, dump, eventually, traffic};

use crate::fault_support::dice::Dice;
use crate::fault_support::rig::{Attached, Network, REPAIR, Rig, SOON, assert_connected, ensure};
use crate::fault_support::shared::with_lab;

#[test]
fn b02_foreign_dynamic_row_gives_way_to_the_permanent_one() {
    with_lab(LabOptions::default(), |rig| {
        let (network, a, b) = two_members(rig);
        let (bridge, vxlan) = rig.devices(1, &network);
        assert_ne!(bridge, vxlan);

        for row in [
            vec!["bridge", "fdb", "replace", &b.mac, "dev", &vxlan, "dst", "192.168.56.99", "self", "dynamic"],
            vec!["bridge", "fdb", "replace", &b.mac, "dev", &vxlan, "master", "dynamic"],
            vec!["bridge", "fdb", "append", "00:00:00:00:00:00", "dev", &vxlan, "dst", "192.168.56.99", "self"],
        ] {
            rig.in_data_plane(1, &row).unwrap();
            rig.lab.cut("h2").unwrap();
            rig.lab.heal("h2").unwrap();
            eventually(REPAIR, &format!("repair of `{}`", row.join(" ")), || {
                dump::check_forwarding(&rig.lab)?;
                rows_are_permanent(rig, &b)
            });
        }

        rig.settle();
        assert_connected(&a, &b);
    });
}

#[test]
fn b18_changed_mac_of_a_vxlan_device_or_a_bridge_is_repaired() {
    with_lab(LabOptions::default(), |rig| {
        let (network, a, b) = two_members(rig);
        let (bridge, vxlan) = rig.devices(1, &network);
        for device in [vxlan, bridge] {
            let mac = || dump::kernel(&rig.host(1)).ok().and_then(|kernel| kernel.link(&device)?.mac.clone());
            let before = mac();

            rig.in_data_plane(1, &["ip", "link", "set", "dev", &device, "address", "02:de:ad:be:ef:01"]).unwrap();

            eventually(REPAIR, &format!("the MAC of {device}"), || ensure(mac() == before, || format!("{:?}", mac())));
            eventually(REPAIR, "rows", || dump::check_forwarding(&rig.lab));
            assert_connected(&a, &b);
        }
        rig.settle();
    });
}

#[test]
fn b19_whatever_others_delete_is_back_within_a_second() {
    with_lab(LabOptions::default(), |rig| {
        let mut dice = Dice::new();
        let (network, a, b) = two_members(rig);
        rig.host(1).exec(&["ip", "link", "add", "foreign0", "type", "bridge"]).unwrap();
        for damage in shuffled(&mut dice, damages(rig, 1, &network, &a)) {
            let line = damage.join(" ");
            let began = Instant::now();

            let done = rig.host(1).try_exec(&damage.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
            // `ip neigh flush` looks whether the rows are gone, and finds those that are back already.
            assert!(done.is_success() || done.stdout.contains("Flush not complete"), "{done:?}");

            eventually(REPAIR, &format!("repair of `{line}`"), || dump::check_forwarding(&rig.lab));
            eventually(REPAIR, &format!("an empty plan after `{line}`"), || has_nothing_to_do(rig, 1));
            everything_is_reached(&a, &b, &line);
            let took = began.elapsed();
            assert!(took < REPAIR + Duration::from_secs(3), "`{line}` took {took:?}");
        }
        rig.host(1).exec(&["ip", "link", "del", "foreign0"]).unwrap();
        rig.settle();
    });
}

/// Containers of both hosts, the own host, another host and the outside.
#[track_caller]
fn everything_is_reached(a: &Attached, b: &Attached, after: &str) {
    let outside = OUTSIDE_SERVER.into();
    for (from, to) in [("a", b.v4.into()), ("b", a.v4.into()), ("h1", a.v4.into()), ("h1", b.v4.into()), ("a", outside)]
    {
        if let Err(error) = traffic::ping(from, to, REPAIR) {
            panic!("after `{after}` {from} does not reach {to}: {error:#}");
        }
    }
}

/// What others may do to our objects on one host, as commands in the host's namespace.
fn damages(rig: &Rig, host: u8, network: &Network, local: &Attached) -> Vec<Vec<String>> {
    let (bridge, vxlan) = rig.devices(host, network);
    let status = rig.status(host).unwrap();
    let leg = status["networks"][0]["leg"].as_str().unwrap();
    let kernel = dump::kernel(&rig.host(host)).unwrap();
    let to_local = |row: &&dump::FdbRow| row.mac == local.mac && row.master.as_deref() == Some(bridge.as_str());
    let port = &kernel.fdb.iter().find(to_local).unwrap().device;
    let inside = format!("ip netns exec {}", rig.host(host).data_plane_netns());
    [
        format!("{inside} ip link del {bridge}"),
        format!("{inside} ip link del {vxlan}"),
        format!("{inside} ip link set {port} nomaster"),
        format!("{inside} ip link set {vxlan} nomaster"),
        format!("{inside} ip link set {vxlan} down"),
        format!("{inside} ip link set {bridge} down"),
        format!("{inside} ip link set {bridge} mtu 1000"),
        format!("{inside} ip link set {vxlan} mtu 1000"),
        format!("{inside} ip link set dev {vxlan} type bridge_slave neigh_suppress off learning on"),
        format!("{inside} bridge fdb flush dev {vxlan} self"),
        format!("{inside} bridge fdb flush dev {bridge}"),
        format!("{inside} ip neigh flush dev {bridge} nud all"),
        format!("ip link del {leg}"),
        format!("ip link set {leg} down"),
        format!("ip address flush dev {leg}"),
        "ip route flush proto 87".to_owned(),
        format!("ip route flush dev {leg}"),
        "ip rule flush protocol 87".to_owned(),
    ]
    .into_iter()
    .map(|line| line.split(' ').map(str::to_owned).collect())
    .collect()
}

fn shuffled<T>(dice: &mut Dice, mut items: Vec<T>) -> Vec<T> {
    let mut order = Vec::new();
    while !items.is_empty() {
        order.push(items.swap_remove(dice.below(items.len())));
    }
    order
}

fn has_nothing_to_do(rig: &Rig, host: u8) -> Result<(), String> {
    let plan = rig.host(host).weft_json(&["plan"]).map_err(|error| format!("{error:#}"))?;
    ensure(plan["steps"] == serde_json::json!([]), || plan.to_string())
}

/// The peer's rows are of the kinds that never age: a learned row has no state, or `reachable`.
fn rows_are_permanent(rig: &Rig, peer: &Attached) -> Result<(), String> {
    let kernel = dump::kernel(&rig.host(1)).map_err(|error| format!("{error:#}"))?;
    let rows: Vec<_> = kernel.fdb.iter().filter(|row| row.mac == peer.mac).collect();
    let holds = rows.len() == 2 && rows.iter().all(|row| ["static", "permanent"].contains(&row.state.as_str()));
    ensure(holds, || format!("{rows:?}"))
}

/// `a` on h1 and `b` on h2.
fn two_members(rig: &Rig) -> (Network, Attached, Attached) {
    let network = rig.network("blue", &[]);
    let [a, b] = [(1, "a"), (2, "b")].map(|(host, name)| rig.attach(host, name, "blue", &[]));
    rig.settle();
    traffic::ping("a", b.v4.into(), SOON).unwrap();
    (network, a, b)
}
