//! What is made and deleted in an engine, from what both have.

use serde_json::json;
use weft_overlay::id::Name;

use super::*;
use crate::control::networks::SubnetView;

fn cluster(name: &str, id: u64, state: NetworkState) -> NetworkView {
    NetworkView {
        name: name.parse::<Name>().unwrap(),
        id: NetworkId::from_entropy(id),
        vni: "4242".parse().unwrap(),
        subnets: vec![SubnetView {
            subnet: "10.77.0.0/16".parse().unwrap(),
            gateway: "10.77.0.1".parse().unwrap(),
            ip_range: None,
            block_len: 27,
        }],
        gateways: vec!["10.77.0.1".parse().unwrap()],
        mtu: Some(1400),
        internal: true,
        labels: BTreeMap::from([("team".to_owned(), "a".to_owned())]),
        docker_options: BTreeMap::from([("weft.vni".to_owned(), "4242".to_owned())]),
        state,
        revision: 1,
    }
}

fn engine(name: &str, id: &str, driver: &str, copy: bool) -> EngineNetwork {
    let original = NetworkId::from_entropy(1).to_string();
    let labels = if copy { BTreeMap::from([(MIRRORED.to_owned(), original)]) } else { BTreeMap::new() };
    EngineNetwork {
        id: id.to_owned(),
        name: name.to_owned(),
        driver: driver.to_owned(),
        labels,
        ..EngineNetwork::default()
    }
}

fn steps(
    cluster: &[NetworkView],
    engine: &[EngineNetwork],
    bound: &[(&str, u64)],
    removing: &[u64],
) -> Vec<MirrorStep> {
    let bound = bound.iter().map(|(docker, id)| ((*docker).to_owned(), NetworkId::from_entropy(*id))).collect();
    let removing = removing.iter().map(|id| NetworkId::from_entropy(*id)).collect();
    plan(&Both { cluster, engine, bound, removing })
}

fn delete(docker: &str, name: &str) -> MirrorStep {
    MirrorStep::Delete { docker: docker.to_owned(), name: name.to_owned() }
}

#[test]
fn network_without_a_copy_gets_one() {
    let create = [MirrorStep::Create(NetworkId::from_entropy(1))];

    assert_eq!(steps(&[cluster("net1", 1, NetworkState::Active)], &[], &[], &[]), create);
    assert_eq!(steps(&[cluster("net1", 1, NetworkState::Deleting)], &[], &[], &[]), []);
    assert_eq!(steps(&[cluster("net1", 1, NetworkState::Active)], &[], &[], &[1]), []);
}

#[test]
fn copies_of_networks_that_are_gone_are_deleted_and_nothing_else() {
    let engines = [
        engine("net1", "a", "weft", true),
        engine("mine", "b", "weft", false),
        engine("net1", "c", "bridge", false),
        engine("new", "d", "weft", false),
    ];
    let cluster = [cluster("mine", 2, NetworkState::Active)];

    // `d` is not settled: its user is creating it at this moment.
    assert_eq!(steps(&cluster, &engines, &[("a", 1), ("b", 2)], &[]), [delete("a", "net1")]);
    assert_eq!(steps(&cluster, &engines, &[("a", 1), ("b", 2), ("c", 3)], &[]), [delete("a", "net1")]);
}

#[test]
fn of_two_of_one_network_the_user_s_own_stays() {
    let engines = [engine("net1", "a", "weft", true), engine("net1", "b", "weft", false)];
    let cluster = [cluster("net1", 1, NetworkState::Active)];

    assert_eq!(steps(&cluster, &engines, &[("a", 1), ("b", 1)], &[]), [delete("a", "net1")]);
}

#[test]
fn name_of_another_driver_s_network_is_left_alone() {
    let engines = [engine("net1", "a", "bridge", false)];

    assert_eq!(steps(&[cluster("net1", 1, NetworkState::Active)], &engines, &[], &[]), []);
}

/// As when the original went while its copy was being made.
#[test]
fn copy_without_an_original_or_a_note_is_deleted() {
    let engines = [engine("net1", "a", "weft", true), engine("other", "b", "weft", false)];

    assert_eq!(steps(&[], &engines, &[], &[]), [delete("a", "net1")]);
    assert_eq!(steps(&[cluster("net1", 1, NetworkState::Active)], &engines, &[], &[]), []);
}

#[test]
fn copy_has_the_options_and_labels_of_its_original_and_its_addresses_from_us() {
    let original = cluster("net1", 1, NetworkState::Active);
    let copy = serde_json::to_value(copy_of(&original, None)).unwrap();

    assert_eq!(
        copy,
        json!({
            "Name": "net1", "CheckDuplicate": true, "Driver": "weft", "Internal": true, "Attachable": true,
            "EnableIPv6": false,
            "IPAM": {"Driver": "weft", "Options": {}, "Config": [{"Subnet": "10.77.0.0/16", "Gateway": "10.77.0.1"}]},
            "Options": {"weft.vni": "4242", "com.docker.network.driver.mtu": "1400"},
            "Labels": {"team": "a", "weft.mirrored": "0000000001"}
        })
    );
    let kept = serde_json::to_value(copy_of(&original, Some("in use"))).unwrap();
    assert_eq!(kept["Labels"]["weft.kept"], "in use");
}
