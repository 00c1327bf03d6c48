//! What `weft` prints and returns: tables for people, JSON for programs, exit codes for scripts.

#![expect(clippy::unwrap_used, reason = "a failed step ends the test, in helpers of tests too")]

use std::net::UdpSocket;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use weft_e2e::topology::{HostId, NAT_ADDRESS};
use weft_e2e::{CommandOutput, Host, Lab, LabOptions, SharedLab, dump, eventually, wait_until};

/// Longest wait for something that takes milliseconds on an idle machine.
const SOON: Duration = Duration::from_secs(10);

/// A lab with a network and a container in it on h1.
fn scene() -> SharedLab {
    let lab = Lab::shared().unwrap();
    let networks = lab.host(1).weft_json(&["network", "ls"]).unwrap();
    if !networks.as_array().unwrap().iter().any(|network| network["name"] == "shown") {
        lab.create_network("shown", &["--label", "tier=db"]).unwrap();
        lab.attach(1, "shown1", "shown", &["--alias", "web", "--publish", "18070:80"]).unwrap();
    }
    dump::settles(&lab);
    lab
}

/// The object has every key, and none of the values is missing.
#[track_caller]
fn has_keys(object: &Value, keys: &[&str]) {
    for key in keys {
        assert!(object.get(key).is_some_and(|value| !value.is_null()), "{key} is not in {object}");
    }
}

#[test]
fn objects_have_the_keys_that_programs_are_promised() {
    let lab = scene();
    let host = lab.host(1);
    let network = ["name", "id", "vni", "subnets", "gateways", "mtu"];
    let endpoint = ["id", "name", "network", "node", "ipv4", "ipv6", "mac", "state"];
    let node = ["name", "id", "vtep", "state", "version"];

    let networks = host.weft_json(&["network", "ls"]).unwrap();
    networks.as_array().unwrap().iter().for_each(|object| has_keys(object, &network));
    let inspected = host.weft_json(&["network", "inspect", "shown"]).unwrap();
    has_keys(&inspected, &network);
    has_keys(&inspected, &["labels", "members", "endpoints", "blocks"]);
    let endpoints = host.weft_json(&["endpoint", "ls"]).unwrap();
    endpoints.as_array().unwrap().iter().for_each(|object| has_keys(object, &endpoint));
    let id = endpoints[0]["id"].as_str().unwrap();
    has_keys(&host.weft_json(&["endpoint", "inspect", id]).unwrap(), &endpoint);
    let nodes = host.weft_json(&["node", "ls"]).unwrap();
    assert_eq!(nodes.as_array().unwrap().len(), 3);
    nodes.as_array().unwrap().iter().for_each(|object| has_keys(object, &node));
    has_keys(&host.weft_json(&["node", "inspect", "h2"]).unwrap(), &node);
    has_keys(&host.weft_json(&["status"]).unwrap(), &["node", "revision", "converged", "netns", "errors"]);
    assert_eq!(host.weft_json(&["plan"]).unwrap()["steps"], json!([]));
    has_keys(&host.weft_json(&["dump"]).unwrap(), &["desired", "observed", "store"]);
    has_keys(&host.weft_json(&["version"]).unwrap(), &["version"]);
}

#[test]
fn status_names_the_namespace_that_the_data_plane_is_in() {
    let lab = scene();
    for host in lab.hosts().unwrap() {
        let status = host.weft_json(&["status"]).unwrap();
        assert_eq!(status["node"], host.name());
        assert_eq!(status["netns"], host.data_plane_netns().to_string());
        assert_eq!(status["vtep"], host.id().underlay_address().to_string());
        assert_eq!((&status["converged"], &status["errors"]), (&json!(true), &json!([])));
    }
}

#[test]
fn revision_grows_with_networks_that_a_node_is_not_in() {
    let lab = scene();
    let idle = lab.host(3);
    let before = dump::store(&lab).unwrap().revision;

    lab.host(1).weft(&["network", "create", "passing"]).unwrap();

    eventually(SOON, "the revision of a network that h3 is not in", || {
        let status = idle.weft_json(&["status"]).map_err(|error| format!("{error:#}"))?;
        if status["revision"].as_i64() > Some(before) { Ok(()) } else { Err(status.to_string()) }
    });
    lab.host(1).weft(&["network", "rm", "passing"]).unwrap();
}

#[test]
fn what_is_desired_is_what_is_observed() {
    let lab = scene();
    for host in lab.hosts().unwrap() {
        let dump = dump::weft(&host).unwrap();
        assert_eq!(dump.observed, dump.desired);
        assert!(dump.store.as_object().is_some_and(|store| !store.is_empty()));
    }
}

