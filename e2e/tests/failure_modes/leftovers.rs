//! Devices that are there already: of others, or of an agent that died half-way (B14).

use std::thread;
use std::time::Duration;

use weft_e2e::{LabOptions, dump, eventually, traffic};

use crate::fault_support::dice::Dice;
use crate::fault_support::rig::{Attached, Network, REPAIR, Rig, SOON, assert_connected, assert_refused, ensure};
use crate::fault_support::shared::with_lab;

/// Kills while a network's devices are being made.
const CRASHES: usize = 8;

#[test]
fn b14_crash_while_devices_are_made_is_made_good() {
    with_lab(LabOptions::default(), |rig| {
        let mut dice = Dice::new();
        for round in 0..CRASHES {
            let (network, near, far) = (format!("net{round}"), format!("near{round}"), format!("far{round}"));
            rig.network(&network, &[]);
            let far = rig.attach(2, &far, &network, &[]);
            rig.container(1, &near);
            thread::scope(|scope| {
                let connecting = scope.spawn(|| rig.try_connect(1, &near, &network, &[]));
                dice.let_pass(Duration::from_millis(40));
                rig.lab.kill("h1").unwrap();
                connecting.join().unwrap();
            });
            rig.lab.start("h1").unwrap();
            rig.wait_ready(1);

            let near = connected(rig, &near, &network);
            rig.wait_forwarding();
            assert_connected(&near, &far);
        }
        rig.settle();
    });
}

#[test]
fn b14_foreign_device_with_the_same_vni_is_named_and_left_alone() {
    with_lab(LabOptions::default(), |rig| {
        let network = rig.network("blue", &[]);
        let b = rig.attach(2, "b", "blue", &[]);
        rig.container(1, "a");
        let vni = network.vni.to_string();
        let foreign = ["type", "vxlan", "id", &vni, "dstport", "4789", "local", "192.168.56.11", "nolearning"];
        let h1 = rig.host(1);
        h1.exec(&[&["ip", "link", "add", "foreign0", "up"][..], &foreign].concat()).unwrap();

        let output = rig.try_connect(1, "a", "blue", &[]);
        assert_refused(&output, &[&vni, "foreign0", "--vni"]);
        // Out of sight, the device still occupies the VNI.
        h1.exec(&["ip", "link", "set", "foreign0", "netns", "weft-ctl"]).unwrap();
        let output = rig.try_connect(1, "a", "blue", &[]);
        assert_refused(&output, &[&vni]);
        rig.lab.in_netns("weft-ctl", &["ip", "link", "show", "foreign0"]).unwrap();
        rig.lab.in_netns("weft-ctl", &["ip", "link", "del", "foreign0"]).unwrap();

        let a = eventually(REPAIR, "a connect once the VNI is free", || {
            let output = rig.try_connect(1, "a", "blue", &[]);
            ensure(output.is_success(), || output.stderr.clone()).map(|()| connected(rig, "a", "blue"))
        });
        assert_connected(&a, &b);
        rig.settle();
    });
}

#[test]
fn b14_foreign_device_that_took_the_vni_meanwhile_is_named_in_status_until_it_goes() {
    with_lab(LabOptions::default(), |rig| {
        let (network, a, b) = two_members(rig);
        let (_, vxlan) = rig.devices(1, &network);
        let vni = network.vni.to_string();
        let h1 = rig.host(1);

        rig.lab.kill("h1").unwrap();
        rig.in_data_plane(1, &["ip", "link", "del", &vxlan]).unwrap();
        eventually(SOON, "a foreign device with the VNI", || {
            let foreign = ["ip", "link", "add", "foreign0", "type", "vxlan", "id", &vni, "dstport", "4789"];
            h1.exec(&foreign).map(drop).map_err(|error| format!("{error:#}"))
        });
        rig.lab.start("h1").unwrap();

        eventually(SOON, "the foreign device in weft status", || {
            let errors = rig.status(1).map_err(|error| format!("{error:#}"))?["errors"].to_string();
            let is_named = errors.contains("foreign0") && errors.contains("--vni");
            ensure(is_named, || errors.clone())
        });
        h1.exec(&["ip", "link", "show", "foreign0"]).unwrap();
        h1.exec(&["ip", "link", "del", "foreign0"]).unwrap();
        eventually(REPAIR, "repair once the VNI is free", || dump::check_forwarding(&rig.lab));
        assert_connected(&a, &b);
        rig.settle();
    });
}

