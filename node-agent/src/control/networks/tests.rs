use weft_overlay::model::NodeRoute;

use super::*;
use crate::control::{
    nodes::{NodeState, list_nodes, remove_node, set_draining},
    testing::{Cluster, soon},
};

fn request(name: &str, subnets: &[&str]) -> NetworkRequest {
    let mut request = NetworkRequest::named(name.parse().unwrap());
    request.subnets = subnets.iter().map(|subnet| subnet.parse().unwrap()).collect();
    request
}

async fn refused(cluster: &Cluster, request: &NetworkRequest) -> String {
    let before = cluster.store.revision();
    let error = create_network(&cluster.client, request, soon()).await.unwrap_err();
    assert_eq!(cluster.store.revision(), before, "something was written for {request:?}");
    error.to_string()
}

#[tokio::test(start_paused = true)]
async fn a_network_without_a_subnet_gets_one_of_each_family() {
    let cluster = Cluster::new();

    let network = create_network(&cluster.client, &request("net1", &[]), soon()).await.unwrap();

    let [v4, v6] = network.subnets.as_slice() else { panic!("{network:?}") };
    assert_eq!((v4.subnet.prefix(), v6.subnet.prefix()), (20, 64));
    assert!("10.32.0.0/11".parse::<IpNetwork>().unwrap().contains(v4.subnet.network()), "{v4:?}");
    assert!(v6.subnet.to_string().starts_with("fd"), "{v6:?}");
    assert_eq!(list_networks(&cluster.client, soon()).await.unwrap(), [network]);
}

#[tokio::test(start_paused = true)]
async fn many_networks_made_at_once_are_clear_of_each_other() {
    let cluster = Cluster::new();
    let requests: Vec<NetworkRequest> = (0..40).map(|n| request(&format!("net{n}"), &[])).collect();

    let made = futures::future::join_all(requests.iter().map(|r| create_network(&cluster.client, r, soon()))).await;

    let subnets: Vec<IpNetwork> =
        made.into_iter().flat_map(|network| network.unwrap().subnets).map(|part| part.subnet).collect();
    for (n, one) in subnets.iter().enumerate() {
        assert!(subnets[n + 1..].iter().all(|other| !weft_ipam::overlap(*one, *other)), "{one} overlaps");
    }
}

