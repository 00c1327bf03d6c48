//! What is not Weft's: objects with similar names and contents, beside ours and in our way.

use weft_e2e::{Lab, eventually};

use super::{DATA_PLANE, REPAIRED, SOON, Scene, has, shown};

/// Devices, a route, a rule and tables of somebody else's, named and made as ours are.
fn make_foreign(lab: &Lab) {
    let host = "link add weft-foreign type bridge\nlink set weft-foreign up\n\
                link add wx-foreign type vxlan id 4242 dstport 4790 local 192.168.56.11 nolearning\n\
                address add 172.31.7.1/24 dev weft-foreign\n\
                route add 172.31.8.0/24 via 172.31.7.9 dev weft-foreign proto static\n\
                rule add pref 999 uidrange 1000-1001 ipproto udp dport 4790 prohibit\n";
    let data_plane = "link add wb-foreign type bridge\nlink set wb-foreign up\n\
                      link add weft-foreign type veth peer name wp-foreign\nlink set wp-foreign master wb-foreign\n\
                      neigh add 172.31.7.2 lladdr 02:42:ac:1f:07:02 dev wb-foreign nud permanent extern_learn\n";
    let table = "chain input { type filter hook input priority -6; ip saddr 172.31.9.9 drop; }";
    for (netns, batch, family) in [("h1", host, "inet"), (DATA_PLANE, data_plane, "bridge")] {
        let name: weft_e2e::netns::NetnsName = netns.parse().unwrap();
        name.feed(&["ip", "-batch", "-"], batch).unwrap();
        name.feed(&["nft", "-f", "-"], &format!("table {family} weft_foreign {{\n{table}\n}}\n")).unwrap();
    }
    lab.in_netns(DATA_PLANE, &["bridge", "fdb", "add", "02:42:ac:1f:07:02", "dev", "wp-foreign", "master", "static"])
        .unwrap();
}

/// Everything about them, as text.
fn observe_foreign(lab: &Lab) -> String {
    let commands: [(&str, &[&str]); 11] = [
        ("h1", &["ip", "address", "show", "dev", "weft-foreign"]),
        ("h1", &["ip", "-details", "link", "show", "dev", "wx-foreign"]),
        ("h1", &["ip", "route", "show", "dev", "weft-foreign"]),
        ("h1", &["ip", "rule", "show", "pref", "999"]),
        ("h1", &["nft", "list", "table", "inet", "weft_foreign"]),
        (DATA_PLANE, &["ip", "address", "show", "dev", "wb-foreign"]),
        (DATA_PLANE, &["ip", "address", "show", "dev", "weft-foreign"]),
        (DATA_PLANE, &["bridge", "-details", "link", "show", "dev", "wp-foreign"]),
        (DATA_PLANE, &["ip", "neigh", "show", "dev", "wb-foreign"]),
        (DATA_PLANE, &["bridge", "fdb", "show", "dev", "wp-foreign"]),
        (DATA_PLANE, &["nft", "list", "table", "bridge", "weft_foreign"]),
    ];
    commands.iter().map(|(netns, words)| lab.in_netns(netns, words).unwrap()).collect()
}

