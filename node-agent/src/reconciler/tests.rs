use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use weft_overlay::{
    codec::encode_record,
    desired::everything,
    id::{Mac, NodeId},
    kernel::{Element, NodeObject, Object},
    keys::{Key, Keyspace},
    model::{EndpointKind, EndpointRecord, MemberRecord, NetworkSpec, NetworkState, Sandbox, SubnetSpec},
    txn::KeyValue,
    view::NodeConfig,
};

use super::*;
use scripted::Scripted;

mod scripted;

const BOOT: &str = "this-boot";

#[test]
fn an_empty_kernel_becomes_what_the_view_says() {
    let node = Node::settled();

    node.assert_converged();
    assert!(node.reconciler.is_converged());
    assert_eq!(node.reconciler.troubles(), (vec![], vec![]));
}

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
fn a_change_of_one_endpoint_is_made_without_reading() {
    let mut node = Node::settled();
    node.kernel.take_readings();

    node.change(|view| view.put(network(), &endpoint(&container(5, 2, "10.32.0.50"), 20)));
    node.pass();

    assert_eq!(node.kernel.take_readings(), 0);
    assert_eq!(node.kernel.take_written().len(), 3);
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

/// A node with network 1: its leg, a container of its own, a peer with another one.
struct Node {
    kernel: Scripted,
    reconciler: Reconciler<Scripted>,
    notices: UnboundedReceiver<Notice>,
    now: Instant,
}

impl Node {
    fn new() -> Self {
        Self::with(Scripted::default())
    }

    fn with(kernel: Scripted) -> Self {
        let (sender, notices) = unbounded_channel();
        let reconciler = Reconciler::new(kernel.clone(), empty_view(), sender);
        Self { kernel, reconciler, notices, now: Instant::now() }
    }

    /// Everything is known and done.
    fn settled() -> Self {
        let mut node = Self::new();
        node.learn_everything();
        node.pass();
        node.assert_converged();
        node.kernel.take_written();
        node
    }

    fn learn_everything(&mut self) {
        self.change(learn_everything);
    }

    fn change(&mut self, change: impl FnOnce(&mut NodeView) -> BTreeSet<ObjectId> + Send + 'static) {
        self.reconciler.take(Input::Change { change: Box::new(change), done: None });
    }

    fn change_and_wait(
        &mut self,
        change: impl FnOnce(&mut NodeView) -> BTreeSet<ObjectId> + Send + 'static,
    ) -> Settled {
        let (done, mut settled) = oneshot::channel();
        self.reconciler.take(Input::Change { change: Box::new(change), done: Some(done) });
        self.pass();
        settled.try_recv().expect("every pass answers who waits")
    }

    fn doubt(&mut self, doubts: Vec<Doubt>) {
        self.reconciler.take(Input::Doubts(doubts));
    }

    fn pass(&mut self) {
        self.reconciler.pass_at(self.now);
    }

    fn pass_at(&mut self, now: Instant) {
        self.now = now;
        self.pass();
    }

    fn wait(&self) -> Duration {
        self.reconciler.next_wake(self.now) - self.now
    }

    fn notices(&mut self) -> Vec<Notice> {
        let notices = std::iter::from_fn(|| self.notices.try_recv().ok());
        notices.filter(|notice| !matches!(notice, Notice::EndpointsChanged(_))).collect()
    }

    /// Objects that are not in the kernel as they should be, or are there and should not.
    fn differences(&self) -> BTreeSet<ObjectId> {
        let desired: std::collections::BTreeMap<ObjectId, Object> =
            everything(self.reconciler.view()).into_iter().collect();
        let actual = &self.kernel.inside().state.objects;
        let ids: BTreeSet<&ObjectId> = desired.keys().chain(actual.keys()).collect();
        ids.into_iter().filter(|id| desired.get(id) != actual.get(id)).cloned().collect()
    }

    /// The kernel is as it should be, and what is believed of it is true.
    fn assert_converged(&self) {
        assert_eq!(self.differences(), BTreeSet::new());
        assert_eq!(self.reconciler.observed(), &self.kernel.inside().state);
    }
}

fn empty_view() -> NodeView {
    let config =
        NodeConfig { node: NodeId::from_entropy(1), boot_id: BOOT.to_owned(), vtep: vtep(1), vxlan_port: 4789 };
    NodeView::new(config, Keyspace::default(), 1500)
}

fn learn_everything(view: &mut NodeView) -> BTreeSet<ObjectId> {
    view.follow(network());
    let mut affected = view.set_index(&[]);
    affected.extend(list(view));
    affected
}

fn list(view: &mut NodeView) -> BTreeSet<ObjectId> {
    let leg = EndpointRecord { kind: EndpointKind::Leg, sandbox: None, ..container(1001, 1, "10.32.0.2") };
    let kvs = [
        stored(&Key::Spec(network()), encode_record(&spec()), 1),
        member(1, 2),
        member(2, 3),
        endpoint(&leg, 4),
        endpoint(&container(1, 1, "10.32.0.18"), 5),
        endpoint(&container(2, 2, "10.32.0.34"), 6),
    ];
    view.set_network(network(), &kvs, 10)
}

fn network() -> NetworkId {
    NetworkId::from_entropy(1)
}

fn of(object: NetworkObject) -> ObjectId {
    ObjectId::Network(network(), object)
}

/// The port of this node's container.
fn port() -> ObjectId {
    of(NetworkObject::Port(EndpointId::from_entropy(1)))
}

/// The inside of this node's container.
fn sandbox() -> ObjectId {
    of(NetworkObject::Sandbox(EndpointId::from_entropy(1)))
}

fn foreign() -> Object {
    Object::Foreign("a bridge of somebody's".to_owned())
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn mac(address: &str) -> Mac {
    Mac::derived_from(ip(address))
}

fn vtep(node: u8) -> IpAddr {
    IpAddr::from([192, 168, 56, 10 + node])
}

fn spec() -> NetworkSpec {
    let subnet =
        SubnetSpec { subnet: "10.32.0.0/24".parse().unwrap(), gateway: ip("10.32.0.1"), ip_range: None, block_len: 28 };
    NetworkSpec {
        v: 1,
        name: "net1".parse().unwrap(),
        vni: 65_537.try_into().unwrap(),
        subnets: vec![subnet],
        mtu: None,
        internal: false,
        labels: [].into(),
        state: NetworkState::Active,
        force_delete: false,
        extra: [].into(),
    }
}

fn member(node: u8, revision: i64) -> KeyValue {
    let record = MemberRecord { v: 1, vtep: vtep(node), epoch: 1, underlay_mtu: 1500, extra: [].into() };
    stored(&Key::Member(network(), NodeId::from_entropy(node.into())), encode_record(&record), revision)
}

fn container(number: u64, node: u8, address: &str) -> EndpointRecord {
    let sandbox = Sandbox {
        container: format!("ct{number}"),
        path: format!("/run/netns/ct{number}"),
        dev: 4,
        inode: number,
        boot_id: BOOT.to_owned(),
        ifname: "eth0".parse().unwrap(),
        default_route: true,
    };
    EndpointRecord {
        v: 1,
        id: EndpointId::from_entropy(number),
        node: NodeId::from_entropy(node.into()),
        epoch: 1,
        mac: mac(address),
        vtep: vtep(node),
        kind: EndpointKind::Container,
        name: format!("ct{number}").parse().unwrap(),
        aliases: vec![],
        ipv4: address.parse().ok(),
        ipv6: None,
        sandbox: Some(sandbox),
        published: vec![],
        extra: [].into(),
    }
}

fn endpoint(record: &EndpointRecord, revision: i64) -> KeyValue {
    stored(&Key::Endpoint(network(), record.primary_address().unwrap()), encode_record(record), revision)
}

fn stored(key: &Key, value: Vec<u8>, revision: i64) -> KeyValue {
    let key = Keyspace::default().encode(key);
    KeyValue { key, value, create_revision: revision, mod_revision: revision, lease: 0 }
}
