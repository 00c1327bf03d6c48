//! A store for one scenario, with what scenarios begin with: nodes, networks, a leader.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use tokio::time::Instant;
use weft_overlay::{
    claims::*,
    id::{NetworkId, NodeId},
    keys::{Key, KeyRange, Keyspace},
    model::*,
    store::{
        ListRequest, Store, StoreError, carry_out,
        etcd::EtcdStore,
        memory::{Faults, MemoryStore},
    },
    txn::{KeyValue, Op, Revision, Txn},
};

use crate::{etcd_process::EtcdProcess, samples};

/// A store under test; compaction is no part of the port.
pub(crate) trait TestStore: Store {
    /// Whether it was done.
    fn try_compact(&self, revision: Revision) -> impl Future<Output = bool> + Send;
}

impl TestStore for MemoryStore {
    async fn try_compact(&self, revision: Revision) -> bool {
        self.compact(revision).is_ok()
    }
}

impl TestStore for EtcdStore {
    async fn try_compact(&self, revision: Revision) -> bool {
        let mut client = etcd_client::Client::connect([self.endpoint()], None).await.unwrap();
        client.compact(revision, None).await.is_ok()
    }
}

pub(crate) struct Rig<S> {
    pub(crate) store: S,
    pub(crate) keys: Keyspace,
    /// Ends with the last rig that uses it.
    #[expect(dead_code, reason = "held, not read")]
    etcd: Option<Arc<EtcdProcess>>,
}

/// A node that has registered.
pub(crate) struct Node {
    pub(crate) token: Token,
    pub(crate) lease: i64,
}

/// A network with one block of the first node that was asked for.
pub(crate) struct Network {
    pub(crate) id: NetworkId,
    pub(crate) spec: Stored<NetworkSpec>,
}

impl Rig<MemoryStore> {
    pub(crate) fn on_model(name: &str) -> Self {
        Self::on_model_with(name, Faults::none())
    }

    /// The rig's own handle suffers no faults; its clients do.
    pub(crate) fn on_model_with(name: &str, faults: Faults) -> Self {
        Self { store: MemoryStore::new(faults), keys: Keyspace::under(&format!("/{name}")), etcd: None }
    }
}

impl Rig<EtcdStore> {
    /// On an etcd that other scenarios use at the same time under other roots.
    pub(crate) async fn on_etcd(name: &str) -> Self {
        let etcd = EtcdProcess::shared().await;
        Self::on(etcd, name).await
    }

    /// On an etcd of its own.
    pub(crate) async fn on_own_etcd(name: &str) -> Self {
        Self::on(Arc::new(EtcdProcess::start(&[]).await), name).await
    }

    async fn on(etcd: Arc<EtcdProcess>, name: &str) -> Self {
        let store = etcd.store().await;
        Self { store, keys: Keyspace::under(&format!("/{name}")), etcd: Some(etcd) }
    }
}

impl<S: TestStore> Rig<S> {
    pub(crate) async fn perform<C: Claim>(&self, claim: &C) -> C::Outcome {
        carry_out(&self.store, &self.keys, claim).await.unwrap()
    }

    pub(crate) async fn lease(&self, seconds: u64) -> i64 {
        self.store.grant(Duration::from_secs(seconds)).await.unwrap().id
    }

    pub(crate) async fn node(&self, n: u8) -> Node {
        let lease = self.lease(600).await;
        let token =
            crate::outcome!(self.perform(&register(n, lease)).await, NodeRegistered::Registered(token) => token);
        Node { token, lease }
    }

    pub(crate) async fn network(&self, n: u8) -> Network {
        let (id, spec) = network(n);
        let claim = CreateNetwork { network: id, spec: spec.clone() };
        let revision = crate::outcome!(self.perform(&claim).await, NetworkCreated::Created(revision) => revision);
        Network { id, spec: Stored { record: spec, revision, lease: 0 } }
    }

    /// The block 10.32.0.16/28 of this network, for this node.
    pub(crate) async fn block(&self, node: &Node, network: &Network) -> Stored<BlockRecord> {
        crate::outcome!(self.perform(&claim_block(node, network)).await, BlockClaimed::Claimed(_));
        self.stored(&block_key(network)).await.unwrap()
    }

    pub(crate) async fn leader(&self) -> Leadership {
        let lease = self.lease(600).await;
        let key = self.keys.encode(&Key::Election(lease));
        let put = Op::Put { key: key.clone(), value: b"{}".to_vec(), lease: Some(lease) };
        let reply = self.store.txn(Txn { then: vec![put], ..Txn::default() }).await.unwrap();
        Leadership { key, create_revision: reply.revision }
    }