#[test]
fn similar_objects_of_others_stay_exactly_as_they_are() {
    let scene = Scene::new("beside");
    make_foreign(&scene.lab);
    let before = observe_foreign(&scene.lab);

    // Repairs of every kind, a new network, and a start of the agent, which looks at everything.
    scene.break_data_plane(&["ip", "link", "del", &scene.devices.bridge]);
    scene.break_data_plane(&["nft", "delete", "table", "bridge", "weft"]);
    scene.lab.in_netns("h1", &["nft", "delete", "table", "inet", "weft"]).unwrap();
    scene.repaired("our own", || {
        has(&shown(&scene.lab, DATA_PLANE, &["ip", "link"])?, &scene.devices.bridge)?;
        shown(&scene.lab, "h1", &["nft", "list", "table", "inet", "weft"]).map(drop)
    });
    scene.lab.create_network("besides", &[]).unwrap();
    scene.lab.attach(1, "besides1", "besides", &[]).unwrap();
    scene.lab.remove_container("besides1").unwrap();
    scene.lab.kill("h1").unwrap();
    scene.lab.start("h1").unwrap();
    eventually(SOON, "the agent back with nothing to do", || {
        let plan = scene.host().plan().map_err(|error| format!("{error:#}"))?;
        if plan.is_empty() { Ok(()) } else { Err(plan.join("; ")) }
    });

    assert_eq!(observe_foreign(&scene.lab), before);
    for (netns, link, family) in [("h1", "weft-foreign", "inet"), (DATA_PLANE, "weft-foreign", "bridge")] {
        scene.lab.in_netns(netns, &["ip", "link", "del", link]).unwrap();
        scene.lab.in_netns(netns, &["nft", "delete", "table", family, "weft_foreign"]).unwrap();
    }
    scene.lab.in_netns("h1", &["ip", "link", "del", "wx-foreign"]).unwrap();
    scene.lab.in_netns("h1", &["ip", "rule", "del", "pref", "999"]).unwrap();
    scene.lab.in_netns(DATA_PLANE, &["ip", "link", "del", "wb-foreign"]).unwrap();
    scene.ends_well();
}

#[test]
fn foreign_bridge_under_our_name_is_reported_and_never_removed() {
    let scene = Scene::new("bridges");
    let lab = &scene.lab;
    let network = lab.create_network("inway", &[]).unwrap();
    let name = scene.devices.bridge.replace(&scene.network.id, &network.id);
    assert_ne!(name, scene.devices.bridge);
    lab.in_netns(DATA_PLANE, &["ip", "link", "add", &name, "address", "02:00:00:00:00:aa", "type", "bridge"]).unwrap();
    let look = || shown(lab, DATA_PLANE, &["ip", "-details", "link", "show", &name]).unwrap();
    let before = look();
    lab.run_container(1, "inway1", &[]).unwrap();

    let attached = lab.host(1).try_weft(&["connect", "inway", "inway1"]).unwrap();

    let said = format!("{}{}", attached.stdout, attached.stderr);
    eventually(SOON, "the obstacle in the errors of weft status", || {
        let status = lab.host(1).weft_json(&["status"]).map_err(|error| format!("{error:#}"))?;
        has(&status["errors"].to_string(), &name).map_err(|error| format!("{error}; connect said {said}"))
    });
    assert_eq!(look(), before);
    assert!(!attached.is_success(), "an endpoint that cannot send is no success: {said}");
    // Other networks of the node are none the worse.
    scene.stream.wait_for(20, SOON).unwrap();

    lab.in_netns(DATA_PLANE, &["ip", "link", "del", &name]).unwrap();
    eventually(SOON, "the way clear", || {
        let status = lab.host(1).weft_json(&["status"]).map_err(|error| format!("{error:#}"))?;
        if status["errors"].as_array().is_some_and(Vec::is_empty) { Ok(()) } else { Err(status["errors"].to_string()) }
    });
    lab.attach(1, "inway1", "inway", &[]).unwrap();
    lab.attach(2, "inway2", "inway", &[]).unwrap();
    lab.in_netns("inway1", &["ping", "-c1", "-W5", "inway2"]).unwrap();
    scene.ends_well();
}

#[test]
fn route_and_rule_added_by_others_to_our_leg_stay() {
    let scene = Scene::new("legroute");
    let leg = &scene.devices.leg;
    let hop = scene.near.v4().to_string();
    let route = ["ip", "route", "add", "172.31.77.0/24", "via", &hop, "dev", leg, "proto", "static"];
    scene.lab.in_netns("h1", &route).unwrap();

    scene.break_data_plane(&["bridge", "fdb", "flush", "dev", &scene.devices.vxlan, "self"]);
    scene.repaired_within(REPAIRED, "our rows", || {
        has(&shown(&scene.lab, DATA_PLANE, &["bridge", "fdb", "show", "dev", &scene.devices.vxlan])?, &scene.far.mac)
    });

    let routes = shown(&scene.lab, "h1", &["ip", "route", "show", "dev", leg]).unwrap();
    has(&routes, "172.31.77.0/24").unwrap();
    scene.ends_well();
}