#[test]
fn every_node_answers_the_same_about_the_cluster() {
    let lab = scene();
    for command in [&["network", "ls"][..], &["endpoint", "ls"], &["node", "ls"]] {
        let answers: Vec<_> = lab.hosts().unwrap().iter().map(|host| host.weft_json(command).unwrap()).collect();
        assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{command:?}: {answers:#?}");
    }
    let here = lab.host(2).endpoints(&["--node", "h1", "--network", "shown"]).unwrap();
    assert_eq!(here.iter().map(|endpoint| endpoint.name.as_str()).collect::<Vec<_>>(), ["shown1"]);
    assert!(lab.host(2).endpoints(&["--node", "h3", "--network", "shown"]).unwrap().is_empty());
}

#[test]
fn tables_have_a_header_and_aligned_columns() {
    let lab = scene();
    let (v4, network) = {
        let endpoint = lab.host(1).endpoints(&["--network", "shown"]).unwrap().remove(0);
        (endpoint.v4().to_string(), lab.host(1).weft_json(&["network", "inspect", "shown"]).unwrap())
    };
    let tables = [
        (&["network", "ls"][..], "VNI", network["vni"].to_string()),
        (&["endpoint", "ls"], "IPV4", v4),
        (&["node", "ls"], "VTEP", "192.168.56.11".to_owned()),
    ];
    for (command, column, cell) in tables {
        let text = lab.host(1).weft(command).unwrap();
        let mut lines = text.lines();
        let header = lines.next().unwrap();
        let at = header.find(column).unwrap_or_else(|| panic!("{column} is not in {header}"));
        assert!(lines.any(|line| line.get(at..).is_some_and(|rest| rest.starts_with(&cell))), "{cell} in:\n{text}");
        assert!(!text.contains('\u{1b}') && text.lines().all(|line| line.trim_end() == line), "{text}");
    }
    assert_eq!(lab.host(1).weft(&["plan"]).unwrap(), "nothing to do\n");
    let status = lab.host(1).weft(&["status"]).unwrap();
    assert!(status.contains("h1") && status.contains("weft-h1") && status.contains("shown"), "{status}");
}

#[test]
fn exit_codes_are_those_of_the_help() {
    let lab = scene();
    let host = lab.host(1);
    let help = host.weft(&["--help"]).unwrap();
    let run = |arguments: &[&str]| host.try_weft(arguments).unwrap();
    let nowhere = ["--socket", "/run/weft-lab/nowhere.sock", "status"];
    let bad_settings = ["agent", "--etcd", "ftp://x", "--vxlan-port", "0"];
    let as_nobody = |host: &Host| -> CommandOutput {
        let prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
        host.try_exec(&[&prefix[..], &["weft", "status"]].concat()).unwrap()
    };
    for (output, code) in [
        (run(&["status"]), 0),
        (run(&["network", "inspect", "absent"]), 1),
        (run(&["network", "create", "a/b"]), 2),
        (run(&["frobnicate"]), 2),
        (run(&nowhere), 69),
        (as_nobody(&host), 77),
        (run(&bad_settings), 78),
    ] {
        assert_eq!(output.status, code, "{output:?}");
        assert!(help.contains(&code.to_string()), "{code} is explained in:\n{help}");
        assert_eq!(output.stdout.is_empty(), code != 0, "{output:?}");
        assert_eq!(output.stderr.is_empty(), code == 0, "{output:?}");
    }
}

#[test]
fn members_of_the_sockets_group_may_use_it_and_nobody_else() {
    const GROUP: &str = "4242";
    let options = LabOptions {
        agent_arguments: vec!["--socket-group".to_owned(), GROUP.to_owned()],
        ..LabOptions::with_hosts(1)
    };
    let lab = Lab::fresh(options).unwrap();
    let host = lab.host(1);
    let as_nobody = |groups: &str| -> CommandOutput {
        let prefix = ["setpriv", "--reuid=65534", "--regid=65534", groups];
        host.try_exec(&[&prefix[..], &["weft", "node", "ls"]].concat()).unwrap()
    };

    let member = as_nobody(&format!("--groups={GROUP}"));
    assert!(member.is_success() && member.stdout.contains("h1"), "{member:?}");
    let other = as_nobody("--groups=4243");
    assert_eq!(other.status, 77, "{other:?}");
    assert!(other.stderr.contains("as root") && other.stderr.contains("--socket-group"), "{other:?}");
}

/// As at boot, before DHCP has answered: a service manager is to try again, which it would not after 78.
#[test]
fn daemons_whose_address_the_host_does_not_have_yet_may_be_started_again() {
    let lab = scene();
    let folder = tempfile::TempDir::new().unwrap();
    let folder = folder.path().to_str().unwrap();
    let etcd = lab.topology().unwrap().etcd_urls();
    let agent = ["agent", "--etcd", &etcd, "--underlay", "172.31.0.0/16", "--state-dir", folder, "--docker", "off"];
    let controller = ["controller", "--listen", "172.31.0.1:2379", "--data-dir", folder];

    for (arguments, word) in [(&agent[..], "172.31.0.0/16"), (&controller[..], "172.31.0.1:2379")] {
        let output = lab.host(1).try_weft(arguments).unwrap();
        assert_eq!(output.status, 69, "{output:?}");
        assert!(output.stderr.contains(word), "{output:?}");
    }
}

#[test]
fn wrong_settings_are_reported_all_together() {
    let lab = scene();
    let output = lab
        .host(1)
        .try_weft(&["agent", "--etcd", "ftp://x", "--vxlan-port", "70000", "--dns-ttl", "never", "--node", "a/b"])
        .unwrap();

    assert_eq!(output.status, 78, "{output:?}");
    for word in ["--etcd", "--vxlan-port", "--dns-ttl", "--node"] {
        assert!(output.stderr.contains(word), "{word} is not in {}", output.stderr);
    }
}

#[test]
fn help_and_completion_exist_for_every_command() {
    let lab = scene();
    let host = lab.host(1);
    let commands = [
        &["agent"][..],
        &["controller"],
        &["network"],
        &["network", "create"],
        &["network", "ls"],
        &["network", "inspect"],
        &["network", "rm"],
        &["connect"],
        &["disconnect"],
        &["endpoint", "ls"],
        &["endpoint", "inspect"],
        &["node", "ls"],
        &["node", "inspect"],
        &["node", "drain"],
        &["node", "rm"],
        &["status"],
        &["plan"],
        &["dump"],
        &["doctor"],
        &["version"],
        &["completion"],
    ];
    for command in commands {
        let help = host.weft(&[command, &["--help"]].concat()).unwrap();
        assert!(help.lines().count() > 5, "{help}");
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(host.weft(&["completion", shell]).unwrap().contains("weft"));
    }
}

/// What `weft doctor` finds on a host with the agent's settings and these.
fn findings(host: &Host, arguments: &[&str]) -> (u8, Vec<Value>) {
    // As before the agent's first start: nobody answers at the socket.
    let socket = ["--socket", "/run/weft-lab/nobody.sock"];
    let doctor = ["doctor", "--node", "other", "--netns", "weft-doctor", "--output", "json"];
    let words = [&socket[..], &doctor, arguments].concat();
    let output = host.try_weft(&words).unwrap();
    let findings = serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output.status, findings)
}

