//! Networks: what may be asked for, that each is in every engine, and what their removal leaves.

use serde_json::json;

use super::*;

#[test]
fn network_of_one_host_is_on_the_other_until_it_is_removed() {
    let lab = shared();
    create_network(&lab, "both", &[]);

    let listed = lab.host(2).weft_json(&["network", "inspect", "both"]).unwrap();
    let pools = |host: &Host| inspect(host, "network", "both")["IPAM"]["Config"].clone();
    let (here, there) = (pools(&lab.host(1)), pools(&lab.host(2)));

    assert_eq!(here[0]["Subnet"], there[0]["Subnet"]);
    assert_eq!(here[0]["Gateway"], there[0]["Gateway"]);
    assert_eq!(here[0]["Subnet"], listed["subnets"][0]);
    tidy(&lab, &[], &["both"]);
    eventually(REMOVED_WITHIN, "end of the cluster's network", || {
        let output = lab.host(1).try_weft(&["network", "inspect", "both"]).unwrap();
        if output.is_success() { Err(output.stdout) } else { Ok(()) }
    });
}

#[test]
fn options_of_docker_are_those_of_the_network() {
    let lab = shared();
    let h2 = lab.host(2);
    let options = [
        "--ipam-driver=weft",
        "--subnet=10.77.0.0/16",
        "--ip-range=10.77.5.0/24",
        "--gateway=10.77.0.254",
        "--aux-address=printer=10.77.5.9",
        "--aux-address=router=10.77.0.2",
        "--internal",
        "--attachable",
        "-o",
        "com.docker.network.driver.mtu=1400",
        "-o",
        "weft.vni=4242",
        "--label",
        "team=a",
    ];
    create_network(&lab, "opted", &options);

    let network = h2.weft_json(&["network", "inspect", "opted"]).unwrap();
    let copy = inspect(&h2, "network", "opted");

    assert_eq!(network["vni"], 4242);
    assert_eq!(network["mtu"], 1400);
    assert_eq!(network["internal"], true);
    assert_eq!(network["gateways"][0], "10.77.0.254");
    assert_eq!(copy["Internal"], true);
    // Compose takes a network with other options than its file's for another network.
    assert_eq!(copy["Options"], json!({"com.docker.network.driver.mtu": "1400", "weft.vni": "4242"}));
    assert_eq!(copy["Labels"]["team"], "a");
    assert_eq!(copy["IPAM"]["Config"][0]["Gateway"], "10.77.0.254");
    let refused = h2.try_docker(&["run", "--rm", "--net", "opted", "--ip", "10.77.5.9", "lab:net", "true"]).unwrap();
    assert!(refused.stderr.contains("auxiliary"), "{refused:?}");
    lab.host(1).docker_run("opted1", &["--net", "opted"]).unwrap();
    h2.docker_run("opted2", &["--net", "opted"]).unwrap();
    for (host, name) in [(&lab.host(1), "opted1"), (&h2, "opted2")] {
        let ip = address(host, name, "opted");
        assert!(ip.starts_with("10.77.5."), "{name} has {ip}, not one of the range");
    }
    tidy(&lab, &[(1, "opted1"), (2, "opted2")], &["opted"]);
}

#[test]
fn pools_come_from_the_cluster_or_from_docker_and_with_both_families() {
    let lab = shared();
    for (name, options) in [
        ("pooled", &["--ipam-driver", "weft"][..]),
        ("six", &["--ipv6", "--subnet", "10.66.0.0/16", "--subnet", "fd66::/64", "--ipam-driver", "weft"]),
        ("six-docker", &["--ipv6", "--subnet", "10.67.0.0/16", "--subnet", "fd67::/64"]),
    ] {
        create_network(&lab, name, options);
        lab.host(1).docker_run(&format!("{name}-1"), &["--net", name]).unwrap();
        lab.host(2).docker_run(&format!("{name}-2"), &["--net", name]).unwrap();
        reaches(&lab.host(2), &format!("{name}-2"), &format!("{name}-1"));
        if name.starts_with("six") {
            let v6 = attachment(&lab.host(1), &format!("{name}-1"), name)["GlobalIPv6Address"].clone();
            reaches(&lab.host(2), &format!("{name}-2"), v6.as_str().unwrap());
        }
        tidy(&lab, &[(1, &format!("{name}-1")), (2, &format!("{name}-2"))], &[name]);
    }
}

