//! What is known, not known yet, unreadable or out of date.

use weft_overlay::{
    id::NetworkId,
    kernel::{NetworkObject, ObjectId, Step},
    keys::{Key, Keyspace},
    model::EndpointReference,
    plan::plan_everything,
    txn::KeyValue,
    view::NodeView,
};

use crate::{
    builder::{container, empty_view, endpoint, ip, leg, member, name_of, network, raw, spec, stored},
    world::World,
};

const NET: &str = "10.32.0.0/24";

#[test]
fn an_unreadable_value_keeps_the_last_good_version_in_force_until_it_is_repaired() {
    let mut view = listed(&content(), 9);
    let key = Key::Endpoint(network(1), ip("10.32.0.18"));
    let mut moved = container(2, 3, &[ip("10.32.0.18")]);
    moved.name = "repaired".parse().unwrap();

    let affected = view.put(network(1), &raw(&key, b"{\"v\":1,\"id\":7}".to_vec(), 11));

    assert!(affected.is_empty(), "{affected:?}");
    assert_eq!(known_name(&view, "10.32.0.18"), Some("ct2"));
    assert_eq!(view.quarantine().count(), 1);
    let (named, reason) = view.quarantine().next().unwrap();
    assert_eq!(named, Keyspace::default().encode(&key));
    assert!(reason.starts_with("value is not a valid record: "), "{reason}");

    view.put(network(1), &stored(&key, &moved, 12));

    assert_eq!(known_name(&view, "10.32.0.18"), Some("repaired"));
    assert_eq!(view.quarantine().count(), 0);
}

#[test]
fn what_is_older_than_an_unreadable_value_neither_replaces_nor_deletes_the_last_good_version() {
    let mut view = listed(&content(), 9);
    let key = Key::Endpoint(network(1), ip("10.32.0.18"));
    view.put(network(1), &raw(&key, b"?".to_vec(), 20));

    view.put(network(1), &stored(&key, &container(3, 3, &[ip("10.32.0.18")]), 19));
    view.delete(network(1), &Keyspace::default().encode(&key), 18);

    assert_eq!(known_name(&view, "10.32.0.18"), Some("ct2"));
    assert_eq!(view.quarantine().count(), 1);

    view.delete(network(1), &Keyspace::default().encode(&key), 21);

    assert_eq!(known_name(&view, "10.32.0.18"), None);
    assert_eq!(view.quarantine().count(), 0);
}

#[test]
fn quarantine_ends_with_the_key() {
    let mut view = listed(&content(), 9);
    let bad_endpoint = raw(&Key::Endpoint(network(1), ip("10.32.0.99")), b"?".to_vec(), 10);
    let bad_name = raw(&Key::NetworkName("net2".parse().unwrap()), b"?".to_vec(), 10);
    view.put(network(1), &bad_endpoint);
    view.set_index(std::slice::from_ref(&bad_name));
    assert_eq!(view.quarantine().count(), 2);

    view.set_network(network(1), content(), 11);
    view.set_index(&[]);

    assert_eq!(view.quarantine().count(), 0, "{:?}", view.quarantine().collect::<Vec<_>>());
}

#[test]
fn a_damaged_reference_that_is_repaired_leaves_quarantine() {
    let mut view = listed(&content(), 9);
    let key = Key::Endpoint(network(1), ip("fd00:32::12"));
    let reference = EndpointReference { v: 1, record: ip("10.32.0.18"), id: endpoint(2) };

    view.put(network(1), &raw(&key, b"?".to_vec(), 10));
    assert_eq!(view.quarantine().count(), 1);
    view.put(network(1), &stored(&key, &reference, 11));

    assert_eq!(view.quarantine().count(), 0);
}

#[test]
fn a_record_under_another_address_than_its_own_is_not_believed() {
    let mut view = listed(&content(), 9);
    let key = Key::Endpoint(network(1), ip("10.32.0.77"));

    view.put(network(1), &stored(&key, &container(7, 2, &[ip("10.32.0.78")]), 10));

    assert_eq!(known_name(&view, "10.32.0.77"), None);
    assert!(view.quarantine().next().unwrap().1.contains("10.32.0.78"));
}