#[test]
fn b14_foreign_device_in_the_data_plane_is_left_alone() {
    with_lab(LabOptions::default(), |rig| {
        let network = rig.network("blue", &[]);
        let b = rig.attach(2, "b", "blue", &[]);
        let vni = network.vni.to_string();
        rig.in_data_plane(1, &["ip", "link", "add", "foreign0", "type", "vxlan", "id", &vni, "dstport", "4789"])
            .unwrap();
        rig.in_data_plane(1, &["ip", "link", "add", "wb-foreign", "type", "bridge"]).unwrap();

        let a = rig.attach(1, "a", "blue", &[]);
        assert_connected(&a, &b);
        rig.disconnect(&a);
        rig.lab.kill("h1").unwrap();
        rig.lab.start("h1").unwrap();
        rig.wait_ready(1);

        for name in ["foreign0", "wb-foreign"] {
            rig.in_data_plane(1, &["ip", "link", "del", name]).unwrap();
        }
        rig.settle();
    });
}

#[test]
fn b14_left_over_device_that_does_not_match_is_replaced() {
    with_lab(LabOptions::default(), |rig| {
        let (network, a, b) = two_members(rig);
        let (bridge, vxlan) = rig.devices(1, &network);
        let alias = dump::kernel(&rig.host(1)).unwrap().vxlan(network.vni).unwrap().alias.clone().unwrap();
        let (vni, inside) = (network.vni.to_string(), rig.host(1).data_plane_netns().to_string());

        rig.lab.kill("h1").unwrap();
        rig.in_data_plane(1, &["ip", "link", "del", &vxlan]).unwrap();
        let stale = ["type", "vxlan", "id", &vni, "dstport", "4789", "local", "192.168.56.99", "learning"];
        rig.host(1).exec(&[&["ip", "link", "add", &vxlan, "netns", &inside][..], &stale].concat()).unwrap();
        rig.in_data_plane(1, &["ip", "link", "set", &vxlan, "alias", &alias, "master", &bridge, "up"]).unwrap();
        rig.lab.start("h1").unwrap();

        rig.settle();
        let kernel = dump::kernel(&rig.host(1)).unwrap();
        let device = kernel.vxlan(network.vni).unwrap();
        assert_eq!(device.setting("local"), "192.168.56.11");
        assert_eq!(device.setting("learning"), false);
        assert_connected(&a, &b);
    });
}

#[test]
fn b14_foreign_device_under_our_name_is_reported_and_not_touched() {
    with_lab(LabOptions::default(), |rig| {
        let (network, a, b) = two_members(rig);
        let (_, vxlan) = rig.devices(1, &network);

        rig.lab.kill("h1").unwrap();
        rig.in_data_plane(1, &["ip", "link", "del", &vxlan]).unwrap();
        rig.in_data_plane(1, &["ip", "link", "add", &vxlan, "type", "bridge"]).unwrap();
        rig.lab.start("h1").unwrap();

        eventually(SOON, "an obstacle in weft plan", || {
            let plan = rig.host(1).weft_json(&["plan"]).map_err(|error| format!("{error:#}"))?;
            ensure(plan["obstacles"].to_string().contains(&vxlan), || plan.to_string())
        });
        assert!(rig.in_data_plane(1, &["ip", "-details", "link", "show", &vxlan]).unwrap().contains("bridge"));
        rig.in_data_plane(1, &["ip", "link", "del", &vxlan]).unwrap();
        eventually(REPAIR, "repair once the name is free", || dump::check_forwarding(&rig.lab));
        assert_connected(&a, &b);
        rig.settle();
    });
}

/// Connects a container unless the attempt before succeeded.
fn connected(rig: &Rig, name: &str, network: &str) -> Attached {
    let endpoints = rig.endpoints(1, network).unwrap();
    match endpoints.iter().find(|endpoint| endpoint["name"] == name) {
        Some(endpoint) => crate::fault_support::rig::attached(1, name, endpoint).unwrap(),
        None => rig.connect(1, name, network, &[]),
    }
}

/// `a` on h1 and `b` on h2.
fn two_members(rig: &Rig) -> (Network, Attached, Attached) {
    let network = rig.network("blue", &[]);
    let [a, b] = [(1, "a"), (2, "b")].map(|(host, name)| rig.attach(host, name, "blue", &[]));
    rig.settle();
    traffic::ping("a", b.v4.into(), SOON).unwrap();
    (network, a, b)
}