    /// Ends the node's sign of life and declares it lost; the revision of its fence.
    pub(crate) async fn lose(&self, node: &Node, leader: &Leadership, networks: Vec<NetworkId>) -> Revision {
        self.store.revoke(node.lease).await.unwrap();
        let fence = self.stored(&Key::Fence(node.token.node)).await.unwrap();
        let claim = DeclareLost { leadership: leader.clone(), node: node.token.node, fence, networks };
        crate::outcome!(self.perform(&claim).await, LostDeclared::Lost { fence, .. } => fence)
    }

    pub(crate) async fn read(&self, key: &Key) -> Option<KeyValue> {
        let txn = Txn { then: vec![Op::Read(self.keys.encode(key))], ..Txn::default() };
        self.store.txn(txn).await.unwrap().reads.remove(0).pop()
    }

    pub(crate) async fn stored<T: serde::de::DeserializeOwned>(&self, key: &Key) -> Option<Stored<T>> {
        self.read(key).await.map(|kv| Stored::decode(&kv).unwrap())
    }

    pub(crate) async fn exists(&self, key: &Key) -> bool {
        self.read(key).await.is_some()
    }

    pub(crate) async fn put_raw(&self, key: &Key, value: &[u8]) -> Revision {
        let then = vec![Op::put(self.keys.encode(key), value.to_vec())];
        self.store.txn(Txn { then, ..Txn::default() }).await.unwrap().revision
    }

    pub(crate) async fn delete_raw(&self, key: &Key) {
        let then = vec![Op::Delete(self.keys.encode(key))];
        self.store.txn(Txn { then, ..Txn::default() }).await.unwrap();
    }

    pub(crate) async fn list(&self, range: KeyRange) -> Vec<KeyValue> {
        let request = ListRequest { range, limit: 0, revision: 0, linearizable: true };
        self.store.list(request).await.unwrap().kvs
    }

    pub(crate) async fn gone(&self, key: &Key) {
        eventually(&format!("{key:?} to go"), || async {
            self.read(key).await.map_or(Ok(()), |kv| Err(format!("{kv:?}")))
        })
        .await;
    }
}

/// Waits for a condition, up to a minute; then says what was seen last.
pub(crate) async fn eventually<E: fmt::Debug, F: Future<Output = Result<(), E>>>(
    what: &str,
    mut check: impl FnMut() -> F,
) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match check().await {
            Ok(()) => return,
            Err(seen) => assert!(Instant::now() < deadline, "waited for {what}, last saw {seen:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) fn register(n: u8, lease: i64) -> Register {
    let sample = samples::register();
    let record = NodeRecord {
        name: format!("h{n}").parse().unwrap(),
        vtep: std::net::Ipv4Addr::new(192, 0, 2, n).into(),
        ..sample.record
    };
    Register { node: NodeId::from_entropy(u64::from(n)), record, boot_id: "boot".to_owned(), lease }
}

pub(crate) fn network(n: u8) -> (NetworkId, NetworkSpec) {
    let name = format!("net{n}").parse().unwrap();
    let vni = (70_000 + u32::from(n)).try_into().unwrap();
    (NetworkId::from_entropy(u64::from(n)), NetworkSpec { name, vni, ..samples::spec() })
}

pub(crate) fn block() -> ipnetwork::IpNetwork {
    "10.32.0.16/28".parse().unwrap()
}

pub(crate) fn block_key(network: &Network) -> Key {
    Key::Block(network.id, block().network())
}

pub(crate) fn claim_block(node: &Node, network: &Network) -> ClaimBlock {
    ClaimBlock { token: node.token, network: network.id, spec_revision: network.spec.revision, block: block() }
}

/// Endpoint `n` of a node, at 10.32.0.`n`.
pub(crate) fn endpoint(node: &Node, n: u8) -> EndpointRecord {
    EndpointRecord { node: node.token.node, epoch: node.token.epoch, ..samples::endpoint(n) }
}

pub(crate) fn dual(node: &Node, n: u8) -> EndpointRecord {
    EndpointRecord { ipv6: Some(format!("fd00:1::{n:x}").parse().unwrap()), ..endpoint(node, n) }
}

pub(crate) fn endpoint_key(network: &Network, n: u8) -> Key {
    Key::Endpoint(network.id, std::net::Ipv4Addr::new(10, 32, 0, n).into())
}

pub(crate) fn create(node: &Node, network: &Network, record: EndpointRecord) -> CreateEndpoint {
    CreateEndpoint::new(node.token, network.id, network.spec.revision, record).unwrap()
}

pub(crate) fn is_lease_error(error: &StoreError, lease: i64) -> bool {
    matches!(error, StoreError::LeaseNotFound { lease: named } if *named == lease)
}
