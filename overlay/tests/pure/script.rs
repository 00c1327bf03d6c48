//! The language of the golden files: what happens to a node, one command a line.
//!
//! `network NET SUBNET.. [mtu N] [internal]`, `member NET HOST [mtu N] [vtep A]`, `leg NET HOST ADDRESS..`,
//! `container NET HOST CT ADDRESS.. [mac M] [publish [IP:]PORT:PORT] [secondary] [boot NAME]` change the store, as do
//! `remove NET`, `leave NET HOST` and `release NET CT`. `prepare` and `register` with the words of `container`,
//! `give-up CT`, `detach CT`, `unfollow NET`, `underlay MTU` and `restart` happen on node h1. `kernel lose ID`,
//! `kernel is ID = foreign WHAT`, `kernel is ID = gone` and `kernel is ID = deviant WHAT` happen to its kernel.
//! `plan` shows what is to be done and does it.

use std::net::IpAddr;

use weft_overlay::{
    id::NetworkId,
    kernel::{Object, ObjectId},
    keys::Key,
    model::{EndpointRecord, NetworkSpec, Protocol, PublishedPort},
};

use crate::{
    builder::{container, endpoint, leg, member, name_of, network, node, spec},
    world::World,
};

/// Carries out one command; answers what it prints.
pub(crate) fn run(world: &mut World, command: &str) -> String {
    let words: Vec<&str> = command.split_whitespace().collect();
    match words.as_slice() {
        ["plan"] => return plan(world),
        ["restart"] => world.restart(),
        ["network", net, rest @ ..] => add_network(world, number(net), rest),
        ["remove", net] => remove_network(world, number(net)),
        ["unfollow", net] => world.change(|view| view.unfollow(network(number(net)))),
        ["member", net, host, rest @ ..] => {
            let mut record = member(number(host), after(rest, "mtu").map_or(1500, |mtu| mtu.parse().unwrap()));
            record.vtep = after(rest, "vtep").map_or(record.vtep, |vtep| vtep.parse().unwrap());
            let said = world.store.put(&Key::Member(network(number(net)), node(number(host))), &record);
            world.hear(network(number(net)), Some(&said));
        }
        ["leave", net, host] => {
            let said = world.store.delete(&Key::Member(network(number(net)), node(number(host))));
            world.hear(network(number(net)), said.as_ref());
        }
        ["leg", net, host, rest @ ..] => {
            let record = leg(1000 * number(net) + number(host), number(host), &addresses(rest));
            add_endpoint(world, network(number(net)), &record);
        }
        ["container", net, host, ct, rest @ ..] => {
            add_endpoint(world, network(number(net)), &container_of(host, ct, rest));
        }
        ["prepare", net, host, ct, rest @ ..] => {
            world.change(|view| view.set_pending(network(number(net)), container_of(host, ct, rest)));
        }
        ["register", net, host, ct, rest @ ..] => {
            let record = container_of(host, ct, rest);
            let ip = record.primary_address().unwrap();
            world.store.put(&Key::Endpoint(network(number(net)), ip), &record);
            let revision = world.store.revision;
            world.change(|view| view.set_registered(network(number(net)), record, revision));
        }
        ["give-up", ct] => world.change(|view| view.clear_pending(endpoint(number(ct)))),
        ["detach", ct] => world.change(|view| view.set_detaching(endpoint(number(ct)))),
        ["release", net, ct] => release(world, network(number(net)), number(ct)),
        ["underlay", mtu] => world.change(|view| view.set_underlay_mtu(mtu.parse().unwrap())),
        ["kernel", "lose", ..] => {
            let id = find(world, command.trim_start_matches("kernel lose "));
            world.observed.objects.remove(&id);
            world.dirty.insert(id);
        }
        ["kernel", "is", ..] => kernel_is(world, command.trim_start_matches("kernel is ")),
        _ => panic!("unknown command {command:?}"),
    }
    String::new()
}

/// The plan for what is dirty, which must be the same as the plan for everything.
fn plan(world: &mut World) -> String {
    let audit = world.audit();
    let plan = world.pass();
    assert_eq!(plan.to_string(), audit.to_string(), "what was affected is not what has to change");
    plan.to_string()
}

