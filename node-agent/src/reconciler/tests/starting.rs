//! From nothing, from what an earlier life left, and past what is in the way.

use weft_overlay::kernel::{Element, NetworkObject, NodeObject, Object};

use super::node::*;
use crate::reconciler::*;

#[test]
fn an_empty_kernel_becomes_what_the_view_says() {
    let node = Node::settled();

    node.assert_converged();
    assert!(node.reconciler.is_converged());
    assert_eq!(node.reconciler.troubles(), (vec![], vec![]));
}

#[test]
fn nothing_is_planned_on_a_reading_that_failed() {
    let settled = Node::settled();
    let mut node = Node::with(settled.kernel.clone());
    node.kernel.inside().unreadable = true;
    node.kernel.take_written();

    node.learn_everything();
    node.pass();
    node.pass_at(node.now + Duration::from_millis(50));
    assert!(node.kernel.take_written().is_empty());

    node.kernel.inside().unreadable = false;
    node.pass_at(node.now + Duration::from_secs(1));

    assert!(node.kernel.take_written().is_empty(), "everything was in place");
    assert!(node.reconciler.is_converged());
}

#[test]
fn a_restart_in_any_order_of_learning_writes_nothing() {
    for order in ["index first", "network first", "between passes"] {
        let settled = Node::settled();
        let mut node = Node::with(settled.kernel.clone());
        node.kernel.take_written();

        match order {
            "index first" => {
                node.change(|view| {
                    view.follow(network());
                    view.set_index(&[])
                });
                node.change(list);
            }
            "network first" => {
                node.change(|view| {
                    view.follow(network());
                    list(view)
                });
                node.change(|view| view.set_index(&[]));
            }
            _ => {
                node.pass();
                node.change(|view| {
                    view.follow(network());
                    BTreeSet::new()
                });
                node.pass();
                node.change(|view| view.set_index(&[]));
                node.pass();
                node.change(list);
            }
        }
        node.pass();

        assert_eq!(node.kernel.take_written(), Vec::<String>::new(), "{order}");
        node.assert_converged();
        assert!(node.reconciler.is_converged(), "{order}");
    }
}

#[test]
fn what_an_earlier_life_left_over_goes_as_soon_as_that_is_known_and_not_before() {
    let settled = Node::settled();
    let mut node = Node::with(settled.kernel.clone());
    let row = of(NetworkObject::TunnelFdb(mac("10.32.0.99")));
    let pair =
        ObjectId::Node(NodeObject::Element(Element::AcceptedPair(ip("192.168.56.99"), 65_537.try_into().unwrap())));
    let other = ObjectId::Network(NetworkId::from_entropy(2), NetworkObject::Bridge);
    for id in [&row, &pair, &other] {
        node.kernel.inside().state.objects.insert(id.clone(), Object::Present);
    }
    node.kernel.take_written();

    node.pass();
    assert!(node.kernel.take_written().is_empty(), "before anything is loaded");
    node.change(|view| {
        view.follow(network());
        view.set_index(&[])
    });
    node.pass();
    assert_eq!(node.kernel.take_written(), ["- bridge wb-0000000002: present"], "before the network is listed");
    node.change(list);
    node.pass();

    let written = node.kernel.take_written();
    assert_eq!(
        written,
        ["- fdb 02:42:0a:20:00:63 on wx-0000000001: present", "- element accepted 192.168.56.99 vni 65537: present"]
    );
    node.assert_converged();
}

#[test]
fn everything_is_made_when_an_obstacle_goes_away() {
    let mut node = Node::new();
    node.kernel.inside().state.objects.insert(of(NetworkObject::Bridge), foreign());
    node.learn_everything();
    node.pass();
    node.kernel.lose(&of(NetworkObject::Bridge));

    node.doubt(vec![Doubt::Changed(of(NetworkObject::Bridge), None)]);
    node.pass();

    node.assert_converged();
    assert!(node.reconciler.is_converged());
}

#[test]
fn the_first_container_of_a_network_is_attached_without_reading() {
    let mut node = Node::new();
    node.change(|view| view.set_index(&[]));
    node.pass();
    node.kernel.take_readings();

    node.learn_everything();
    node.change(|view| view.set_pending(network(), container(7, 1, "10.32.0.70")));
    node.pass();

    let readings = std::mem::take(&mut node.kernel.inside().readings);
    let dumps = readings.iter().filter(|scope| !matches!(scope, Scope::Sandboxes(_))).count();
    assert_eq!(dumps, 0, "{readings:?}");
}