#[test]
fn an_unreadable_name_keeps_its_network_in_the_index() {
    let mut view = empty_view();
    let key = Key::NetworkName("net1".parse().unwrap());
    view.set_index(&[stored(&key, &name_of(1, &spec(1, &[NET])), 1)]);

    view.set_index(&[raw(&key, b"?".to_vec(), 2)]);

    assert_eq!(view.index().count(), 1);
    assert_eq!(view.quarantine().count(), 1);
}

#[test]
fn a_late_event_does_not_bring_a_deleted_endpoint_back() {
    let mut view = listed(&content(), 9);
    let key = Key::Endpoint(network(1), ip("10.32.0.50"));
    let put = stored(&key, &container(5, 2, &[ip("10.32.0.50")]), 10);
    view.put(network(1), &put);
    view.delete(network(1), &put.key, 12);

    view.put(network(1), &put);
    assert_eq!(known_name(&view, "10.32.0.50"), None, "after a repeated event");

    let own = container(6, 1, &[ip("10.32.0.50")]);
    view.set_pending(network(1), own.clone());
    view.set_registered(network(1), own, 11);
    assert_eq!(known_name(&view, "10.32.0.50"), None, "after the late news of a registration");
    assert!(view.local(endpoint(6)).is_none());

    view.set_network(network(1), content(), 20);
    view.put(network(1), &stored(&key, &container(5, 2, &[ip("10.32.0.50")]), 19));
    assert_eq!(known_name(&view, "10.32.0.50"), None, "after an event that is older than the listing");

    view.put(network(1), &stored(&key, &container(5, 2, &[ip("10.32.0.50")]), 21));
    assert_eq!(known_name(&view, "10.32.0.50"), Some("ct5"), "after a new event");
}

#[test]
fn an_old_deletion_and_an_old_listing_change_nothing() {
    let mut view = listed(&content(), 9);
    let put = stored(&Key::Endpoint(network(1), ip("10.32.0.50")), &container(5, 2, &[ip("10.32.0.50")]), 12);
    view.put(network(1), &put);

    let by_deletion = view.delete(network(1), &put.key, 11);
    let by_listing = view.set_network(network(1), Vec::new(), 8);

    assert!(by_deletion.is_empty() && by_listing.is_empty());
    assert_eq!(view.network(network(1)).unwrap().endpoints().count(), 3);
}

#[test]
fn a_listing_that_lacks_what_came_later_takes_nothing_away() {
    let mut view = listed(&content(), 9);
    let put = stored(&Key::Endpoint(network(1), ip("10.32.0.50")), &container(5, 2, &[ip("10.32.0.50")]), 12);
    view.put(network(1), &put);

    view.set_network(network(1), content(), 11);

    assert_eq!(known_name(&view, "10.32.0.50"), Some("ct5"));
}

#[test]
fn a_key_of_another_network_changes_nothing() {
    let mut view = listed(&content(), 9);

    view.delete(network(1), &Keyspace::default().encode(&Key::Spec(network(2))), 30);
    view.put(network(1), &stored(&Key::Spec(network(2)), &spec(2, &[NET]), 31));

    assert_eq!(view.network(network(1)).unwrap().spec.as_ref().unwrap().record, spec(1, &[NET]));
}

#[test]
fn nothing_is_removed_before_it_is_known_which_networks_concern_this_node() {
    let mut world = standing();
    let followed: Vec<NetworkId> = world.view.networks().map(|(id, _)| id).collect();
    world.view = empty_view();

    assert!(removals(&world).is_empty(), "{:?}", removals(&world));

    for network in followed {
        world.view.follow(network);
    }
    world.list_index();
    assert!(removals(&world).is_empty(), "loaded, but no network is listed: {:?}", removals(&world));

    world.list(network(1));
    assert!(world.audit().is_empty(), "{}", world.audit());
}

