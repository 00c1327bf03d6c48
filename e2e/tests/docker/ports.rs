//! Published ports and the way out, which are Docker's own, beside our networks.

use weft_e2e::topology::{OUTSIDE, OUTSIDE_SERVER};

use super::*;

#[test]
fn published_port_is_reachable_from_everywhere_and_shown_by_docker() {
    let lab = shared();
    let (h1, h2) = (lab.host(1), lab.host(2));
    create_network(&lab, "webs", &[]);
    h1.docker(&[
        "run", "-d", "--init", "--name", "web", "--net", "webs", "-p", "8080:80", "lab:net", "sh", "-c",
        "echo served > /www/index.html; exec httpd -f -h /www",
    ])
    .unwrap();
    h2.docker_run("caller", &["--net", "webs"]).unwrap();

    let url = format!("http://{}:8080/", h1.id().underlay_address());
    for host in [&h1, &h2] {
        eventually(SOON, &format!("the port from {}", host.name()), || {
            let output = host.try_exec(&["busybox", "wget", "-qO-", "-T", "2", &url]).unwrap();
            if output.stdout.trim() == "served" { Ok(()) } else { Err(format!("{output:?}")) }
        });
    }
    assert_eq!(h2.docker_sh("caller", "wget -qO- -T 5 http://web/").unwrap().trim(), "served");
    assert_eq!(h2.docker_sh("caller", &format!("wget -qO- -T 5 {url}")).unwrap().trim(), "served");
    assert!(h1.docker(&["ps"]).unwrap().contains("0.0.0.0:8080->80/tcp"));
    h1.docker(&["stop", "-t", "0", "web"]).unwrap();
    let closed = h2.try_exec(&["busybox", "wget", "-qO-", "-T", "2", &url]).unwrap();
    assert!(!closed.is_success(), "{closed:?}");
    tidy(&lab, &[(1, "web"), (2, "caller")], &["webs"]);
}

#[test]
fn containers_reach_the_outside() {
    let lab = shared();
    create_network(&lab, "leaves", &[]);
    lab.host(2).docker_run("leaver", &["--net", "leaves"]).unwrap();

    reaches(&lab.host(2), "leaver", &OUTSIDE_SERVER.to_string());

    assert!(lab.in_netns(OUTSIDE, &["ip", "address"]).unwrap().contains(&OUTSIDE_SERVER.to_string()));
    tidy(&lab, &[(2, "leaver")], &["leaves"]);
}
