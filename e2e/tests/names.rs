//! Names: whom containers find by them, who answers, and what is left to the resolvers of the host.

#![expect(clippy::unwrap_used, reason = "a failed step ends the test, in helpers of tests too")]

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use weft_e2e::topology::{OUTSIDE, OUTSIDE_GATEWAY, OUTSIDE_SERVER};
use weft_e2e::traffic::dns::{self, Answer, DnsServer, Record, Transport};
use weft_e2e::{Endpoint, Lab, SharedLab, dump::settles, eventually};

/// Longest wait for something that takes milliseconds on an idle machine.
const SOON: Duration = Duration::from_secs(10);
const NO_SUCH_NAME: u8 = 3;

fn shared() -> SharedLab {
    Lab::shared().unwrap()
}

/// What the container's own resolver answers.
#[track_caller]
fn lookup(from: &str, name: &str, record: Record) -> Answer {
    dns::ask(from, dns::resolver_of(from).unwrap(), Transport::Udp, name, record).unwrap()
}

fn text(address: IpAddr) -> Vec<String> {
    vec![address.to_string()]
}

/// Waits until the name has these addresses: other nodes hear of an endpoint a moment later.
#[track_caller]
fn resolves(from: &str, name: &str, endpoint: &Endpoint) {
    for (record, address) in [(Record::A, endpoint.v4()), (Record::Aaaa, endpoint.v6())] {
        eventually(SOON, &format!("{name} asked by {from}"), || {
            let answer = lookup(from, name, record);
            if answer.code == 0 && answer.values == text(address) { Ok(()) } else { Err(format!("{answer:?}")) }
        });
    }
}

#[test]
fn container_is_found_by_name_alias_and_name_with_network_on_every_node() {
    let lab = shared();
    lab.create_network("named", &[]).unwrap();
    let server = lab.attach(1, "named1", "named", &["--name", "db", "--alias", "database"]).unwrap();
    lab.attach(2, "named2", "named", &[]).unwrap();
    lab.attach(1, "named3", "named", &[]).unwrap();

    for client in ["named1", "named2", "named3"] {
        for name in ["db", "DB", "database", "db.named", "database.named"] {
            resolves(client, name, &server);
        }
        // The container's own name is not the endpoint's.
        assert_eq!(lookup(client, "named1", Record::A).values, Vec::<String>::new());
    }
    lab.in_netns("named2", &["ping", "-c1", "-W5", "database.named"]).unwrap();
    settles(&lab);
}

#[test]
fn address_is_found_in_reverse() {
    let lab = shared();
    lab.create_network("back", &[]).unwrap();
    let server = lab.attach(1, "back1", "back", &[]).unwrap();
    lab.attach(2, "back2", "back", &[]).unwrap();

    for address in server.addresses() {
        eventually(SOON, &format!("{address} asked by back2"), || {
            let answer = lookup("back2", &dns::reverse_name(address), Record::Ptr);
            if answer.code == 0 && answer.values == ["back1.back"] { Ok(()) } else { Err(format!("{answer:?}")) }
        });
    }
}

#[test]
fn shared_alias_answers_in_rotation() {
    let lab = shared();
    lab.create_network("turns", &[]).unwrap();
    let servers =
        [1, 2, 3].map(|host| lab.attach(host, &format!("turns{host}"), "turns", &["--alias", "web"]).unwrap());
    let wanted: BTreeSet<_> = servers.iter().map(|server| server.v4().to_string()).collect();
    let distinct = |answer: &Answer| answer.values.iter().cloned().collect::<BTreeSet<_>>();
    eventually(SOON, "all of them", || {
        let answer = lookup("turns1", "web", Record::A);
        if distinct(&answer) == wanted { Ok(()) } else { Err(format!("{answer:?}")) }
    });

    let mut first = BTreeSet::new();
    for _ in 0..32 {
        let answer = lookup("turns1", "web", Record::A);
        assert_eq!(distinct(&answer), wanted, "{answer:?}");
        first.insert(answer.values[0].clone());
    }
    assert_eq!(first, wanted);
    // One of them leaves.
    lab.host(3).weft(&["disconnect", "turns", "turns3"]).unwrap();
    eventually(SOON, "two answers", || match lookup("turns1", "web", Record::A).values.len() {
        2 => Ok(()),
        other => Err(format!("{other} answers")),
    });
}

#[test]
fn name_that_is_in_use_is_shared_and_that_is_said() {
    let lab = shared();
    lab.create_network("twins", &[]).unwrap();
    let first = lab.attach(1, "twins1", "twins", &["--name", "twin"]).unwrap();
    assert!(first.warnings.is_empty(), "{first:?}");

    let second = lab.attach(1, "twins2", "twins", &["--name", "twin"]).unwrap();

    let says = |warning: &String| warning.contains("twin") && warning.contains(&first.v4().to_string());
    assert!(second.warnings.iter().any(says), "{second:?}");
    let answer = lookup("twins1", "twin", Record::A).values.into_iter().collect::<BTreeSet<_>>();
    assert_eq!(answer, [first, second].iter().map(|twin| twin.v4().to_string()).collect());
}

