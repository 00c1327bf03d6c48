//! Bad input gets a clear error and changes nothing: not the store, not the kernel.

#![expect(clippy::unwrap_used, reason = "a failed step ends the test, in helpers of tests too")]

use std::time::Duration;

use serde_json::{Value, json};
use weft_e2e::dump::StoreEntry;
use weft_e2e::socket::{self, SocketAnswer};
use weft_e2e::topology::CONTROL;
use weft_e2e::traffic::{self, Stream};
use weft_e2e::{
    Lab, Refusal, SharedLab,
    dump::{self, settles},
    eventually,
};

/// Longest wait for something that takes milliseconds on an idle machine.
const SOON: Duration = Duration::from_secs(10);

/// A lab with network `good`, container `good1` in it and container `free1` in none.
fn scene() -> SharedLab {
    let lab = Lab::shared().unwrap();
    let networks = lab.host(1).weft_json(&["network", "ls"]).unwrap();
    if !networks.as_array().unwrap().iter().any(|network| network["name"] == "good") {
        lab.create_network("good", &["--subnet", "10.70.0.0/24", "--subnet", "fd00:70::/64", "--vni", "7070"]).unwrap();
        lab.attach(1, "good1", "good", &[]).unwrap();
        lab.attach(2, "good2", "good", &[]).unwrap();
        lab.run_container(1, "free1", &[]).unwrap();
    }
    settles(&lab);
    lab
}

/// Does what must change nothing, and compares.
#[track_caller]
fn unchanged<T>(lab: &Lab, action: impl FnOnce() -> T) -> T {
    let kernel = || dump::kernel(&lab.host(1)).unwrap();
    let links = || ["h1", "free1", "good1"].map(|netns| lab.in_netns(netns, &["ip", "-o", "link"]).unwrap());
    let before = (dump::store(lab).unwrap().entries, kernel(), links());
    let result = action();
    let after = (dump::store(lab).unwrap().entries, kernel(), links());
    let differences = |one: &[StoreEntry], other: &[StoreEntry]| {
        let only = one.iter().filter(|entry| !other.contains(entry));
        only.map(|entry| format!("{} {}", entry.key, String::from_utf8_lossy(&entry.value))).collect::<Vec<_>>()
    };
    let (gone, new) = (differences(&before.0, &after.0), differences(&after.0, &before.0));
    assert!(gone.is_empty() && new.is_empty(), "{gone:#?} became {new:#?}");
    assert_eq!((after.1.links, after.1.fdb), (before.1.links, before.1.fdb), "the data plane");
    assert_eq!(after.2, before.2, "interfaces");
    settles(lab);
    result
}

#[track_caller]
fn refused(lab: &Lab, arguments: &[&str]) -> Refusal {
    unchanged(lab, || lab.host(1).refusal(arguments).unwrap())
}

/// An answer of the agent to bytes as they are, which must be a refusal in its own form.
#[track_caller]
fn refused_bytes(lab: &Lab, bytes: &[u8], statuses: &[u16]) -> Value {
    let answer: SocketAnswer = unchanged(lab, || socket::exchange(&lab.host(1).socket(), bytes).unwrap());
    assert!(statuses.contains(&answer.status), "{answer:?}");
    let body: Value = serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error}: {answer:?}"));
    let said = body["error"].as_str().unwrap_or_default();
    assert!(!said.is_empty() && body["class"].is_string(), "{answer:?}");
    body
}

fn post(path: &str, body: &Value) -> Vec<u8> {
    socket::request("POST", path, body.to_string().as_bytes())
}

#[test]
fn unknown_network_and_container_are_named() {
    let lab = scene();
    for (arguments, words) in [
        (&["connect", "nowhere", "free1"][..], ["nowhere", "weft network ls"]),
        (&["connect", "good", "nobody"], ["nobody", "/run/netns/nobody"]),
        (&["connect", "good", "pid:999999999"], ["pid:999999999", "999999999"]),
        (&["connect", "good", "/run/netns/nobody"], ["/run/netns/nobody", "nobody"]),
        (&["disconnect", "good", "free1"], ["good", "free1"]),
        (&["disconnect", "nowhere", "good1"], ["nowhere", "nowhere"]),
        (&["network", "rm", "nowhere"], ["nowhere", "weft network ls"]),
        (&["network", "inspect", "nowhere"], ["nowhere", "weft network ls"]),
        (&["endpoint", "inspect", "0123456789ab"], ["0123456789ab", "weft endpoint ls"]),
        (&["node", "inspect", "nowhere"], ["nowhere", "weft node ls"]),
        (&["node", "drain", "nowhere"], ["nowhere", "weft node ls"]),
        (&["node", "rm", "nowhere"], ["nowhere", "weft node ls"]),
    ] {
        let refusal = refused(&lab, arguments);
        assert_eq!((refusal.status, refusal.class.as_str()), (1, "not_found"), "{arguments:?}: {refusal:?}");
        assert!(refusal.says(&words), "{arguments:?}: {refusal:?}");
    }
}