#[test]
fn a_network_that_is_not_listed_yet_keeps_its_elements_and_another_ones_surplus_stays() {
    let mut world = standing();
    world.view.follow(network(2));
    let said = world.store.delete(&Key::Member(network(1), crate::builder::node(2)));
    world.hear(network(1), said.as_ref());

    let plan = world.pass();

    let flood = |id: &ObjectId| matches!(id, ObjectId::Network(_, NetworkObject::Flood(_)));
    assert!(plan.steps.iter().all(|step| flood(step.id())), "{plan}");
    assert_eq!(plan.steps.len(), 1, "{plan}");

    world.list(network(2));

    let late = world.pass();
    let elements: Vec<String> = late.steps.iter().map(|step| step.id().to_string()).collect();
    assert_eq!(elements, ["element accepted 192.168.56.12 vni 65537", "element vtep 192.168.56.12"]);
}

#[test]
fn the_first_index_settles_what_was_undecided() {
    let mut world = World::default();
    world.view.follow(network(1));
    for kv in content() {
        world.store.kvs.insert(kv.key.clone(), kv);
    }
    world.store.revision = 9;
    world.list(network(1));
    assert!(world.pass().steps.iter().all(|step| step.id().network().is_none()));

    world.list_index();

    let plan = world.pass();
    assert!(plan.steps.iter().any(|step| matches!(step.id(), ObjectId::Network(_, NetworkObject::Bridge))), "{plan}");
}

#[test]
fn the_first_index_and_the_first_listing_name_everything_they_settle() {
    let mut view = empty_view();
    view.follow(network(1));

    let by_listing = view.set_network(network(1), content(), 9);
    let by_index = view.set_index(&[]);

    let everything = view.all();
    assert!(by_listing.iter().all(|id| everything.contains(id)));
    assert!(by_listing.contains(&ObjectId::Network(network(1), NetworkObject::Bridge)));
    assert_eq!(by_index, everything);
    let again = view.set_index(&[]);
    assert!(again.is_empty(), "{again:?}");
}

#[test]
fn an_empty_network_names_its_devices_when_it_is_listed_first() {
    let mut view = listed(&[], 9);
    view.follow(network(2));

    let affected = view.set_network(network(2), Vec::new(), 9);

    assert!(affected.contains(&ObjectId::Network(network(2), NetworkObject::Bridge)), "{affected:?}");
}

#[test]
fn another_intention_for_an_endpoint_names_what_the_former_one_had() {
    let mut view = listed(&content(), 9);
    let mut record = container(6, 1, &[ip("10.32.0.60")]);
    view.set_pending(network(1), record.clone());
    let former = ObjectId::Network(network(1), NetworkObject::BridgeFdb(record.mac));
    record.mac = "02:00:00:00:00:06".parse().unwrap();

    let affected = view.set_pending(network(1), record);

    assert!(affected.contains(&former), "{affected:?}");
}

#[test]
fn what_is_remembered_stays_in_use_until_the_store_speaks_of_it() {
    let mut view = empty_view();
    let record = container(6, 1, &[ip("10.32.0.60")]);
    view.remember(network(1), record.clone());
    view.follow(network(1));
    view.set_network(network(1), content(), 9);

    let local = view.local(endpoint(6)).unwrap();
    assert!(local.registered);
    assert_eq!(view.adrift().count(), 1);

    view.put(network(1), &stored(&Key::Endpoint(network(1), ip("10.32.0.60")), &record, 10));
    assert_eq!(view.adrift().count(), 0);
    assert!(view.local(endpoint(6)).is_some());
    view.remember(network(1), record);
    assert_eq!(view.adrift().count(), 0, "the store has it");
}

#[test]
fn a_replaced_store_counts_though_its_revisions_are_lower_and_what_it_lacks_stays_for_now() {
    let mut view = listed(&content(), 9);
    let kept = Key::Endpoint(network(1), ip("10.32.0.18"));
    let mut restored = container(2, 2, &[ip("10.32.0.18")]);
    restored.name = "restored".parse().unwrap();

    view.replace_network(
        network(1),
        &[stored(&Key::Spec(network(1)), &spec(1, &[NET]), 1), stored(&kept, &restored, 2)],
        3,
    );

    assert_eq!(known_name(&view, "10.32.0.18"), Some("restored"));
    let lacking = view.network(network(1)).unwrap().endpoint(ip("10.32.0.2")).unwrap();
    assert_eq!(lacking.revision, weft_overlay::view::UNCONFIRMED);
    assert_eq!(view.revision(), 3);
    view.put(
        network(1),
        &stored(&Key::Endpoint(network(1), ip("10.32.0.21")), &container(7, 2, &[ip("10.32.0.21")]), 4),
    );
    assert!(known_name(&view, "10.32.0.21").is_some());
    view.set_network(
        network(1),
        vec![stored(&Key::Spec(network(1)), &spec(1, &[NET]), 1), stored(&kept, &restored, 2)],
        5,
    );
    assert_eq!(known_name(&view, "10.32.0.2"), None);
}

