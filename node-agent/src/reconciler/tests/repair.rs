//! What somebody else changes, loses or takes away.

use weft_overlay::kernel::{NetworkObject, NodeObject, Object};

use super::node::*;
use crate::reconciler::*;

#[test]
fn the_echo_of_our_own_writes_is_not_doubted() {
    let mut node = Node::settled();
    let echo: Vec<Doubt> =
        node.reconciler.observed().objects.iter().map(|(i, o)| Doubt::Changed(i.clone(), Some(o.clone()))).collect();
    node.kernel.take_readings();

    node.doubt(echo);
    node.pass();

    assert_eq!(node.kernel.take_readings(), 0);
    assert!(node.kernel.take_written().is_empty());
}

#[test]
fn a_change_by_somebody_else_is_repaired_and_nothing_else_is_written() {
    let mut node = Node::settled();
    let row = of(NetworkObject::TunnelFdb(mac("10.32.0.34")));
    let elsewhere = Object::TunnelFdb(ip("192.168.56.99"));
    node.kernel.inside().state.objects.insert(row.clone(), elsewhere.clone());

    node.doubt(vec![Doubt::Changed(row, Some(elsewhere))]);
    node.pass();

    assert_eq!(
        node.kernel.take_written(),
        ["~ fdb 02:42:0a:20:00:22 on wx-0000000001: behind 192.168.56.99 -> behind 192.168.56.12"]
    );
    node.assert_converged();
}

#[test]
fn what_the_notification_says_is_not_believed_but_read() {
    let mut node = Node::settled();
    let row = of(NetworkObject::TunnelFdb(mac("10.32.0.34")));

    node.doubt(vec![Doubt::Changed(row, None)]);
    node.pass();

    assert!(node.kernel.take_written().is_empty(), "it was there all the time");
}

#[test]
fn a_deleted_bridge_comes_back_with_everything_that_was_on_it() {
    let mut node = Node::settled();
    node.kernel.lose(&of(NetworkObject::Bridge));

    node.doubt(vec![Doubt::Object(of(NetworkObject::Bridge))]);
    node.pass();

    node.assert_converged();
}

#[test]
fn a_deleted_port_comes_back_with_its_row_and_its_inside() {
    let mut node = Node::settled();
    node.kernel.lose(&port());

    node.doubt(vec![Doubt::Changed(port(), None)]);
    node.pass();

    node.assert_converged();
}

#[test]
fn a_port_that_vanished_with_its_container_is_told_and_not_made_again() {
    let mut node = Node::settled();
    node.kernel.inside().gone.insert(sandbox());
    node.kernel.lose(&port());
    node.kernel.take_written();
    node.notices();

    node.doubt(vec![
        Doubt::Changed(port(), None),
        Doubt::Changed(of(NetworkObject::BridgeFdb(mac("10.32.0.18"))), None),
    ]);
    node.pass();

    assert_eq!(node.notices(), [Notice::SandboxGone(network(), EndpointId::from_entropy(1))]);
    for _ in 0..3 {
        node.pass();
    }
    assert!(node.kernel.take_written().is_empty());
    assert!(node.notices().is_empty(), "told once, not in every pass");
    assert!(node.wait() >= Duration::from_millis(500), "woken again after {:?}", node.wait());

    node.change(|view| view.set_detaching(EndpointId::from_entropy(1)));
    node.pass();

    node.assert_converged();
    assert!(node.reconciler.is_converged(), "{:?}", node.reconciler.troubles());
}

#[test]
fn the_loop_sleeps_when_all_is_well() {
    let mut node = Node::settled();

    node.pass();

    assert!(node.wait() >= Duration::from_millis(800), "woken again after {:?}", node.wait());
}

#[test]
fn a_silent_change_of_a_setting_is_repaired_within_a_second() {
    let mut node = Node::settled();
    let setting = ObjectId::Node(NodeObject::DataPlaneSettings);
    node.kernel.inside().state.objects.insert(setting, Object::Deviant("bridge-nf-call-iptables is 1".to_owned()));
    if let Some(Object::Leg(leg)) = node.kernel.inside().state.objects.get_mut(&of(NetworkObject::Leg)) {
        leg.tuned = false;
    }

    node.pass_at(node.now + SETTINGS_INTERVAL);

    node.assert_converged();
}

#[test]
fn a_change_inside_of_a_container_is_found_by_looking_there() {
    let mut node = Node::settled();
    if let Some(Object::Sandbox(inside)) = node.kernel.inside().state.objects.get_mut(&sandbox()) {
        inside.default_routes.clear();
    }

    node.pass_at(node.now + SANDBOX_AUDIT_INTERVAL);

    node.assert_converged();
}

#[test]
fn an_audit_repairs_and_counts_what_no_notification_told_of() {
    let mut node = Node::settled();
    node.kernel.lose(&of(NetworkObject::Neighbour(ip("10.32.0.34"))));
    assert_eq!(node.reconciler.counters().audit_findings, 0);

    node.pass_at(node.now + AUDIT_INTERVAL);

    node.assert_converged();
    assert_eq!((node.reconciler.counters().audits, node.reconciler.counters().audit_findings), (2, 1));
}

#[test]
fn lost_notifications_make_everything_be_read_again() {
    let mut node = Node::settled();
    node.kernel.lose(&of(NetworkObject::Vxlan));

    node.doubt(vec![Doubt::Everything]);
    node.pass();

    node.assert_converged();
}

#[test]
fn a_change_of_one_endpoint_is_made_without_reading() {
    let mut node = Node::settled();
    node.kernel.take_readings();

    node.change(|view| view.put(network(), &endpoint(&container(5, 2, "10.32.0.50"), 20)));
    node.pass();

    assert_eq!(node.kernel.take_readings(), 0);
    assert_eq!(node.kernel.take_written().len(), 3);
}
