//! What holds for every sequence of events.

use std::{collections::BTreeSet, net::IpAddr};

use proptest::{collection::vec, prelude::*, sample::Index};
use weft_overlay::{
    desired::{Wanted, everything, wanted},
    id::NetworkId,
    kernel::{Element, FdbPort, KernelState, NetworkObject, NodeObject, Object, ObjectId, Place, Scope, Step, Table},
    plan::{Plan, plan_everything},
    view::NodeView,
};

use crate::{
    builder::{empty_view, endpoint, network},
    candidates::candidates,
    happening::{ENDPOINTS, Happening, NETWORKS, happening, happenings, store_happening},
    world::{Said, World, apply, hear},
};

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// The key property: what is affected is never too little. Whatever has happened, passes over what was affected leave
    /// nothing to be found by a comparison of everything.
    #[test]
    fn incremental_passes_leave_an_audit_nothing_to_do(happenings in happenings(60)) {
        let mut world = World::default();

        for happening in &happenings {
            if let Some(plan) = happening.befall(&mut world) {
                check_removals(&world.view, &plan)?;
            }
        }
        let plan = world.pass();
        check_removals(&world.view, &plan)?;

        prop_assert!(world.audit().steps.is_empty(), "an audit still finds\n{}", world.audit());
        if world.view.is_loaded() && world.view.unlisted().next().is_none() {
            prop_assert_eq!(&world.observed, &from_scratch(&world.view));
        }
    }

    /// An audit compares what is there with what `all` names: what is wanted without being named would never be made.
    #[test]
    fn everything_that_is_wanted_is_named(happenings in happenings(40)) {
        let mut world = World::default();
        for happening in &happenings {
            happening.befall(&mut world);
        }

        let named = world.view.all();

        for id in candidates() {
            let is_wanted = matches!(wanted(&world.view, &id), Wanted::Exactly(_));
            prop_assert!(!is_wanted || named.contains(&id), "{} is wanted", id);
        }
    }

    #[test]
    fn a_plan_that_was_carried_out_is_followed_by_an_empty_one(happenings in happenings(40)) {
        let mut world = World::default();
        for happening in &happenings {
            happening.befall(&mut world);
        }

        let plan = world.audit();
        apply(&mut world.observed, &plan);

        prop_assert!(world.audit().is_empty(), "{}", world.audit());
    }

    #[test]
    fn a_snapshot_says_the_same_as_the_events_before_it(happenings in happenings(60)) {
        let mut world = World::default();
        for happening in happenings.iter().filter(|happening| !matches!(happening, Happening::Damage { .. })) {
            happening.befall(&mut world);
        }
        forget_intentions(&mut world.view);
        let mut fresh = empty_view();
        fresh.set_underlay_mtu(world.view.underlay_mtu);
        for (network, _) in world.view.networks() {
            fresh.follow(network);
            fresh.set_network(network, world.store.content_of(network), world.store.revision);
        }
        world.list_index();
        fresh.set_index(&world.store.index());

        for (id, object) in everything(&fresh) {
            prop_assert_eq!(wanted(&world.view, &id), Some(object).into(), "{}", id);
        }
        if world.view.unlisted().next().is_none() {
            prop_assert_eq!(everything(&world.view), everything(&fresh));
        }
    }

    #[test]
    fn the_order_of_events_of_different_keys_does_not_matter(
        happenings in vec(store_happening(), 1..50),
        picks in vec(any::<Index>(), 60),
        repetitions in vec(any::<Index>(), 20),
    ) {
        let mut world = World::default();
        for happening in &happenings {
            happening.befall(&mut world);
        }
        let mut in_order = listed_empty();
        let mut shuffled = listed_empty();

        for said in &world.store.history {
            hear_everywhere(&mut in_order, said);
        }
        let shuffled_history = interleave(&world.store.history, &picks);
        for (at, said) in shuffled_history.iter().enumerate() {
            hear_everywhere(&mut shuffled, said);
            let repeated = repetitions[at % repetitions.len()].get(&shuffled_history[..=at]);
            hear_everywhere(&mut shuffled, repeated);
        }

        // What was in use when its record vanished is the node's own memory, and depends on what it saw in use.
        forget_adrift(&mut in_order);
        forget_adrift(&mut shuffled);

        prop_assert_eq!(everything(&shuffled), everything(&in_order));
        prop_assert_eq!(shuffled.quarantine().collect::<Vec<_>>(), in_order.quarantine().collect::<Vec<_>>());
    }

    #[test]
    fn absorbing_a_reading_replaces_what_its_scope_covers_and_names_the_differences(
        known in proptest::collection::btree_map(0..40usize, 0..2u8, 0..40),
        read in proptest::collection::btree_map(0..40usize, 0..2u8, 0..40),
        kind in 0..5usize,
        members in proptest::collection::btree_set(0..40usize, 0..20),
    ) {
        let ids = sample_ids();
        let scope = scope_of(kind, &members.into_iter().map(|at| ids[at].clone()).collect());
        let state = |objects: std::collections::BTreeMap<usize, u8>| KernelState {
            objects: objects.into_iter().map(|(at, how)| (ids[at].clone(), Object::Deviant(how.to_string()))).collect(),
        };
        let (known, mut read) = (state(known), state(read));
        read.objects.retain(|id, _| scope.covers(id));

        let mut absorbed = known.clone();
        let differing = absorbed.absorb(&scope, read.clone());

        let expected = |id: &ObjectId| if scope.covers(id) { read.objects.get(id) } else { known.objects.get(id) };
        for id in &ids {
            prop_assert_eq!(absorbed.objects.get(id), expected(id), "{}", id);
            prop_assert_eq!(differing.contains(id), expected(id) != known.objects.get(id), "{}", id);
        }
    }

    #[test]
    fn what_is_not_ours_is_never_touched(
        before in happenings(40),
        foreign in vec(any::<Index>(), 1..5),
        after in vec(happening(), 0..30),
    ) {
        let mut world = World::default();
        for happening in &before {
            happening.befall(&mut world);
        }
        world.pass();
        let candidates: Vec<ObjectId> = world.observed.objects.keys().filter(|id| can_be_foreign(id)).cloned().collect();
        prop_assume!(!candidates.is_empty());
        let foreign: BTreeSet<ObjectId> = foreign.iter().map(|at| at.get(&candidates).clone()).collect();
        for id in &foreign {
            world.observed.objects.insert(id.clone(), Object::Foreign("somebody's".to_owned()));
            world.dirty.insert(id.clone());
        }

        for happening in &after {
            let known = world.observed.clone();
            if let Some(plan) = happening.befall(&mut world) {
                check_untouched(&known, &plan)?;
            }
        }
        let known = world.observed.clone();
        check_untouched(&known, &world.pass())?;
        check_untouched(&world.observed, &world.audit())?;

        for id in &foreign {
            prop_assert!(matches!(world.observed.objects.remove(id), Some(Object::Foreign(_))), "{} was changed", id);
            world.dirty.insert(id.clone());
        }
        world.pass();
        prop_assert!(world.audit().is_empty(), "after the obstacles went away an audit finds\n{}", world.audit());
    }
}

