//! Rows of the forwarding and neighbour tables.

use weft_e2e::dump::{self, Forwarding};

use super::{DATA_PLANE, SOON, Scene, has, shown};

/// What h1 forwards by, with the network's own rows in it.
fn forwarding(scene: &Scene) -> Result<Forwarding, String> {
    dump::kernel(&scene.host()).map(|kernel| Forwarding::of_kernel(&kernel)).map_err(|error| format!("{error:#}"))
}

#[track_caller]
fn rows_come_back(scene: &Scene, what: &str, before: &Forwarding) {
    scene.repaired(what, || {
        let differences = forwarding(scene)?.differences(before);
        if differences.is_empty() { Ok(()) } else { Err(differences.join("; ")) }
    });
}

#[test]
fn flushed_forwarding_rows_come_back() {
    let scene = Scene::new("flushfdb");
    let before = forwarding(&scene).unwrap();
    assert!(!before.remote.is_empty() && !before.flood.is_empty() && !before.bridge.is_empty(), "{before:?}");
    let (bridge, vxlan) = (&scene.devices.bridge, &scene.devices.vxlan);

    scene.break_data_plane(&["bridge", "fdb", "flush", "dev", vxlan, "self"]);
    rows_come_back(&scene, "rows of the VXLAN device", &before);
    scene.break_data_plane(&["bridge", "fdb", "flush", "dev", vxlan, "master"]);
    rows_come_back(&scene, "rows of the VXLAN device's port", &before);
    scene.break_data_plane(&["bridge", "fdb", "flush", "dev", bridge]);
    rows_come_back(&scene, "rows of the bridge", &before);

    scene.ends_well();
}

#[test]
fn flushed_neighbours_come_back() {
    let scene = Scene::new("flushneigh");
    let before = forwarding(&scene).unwrap();
    let bridge = scene.devices.bridge.clone();

    for family in ["-4", "-6"] {
        // It gives up when the rows are back before it has looked whether they are gone.
        let flush = scene.lab.try_in_netns(DATA_PLANE, &["ip", family, "neigh", "flush", "dev", &bridge]).unwrap();
        assert!(flush.is_success() || flush.stdout.contains("Flush not complete"), "{flush:?}");
        rows_come_back(&scene, "neighbours of the bridge", &before);
    }

    scene.ends_well();
}

#[test]
fn row_pointed_at_the_wrong_vtep_is_pointed_back() {
    let scene = Scene::new("wrongvtep");
    let before = forwarding(&scene).unwrap();
    let wrong = scene.lab.host(3).id().underlay_address().to_string();
    let vxlan = &scene.devices.vxlan;

    scene.break_data_plane(&[
        "bridge",
        "fdb",
        "replace",
        &scene.far.mac,
        "dev",
        vxlan,
        "dst",
        &wrong,
        "self",
        "static",
    ]);
    rows_come_back(&scene, "the row of a remote container", &before);
    scene.break_data_plane(&["bridge", "fdb", "replace", &scene.near.mac, "dev", vxlan, "master", "static"]);
    rows_come_back(&scene, "the row of a local container", &before);

    scene.ends_well();
}

#[test]
fn neighbour_with_the_wrong_mac_is_put_right() {
    let scene = Scene::new("wrongmac");
    let before = forwarding(&scene).unwrap();
    let bridge = scene.devices.bridge.clone();

    for address in scene.far.addresses() {
        let wrong = "02:42:00:00:00:66";
        let address = address.to_string();
        let words =
            ["ip", "neigh", "replace", &address, "lladdr", wrong, "dev", &bridge, "nud", "permanent", "extern_learn"];
        scene.break_data_plane(&words);
        rows_come_back(&scene, "the neighbour", &before);
    }

    scene.ends_well();
}

#[test]
fn rows_that_nobody_asked_for_are_removed() {
    let scene = Scene::new("surplus");
    let before = forwarding(&scene).unwrap();
    let (bridge, vxlan) = (scene.devices.bridge.clone(), scene.devices.vxlan.clone());
    let h3 = scene.lab.host(3).id().underlay_address().to_string();

    let flood = ["bridge", "fdb", "append", "00:00:00:00:00:00", "dev", &vxlan, "dst", &h3, "self", "permanent"];
    scene.break_data_plane(&flood);
    scene.break_data_plane(&["bridge", "fdb", "add", "02:42:00:00:00:67", "dev", &vxlan, "dst", &h3, "self", "static"]);
    scene.break_data_plane(&["bridge", "fdb", "add", "02:42:00:00:00:67", "dev", &vxlan, "master", "static"]);
    let neighbour = [
        "ip",
        "neigh",
        "add",
        "10.99.99.99",
        "lladdr",
        "02:42:00:00:00:67",
        "dev",
        &bridge,
        "nud",
        "permanent",
        "extern_learn",
    ];
    scene.break_data_plane(&neighbour);

    rows_come_back(&scene, "no row of nobody's", &before);
    scene.ends_well();
}

#[test]
fn repairs_leave_the_rows_of_other_nodes_alone() {
    let scene = Scene::new("others");
    let counters = || scene.lab.host(2).weft_json(&["status"]).unwrap()["counters"]["writes"].clone();
    let before = counters();
    let rows = forwarding(&scene).unwrap();

    scene.break_data_plane(&["bridge", "fdb", "flush", "dev", &scene.devices.vxlan, "self"]);
    rows_come_back(&scene, "rows of the VXLAN device", &rows);
    scene.stream.wait_for(20, SOON).unwrap();

    assert_eq!(counters(), before);
    let alive = shown(&scene.lab, DATA_PLANE, &["bridge", "fdb", "show", "dev", &scene.devices.vxlan]).unwrap();
    has(&alive, &scene.far.mac).unwrap();
    scene.ends_well();
}
