//! Sample replies of an agent, in the JSON that it sends.

use serde_json::{Value, json};

pub(crate) fn networks() -> Value {
    let second = json!({
        "name": "backend", "id": "00000000cd", "vni": 70001, "subnets": ["10.40.0.0/24"], "gateways": ["10.40.0.1"],
        "mtu": 1450, "internal": true, "state": "deleting", "labels": {"team": "storage"}, "endpoint_count": 0
    });
    json!([network(), second])
}

pub(crate) fn network() -> Value {
    json!({
        "name": "net1", "id": "00000000ab", "vni": 70000, "subnets": ["10.32.0.0/20", "fd12:3456::/64"],
        "gateways": ["10.32.0.1", "fd12:3456::1"], "mtu": 1450, "internal": false, "state": "active",
        "labels": {}, "endpoint_count": 2
    })
}

pub(crate) fn inspected_network() -> Value {
    let mut network = network();
    network["labels"] = json!({"tier": "db", "team": "storage"});
    network["members"] = json!([
        {"node": "h1", "vtep": "192.168.56.11", "underlay_mtu": 1500},
        {"node": "h2", "vtep": "192.168.56.12", "underlay_mtu": 9000}
    ]);
    network["endpoints"] = json!([endpoint()]);
    network["blocks"] = json!([
        {"block": "10.32.0.0/27", "node": "h1", "state": "owned", "used": 2},
        {"block": "10.32.0.32/27", "node": "h2", "state": "cooling", "used": 0}
    ]);
    network
}

pub(crate) fn endpoint() -> Value {
    json!({
        "id": "0123456789ab", "name": "ct1", "network": "net1", "node": "h1", "ipv4": "10.32.0.5",
        "ipv6": "fd12:3456::5", "mac": "02:42:0a:20:00:05", "state": "ready", "kind": "container",
        "container": "ct1", "ifname": "eth0", "aliases": ["db", "db-1"],
        "published": [
            {"protocol": "tcp", "host_port": 8080, "port": 80},
            {"protocol": "udp", "host_ip": "::1", "host_port": 53, "port": 5353}
        ]
    })
}

pub(crate) fn warned_endpoint() -> Value {
    let mut endpoint = endpoint();
    endpoint["warnings"] = json!(["/etc/netns/ct1/resolv.conf is not ours and was left as it is"]);
    endpoint
}

pub(crate) fn leg() -> Value {
    json!({
        "id": "0123456789ff", "name": "h2", "network": "net1", "node": "h2", "ipv4": "10.32.0.33", "ipv6": null,
        "mac": "02:42:0a:20:00:21", "state": "ready", "kind": "leg", "container": null, "ifname": null,
        "aliases": [], "published": []
    })
}

pub(crate) fn nodes() -> Value {
    let second = json!({
        "name": "h2", "id": "00000000f2", "vtep": "192.168.56.12", "state": "unreachable", "version": "0.1.0",
        "endpoint_count": 12
    });
    json!([node(), second])
}

pub(crate) fn node() -> Value {
    json!({
        "name": "h1", "id": "00000000f1", "vtep": "192.168.56.11", "state": "ready", "version": "0.1.0",
        "endpoint_count": 1
    })
}

pub(crate) fn inspected_node() -> Value {
    let mut node = node();
    node["routes"] = json!(["192.168.56.0/24 dev eth1", "10.0.0.0/16 dev eth0"]);
    node
}

pub(crate) fn status() -> Value {
    json!({
        "node": "h1", "id": "00000000f1", "version": "0.1.0", "vtep": "192.168.56.11", "netns": "weft",
        "vxlan_port": 4789, "underlay_mtu": 1500, "standing": "active",
        "store": {"endpoint": "http://192.168.56.1:2379", "reachable": true, "error": null},
        "revision": 4711, "converged": true, "pending": [],
        "networks": [{
            "name": "net1", "id": "00000000ab", "mtu": 1450, "bridge": "wb-00000000ab", "vxlan": "wx-00000000ab",
            "leg": "weft-00000000ab", "local": 1, "remote": 2, "peers": 2
        }],
        "errors": [],
        "counters": {"passes": 12, "writes": 34, "failures": 0, "audits": 1, "audit_findings": 0}
    })
}

pub(crate) fn troubled_status() -> Value {
    let mut status = status();
    status["store"] =
        json!({"endpoint": "http://192.168.56.1:2379", "reachable": false, "error": "connection refused"});
    status["converged"] = json!(false);
    status["pending"] = json!(["create bridge wb-00000000ab"]);
    status["networks"] = json!([]);
    status["errors"] = json!(["value of net/00000000ab/spec is corrupt: \u{1b}[31m"]);
    status
}

pub(crate) fn plan() -> Value {
    json!({
        "steps": ["create bridge wb-00000000ab mtu 1450", "create vxlan wx-00000000ab vni 70000"],
        "obstacles": ["link weft-00000000ab exists but is not ours"]
    })
}

pub(crate) fn empty_plan() -> Value {
    json!({"steps": [], "obstacles": []})
}

pub(crate) fn dump() -> Value {
    json!({
        "desired": {"link wb-00000000ab": "bridge mtu 1450", "link wx-00000000ab": "vxlan vni 70000"},
        "observed": {"link wb-00000000ab": "bridge mtu 1500"},
        "store": {"net/00000000ab/spec": {"v": 1, "name": "net1"}}
    })
}

pub(crate) fn removed_network() -> Value {
    json!({"name": "net1", "id": "00000000ab"})
}