/// Nothing is concluded from the absence of what was never listed.
fn check_removals(view: &NodeView, plan: &Plan) -> Result<(), TestCaseError> {
    for step in &plan.steps {
        let Step::Delete(id, _) = step else { continue };
        let is_unknown = |network: NetworkId| view.follows(network) && view.network(network).is_none();
        prop_assert!(view.is_loaded() || id.network().is_none(), "{} before anything was loaded", step);
        prop_assert!(!id.network().is_some_and(is_unknown), "{} before its network was listed", step);
        let may_be_needed = !view.is_loaded() || view.unlisted().next().is_some();
        prop_assert!(id.network().is_some() || !may_be_needed, "{} while a network is not listed", step);
    }
    Ok(())
}

fn from_scratch(view: &NodeView) -> KernelState {
    let mut observed = KernelState::default();
    let plan = plan_everything(view, &observed);
    apply(&mut observed, &plan);
    observed
}

fn forget_intentions(view: &mut NodeView) {
    for endpoint in (1..=ENDPOINTS).map(endpoint) {
        view.clear_pending(endpoint);
        view.clear_detaching(endpoint);
    }
}

fn listed_empty() -> NodeView {
    let mut view = empty_view();
    for network in (1..=NETWORKS).map(network) {
        view.follow(network);
        view.set_network(network, Vec::new(), 0);
    }
    view.set_index(&[]);
    view
}

fn hear_everywhere(view: &mut NodeView, said: &Said) {
    for network in (1..=NETWORKS).map(network) {
        hear(view, network, said);
    }
}

/// The same events in another order, in which those of one key keep theirs.
fn interleave(history: &[Said], picks: &[Index]) -> Vec<Said> {
    let mut rest: Vec<Said> = history.to_vec();
    let mut result = Vec::new();
    while !rest.is_empty() {
        let picked = picks[result.len() % picks.len()].index(rest.len());
        let first = rest.iter().position(|said| said.key() == rest[picked].key()).unwrap();
        result.push(rest.remove(first));
    }
    result
}

