//! What fails: retried, reported, and told to who waits.

use tokio::sync::mpsc::unbounded_channel;
use weft_overlay::kernel::NetworkObject;

use super::{node::*, scripted::Scripted};
use crate::reconciler::*;

#[test]
fn a_failing_step_is_reported_and_retried_at_growing_intervals() {
    let mut node = Node::settled();
    let flood = of(NetworkObject::Flood(ip("192.168.56.13")));
    node.kernel.inside().broken.insert(flood.clone());

    let settled = node.change_and_wait(|view| view.put(network(), &member(3, 20)));

    assert_eq!(
        settled,
        ["flood 192.168.56.13 on wx-0000000001: writing flood 192.168.56.13 on wx-0000000001: device or resource busy"]
    );
    assert_eq!(node.reconciler.troubles().1, settled);
    let mut intervals = Vec::new();
    for _ in 0..10 {
        node.kernel.take_written();
        let wake = node.reconciler.failures.next_retry().unwrap();
        intervals.push(u64::try_from((wake - node.now).as_millis()).unwrap());
        node.pass_at(wake - Duration::from_millis(1));
        assert!(node.kernel.take_written().is_empty(), "tried too early");
        node.pass_at(wake);
        assert_eq!(node.kernel.take_written().len(), 1, "not tried again");
    }
    assert_eq!(intervals, [50, 100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);

    node.kernel.inside().broken.clear();
    node.pass_at(node.now + Duration::from_secs(10));

    node.assert_converged();
    assert!(node.reconciler.is_converged());
}

#[test]
fn what_failed_is_tried_at_once_when_an_obstruction_is_gone() {
    let mut node = Node::settled();
    let flood = of(NetworkObject::Flood(ip("192.168.56.13")));
    node.kernel.inside().broken.insert(flood);
    node.change_and_wait(|view| view.put(network(), &member(3, 20)));
    for _ in 0..10 {
        let wake = node.reconciler.failures.next_retry().unwrap();
        node.pass_at(wake);
    }
    node.kernel.inside().broken.clear();
    node.pass();
    assert!(!node.reconciler.is_converged(), "tried too early");

    node.doubt(vec![Doubt::Obstruction]);
    node.pass();

    node.assert_converged();
    assert!(node.reconciler.is_converged());
}

#[test]
fn other_steps_are_done_though_one_fails() {
    let mut node = Node::new();
    node.kernel.inside().broken.insert(of(NetworkObject::Leg));

    node.learn_everything();
    node.pass();

    let missing: Vec<String> = node.differences().iter().map(ToString::to_string).collect();
    assert_eq!(missing, ["leg weft-0000000001"]);
}

#[test]
fn a_failed_step_inside_of_a_container_does_not_pass_for_a_vanished_interface() {
    let mut node = Node::settled();
    node.kernel.inside().broken.insert(sandbox());

    node.change(|view| view.set_underlay_mtu(1400));
    node.pass();
    node.kernel.take_written();
    let retry = node.reconciler.failures.next_retry().unwrap();
    node.pass_at(retry);

    let written = node.kernel.take_written();
    assert_eq!(written.len(), 1, "{written:?}");
    assert!(written[0].starts_with("~ sandbox"), "{written:?}");
}

#[test]
fn who_waits_is_told_of_what_is_in_the_way() {
    let mut node = Node::new();
    node.kernel.inside().state.objects.insert(of(NetworkObject::Bridge), foreign());

    let settled = node.change_and_wait(learn_everything);

    assert_eq!(
        settled,
        ["! bridge wb-0000000001: a bridge of somebody's is in the way and not ours; remove or rename it"]
    );
    assert!(!node.reconciler.is_converged());
}

#[test]
fn who_waits_is_told_of_what_is_not_known_yet() {
    let mut node = Node::new();
    let pending = |view: &mut NodeView| view.set_pending(network(), container(1, 1, "10.32.0.18"));

    let unloaded = node.change_and_wait(pending);
    assert_eq!(unloaded, ["network 0000000001: the networks of this node are not known yet"]);

    node.change(|view| {
        view.follow(network());
        view.set_index(&[])
    });
    let unlisted = node.change_and_wait(pending);
    assert_eq!(unlisted, ["network 0000000001 is not listed yet"]);
}

#[test]
fn who_waits_is_told_when_the_kernel_cannot_be_read() {
    let mut node = Node::settled();
    let flood = of(NetworkObject::Flood(ip("192.168.56.12")));
    node.kernel.inside().unreadable = true;
    node.doubt(vec![Doubt::Object(flood)]);

    let settled = node.change_and_wait(|view| view.put(network(), &member(2, 20)));

    assert!(settled.iter().any(|text| text.contains("no buffer space")), "{settled:?}");
}

#[test]
fn a_change_that_needs_nothing_is_answered_at_once() {
    let mut node = Node::settled();

    assert!(node.change_and_wait(|view| view.put(network(), &member(2, 20))).is_empty());
}

#[test]
fn a_doubt_is_kept_while_the_kernel_cannot_be_read() {
    let mut node = Node::settled();
    let row = of(NetworkObject::TunnelFdb(mac("10.32.0.34")));
    node.kernel.lose(&row);
    node.kernel.inside().unreadable = true;
    node.doubt(vec![Doubt::Object(row)]);
    node.kernel.take_readings();

    node.pass();
    node.pass();
    node.pass();

    assert_eq!(node.kernel.take_readings(), 1, "it is not read again and again");
    assert!(!node.reconciler.is_converged());
    assert!(node.reconciler.troubles().1[0].starts_with("the kernel could not be read: reading links in weft"));

    node.kernel.inside().unreadable = false;
    node.pass_at(node.now + Duration::from_millis(50));

    node.assert_converged();
    assert!(node.reconciler.is_converged());
}

#[test]
fn an_unreadable_container_holds_up_nothing_else() {
    let mut node = Node::settled();
    node.kernel.lose(&port());
    node.kernel.inside().unreadable_sandboxes = true;
    let row = of(NetworkObject::TunnelFdb(mac("10.32.0.34")));
    node.kernel.lose(&row);

    node.doubt(vec![Doubt::Changed(port(), None), Doubt::Changed(row.clone(), None)]);
    node.pass();

    assert!(!node.differences().contains(&row));
    assert!(node.differences().contains(&port()), "whether the container is there is not known");

    node.kernel.inside().unreadable_sandboxes = false;
    node.pass_at(node.now + Duration::from_millis(50));

    node.assert_converged();
}

#[test]
fn somebody_who_works_against_us_does_not_make_us_spin() {
    let mut node = Node::settled();
    let row = of(NetworkObject::TunnelFdb(mac("10.32.0.34")));
    node.kernel.inside().broken.insert(row.clone());
    node.kernel.inside().contested.insert(row.clone());
    node.kernel.lose(&row);
    node.kernel.take_written();

    node.doubt(vec![Doubt::Object(row)]);
    node.pass();

    assert_eq!(node.kernel.take_written().len(), ROUNDS);
    assert!(!node.reconciler.is_converged());
    assert!(node.wait() >= Duration::from_millis(50), "woken again after {:?}", node.wait());
}

#[test]
fn devices_out_of_use_are_swept_later_and_again_when_that_fails() {
    let mut node = Node::settled();
    node.kernel.inside().sweep_fails = true;

    node.change(|view| view.set_detaching(EndpointId::from_entropy(1)));
    node.pass();
    assert_eq!(node.kernel.inside().sweeps, 0, "not while somebody waits");
    node.pass_at(node.now + SWEEP_DELAY);
    assert_eq!(node.kernel.inside().sweeps, 1);
    node.kernel.inside().sweep_fails = false;
    node.pass_at(node.now + SWEEP_RETRY);
    node.pass_at(node.now + SWEEP_RETRY);

    assert_eq!(node.kernel.inside().sweeps, 2);
}

#[test]
fn the_loop_answers_who_waits_and_ends_with_its_inputs() {
    let kernel = Scripted::default();
    let (notices, _receiver) = unbounded_channel();
    let reconciler = Reconciler::new(kernel.clone(), empty_view(), notices);
    let (inputs, receiver) = mpsc::channel();
    let thread = std::thread::spawn(move || reconciler.run(&receiver));
    let (done, settled) = oneshot::channel();

    inputs.send(Input::Change { change: Box::new(learn_everything), done: Some(done) }).unwrap();

    assert_eq!(settled.blocking_recv().unwrap(), Vec::<String>::new());
    assert!(kernel.inside().state.objects.contains_key(&port()));
    drop(inputs);
    thread.join().unwrap();
    assert!(kernel.inside().state.objects.contains_key(&port()), "the kernel is left as it is");
}
