//! Devices that are deleted or changed.

use super::{DATA_PLANE, Scene, has, link, shown};

/// A device that was deleted is another one when it is back.
#[track_caller]
fn deleted_device_comes_back(network: &str, netns: &str, pick: impl Fn(&Scene) -> String) {
    let scene = Scene::new(network);
    let name = pick(&scene);
    let before = link(&scene.lab, netns, &name).unwrap()["ifindex"].clone();

    scene.lab.in_netns(netns, &["ip", "link", "del", &name]).unwrap();

    scene.repaired(&format!("{name} made again"), || {
        let present = link(&scene.lab, netns, &name)?;
        if present["ifindex"] == before { Err("it was never deleted".to_owned()) } else { Ok(()) }
    });
    scene.ends_well();
}

#[test]
fn deleted_bridge_comes_back_with_its_ports_and_rows() {
    deleted_device_comes_back("delbridge", DATA_PLANE, |scene| scene.devices.bridge.clone());
}

#[test]
fn deleted_vxlan_device_comes_back_with_its_rows() {
    deleted_device_comes_back("delvxlan", DATA_PLANE, |scene| scene.devices.vxlan.clone());
}

#[test]
fn deleted_leg_comes_back_with_addresses_and_routes() {
    deleted_device_comes_back("delleg", "h1", |scene| scene.devices.leg.clone());
}

#[test]
fn deleted_veth_of_a_running_container_comes_back_with_its_addresses() {
    deleted_device_comes_back("delveth", DATA_PLANE, Scene::port);
}

#[test]
fn interface_deleted_inside_the_container_comes_back() {
    deleted_device_comes_back("deleth", "deleth1", |scene| scene.near.ifname.clone().unwrap());
}

#[test]
fn port_taken_out_of_its_bridge_is_put_back_with_its_settings() {
    let scene = Scene::new("nomaster");
    let ports = [scene.port(), scene.devices.vxlan.clone()];

    for port in &ports {
        scene.break_data_plane(&["ip", "link", "set", port, "nomaster"]);

        scene.repaired(&format!("{port} in its bridge"), || {
            let present = link(&scene.lab, DATA_PLANE, port)?;
            has(&present["master"].to_string(), &scene.devices.bridge)?;
            // Leaving the bridge has turned learning on.
            has(&present["linkinfo"]["info_slave_data"]["learning"].to_string(), "false")
        });
    }
    let vxlan = link(&scene.lab, DATA_PLANE, &scene.devices.vxlan).unwrap();
    assert_eq!(vxlan["linkinfo"]["info_slave_data"]["neigh_suppress"], true);
    scene.ends_well();
}

#[test]
fn device_that_is_set_down_goes_up_again() {
    let scene = Scene::new("setdown");
    let in_data_plane = [scene.devices.bridge.clone(), scene.devices.vxlan.clone(), scene.port()];
    let places = in_data_plane.map(|name| (DATA_PLANE, name)).into_iter().chain([("h1", scene.devices.leg.clone())]);

    for (netns, name) in places {
        scene.lab.in_netns(netns, &["ip", "link", "set", &name, "down"]).unwrap();
        scene.repaired(&format!("{name} up"), || has(&link(&scene.lab, netns, &name)?["flags"].to_string(), "\"UP\""));
    }
    scene.ends_well();
}

#[test]
fn changed_mac_address_is_changed_back() {
    let scene = Scene::new("newmac");
    let devices = &scene.devices;
    let places = [(DATA_PLANE, &devices.bridge), (DATA_PLANE, &devices.vxlan), ("h1", &devices.leg)];

    for (netns, name) in places {
        let before = link(&scene.lab, netns, name).unwrap()["address"].to_string();
        scene.lab.in_netns(netns, &["ip", "link", "set", name, "address", "02:00:00:00:be:ef"]).unwrap();
        scene.repaired(&format!("MAC of {name}"), || {
            has(&link(&scene.lab, netns, name)?["address"].to_string(), &before)
        });
    }
    scene.ends_well();
}

#[test]
fn changed_mtu_is_changed_back() {
    let scene = Scene::new("newmtu");
    let devices = &scene.devices;
    let port = scene.port();
    let places =
        [(DATA_PLANE, &devices.bridge), (DATA_PLANE, &devices.vxlan), (DATA_PLANE, &port), ("h1", &devices.leg)];

    for (netns, name) in places {
        scene.lab.in_netns(netns, &["ip", "link", "set", name, "mtu", "1300"]).unwrap();
        scene.repaired(&format!("MTU of {name}"), || has(&link(&scene.lab, netns, name)?["mtu"].to_string(), "1450"));
    }
    scene.ends_well();
}

#[test]
fn changed_settings_of_ports_and_bridge_are_changed_back() {
    let scene = Scene::new("settings");
    let (bridge, vxlan, port) = (&scene.devices.bridge, &scene.devices.vxlan, scene.port());

    scene.break_data_plane(&["bridge", "link", "set", "dev", &port, "learning", "on"]);
    scene.break_data_plane(&["bridge", "link", "set", "dev", vxlan, "neigh_suppress", "off"]);
    scene.break_data_plane(&["ip", "link", "set", bridge, "type", "bridge", "stp_state", "1"]);

    scene.repaired("settings as they were", || {
        has(&link(&scene.lab, DATA_PLANE, &port)?["linkinfo"]["info_slave_data"]["learning"].to_string(), "false")?;
        has(
            &link(&scene.lab, DATA_PLANE, vxlan)?["linkinfo"]["info_slave_data"]["neigh_suppress"].to_string(),
            "true",
        )?;
        has(&link(&scene.lab, DATA_PLANE, bridge)?["linkinfo"]["info_data"]["stp_state"].to_string(), "0")
    });
    scene.ends_well();
}

#[test]
fn address_taken_from_the_leg_is_given_back() {
    let scene = Scene::new("legaddress");
    let leg = &scene.devices.leg;

    for gateway in &scene.network.gateways {
        let family = super::address_family(*gateway);
        let prefix = if gateway.is_ipv4() { 32 } else { 128 };
        let address = format!("{gateway}/{prefix}");
        scene.lab.in_netns("h1", &["ip", "address", "del", &address, "dev", leg]).unwrap();
        scene.repaired(&format!("{address} on the leg"), || {
            has(&shown(&scene.lab, "h1", &["ip", family, "address", "show", "dev", leg])?, &address)
        });
    }
    scene.ends_well();
}