/// Of the node and of three networks, with the insides of containers.
fn sample_ids() -> Vec<ObjectId> {
    let of_network = |net| {
        let rows = (0..4).map(|n| NetworkObject::Neighbour(IpAddr::from([10, 0, 0, n])));
        let ports = (0..2).flat_map(|n| [NetworkObject::Port(endpoint(n)), NetworkObject::Sandbox(endpoint(n))]);
        let devices = [NetworkObject::Bridge, NetworkObject::Vxlan, NetworkObject::Leg];
        devices.into_iter().chain(rows).chain(ports).map(move |object| ObjectId::Network(network(net), object))
    };
    let node = [
        NodeObject::HostForwarding,
        NodeObject::DataPlaneSettings,
        NodeObject::Table(Table::Host),
        NodeObject::Table(Table::DataPlane),
        NodeObject::Element(Element::Vtep(IpAddr::from([10, 0, 0, 1]))),
        NodeObject::Element(Element::Gateway(IpAddr::from([10, 0, 0, 1]))),
        NodeObject::ForeignAccepts,
    ];
    let ids: Vec<ObjectId> = node.into_iter().map(ObjectId::Node).chain((1..=3).flat_map(of_network)).collect();
    assert_eq!(ids.len(), 40);
    ids
}

fn scope_of(kind: usize, members: &BTreeSet<ObjectId>) -> Scope {
    match kind {
        0 => Scope::Everything,
        1 => Scope::Node,
        2 => Scope::Network(network(2)),
        3 => Scope::Objects(members.iter().filter(|id| !id.is_sandbox()).cloned().collect()),
        _ => {
            let place = |id: &ObjectId| {
                let ifname = "eth0".parse().unwrap();
                (id.clone(), Place { path: "/run/netns/ct".to_owned(), dev: 4, inode: 1, ifname })
            };
            Scope::Sandboxes(members.iter().filter(|id| id.is_sandbox()).map(place).collect())
        }
    }
}

fn can_be_foreign(id: &ObjectId) -> bool {
    id.is_device() || matches!(id, ObjectId::Node(NodeObject::Table(_)))
}

/// No step is about what is foreign, nor about what is written to it.
fn check_untouched(known: &KernelState, plan: &Plan) -> Result<(), TestCaseError> {
    for step in &plan.steps {
        for ground in grounds(step) {
            let object = known.objects.get(&ground);
            prop_assert!(!matches!(object, Some(Object::Foreign(_))), "{} touches {}", step, ground);
        }
    }
    Ok(())
}

fn grounds(step: &Step) -> Vec<ObjectId> {
    use NetworkObject::{
        Bridge, BridgeFdb, Flood, Leg, LegAddress, LegRoute, Neighbour, Port, Sandbox, TunnelFdb, Vxlan,
    };
    let mut grounds = vec![step.id().clone()];
    match step.id() {
        ObjectId::Network(network, object) => {
            let object = match (object, step) {
                (LegAddress(_) | LegRoute(_), _) => Some(Leg),
                (TunnelFdb(_) | Flood(_), _) => Some(Vxlan),
                (Sandbox(endpoint), _) => Some(Port(*endpoint)),
                (
                    BridgeFdb(_),
                    Step::Create(_, Object::BridgeFdb(port))
                    | Step::Replace { desired: Object::BridgeFdb(port), .. }
                    | Step::Delete(_, Object::BridgeFdb(port)),
                ) => match port {
                    FdbPort::Vxlan => Some(Vxlan),
                    FdbPort::Leg => Some(Leg),
                    FdbPort::Port(endpoint) => Some(Port(*endpoint)),
                    FdbPort::Other => None,
                },
                _ => None,
            };
            grounds.extend(object.map(|object| ObjectId::Network(*network, object)));
            if matches!(step.id(), ObjectId::Network(_, BridgeFdb(_) | Neighbour(_))) {
                grounds.push(ObjectId::Network(*network, Bridge));
            }
        }
        ObjectId::Node(NodeObject::Element(element)) => {
            let table = match element {
                Element::PortMac(..) | Element::PortAddress(..) | Element::Gateway(_) => Table::DataPlane,
                _ => Table::Host,
            };
            grounds.push(ObjectId::Node(NodeObject::Table(table)));
        }
        ObjectId::Node(_) => {}
    }
    grounds
}

fn forget_adrift(view: &mut NodeView) {
    let adrift: Vec<_> = view.adrift().map(|(_, record)| record.id).collect();
    for endpoint in adrift {
        view.clear_pending(endpoint);
    }
}
