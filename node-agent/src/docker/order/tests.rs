//! Requests as engines send them: recorded from 20.10, and with what later ones add.

use serde_json::json;
use weft_overlay::{
    id::NodeId,
    model::{EndpointKind, RECORD_VERSION},
};

use super::*;

fn order(request: Value) -> Result<NetworkOrder, OrderError> {
    let request = serde_json::from_value(request);
    NetworkOrder::of(&request.unwrap_or_else(|error| panic!("a malformed request in a test: {error}")))
}

#[test]
fn plain_network_of_20_10_keeps_the_lower_half_for_docker() {
    let order = order(json!({
        "NetworkID": "9c07", "Options": {"com.docker.network.enable_ipv6": false, "com.docker.network.generic": {}},
        "IPv4Data": [{"AddressSpace": "LocalDefault", "Gateway": "172.18.0.1/16", "Pool": "172.18.0.0/16"}],
        "IPv6Data": []
    }))
    .unwrap();

    assert_eq!(order.chooser, AddressChooser::Docker);
    assert_eq!(order.subnets, ["172.18.0.0/16".parse().unwrap()]);
    assert_eq!(order.gateways, ["172.18.0.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(order.ip_ranges, ["172.18.128.0/17".parse().unwrap()]);
    assert_eq!((order.identity, order.internal), (None, false));
}

#[test]
fn network_with_our_addresses_and_every_option_is_read() {
    let order = order(json!({
        "NetworkID": "6209",
        "Options": {"com.docker.network.enable_ipv6": true, "com.docker.network.internal": true,
            "com.docker.network.generic": {"com.docker.network.driver.mtu": "1400", "weft.vni": "4242",
            "weft.network": "1d1579f6fc", "weft.plumb": "docker", "of.others": ""}},
        "IPv4Data": [{"AddressSpace": "weft-local", "AuxAddresses": {"host1": "10.77.0.2/16", "nat": "10.77.5.9/16"},
            "Gateway": "10.77.0.1/16", "Pool": "10.77.0.0/16"}],
        "IPv6Data": [{"AddressSpace": "weft-local", "Gateway": "fd77::1/64", "Pool": "fd77::/64", "AuxAddresses": null}]
    }))
    .unwrap();

    assert_eq!(order.identity.as_deref(), Some("1d1579f6fc"));
    assert_eq!((order.mtu, order.vni, order.internal), (Some(1400), Some("4242".parse().unwrap()), true));
    assert_eq!((order.chooser, order.plumb.as_deref()), (AddressChooser::Weft, Some("docker")));
    assert_eq!((order.subnets.len(), order.gateways.len(), order.auxiliary.len()), (2, 2, 2));
    assert!(order.ip_ranges.is_empty(), "{:?}", order.ip_ranges);
    assert_eq!(order.options["of.others"], "");
    assert!(!order.is_chosen_by_docker());
}

#[test]
fn other_hosts_keep_off_the_range_that_docker_hands_out_addresses_from() {
    let ranges = |range: &str| {
        let mut order = order(json!({
            "NetworkID": "x", "IPv4Data": [{"AddressSpace": "LocalDefault", "Pool": "10.51.0.0/16"}]
        }))
        .unwrap();
        order.leave_to_docker(range.parse().unwrap());
        order.ip_ranges[0].to_string()
    };

    assert_eq!(ranges("10.51.200.0/24"), "10.51.0.0/17");
    assert_eq!(ranges("10.51.128.0/17"), "10.51.0.0/17");
    for lower_or_all in ["10.51.7.0/24", "10.51.0.0/17", "10.51.0.0/16"] {
        assert_eq!(ranges(lower_or_all), "10.51.128.0/17", "{lower_or_all}");
    }
}

#[test]
fn range_of_a_network_with_addresses_of_the_cluster_is_the_cluster_s() {
    let mut order = order(json!({
        "NetworkID": "x", "IPv4Data": [{"AddressSpace": "weft-local", "Pool": "10.51.0.0/16"}]
    }))
    .unwrap();
    let range = "10.51.5.0/24".parse().unwrap();
    order.ip_ranges.push(range);

    order.leave_to_docker(range);

    assert_eq!(order.ip_ranges, [range]);
}

#[test]
fn only_docker_s_own_pools_are_its_choice() {
    let chosen = |space: &str, pool: &str| {
        let request = json!({"NetworkID": "x", "IPv4Data": [{"AddressSpace": space, "Pool": pool}]});
        order(request).unwrap().is_chosen_by_docker()
    };

    assert!(chosen("LocalDefault", "172.18.0.0/16") && chosen("LocalDefault", "192.168.240.0/20"));
    assert!(!chosen("LocalDefault", "172.18.0.0/24") && !chosen("LocalDefault", "10.18.0.0/16"));
    assert!(!chosen("weft-local", "172.18.0.0/16"));
}

/// From 28 on, IPv4 may be off, and maps may be `null`.
#[test]
fn network_of_28_without_ipv4_is_read() {
    let order = order(json!({
        "NetworkID": "28", "Options": {"com.docker.network.enable_ipv4": false, "com.docker.network.enable_ipv6": true,
            "com.docker.network.generic": null},
        "IPv4Data": null, "IPv6Data": [{"AddressSpace": "weft-local", "Pool": "fd28::/64", "Gateway": ""}],
        "Unheard": {"of": []}
    }))
    .unwrap();

    assert_eq!(order.subnets, ["fd28::/64".parse().unwrap()]);
    assert!(order.gateways.is_empty());
}

#[test]
fn what_no_network_can_be_is_refused() {
    let with = |generic: Value, pools: Value| {
        order(json!({"NetworkID": "x", "Options": {"com.docker.network.generic": generic}, "IPv4Data": pools}))
            .unwrap_err()
            .to_string()
    };
    let pool = |pool: &str| json!([{"AddressSpace": "LocalDefault", "Pool": pool}]);

    for (error, words) in [
        (with(json!({"weft.colour": "blue"}), pool("10.0.0.0/16")), "there is no option \"weft.colour\""),
        (with(json!({"weft.vni": "0"}), pool("10.0.0.0/16")), "a number from 1 to 16777215"),
        (with(json!({"com.docker.network.driver.mtu": "big"}), pool("10.0.0.0/16")), "a number of bytes"),
        (with(json!({"weft.plumb": "by hand"}), pool("10.0.0.0/16")), "docker or direct"),
        (with(json!({}), pool("0.0.0.0/0")), "needs a subnet"),
        (with(json!({}), json!([])), "needs a subnet"),
        (with(json!({}), pool("10.0.0.0/99")), "not a subnet"),
        (with(json!({}), json!([{"Pool": "10.1.0.0/24"}, {"Pool": "10.2.0.0/24"}])), "second subnet"),
    ] {
        assert!(error.contains(words), "{error}");
    }
}

fn record() -> EndpointRecord {
    EndpointRecord {
        v: RECORD_VERSION,
        id: EndpointId::from_entropy(1),
        node: NodeId::from_entropy(1),
        epoch: 1,
        mac: "02:42:0a:4d:00:02".parse().unwrap(),
        vtep: "192.0.2.1".parse().unwrap(),
        kind: EndpointKind::Container,
        name: "ct1".parse().unwrap(),
        aliases: Vec::new(),
        ipv4: Some("10.77.0.2".parse().unwrap()),
        ipv6: Some("fd77::2".parse().unwrap()),
        sandbox: None,
        published: Vec::new(),
        docker: None,
        extra: BTreeMap::new(),
    }
}

#[test]
fn answer_about_an_endpoint_holds_only_what_was_not_given() {
    let subnets = ["10.77.0.0/16".parse().unwrap(), "fd77::/64".parse().unwrap()];
    let given = |address: &str, mac: &str| Interface {
        address: address.to_owned(),
        mac_address: mac.to_owned(),
        ..Interface::default()
    };
    let answer = |given: &Interface| serde_json::to_value(chosen(given, &record(), &subnets)).unwrap();

    assert_eq!(answer(&given("10.77.0.2/16", "")), json!({"MacAddress": "02:42:0a:4d:00:02"}));
    assert_eq!(answer(&given("10.77.0.2/16", "02:42:0a:4d:00:02")), json!({}));
    // The null driver chooses nothing.
    let all = json!({"Address": "10.77.0.2/16", "AddressIPv6": "fd77::2/64", "MacAddress": "02:42:0a:4d:00:02"});
    assert_eq!(answer(&given("", "")), all);
}

#[test]
fn endpoints_have_the_first_digits_of_docker_s_id() {
    let id = "6fa799c92a00f81ae64e52dcd8f726b55ea4adc478ef99b899cefb516b52bd11";

    assert_eq!(endpoint_id(id).unwrap().to_string(), "6fa799c92a00");
    for bad in ["", "6fa7", "6FA799C92A00", "../../etc/pa", "ээээээээээээ"] {
        assert!(endpoint_id(bad).is_err(), "{bad}");
    }
}

#[test]
fn pools_are_read_back_from_their_ids_and_others_refused() {
    let pool = PoolId("10.77.0.0/16".parse().unwrap());

    assert_eq!(PoolId::parse(&pool.text()), Ok(pool));
    assert_eq!(pool.with_prefix("10.77.3.4".parse().unwrap()), "10.77.3.4/16");
    for bad in ["", "weft/", "weft/x", "LocalDefault/10.77.0.0/16"] {
        assert!(PoolId::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn pool_requests_of_all_versions_are_read() {
    let read = |request: Value| PoolOrder::of(&serde_json::from_value(request).unwrap()).unwrap();

    let given = json!({"AddressSpace": "weft-local", "Pool": "10.77.0.0/16", "SubPool": "10.77.5.0/24",
        "Options": {"net": "blue"}, "V6": false});
    assert_eq!(read(given), PoolOrder::Given("10.77.0.0/16".parse().unwrap(), "10.77.5.0/24".parse().ok()));
    let any =
        json!({"AddressSpace": "weft-local", "Pool": "", "SubPool": "", "Options": null, "V6": true, "Exclude": []});
    assert_eq!(read(any), PoolOrder::Any { v6: true });
}

#[test]
fn gateways_are_told_from_endpoints_whose_names_29_sends() {
    let options = |text: &str| serde_json::from_str(text).unwrap();

    assert!(is_gateway(&options(r#"{"RequestAddressType":"com.docker.network.gateway"}"#)));
    assert!(!is_gateway(&options(r#"{"com.docker.network.endpoint.name":"ct1"}"#)));
    assert!(!is_gateway(&options("{}")));
}