#[tokio::test(start_paused = true)]
async fn request_is_checked_before_its_name_is_known() {
    let cluster = Cluster::new();
    let first = NetworkRequest { vni: Some("5000".parse().unwrap()), ..request("net1", &["10.1.0.0/24"]) };
    create_network(&cluster.client, &first, soon()).await.unwrap();

    for (wanted, words) in [
        (NetworkRequest { vni: first.vni, ..request("a", &["10.2.0.0/24"]) }, "VNI 5000 is in use by network net1"),
        (NetworkRequest { mtu: Some(100), ..request("a", &["10.2.0.0/24"]) }, "MTU 100 is not possible"),
        (request("a", &["224.1.0.0/16"]), "multicast"),
        (request("a", &["10.1.0.0/16"]), "overlaps network \"net1\""),
    ] {
        let error = check_request(&cluster.client, &wanted, soon()).await.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    // The very network, whatever its name.
    check_request(&cluster.client, &NetworkRequest { name: "a".parse().unwrap(), ..first }, soon()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn bad_requests_are_refused_and_change_nothing() {
    let cluster = Cluster::new();
    let cases = [
        (request("a", &["10.0.0.0/24", "10.1.0.0/24"]), "at most one IPv4"),
        (request("a", &["10.0.0.1/24"]), "host bits set"),
        (request("a", &["127.0.0.0/24"]), "loopback"),
        (request("a", &["10.0.0.0/31"]), "use /8 to /30"),
        (NetworkRequest { mtu: Some(100), ..request("a", &[]) }, "use 1280 to"),
        (
            NetworkRequest { gateways: vec!["10.9.0.1".parse().unwrap()], ..request("a", &["10.0.0.0/24"]) },
            "belongs to no subnet",
        ),
        (
            NetworkRequest { ip_ranges: vec!["10.9.0.0/25".parse().unwrap()], ..request("a", &["10.0.0.0/24"]) },
            "belongs to no subnet",
        ),
        (
            NetworkRequest { gateways: vec!["10.0.0.255".parse().unwrap()], ..request("a", &["10.0.0.0/24"]) },
            "broadcast address",
        ),
    ];
    for (request, expected) in cases {
        let text = refused(&cluster, &request).await;
        assert!(text.contains(expected), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn overlaps_are_refused_naming_both_sides() {
    let cluster = Cluster::new();
    let node = cluster.node(1).await;
    let route = NodeRoute { destination: "10.0.0.0/16".parse().unwrap(), dev: "eth0".to_owned() };
    node.description.send_modify(|description| description.routes.push(route));
    sleep(Duration::from_secs(1)).await;
    create_network(&cluster.client, &request("db", &["10.1.0.0/16"]), soon()).await.unwrap();

    let network = refused(&cluster, &request("web", &["10.1.2.0/24"])).await;
    let route = refused(&cluster, &request("web", &["10.0.1.0/24"])).await;
    let underlay = refused(&cluster, &request("web", &["192.168.56.0/24"])).await;

    assert!(network.contains("10.1.2.0/24 overlaps network \"db\" (10.1.0.0/16)"), "{network}");
    assert!(route.contains("overlaps route 10.0.0.0/16 dev eth0 on node h1"), "{route}");
    assert!(underlay.contains("underlay address 192.168.56.11 of node h1"), "{underlay}");
}

#[tokio::test(start_paused = true)]
async fn a_name_and_a_vni_are_given_once() {
    let cluster = Cluster::new();
    let first = NetworkRequest { vni: Some("5000".parse().unwrap()), ..request("net1", &[]) };
    let made = create_network(&cluster.client, &first, soon()).await.unwrap();

    let name = refused(&cluster, &request("net1", &[])).await;
    let vni = refused(&cluster, &NetworkRequest { name: "net2".parse().unwrap(), ..first }).await;

    assert!(name.contains(&made.id.to_string()), "{name}");
    assert!(vni.contains("VNI 5000 is in use by network net1"), "{vni}");
}

#[tokio::test(start_paused = true)]
async fn a_network_in_use_is_shown_and_kept_unless_forced() {
    let cluster = Cluster::new();
    let node = cluster.node(1).await;
    let (id, spec) = cluster.network(None).await;
    let name = spec.record.name.to_string();
    let _stay = node.membership.join(id, &spec).await.unwrap();
    let mut reserved = node.allocator.reserve(id, &spec, node.request(1)).await.unwrap();
    node.allocator.commit(&mut reserved, None).await.unwrap();

    let shown = inspect_network(&cluster.client, &name, soon()).await.unwrap();
    let refused = remove_network(&cluster.client, &name, false, soon()).await.unwrap_err().to_string();
    let removed = remove_network(&cluster.client, &name, true, soon()).await.unwrap();

    assert_eq!((shown.members.len(), shown.endpoints.len(), shown.blocks.len()), (1, 2, 1));
    assert_eq!(shown.blocks[0].held, 2);
    assert!(refused.contains("ct1 on node h1") && refused.contains("--force"), "{refused}");
    assert_eq!(removed, id);
}

#[tokio::test(start_paused = true)]
async fn removing_waits_for_gateway_legs_that_are_about_to_go() {
    let cluster = Cluster::new();
    let node = cluster.node(1).await;
    let (id, spec) = cluster.network(None).await;
    drop(node.membership.join(id, &spec).await.unwrap());

    let removed = remove_network(&cluster.client, spec.record.name.as_str(), false, soon()).await;

    assert_eq!(removed.unwrap(), id);
}

#[tokio::test(start_paused = true)]
async fn nodes_are_shown_drained_and_removed() {
    let cluster = Cluster::new();
    let node = cluster.node(1).await;
    let state = || async { list_nodes(&cluster.client, soon()).await.unwrap()[0].state };

    assert_eq!(state().await, NodeState::Ready);
    assert_eq!(set_draining(&cluster.client, "h1", true, soon()).await.unwrap().state, NodeState::Draining);
    let running = remove_node(&cluster.client, "h1", false, soon()).await.unwrap_err().to_string();
    drop(node);
    sleep(Duration::from_secs(40)).await;
    assert_eq!(state().await, NodeState::Suspect);
    remove_node(&cluster.client, "h1", false, soon()).await.unwrap();

    assert!(running.contains("stop its agent first"), "{running}");
    assert!(cluster.all().iter().all(|key| !key.contains("h1") && !key.contains("vtep")), "{:?}", cluster.all());
    assert!(remove_node(&cluster.client, "h1", false, soon()).await.unwrap_err().to_string().contains("no node"));
}