#[test]
fn names_of_other_networks_do_not_leak() {
    let lab = shared();
    lab.create_network("mine", &[]).unwrap();
    lab.create_network("theirs", &[]).unwrap();
    let own = lab.attach(1, "mine1", "mine", &["--name", "same"]).unwrap();
    let other = lab.attach(1, "theirs1", "theirs", &["--name", "same"]).unwrap();
    lab.attach(1, "theirs2", "theirs", &["--name", "secret"]).unwrap();
    let server = DnsServer::start(OUTSIDE, OUTSIDE_GATEWAY.into(), &[]).unwrap();
    settles(&lab);

    resolves("mine1", "same", &own);
    resolves("theirs1", "same", &other);
    for name in ["secret", "secret.theirs", "same.theirs"] {
        for record in [Record::A, Record::Aaaa] {
            let answer = lookup("mine1", name, record);
            assert!(answer.code == NO_SUCH_NAME && answer.values.is_empty(), "{name}: {answer:?}");
        }
    }
    let answer = lookup("mine1", &dns::reverse_name(other.v4()), Record::Ptr);
    assert!(answer.values.is_empty(), "{answer:?}");
    // In both networks a container sees both.
    lab.attach(1, "mine1", "theirs", &["--name", "visitor"]).unwrap();
    lab.attach(2, "mine2", "mine", &[]).unwrap();
    resolves(
        "mine1",
        "secret",
        &lab.host(1).endpoints(&["--network", "theirs"]).unwrap().into_iter().find(|e| e.name == "secret").unwrap(),
    );
    drop(server);
}

#[test]
fn other_names_are_asked_of_the_hosts_resolver() {
    let lab = shared();
    lab.create_network("world", &[]).unwrap();
    lab.attach(1, "world1", "world", &[]).unwrap();
    let names = [("www.example.test", OUTSIDE_SERVER.into()), ("v6.example.test", "2001:db8:100::10".parse().unwrap())];
    let server = DnsServer::start(OUTSIDE, OUTSIDE_GATEWAY.into(), &names).unwrap();
    let resolver = dns::resolver_of("world1").unwrap();

    for transport in [Transport::Udp, Transport::Tcp] {
        let own = dns::ask("world1", resolver, transport, "world1", Record::A).unwrap();
        assert_eq!(own.code, 0);
        assert!(own.ttl.is_some_and(|ttl| ttl <= 5), "{own:?}");
    }
    let found = lookup("world1", "www.example.test", Record::A);
    assert_eq!((found.code, found.values), (0, text(OUTSIDE_SERVER.into())));
    assert_eq!(lookup("world1", "v6.example.test", Record::Aaaa).values, ["2001:db8:100::10"]);
    assert_eq!(lookup("world1", "absent.example.test", Record::A).code, NO_SUCH_NAME);
    lab.in_netns("world1", &["ping", "-4", "-c1", "-W5", "www.example.test"]).unwrap();
    // What the cluster knows is nobody else's business.
    assert!(!server.asked().iter().any(|name| name.contains("world1")), "{:?}", server.asked());
}

#[test]
fn names_work_while_the_hosts_resolver_is_away() {
    let lab = shared();
    lab.create_network("cutoff", &[]).unwrap();
    let server = lab.attach(1, "cutoff1", "cutoff", &[]).unwrap();
    lab.attach(2, "cutoff2", "cutoff", &[]).unwrap();

    resolves("cutoff2", "cutoff1", &server);
    lab.in_netns("cutoff2", &["ping", "-c1", "-W5", "cutoff1"]).unwrap();
}

#[test]
fn resolver_file_of_another_author_is_left_alone_and_that_is_said() {
    let lab = shared();
    lab.create_network("author", &[]).unwrap();
    lab.run_container(1, "author1", &[]).unwrap();
    fs::create_dir_all("/etc/netns/author1").unwrap();
    let path = "/etc/netns/author1/resolv.conf";
    let theirs = "# written by hand\nnameserver 198.51.100.53\n";
    fs::write(path, theirs).unwrap();

    let endpoint = lab.attach(1, "author1", "author", &[]).unwrap();

    assert_eq!(fs::read_to_string(path).unwrap(), theirs);
    assert!(endpoint.warnings.iter().any(|warning| warning.contains(path)), "{:?}", endpoint.warnings);
    lab.host(1).weft(&["disconnect", "author", "author1"]).unwrap();
    assert_eq!(fs::read_to_string(path).unwrap(), theirs);
    fs::remove_dir_all("/etc/netns/author1").unwrap();
}

#[test]
fn resolver_file_is_removed_with_the_last_network() {
    let lab = shared();
    lab.create_network("onea", &[]).unwrap();
    lab.create_network("oneb", &[]).unwrap();
    for network in ["onea", "oneb"] {
        lab.attach(1, "one1", network, &[]).unwrap();
    }
    dns::resolver_of("one1").unwrap();

    lab.host(1).weft(&["disconnect", "onea", "one1"]).unwrap();
    dns::resolver_of("one1").unwrap();
    lookup("one1", "one1", Record::A);
    lab.host(1).weft(&["disconnect", "oneb", "one1"]).unwrap();

    eventually(SOON, "no resolver file", || match dns::resolver_of("one1") {
        Err(_) => Ok(()),
        Ok(server) => Err(server.to_string()),
    });
}
