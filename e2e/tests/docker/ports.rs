//! Published ports and the way out, which are Docker's own, beside our networks.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use weft_e2e::topology::{OUTSIDE, OUTSIDE_SERVER};

use super::*;

/// Asks a host's neighbour for its page, by HTTP.
fn fetch(from: &Host, target: SocketAddr) -> io::Result<String> {
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(2))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    from.netns().enter(ask).unwrap()
}

#[test]
fn published_port_is_reachable_from_everywhere_and_shown_by_docker() {
    let lab = shared();
    let (h1, h2) = (lab.host(1), lab.host(2));
    create_network(&lab, "webs", &[]);
    h1.docker(&[
        "run",
        "-d",
        "--init",
        "--name",
        "web",
        "--net",
        "webs",
        "-p",
        "8080:80",
        "lab:net",
        "sh",
        "-c",
        "echo served > /www/index.html; exec httpd -f -h /www",
    ])
    .unwrap();
    h2.docker_run("caller", &["--net", "webs"]).unwrap();

    for host in [&h1, &h2] {
        eventually(SOON, &format!("the port from {}", host.name()), || {
            let answer = fetch(host, SocketAddr::from((h1.id().underlay_address(), 8080)));
            if answer.as_ref().is_ok_and(|text| text.ends_with("served\n")) {
                Ok(())
            } else {
                Err(format!("{answer:?}"))
            }
        });
    }
    for target in ["web 80".to_owned(), format!("{} 8080", h1.id().underlay_address())] {
        let answer =
            h2.docker_sh("caller", &format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {target}")).unwrap();
        assert!(answer.ends_with("served\n"), "{target}: {answer}");
    }
    assert!(h1.docker(&["ps"]).unwrap().contains("0.0.0.0:8080->80/tcp"));
    h1.docker(&["stop", "-t", "0", "web"]).unwrap();
    let closed = fetch(&h2, SocketAddr::from((h1.id().underlay_address(), 8080)));
    assert!(closed.is_err(), "{closed:?}");
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