#[test]
fn names_that_could_lead_elsewhere_are_refused_on_the_command_line() {
    let lab = scene();
    let long = "x".repeat(300);
    for name in ["a/b", "..", "../x", "", "-x", "a b", "a\u{1b}[2J", "ä", &long] {
        for arguments in [
            &["network", "create", "--", name][..],
            &["network", "rm", "--", name],
            &["network", "inspect", "--", name],
            &["connect", "--", name, "free1"],
            &["connect", "good", "free1", "--name", name],
            &["connect", "good", "free1", "--alias", name],
        ] {
            // The format of errors comes before what could be an option.
            let arguments = [&["--output", "json"], arguments].concat();
            let output = lab.host(1).try_weft(&arguments).unwrap();
            assert_eq!((output.status, output.stdout.as_str()), (2, ""), "{arguments:?}: {output:?}");
            assert!(!output.stderr.contains('\u{1b}') && output.stderr.len() < 2000, "{output:?}");
        }
    }
    for container in ["..", "../good1", "a/b", "", &long, "pid:0", "pid:-1", "pid:x"] {
        let output = lab.host(1).try_weft(&["connect", "good", "--", container]).unwrap();
        assert!([1, 2].contains(&output.status) && output.stdout.is_empty(), "{container:?}: {output:?}");
    }
    unchanged(&lab, || ());
}

#[test]
fn names_that_could_lead_elsewhere_are_refused_at_the_socket_too() {
    let lab = scene();
    let long = "x".repeat(300);
    for name in ["a/b", "..", "", "a\0b", "a\nb", &long] {
        for (path, body) in [
            ("/v1/networks", json!({"name": name})),
            ("/v1/connect", json!({"network": name, "container": "free1"})),
            ("/v1/connect", json!({"network": "good", "container": "free1", "name": name})),
            ("/v1/connect", json!({"network": "good", "container": "free1", "aliases": [name]})),
            ("/v1/connect", json!({"network": "good", "container": "free1", "ifname": name})),
            ("/v1/connect", json!({"network": "good", "container": name})),
            ("/v1/disconnect", json!({"network": "good", "container": name})),
        ] {
            let answer = refused_bytes(&lab, &post(path, &body), &[400]);
            assert_eq!(answer["class"], "invalid", "{path} {body}: {answer}");
        }
    }
    for path in ["/v1/networks/..%2f..%2fetc", "/v1/networks/%00", "/v1/networks/a%2Fb", "/v1/nodes/%2e%2e"] {
        refused_bytes(&lab, &socket::request("DELETE", path, b""), &[400, 404]);
        refused_bytes(&lab, &socket::request("GET", path, b""), &[400, 404]);
    }
}

#[test]
fn malformed_and_oversized_requests_are_refused() {
    let lab = scene();
    let deep = format!("{{\"name\":{}", "[".repeat(20_000));
    let huge = json!({"name": "x", "labels": {"a": "y".repeat(1 << 20)}}).to_string();
    let many: Vec<String> = (0..3000).map(|number| format!("alias{number}")).collect();
    let bodies: [&[u8]; 9] = [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\"good\"",
        b"{\"name\": \"x\"} trailing",
        b"{\"name\": \"\xff\xfe\"}",
        deep.as_bytes(),
        huge.as_bytes(),
    ];
    for body in bodies {
        for path in ["/v1/networks", "/v1/connect", "/v1/disconnect"] {
            let answer = refused_bytes(&lab, &socket::request("POST", path, body), &[400, 413]);
            assert_eq!(answer["class"], "invalid", "{answer}");
        }
    }
    let connect = json!({"network": "good", "container": "free1", "aliases": many});
    refused_bytes(&lab, &post("/v1/connect", &connect), &[400, 413]);
    for (method, path) in [("GET", "/v1/nothing"), ("DELETE", "/v1/status"), ("PUT", "/v1/networks"), ("GET", "/")] {
        refused_bytes(&lab, &socket::request(method, path, b""), &[400, 404]);
    }
    refused_bytes(&lab, &socket::request("GET", "/v1/endpoints?nodes=h1", b""), &[400]);
}

