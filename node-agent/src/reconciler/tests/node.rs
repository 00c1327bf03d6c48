//! A node with one network, over the scripted kernel, with a clock of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use tokio::sync::{
    mpsc::{UnboundedReceiver, unbounded_channel},
    oneshot,
};
use weft_overlay::{
    codec::encode_record,
    desired::everything,
    id::{EndpointId, Mac, NetworkId, NodeId},
    kernel::{NetworkObject, Object, ObjectId},
    keys::{Key, Keyspace},
    model::{EndpointKind, EndpointRecord, MemberRecord, NetworkSpec, NetworkState, Sandbox, SubnetSpec},
    txn::KeyValue,
    view::{NodeConfig, NodeView},
};

use super::scripted::Scripted;
use crate::reconciler::{Doubt, Input, Notice, Reconciler, Settled};

const BOOT: &str = "this-boot";

/// A node with network 1: its leg, a container of its own, a peer with another one.
pub(super) struct Node {
    pub(super) kernel: Scripted,
    pub(super) reconciler: Reconciler<Scripted>,
    pub(super) notices: UnboundedReceiver<Notice>,
    pub(super) now: Instant,
}

impl Node {
    pub(super) fn new() -> Self {
        Self::with(Scripted::default())
    }

    pub(super) fn with(kernel: Scripted) -> Self {
        let (sender, notices) = unbounded_channel();
        let reconciler = Reconciler::new(kernel.clone(), empty_view(), sender);
        Self { kernel, reconciler, notices, now: Instant::now() }
    }

    /// Everything is known and done.
    pub(super) fn settled() -> Self {
        let mut node = Self::new();
        node.learn_everything();
        node.pass();
        node.assert_converged();
        node.kernel.take_written();
        node
    }

    pub(super) fn learn_everything(&mut self) {
        self.change(learn_everything);
    }

    pub(super) fn change(&mut self, change: impl FnOnce(&mut NodeView) -> BTreeSet<ObjectId> + Send + 'static) {
        self.reconciler.take(Input::Change { change: Box::new(change), done: None });
    }

    pub(super) fn change_and_wait(
        &mut self,
        change: impl FnOnce(&mut NodeView) -> BTreeSet<ObjectId> + Send + 'static,
    ) -> Settled {
        let (done, mut settled) = oneshot::channel();
        self.reconciler.take(Input::Change { change: Box::new(change), done: Some(done) });
        self.pass();
        settled.try_recv().expect("every pass answers who waits")
    }

    pub(super) fn doubt(&mut self, doubts: Vec<Doubt>) {
        self.reconciler.take(Input::Doubts(doubts));
    }

    pub(super) fn pass(&mut self) {
        self.reconciler.pass_at(self.now);
    }

    pub(super) fn pass_at(&mut self, now: Instant) {
        self.now = now;
        self.pass();
    }

    pub(super) fn wait(&self) -> Duration {
        self.reconciler.next_wake(self.now) - self.now
    }

    pub(super) fn notices(&mut self) -> Vec<Notice> {
        let notices = std::iter::from_fn(|| self.notices.try_recv().ok());
        notices.filter(|notice| !matches!(notice, Notice::EndpointsChanged(_))).collect()
    }

    /// Objects that are not in the kernel as they should be, or are there and should not.
    pub(super) fn differences(&self) -> BTreeSet<ObjectId> {
        let desired: BTreeMap<ObjectId, Object> = everything(self.reconciler.view()).into_iter().collect();
        let actual = &self.kernel.inside().state.objects;
        let ids: BTreeSet<&ObjectId> = desired.keys().chain(actual.keys()).collect();
        ids.into_iter().filter(|id| desired.get(id) != actual.get(id)).cloned().collect()
    }

    /// The kernel is as it should be, and what is believed of it is true.
    pub(super) fn assert_converged(&self) {
        assert_eq!(self.differences(), BTreeSet::new());
        assert_eq!(self.reconciler.observed(), &self.kernel.inside().state);
    }
}

pub(super) fn empty_view() -> NodeView {
    let config =
        NodeConfig { node: NodeId::from_entropy(1), boot_id: BOOT.to_owned(), vtep: vtep(1), vxlan_port: 4789 };
    NodeView::new(config, Keyspace::default(), 1500)
}

pub(super) fn learn_everything(view: &mut NodeView) -> BTreeSet<ObjectId> {
    view.follow(network());
    let mut affected = view.set_index(&[]);
    affected.extend(list(view));
    affected
}

pub(super) fn list(view: &mut NodeView) -> BTreeSet<ObjectId> {
    let leg = EndpointRecord { kind: EndpointKind::Leg, sandbox: None, ..container(1001, 1, "10.32.0.2") };
    let kvs = [
        stored(&Key::Spec(network()), encode_record(&spec()), 1),
        member(1, 2),
        member(2, 3),
        endpoint(&leg, 4),
        endpoint(&container(1, 1, "10.32.0.18"), 5),
        endpoint(&container(2, 2, "10.32.0.34"), 6),
    ];
    view.set_network(network(), kvs.to_vec(), 10)
}

pub(super) fn network() -> NetworkId {
    NetworkId::from_entropy(1)
}

pub(super) fn of(object: NetworkObject) -> ObjectId {
    ObjectId::Network(network(), object)
}

/// The port of this node's container.
pub(super) fn port() -> ObjectId {
    of(NetworkObject::Port(EndpointId::from_entropy(1)))
}

/// The inside of this node's container.
pub(super) fn sandbox() -> ObjectId {
    of(NetworkObject::Sandbox(EndpointId::from_entropy(1)))
}

pub(super) fn foreign() -> Object {
    Object::Foreign("a bridge of somebody's".to_owned())
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn mac(address: &str) -> Mac {
    Mac::derived_from(ip(address))
}

pub(super) fn vtep(node: u8) -> IpAddr {
    IpAddr::from([192, 168, 56, 10 + node])
}

pub(super) fn spec() -> NetworkSpec {
    let subnet = SubnetSpec {
        subnet: "10.32.0.0/24".parse().unwrap(),
        gateway: ip("10.32.0.1"),
        ip_range: None,
        auxiliary: Vec::new(),
        block_len: 28,
    };
    NetworkSpec {
        v: 1,
        name: "net1".parse().unwrap(),
        vni: 65_537.try_into().unwrap(),
        subnets: vec![subnet],
        mtu: None,
        internal: false,
        labels: [].into(),
        docker_options: [].into(),
        state: NetworkState::Active,
        force_delete: false,
        extra: [].into(),
    }
}

pub(super) fn member(node: u8, revision: i64) -> KeyValue {
    let record = MemberRecord { v: 1, vtep: vtep(node), epoch: 1, underlay_mtu: 1500, extra: [].into() };
    stored(&Key::Member(network(), NodeId::from_entropy(node.into())), encode_record(&record), revision)
}

pub(super) fn container(number: u64, node: u8, address: &str) -> EndpointRecord {
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
        docker: None,
        published: vec![],
        extra: [].into(),
    }
}

pub(super) fn endpoint(record: &EndpointRecord, revision: i64) -> KeyValue {
    stored(&Key::Endpoint(network(), record.primary_address().unwrap()), encode_record(record), revision)
}

pub(super) fn stored(key: &Key, value: Vec<u8>, revision: i64) -> KeyValue {
    let key = Keyspace::default().encode(key);
    KeyValue { key, value, create_revision: revision, mod_revision: revision, lease: 0 }
}