#[test]
fn what_no_network_can_be_is_refused_with_a_reason_and_leaves_nothing() {
    let lab = shared();
    let h1 = lab.host(1);
    lab.host(2).exec(&["ip", "link", "add", "br-lan", "type", "bridge"]).unwrap();
    lab.host(2).exec(&["ip", "address", "add", "172.31.5.1/24", "dev", "br-lan"]).unwrap();
    lab.host(2).exec(&["ip", "link", "set", "br-lan", "up"]).unwrap();
    eventually(SOON, "the route of h2 is known", || {
        let node = h1.weft(&["node", "inspect", "h2"]).unwrap();
        if node.contains("172.31.5.0/24") { Ok(()) } else { Err(node) }
    });

    for (options, reason) in [
        (&["--subnet", "172.31.0.0/16"][..], "br-lan on node h2"),
        (&["--subnet", "10.1.0.0/24", "--subnet", "10.2.0.0/24"], "at most one IPv4"),
        (&["-o", "weft.colour=blue"], "there is no option \"weft.colour\""),
        (&["-o", "weft.vni=red"], "a number from 1 to 16777215"),
        (&["-o", "com.docker.network.driver.mtu=100"], "MTU 100 is not possible"),
        (&["--subnet", "224.1.0.0/16"], "overlaps the multicast range"),
        (&["--subnet", "10.3.0.0/24", "-o", "weft.network=0123456789"], "there is no network"),
        (&["--ipam-driver", "null"], "needs a subnet"),
    ] {
        let output = h1.try_docker(&[&["network", "create", "-d", "weft"], options, &["refused"]].concat()).unwrap();
        assert!(!output.is_success() && output.stderr.contains(reason), "{options:?}: {output:?}");
    }

    lab.host(2).exec(&["ip", "link", "del", "br-lan"]).unwrap();
    let output = h1.try_weft(&["network", "inspect", "refused"]).unwrap();
    assert!(!output.is_success(), "{output:?}");
    assert!(!h1.docker(&["network", "ls"]).unwrap().contains("refused"));
}

#[test]
fn network_of_another_driver_keeps_its_name_and_its_life() {
    let lab = shared();
    let (h1, h2) = (lab.host(1), lab.host(2));
    let own = h2.docker(&["network", "create", "clash"]).unwrap();

    h1.docker(&["network", "create", "-d", "weft", "clash"]).unwrap();
    create_network(&lab, "after", &[]);
    assert_eq!(inspect(&h2, "network", "clash")["Driver"], "bridge");
    h1.docker(&["network", "rm", "clash"]).unwrap();
    tidy(&lab, &[], &["after"]);

    assert_eq!(inspect(&h2, "network", "clash")["Id"], own.trim());
    h2.docker(&["network", "rm", "clash"]).unwrap();
}

#[test]
fn network_that_another_host_uses_comes_back_where_it_was_removed() {
    let lab = shared();
    let (h1, h2) = (lab.host(1), lab.host(2));
    create_network(&lab, "kept", &[]);
    h2.docker_run("kept1", &["--net", "kept"]).unwrap();

    h1.docker(&["network", "rm", "kept"]).unwrap();

    eventually(REMOVED_WITHIN, "kept is back on h1", || driver_of(&h1, "kept", "weft"));
    let why = inspect(&h1, "network", "kept")["Labels"]["weft.kept"].clone();
    assert!(why.as_str().is_some_and(|why| why.contains("in use by kept1 on node h2")), "{why}");
    let shown = h1.weft(&["network", "inspect", "kept"]).unwrap();
    assert!(shown.contains("made again: it was in use by kept1 on node h2"), "{shown}");
    let refused = h1.try_weft(&["network", "rm", "kept"]).unwrap();
    assert!(refused.stderr.contains("kept1 on node h2"), "{refused:?}");
    h1.docker_run("kept2", &["--net", "kept"]).unwrap();
    reaches(&h1, "kept2", "kept1");
    tidy(&lab, &[(1, "kept2"), (2, "kept1")], &["kept"]);
}