#[test]
fn what_is_no_http_at_all_ends_the_connection_and_nothing_else() {
    let lab = scene();
    let stream = Stream::icmp("good1", "10.70.0.1".parse().unwrap(), 100).unwrap();
    stream.wait_for(10, SOON).unwrap();
    let noise: Vec<u8> = (0..200_000_u32).map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let header = [b"GET /v1/status HTTP/1.1\r\nHost: ".to_vec(), vec![b'a'; 1 << 20], b"\r\n\r\n".to_vec()].concat();
    let absurd = b"POST /v1/networks HTTP/1.1\r\nHost: weft\r\nContent-Length: 99999999999999999999\r\n\r\n{}".to_vec();
    let endless = b"POST /v1/networks HTTP/1.1\r\nHost: weft\r\nContent-Length: 4294967296\r\n\r\n{}".to_vec();

    unchanged(&lab, || {
        for bytes in [&noise, &header, &absurd, &endless] {
            // Whatever the answer is, it is no success; there may be none.
            if let Ok(answer) = socket::exchange(&lab.host(1).socket(), bytes) {
                assert!((400..500).contains(&answer.status), "{answer:?}");
            }
        }
    });

    assert_eq!(lab.host(1).weft_json(&["status"]).unwrap()["converged"], true);
    let report = stream.stop().unwrap();
    assert_eq!(report.lost, 0, "{report}");
}

#[test]
fn unknown_fields_are_refused_by_name() {
    let lab = scene();
    for (path, body, field) in [
        ("/v1/networks", json!({"name": "x", "subnet": "10.71.0.0/24"}), "subnet"),
        ("/v1/connect", json!({"network": "good", "container": "free1", "ip": "10.70.0.9"}), "ip"),
        ("/v1/disconnect", json!({"network": "good", "container": "good1", "force": true}), "force"),
    ] {
        let answer = refused_bytes(&lab, &post(path, &body), &[400]);
        assert!(answer["error"].as_str().unwrap().contains(&format!("`{field}`")), "{answer}");
    }
}

#[test]
fn wrong_types_and_absurd_sizes_are_refused() {
    let lab = scene();
    for body in [
        json!({"name": "x", "vni": 0}),
        json!({"name": "x", "vni": 16_777_216}),
        json!({"name": "x", "vni": -1}),
        json!({"name": "x", "vni": "many"}),
        json!({"name": "x", "mtu": 67}),
        json!({"name": "x", "mtu": 65_536}),
        json!({"name": "x", "mtu": 1.5}),
        json!({"name": "x", "internal": "yes"}),
        json!({"name": ["x"]}),
        json!({"name": "x", "subnets": "10.71.0.0/24"}),
        json!({"name": "x", "subnets": ["10.71.0.0/24", "10.72.0.0/24"]}),
        json!({"name": "x", "labels": ["a"]}),
        // The fields in their order, without their names.
        json!(["x", [], [], [], null, null, false, {}]),
    ] {
        refused_bytes(&lab, &post("/v1/networks", &body), &[400]);
    }
    for body in [
        json!({"network": "good", "container": 7}),
        json!({"network": "good", "container": "free1", "ipv4": "10.70.0.300"}),
        json!({"network": "good", "container": "free1", "ipv6": "10.70.0.3"}),
        json!({"network": "good", "container": "free1", "mac": "ff:ff:ff:ff:ff:ff"}),
        json!({"network": "good", "container": "free1", "mac": "01:00:5e:00:00:01"}),
        json!({"network": "good", "container": "free1", "mac": "00:00:00:00:00:00"}),
        json!({"network": "good", "container": "free1", "ifname": "a-name-of-16-byt"}),
        json!({"network": "good", "container": "free1", "published": [{"protocol": "tcp", "host_port": 0, "port": 1}]}),
    ] {
        refused_bytes(&lab, &post("/v1/connect", &body), &[400]);
    }
}