/// The finding of a failed or doubtful check whose text has all these words; it must say what to do.
#[track_caller]
fn complains(findings: &[Value], words: &[&str]) {
    let bad = findings.iter().filter(|finding| finding["verdict"] != "ok");
    let matching = bad.clone().find(|finding| words.iter().all(|word| finding.to_string().contains(word)));
    let finding = matching.unwrap_or_else(|| panic!("nothing about {words:?} in {:#?}", bad.collect::<Vec<_>>()));
    assert!(finding["remedy"].as_str().is_some_and(|remedy| remedy.len() > 10), "{finding}");
}

#[test]
fn doctor_is_content_with_a_fresh_host() {
    let lab = Lab::fresh(LabOptions::with_hosts(2).without_agents()).unwrap();
    let weft = weft_alone(&lab);
    let etcd = lab.topology().unwrap().etcd_urls();

    let output = weft(&["doctor", "--underlay", "192.168.56.0/24", "--etcd", &etcd, "--output", "json"]);

    let findings: Vec<Value> =
        serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert_eq!(output.status, 0, "{findings:#?}");
    assert!(findings.iter().all(|finding| finding["verdict"] != "failure"), "{findings:#?}");
    assert!(findings.len() >= 7, "{findings:#?}");
}

/// Runs `weft` on h1 of a lab that has no agents.
fn weft_alone(lab: &Lab) -> impl Fn(&[&str]) -> CommandOutput {
    let weft = std::env::var("WEFT_BIN").expect("the tests run with WEFT_BIN set");
    let netns = lab.host(1).netns();
    move |arguments| netns.output(std::process::Command::new(&weft).args(arguments)).unwrap()
}