#[test]
fn the_end_of_one_record_names_what_the_endpoint_has_by_its_other_one() {
    let mut view = listed(&content(), 9);
    let moving = Key::Endpoint(network(1), ip("10.32.0.19"));
    view.put(network(1), &stored(&moving, &container(1, 1, &[ip("10.32.0.19")]), 10));
    let ends = Key::Endpoint(network(1), ip("10.32.0.20"));
    view.put(network(1), &stored(&ends, &container(1, 2, &[ip("10.32.0.20")]), 11));
    view.set_detaching(endpoint(1));

    let affected = view.delete(network(1), &Keyspace::default().encode(&ends), 12);

    assert!(!view.is_detaching(endpoint(1)));
    assert!(affected.contains(&ObjectId::Network(network(1), NetworkObject::Sandbox(endpoint(1)))), "{affected:?}");
    assert!(affected.contains(&ObjectId::Network(network(1), NetworkObject::Neighbour(ip("10.32.0.19")))));
}

#[test]
fn a_registration_that_was_given_up_is_not_put_to_use_however_often_it_arrives() {
    let mut view = listed(&content(), 9);
    let (key, address) = (Key::Endpoint(network(1), ip("10.32.0.60")), [ip("10.32.0.60")]);
    let arrives = |revision| stored(&key, &container(6, 1, &address), revision);
    view.set_pending(network(1), container(6, 1, &address));
    view.set_unwanted(endpoint(6));

    for revision in [10, 12] {
        view.put(network(1), &arrives(revision));
        assert!(view.local(endpoint(6)).is_none());
        view.delete(network(1), &Keyspace::default().encode(&key), revision + 1);
        assert!(view.local(endpoint(6)).is_none());
        assert_eq!(view.adrift().count(), 0);
    }
    assert_eq!(view.unwanted().collect::<Vec<_>>(), [endpoint(6)]);

    view.put(network(1), &arrives(14));
    let affected = view.clear_unwanted(endpoint(6));

    assert!(affected.contains(&ObjectId::Network(network(1), NetworkObject::Port(endpoint(6)))), "{affected:?}");
    assert!(view.local(endpoint(6)).is_some());
}

fn content() -> Vec<KeyValue> {
    vec![
        stored(&Key::Spec(network(1)), &spec(1, &[NET]), 1),
        stored(&Key::Member(network(1), crate::builder::node(2)), &member(2, 1500), 2),
        stored(&Key::Endpoint(network(1), ip("10.32.0.2")), &leg(1001, 1, &[ip("10.32.0.2")]), 3),
        stored(&Key::Endpoint(network(1), ip("10.32.0.18")), &container(2, 2, &[ip("10.32.0.18")]), 4),
    ]
}

fn listed(kvs: &[KeyValue], revision: i64) -> NodeView {
    let mut view = empty_view();
    view.follow(network(1));
    view.set_network(network(1), kvs.to_vec(), revision);
    view.set_index(&[]);
    view
}

/// A node with network 1 in its kernel.
fn standing() -> World {
    let mut world = World::default();
    for kv in content() {
        world.store.kvs.insert(kv.key.clone(), kv);
    }
    world.store.revision = 9;
    world.view.follow(network(1));
    world.list(network(1));
    world.list_index();
    world.pass();
    assert!(world.audit().is_empty());
    world
}

fn removals(world: &World) -> Vec<String> {
    let plan = plan_everything(&world.view, &world.observed);
    plan.steps.iter().filter(|step| matches!(step, Step::Delete(..))).map(ToString::to_string).collect()
}

fn known_name<'a>(view: &'a NodeView, address: &str) -> Option<&'a str> {
    Some(view.network(network(1))?.endpoint(ip(address))?.record.name.as_str())
}