#[test]
fn malformed_and_useless_subnets_are_refused() {
    let lab = scene();
    let create = |options: &[&str]| refused(&lab, &[&["network", "create", "subnets"], options].concat());
    for subnet in [
        "10.71.0.0",
        "10.71.0.1/24",
        "10.71.0.0/33",
        "10.71.0.0/-1",
        "10.71.0.0/32",
        "10.71/16",
        "fd00:71::/129",
        "127.0.0.0/16",
        "224.0.0.0/16",
        "0.0.0.0/0",
        "fe80::/64",
        "ff02::/64",
        "::/0",
        "10.71.0.0/24/24",
        "",
    ] {
        let refusal = create(&["--subnet", subnet]);
        assert!([1, 2].contains(&refusal.status), "{subnet}: {refusal:?}");
    }
    for options in [
        &["--subnet", "10.71.0.0/24", "--subnet", "10.72.0.0/24"][..],
        &["--subnet", "10.71.0.0/24", "--gateway", "10.72.0.1"],
        &["--subnet", "10.71.0.0/24", "--gateway", "10.71.0.255"],
        &["--subnet", "10.71.0.0/24", "--ip-range", "10.72.0.0/26"],
        &["--gateway", "10.71.0.1"],
        &["--vni", "7070"],
        &["--vni", "0"],
        &["--vni", "16777216"],
        &["--mtu", "67"],
        &["--mtu", "70000"],
        &["--label", "=x"],
        &["--label", "a=1", "--label", "a=2"],
        &["--subnet", "10.70.0.0/16"],
    ] {
        let refusal = create(options);
        assert!([1, 2].contains(&refusal.status), "{options:?}: {refusal:?}");
    }
}

#[test]
fn container_connected_twice_is_refused() {
    let lab = scene();
    for container in ["good1", "/run/netns/good1"] {
        let refusal = refused(&lab, &["connect", "good", container, "--name", "twin"]);
        assert_eq!(refusal.class, "conflict", "{refusal:?}");
        assert!(refusal.says(&["good"]), "{refusal:?}");
    }
}

#[test]
fn interface_name_that_exists_in_the_container_is_refused() {
    let lab = scene();
    lab.in_netns("free1", &["ip", "link", "add", "data0", "type", "bridge"]).unwrap();

    for name in ["data0", "lo"] {
        let refusal = refused(&lab, &["connect", "good", "free1", "--ifname", name]);
        assert_eq!(refusal.class, "conflict", "{refusal:?}");
        assert!(refusal.says(&[name, "free1"]), "{refusal:?}");
    }
    lab.in_netns("free1", &["ip", "link", "del", "data0"]).unwrap();
}

#[test]
fn hosts_and_data_planes_namespaces_are_no_containers() {
    let lab = scene();
    for container in ["h1", "weft-h1"] {
        let refusal = refused(&lab, &["connect", "good", container, "--ifname", "oops0"]);
        assert_eq!(refusal.class, "invalid", "{refusal:?}");
        assert!(refusal.says(&[container]), "{refusal:?}");
    }
    std::fs::write("/run/netns/plain-file", "").unwrap();
    let refusal = refused(&lab, &["connect", "good", "plain-file"]);
    assert!(refusal.says(&["plain-file"]), "{refusal:?}");
    std::fs::remove_file("/run/netns/plain-file").unwrap();
}

/// Puts a value into the store behind everybody's back.
fn put(lab: &Lab, key: &str, value: &str) {
    let endpoints = format!("--endpoints={}", lab.topology().unwrap().etcd_urls());
    let key = format!("/weft/v1/{key}");
    lab.in_netns(CONTROL, &["etcdctl", &endpoints, "put", "--", &key, value]).unwrap();
}