/// As `docker compose down` and `up` do.
#[test]
fn network_is_made_again_while_the_one_of_its_name_goes() {
    let lab = shared();
    let h1 = lab.host(1);
    for options in [&["--subnet", "10.78.0.0/16"][..], &[], &["--subnet", "10.79.0.0/16", "--ipam-driver", "weft"]] {
        for _ in 0..3 {
            h1.docker(&[&["network", "create", "-d", "weft"], options, &["anew"]].concat()).unwrap();
            h1.docker(&["run", "--rm", "--net", "anew", "lab:net", "true"]).unwrap();
            h1.docker(&["network", "rm", "anew"]).unwrap();
        }
    }

    create_network(&lab, "anew", &[]);
    h1.docker_run("anew1", &["--net", "anew"]).unwrap();
    lab.host(2).docker_run("anew2", &["--net", "anew"]).unwrap();
    reaches(&h1, "anew1", "anew2");
    tidy(&lab, &[(1, "anew1"), (2, "anew2")], &["anew"]);
}

#[test]
fn of_two_made_at_one_moment_on_two_hosts_one_is_the_network() {
    let lab = shared();
    for options in [&[][..], &["--subnet", "10.80.0.0/16"]] {
        std::thread::scope(|scope| {
            for host in lab.hosts().unwrap() {
                // The other one's copy may be there first.
                scope.spawn(move || {
                    host.try_docker(&[&["network", "create", "-d", "weft"], options, &["twins"]].concat()).unwrap()
                });
            }
        });
        for host in lab.hosts().unwrap() {
            eventually(SOON, &format!("a container in twins on {}", host.name()), || {
                let name = format!("twin-{}", host.name());
                host.try_docker(&["rm", "-f", &name]).unwrap();
                host.docker_run(&name, &["--net", "twins"]).map(drop).map_err(|error| format!("{error:#}"))
            });
        }
        reaches(&lab.host(1), "twin-h1", "twin-h2");
        reaches(&lab.host(2), "twin-h2", "twin-h1");
        tidy(&lab, &[(1, "twin-h1"), (2, "twin-h2")], &["twins"]);
        eventually(REMOVED_WITHIN, "end of twins", || {
            let output = lab.host(1).try_weft(&["network", "inspect", "twins"]).unwrap();
            if output.is_success() { Err(output.stdout) } else { Ok(()) }
        });
    }
}

#[test]
fn network_made_with_weft_is_in_every_docker_and_goes_with_it() {
    let lab = shared();
    lab.host(1).weft(&["network", "create", "plain"]).unwrap();
    for host in [lab.host(1), lab.host(2)] {
        eventually(SOON, "plain in Docker", || driver_of(&host, "plain", "weft"));
        host.docker_run(&format!("plain-{}", host.name()), &["--net", "plain"]).unwrap();
    }
    reaches(&lab.host(1), "plain-h1", "plain-h2");
    let v6 = attachment(&lab.host(1), "plain-h1", "plain")["GlobalIPv6Address"].clone();
    reaches(&lab.host(2), "plain-h2", v6.as_str().unwrap());

    for host in [lab.host(1), lab.host(2)] {
        host.docker(&["rm", "-f", &format!("plain-{}", host.name())]).unwrap();
    }
    lab.host(2).weft(&["network", "rm", "plain"]).unwrap();

    tidy(&lab, &[], &["plain"]);
}
