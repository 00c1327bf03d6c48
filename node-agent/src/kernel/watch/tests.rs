use weft_overlay::{
    id::NetworkId,
    kernel::{NetworkObject, ObjectId},
};

use super::*;
use crate::kernel::encode::link::LinkRequest;

fn namespace() -> Namespace {
    let made = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        Namespace::current().unwrap()
    };
    thread::spawn(made).join().unwrap()
}

fn object(number: u64) -> ObjectId {
    let address = std::net::IpAddr::from(std::net::Ipv6Addr::from(u128::from(number)));
    ObjectId::Network(NetworkId::from_entropy(number % 2), NetworkObject::Neighbour(address))
}

#[test]
fn lost_notifications_cast_doubt_on_everything_and_the_devices_are_listed_again() {
    let places = Places { host: namespace(), data_plane: namespace(), vxlan_port: 4789 };
    let mut listener = Listener::open(&places, BTreeSet::new()).unwrap();
    let at = listener.sockets.iter().position(|(source, _)| *source == Source::DataPlane).unwrap();
    setsockopt(&listener.sockets[at].1, sockopt::RcvBufForce, &16_384).unwrap();
    let network = NetworkId::from_entropy(1);
    let name = network.bridge_name();
    let mut channel = Channel::new(places.data_plane.clone());
    let created = LinkRequest::named(name.as_str()).group(crate::kernel::mark::GROUP).bridge().create();
    channel.ask(created).unwrap();
    for mtu in 1300..1400 {
        channel.ask(LinkRequest::named(name.as_str()).mtu(mtu).change()).unwrap();
    }

    let doubts = listener.drain(at);

    assert!(doubts.contains(&Doubt::Everything), "{doubts:?}");
    channel.ask(LinkRequest::named(name.as_str()).mtu(1450).change()).unwrap();
    let told = listener.drain(at);
    let bridge = ObjectId::Network(network, NetworkObject::Bridge);
    assert!(told.iter().any(|doubt| matches!(doubt, Doubt::Object(id, _) if *id == bridge)), "{told:?}");
}

#[test]
fn the_latest_report_about_an_object_counts() {
    let mut doubts = Doubts::default();

    doubts.insert(Doubt::Object(object(1), Report::Absent));
    doubts.insert(Doubt::Object(object(1), Report::Changed));

    assert_eq!(doubts.objects, BTreeMap::from([(object(1), Report::Changed)]));
}

#[test]
fn too_many_objects_become_doubts_about_their_networks() {
    let mut doubts = Doubts::default();

    (0..=OBJECTS as u64).for_each(|number| doubts.insert(Doubt::Object(object(number), Report::Changed)));

    assert!(doubts.objects.is_empty());
    assert_eq!(doubts.networks, BTreeSet::from([NetworkId::from_entropy(0), NetworkId::from_entropy(1)]));
}