#[test]
fn doctor_finds_what_is_wrong_and_says_what_to_do() {
    let lab = scene();
    let host = lab.host(1);
    let etcd = lab.topology().unwrap().etcd_urls();
    let good = ["--underlay", "192.168.56.0/24", "--etcd", &etcd];

    // Two addresses, as on every virtual machine with a NAT of its own; none; another's.
    let (status, found) = findings(&host, &["--etcd", &etcd]);
    assert_eq!(status, 1);
    complains(&found, &["192.168.56.11", &NAT_ADDRESS.to_string(), "--underlay"]);
    let (status, found) = findings(&host, &["--underlay", "172.31.0.0/16", "--etcd", &etcd]);
    assert_eq!(status, 1);
    complains(&found, &["172.31.0.0/16", "--underlay"]);

    // The port in somebody's hands.
    let socket = host.netns().enter(|| UdpSocket::bind("0.0.0.0:4799")).unwrap().unwrap();
    let busy = [&good[..], &["--vxlan-port", "4799"]].concat();
    let (status, found) = findings(&host, &busy);
    assert_eq!(status, 1);
    complains(&found, &["4799", "failure", "process", "--vxlan-port"]);
    // Also beside a running agent, which has another one.
    let output = host.try_weft(&[&["doctor", "--output", "json"][..], &busy].concat()).unwrap();
    let found: Vec<Value> = serde_json::from_str(&output.stdout).unwrap();
    complains(&found, &["4799", "failure"]);
    drop(socket);

    // A store that is not there.
    let (status, found) = findings(&host, &["--underlay", "192.168.56.0/24", "--etcd", "http://192.168.56.99:2379"]);
    assert_eq!(status, 1);
    complains(&found, &["http://192.168.56.99:2379"]);
    assert_eq!(HostId::new(1).unwrap(), host.id());

    // A firewall that drops what passes through.
    host.exec(&["iptables", "-P", "FORWARD", "DROP"]).unwrap();
    let (_, found) = findings(&host, &good);
    complains(&found, &["FORWARD"]);
    host.exec(&["iptables", "-P", "FORWARD", "ACCEPT"]).unwrap();
    let (_, found) = findings(&host, &good);
    assert!(found.iter().all(|finding| finding["verdict"] == "ok" || !finding.to_string().contains("FORWARD")));
}

#[test]
fn agent_refuses_an_ambiguous_underlay_and_does_not_join_with_a_taken_one() {
    let lab = scene();
    let etcd = lab.topology().unwrap().etcd_urls();
    let socket = "/run/weft-lab/late.sock";
    let base = ["agent", "--etcd", &etcd, "--node", "late", "--state-dir", "/run/weft-lab/late"];
    let agent = [&base[..], &["--netns", "weft-late", "--socket", socket]].concat();

    lab.stop("h2").unwrap();
    let host = lab.host(2);

    let ambiguous = host.weft_within(SOON, &agent).unwrap();
    assert!(!ambiguous.is_success());
    for word in ["10.0.2.15", "192.168.56.12", "--underlay"] {
        assert!(ambiguous.stderr.contains(word), "{word} is not in {}", ambiguous.stderr);
    }
    // The address belongs to node h2, running or not. The agent says so until it is free.
    let words = [&["weft"], &agent[..], &["--underlay", "eth1"]].concat();
    let mut late = host.netns().spawn(host.command(&words).unwrap().stderr(Stdio::null())).unwrap();
    let said = wait_until(SOON, "the refusal in weft status", || {
        let status = host.weft(&["--socket", socket, "--output", "json", "status"]);
        let status = status.map_err(|error| format!("{error:#}"))?;
        if ["192.168.56.12", "h2", "--underlay"].iter().all(|word| status.contains(word)) {
            Ok(())
        } else {
            Err(status)
        }
    });
    let nodes = lab.host(1).weft_json(&["node", "ls"]);
    late.kill().unwrap();
    late.wait().unwrap();
    said.unwrap();
    let nodes = nodes.unwrap();
    assert!(nodes.as_array().unwrap().iter().all(|node| node["name"] != "late"), "{nodes}");
    lab.in_netns("h2", &["ip", "netns", "del", "weft-late"]).unwrap();
    lab.start("h2").unwrap();
    dump::settles(&lab);
}
