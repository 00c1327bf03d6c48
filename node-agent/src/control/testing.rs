//! A cluster in memory for the tests of this part: nodes with their registration, allocator and memberships running.

use std::time::Duration;

use rand::{SeedableRng, rngs::StdRng};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout},
};
use weft_overlay::{
    claims::Stored,
    id::{EndpointId, NetworkId, NodeId},
    keys::{Key, KeyRange, Keyspace},
    model::{EndpointKind, NetworkSpec},
    store::{
        Store,
        memory::{Faults, MemoryStore},
    },
    txn::{Op, Txn},
};

use super::{
    allocation::{AllocationSettings, Allocator, EndpointRequest},
    membership::Membership,
    networks::{NetworkRequest, create_network, find_network},
    registration::{NodeDescription, NodeIdentity, Registration, Standing, register},
    submit::Client,
};

pub(super) struct Cluster {
    pub(super) store: MemoryStore,
    pub(super) client: Client<MemoryStore>,
}

impl Cluster {
    pub(super) fn new() -> Self {
        Self::over(MemoryStore::new(Faults::none()))
    }

    pub(super) fn over(store: MemoryStore) -> Self {
        let client = Client::new(store.clone(), Keyspace::default(), StdRng::seed_from_u64(1));
        Self { store, client }
    }

    /// A node that is active.
    pub(super) async fn node(&self, number: u8) -> Node {
        let node = self.start(number, None);
        node.until(|standing| matches!(standing, Standing::Active(_))).await;
        node
    }

    pub(super) fn start(&self, number: u8, lease: Option<i64>) -> Node {
        Node::start(&self.store.client(&format!("h{number}")), identity(number), lease)
    }

    pub(super) async fn network(&self, subnet: Option<&str>) -> (NetworkId, Stored<NetworkSpec>) {
        let name = format!("net{}", self.store.revision());
        let mut request = NetworkRequest::named(name.parse().unwrap());
        request.subnets.extend(subnet.map(|subnet| subnet.parse::<ipnetwork::IpNetwork>().unwrap()));
        create_network(&self.client, &request, soon()).await.unwrap();
        find_network(&self.client, &name, soon()).await.unwrap()
    }

    /// The keys under a range, as text.
    pub(super) fn stored(&self, range: &KeyRange) -> Vec<String> {
        self.store.read_now(range).into_iter().map(|kv| String::from_utf8(kv.key).unwrap()).collect()
    }

    pub(super) fn all(&self) -> Vec<String> {
        self.stored(&Keyspace::default().all())
    }

    /// Writes a key as somebody else would.
    pub(super) async fn overwrite<T: serde::Serialize>(&self, key: &Key, record: &T) {
        let op = Op::put(Keyspace::default().encode(key), weft_overlay::codec::encode_record(record));
        self.store.txn(Txn { then: vec![op], ..Txn::default() }).await.unwrap();
    }
}

pub(super) struct Node {
    pub(super) identity: NodeIdentity,
    pub(super) registration: Registration,
    pub(super) allocator: Allocator<MemoryStore>,
    pub(super) membership: Membership<MemoryStore>,
    pub(super) description: watch::Sender<NodeDescription>,
    pub(super) mtu: watch::Sender<u32>,
    /// Ends with the node.
    _tasks: JoinSet<()>,
}

impl Node {
    pub(super) fn start(store: &MemoryStore, identity: NodeIdentity, lease: Option<i64>) -> Self {
        let client = Client::new(store.clone(), Keyspace::default(), StdRng::seed_from_u64(7));
        let start = NodeDescription { version: "1".to_owned(), routes: Vec::new() };
        let (description, described) = watch::channel(start);
        let (mtu, underlay_mtu) = watch::channel(1500);
        let (registration, registering) = register(client.clone(), identity.clone(), described, lease);
        let settings = AllocationSettings::default();
        let allocator = Allocator::new(client.clone(), identity.node, registration.clone(), settings);
        let membership =
            Membership::new(client, allocator.clone(), registration.clone(), identity.clone(), underlay_mtu);
        let mut tasks = JoinSet::new();
        tasks.spawn(registering);
        tasks.spawn(allocator.clone().run());
        tasks.spawn(membership.clone().run());
        Self { identity, registration, allocator, membership, description, mtu, _tasks: tasks }
    }

    pub(super) async fn until(&self, wanted: impl Fn(&Standing) -> bool) -> Standing {
        let mut standing = self.registration.standing.clone();
        let waited = timeout(Duration::from_secs(600), standing.wait_for(wanted)).await;
        let Ok(standing) = waited else { panic!("still {:?}", self.registration.standing.borrow()) };
        standing.unwrap().clone()
    }

    pub(super) fn lease(&self) -> i64 {
        self.registration.lease.borrow().unwrap()
    }

    pub(super) fn request(&self, id: u64) -> EndpointRequest {
        EndpointRequest {
            id: EndpointId::from_entropy(id),
            kind: EndpointKind::Container,
            name: format!("ct{id}").parse().unwrap(),
            aliases: Vec::new(),
            mac: None,
            ipv4: None,
            ipv6: None,
            sandbox: None,
            published: Vec::new(),
            vtep: self.identity.vtep,
        }
    }
}

pub(super) fn identity(number: u8) -> NodeIdentity {
    NodeIdentity {
        node: NodeId::from_entropy(u64::from(number)),
        name: format!("h{number}").parse().unwrap(),
        vtep: std::net::IpAddr::from([192, 168, 56, 10 + number]),
        boot_id: format!("boot-{number}"),
    }
}

pub(super) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

/// Waits for a condition under the virtual clock.
pub(super) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..6000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("after ten minutes still not: {what}");
}