fn add_network(world: &mut World, number: u64, rest: &[&str]) {
    let subnets: Vec<&str> = rest.iter().copied().filter(|word| word.contains('/')).collect();
    let spec = NetworkSpec {
        mtu: after(rest, "mtu").map(|mtu| mtu.parse().unwrap()),
        internal: rest.contains(&"internal"),
        ..spec(number, &subnets)
    };
    world.store.put(&Key::NetworkName(spec.name.clone()), &name_of(number, &spec));
    let said = world.store.put(&Key::Spec(network(number)), &spec);
    if world.view.follows(network(number)) {
        world.hear(network(number), Some(&said));
    } else {
        world.view.follow(network(number));
        world.list(network(number));
    }
    world.list_index();
}

fn remove_network(world: &mut World, number: u64) {
    world.store.delete(&Key::NetworkName(format!("net{number}").parse().unwrap()));
    let said = world.store.delete(&Key::Spec(network(number)));
    world.hear(network(number), said.as_ref());
    world.list_index();
}

fn add_endpoint(world: &mut World, network: NetworkId, record: &EndpointRecord) {
    let said = world.store.put(&Key::Endpoint(network, record.primary_address().unwrap()), record);
    world.hear(network, Some(&said));
}

fn release(world: &mut World, network: NetworkId, ct: u64) {
    let ip = world.view.network(network).and_then(|view| view.endpoint_by_id(endpoint(ct)));
    let ip = ip.unwrap_or_else(|| panic!("ct{ct} is not there")).record.primary_address().unwrap();
    let said = world.store.delete(&Key::Endpoint(network, ip));
    world.hear(network, said.as_ref());
    world.change(|view| view.clear_detaching(endpoint(ct)));
}

fn container_of(host: &str, ct: &str, rest: &[&str]) -> EndpointRecord {
    let mut record = container(number(ct), number(host), &addresses(rest));
    if let Some(mac) = after(rest, "mac") {
        record.mac = mac.parse().unwrap();
    }
    record.published.extend(after(rest, "publish").map(published));
    let sandbox = record.sandbox.as_mut().unwrap();
    sandbox.default_route = !rest.contains(&"secondary");
    if let Some(boot) = after(rest, "boot") {
        boot.clone_into(&mut sandbox.boot_id);
    }
    record
}

fn published(text: &str) -> PublishedPort {
    let (rest, port) = text.rsplit_once(':').unwrap();
    let (host_ip, host_port) = rest.rsplit_once(':').map_or((None, rest), |(ip, port)| (Some(ip), port));
    PublishedPort {
        protocol: Protocol::Tcp,
        host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        host_port: host_port.parse().unwrap(),
        port: port.parse().unwrap(),
    }
}

fn kernel_is(world: &mut World, text: &str) {
    let (id, object) = text.split_once(" = ").unwrap();
    let id = find(world, id);
    let object = match object.split_once(' ') {
        Some(("foreign", what)) => Object::Foreign(what.to_owned()),
        Some(("deviant", what)) => Object::Deviant(what.to_owned()),
        _ if object == "gone" => Object::Gone,
        _ => panic!("unknown object {object:?}"),
    };
    world.observed.objects.insert(id.clone(), object);
    world.dirty.insert(id);
}

/// The object that is printed like this, wanted or there.
fn find(world: &World, text: &str) -> ObjectId {
    let ids = world.view.all().into_iter().chain(world.observed.objects.keys().cloned());
    ids.into_iter().find(|id| id.to_string() == text).unwrap_or_else(|| panic!("no object is called {text:?}"))
}

fn addresses(words: &[&str]) -> Vec<IpAddr> {
    words.iter().map_while(|word| word.parse().ok()).collect()
}

fn after<'a>(words: &[&'a str], word: &str) -> Option<&'a str> {
    words.iter().position(|w| *w == word).map(|at| words[at + 1])
}

/// The number in a name such as `net1`.
fn number(name: &str) -> u64 {
    name.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or_else(|_| panic!("{name} has no number"))
}