/// A corrupt value is reported by every agent that reads it and changes no kernel; the right value ends it.
#[track_caller]
fn quarantined(lab: &Lab, key: &str, hosts: &[u8]) {
    let kernels = || hosts.iter().map(|host| dump::kernel(&lab.host(*host)).unwrap()).collect::<Vec<_>>();
    let original = dump::store(lab).unwrap().entry(key).map(|entry| String::from_utf8(entry.value.clone()).unwrap());
    let original = original.unwrap_or_else(|| panic!("{key} is there"));
    let before = kernels();
    let streams = ["10.70.0.1", "fd00:70::1"].map(|to| Stream::icmp("good1", to.parse().unwrap(), 100).unwrap());
    let errors = |host: u8| {
        let status = lab.host(host).weft_json(&["status"]).map_err(|error| format!("{error:#}"))?;
        Ok::<_, String>(status["errors"].to_string())
    };

    for corrupt in ["{\"v\":1,", "\"text\"", "{\"v\":99}", "{\"v\":1}", "\u{1}\u{7f}"] {
        put(lab, key, corrupt);
        for host in hosts {
            eventually(SOON, &format!("the alarm on h{host} about {key} being {corrupt:?}"), || {
                let errors = errors(*host)?;
                if errors.contains(key) { Ok(()) } else { Err(errors) }
            });
        }
        for (now, before) in kernels().iter().zip(&before) {
            assert_eq!((&now.links, &now.fdb), (&before.links, &before.fdb), "{key} being {corrupt:?}");
        }
        for host in hosts {
            assert_eq!(lab.host(*host).plan().unwrap(), Vec::<String>::new());
        }
    }
    put(lab, key, &original);

    for host in hosts {
        eventually(SOON, "the end of the alarm", || {
            let errors = errors(*host)?;
            if errors.contains(key) { Err(errors) } else { Ok(()) }
        });
    }
    for stream in streams {
        let report = stream.stop().unwrap();
        assert_eq!(report.lost, 0, "{report}");
    }
    settles(lab);
}

/// The key of the only record below a prefix that mentions something.
fn key_of(lab: &Lab, prefix: &str, mention: &str) -> String {
    let store = dump::store(lab).unwrap();
    let found = store.section(prefix).find(|entry| String::from_utf8_lossy(&entry.value).contains(mention));
    found.map(|entry| entry.key.clone()).unwrap_or_else(|| panic!("{mention} below {prefix}"))
}

#[test]
fn corrupt_values_in_the_store_are_quarantined_and_the_last_good_ones_kept() {
    let lab = scene();
    let network = lab.host(1).weft_json(&["network", "inspect", "good"]).unwrap();
    let id = network["id"].as_str().unwrap();
    let endpoint = lab.host(1).endpoints(&["--node", "h2", "--network", "good"]).unwrap().remove(0);
    let node = lab.host(1).weft_json(&["node", "inspect", "h2"]).unwrap()["id"].as_str().unwrap().to_owned();

    quarantined(&lab, &key_of(&lab, &format!("net/{id}/ep/4/"), &endpoint.id), &[1]);
    quarantined(&lab, &format!("net/{id}/spec"), &[1, 2]);
    quarantined(&lab, &format!("net/{id}/member/{node}"), &[1]);
    traffic::ping("good1", endpoint.v4(), SOON).unwrap();
}

#[test]
fn corrupt_value_that_nobody_had_read_before_makes_nothing() {
    let lab = scene();
    let network = lab.host(1).weft_json(&["network", "inspect", "good"]).unwrap();
    let key = format!("net/{}/ep/4/0a460063", network["id"].as_str().unwrap());
    let kernel = || dump::kernel(&lab.host(1)).unwrap();
    let before = kernel();

    put(&lab, &key, "{\"v\":1,\"mac\":\"zz\"}");
    eventually(SOON, "the alarm", || {
        let status = lab.host(1).weft_json(&["status"]).map_err(|error| format!("{error:#}"))?;
        if status["errors"].to_string().contains(&key) { Ok(()) } else { Err(status["errors"].to_string()) }
    });

    assert_eq!((kernel().fdb, kernel().neighbours), (before.fdb, before.neighbours));
    let endpoints = format!("--endpoints={}", lab.topology().unwrap().etcd_urls());
    lab.in_netns(CONTROL, &["etcdctl", &endpoints, "del", &format!("/weft/v1/{key}")]).unwrap();
    eventually(SOON, "the end of the alarm", || {
        let status = lab.host(1).weft_json(&["status"]).map_err(|error| format!("{error:#}"))?;
        if status["errors"].to_string().contains(&key) { Err(status["errors"].to_string()) } else { Ok(()) }
    });
    settles(&lab);
}
