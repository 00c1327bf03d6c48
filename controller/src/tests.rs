use std::net::IpAddr;

use ipnetwork::IpNetwork;
use rand::SeedableRng;
use tokio::task::JoinHandle;
use weft_overlay::{
    claims::{BlockClaimed, ClaimBlock, CreateEndpoint, CreateNetwork, NodeRegistered, Register, Token},
    codec::{decode_record, encode_record},
    id::{EndpointId, Mac, NetworkId, NodeId},
    keys::KeyRange,
    model::{
        BlockRecord, BlockState, EndpointKind, EndpointRecord, FenceRecord, FenceState, MemberRecord, NetworkSpec,
        NetworkState, NodeRecord, SubnetSpec,
    },
    store::memory::{Faults, MemoryStore, Partition},
};

use super::*;

const SETTINGS: ControllerSettings = ControllerSettings {
    lost_after: Duration::from_secs(300),
    pass_every: Duration::from_secs(2),
    audit_every: Duration::from_secs(600),
};

#[tokio::test(start_paused = true)]
async fn a_node_that_is_away_too_long_is_given_up_with_all_that_it_has() {
    let cluster = Cluster::new();
    let (_controller, lease) = (cluster.controller("a"), cluster.lease().await);
    let token = cluster.node(1, lease).await;
    let network = cluster.network().await;
    cluster.endpoint(token, network, true).await;

    sleep(Duration::from_secs(250)).await;
    assert_eq!(cluster.fence(1).state, FenceState::Active, "given up too early");
    cluster.until("nothing is left of the node", || cluster.stored("idx/").is_empty()).await;

    assert_eq!(cluster.fence(1).state, FenceState::Lost);
    assert!(cluster.stored("/member/").is_empty() && cluster.stored("/ep/").is_empty());
    let block = cluster.value::<BlockRecord>("/blk/").unwrap();
    assert_eq!(block.st, BlockState::Cooling);
    cluster.until("the block is free", || cluster.stored("/blk/").is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_shows_life_now_and_then_is_left_alone() {
    let cluster = Cluster::new();
    let _controller = cluster.controller("a");
    let lease = cluster.lease().await;
    cluster.node(1, lease).await;

    for _ in 0..100 {
        cluster.store.keep_alive(lease).await.unwrap();
        sleep(Duration::from_secs(20)).await;
    }

    assert_eq!(cluster.fence(1).state, FenceState::Active);
}

#[tokio::test(start_paused = true)]
async fn a_lost_nodes_block_is_taken_although_another_node_has_an_address_in_it() {
    let cluster = Cluster::new();
    let (_controller, lease) = (cluster.controller("a"), cluster.lease().await);
    let (lost, other) = (cluster.node(1, lease).await, cluster.living_node(2).await);
    let network = cluster.network().await;
    cluster.endpoint(lost, network, true).await;
    cluster.endpoint(other, network, false).await;

    let index = || cluster.stored(&format!("idx/{}", lost.node)).is_empty();
    cluster.until("nothing is left of the node", index).await;

    assert_eq!(cluster.stored("/ep/4/").len(), 1, "{:?}", cluster.stored(""));
}

#[tokio::test(start_paused = true)]
async fn a_network_that_is_being_removed_goes_with_its_blocks_and_its_vni_rests() {
    let cluster = Cluster::new();
    let _controller = cluster.controller("a");
    let (token, network) = (cluster.living_node(1).await, cluster.network().await);
    cluster.endpoint(token, network, true).await;

    cluster.begin_removal(network).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(cluster.stored("/spec").len(), 1, "removed with an endpoint in it");
    cluster.delete("/ep/").await;
    cluster.delete("/member/").await;
    cluster.until("the network is gone", || cluster.stored("net").is_empty()).await;

    assert!(cluster.stored("/blk/").is_empty() && cluster.stored("/blk").is_empty());
    assert_eq!(cluster.stored("/vni/").len(), 1);
    cluster.until("the VNI is free", || cluster.stored("/vni/").is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn another_controller_takes_over_and_the_first_one_steps_back() {
    let cluster = Cluster::new();
    let _controllers = [cluster.controller("a"), cluster.controller("b")];
    cluster.until("one leads", || cluster.stored("meta/schema").len() == 1).await;
    cluster.until("both stand", || cluster.stored("elect/").len() == 2).await;
    let before = cluster.stored("elect/");

    cluster.store.client("a").cut(Partition::Both);
    cluster.store.client("b").cut(Partition::None);
    let lease = cluster.lease().await;
    cluster.node(1, lease).await;
    cluster.until("the other one cleans up", || cluster.fence(1).state == FenceState::Lost).await;
    cluster.store.client("a").cut(Partition::None);
    cluster.until("both stand again", || cluster.stored("elect/").len() == 2).await;

    assert_ne!(cluster.stored("elect/"), before);
}

#[tokio::test(start_paused = true)]
async fn what_was_left_behind_is_removed_after_it_was_found_twice() {
    let cluster = Cluster::new();
    let _controller = cluster.controller("a");
    let (token, network) = (cluster.living_node(1).await, cluster.network().await);
    cluster.endpoint(token, network, true).await;
    let gone = NodeId::from_entropy(9);
    let member = MemberRecord {
        v: 1,
        vtep: IpAddr::from([192, 168, 56, 19]),
        epoch: 1,
        underlay_mtu: 1500,
        extra: Default::default(),
    };
    cluster.put(&Key::Member(network, gone), encode_record(&member)).await;
    cluster.put(&Key::BlockIndex(gone, network, IpAddr::from([10, 9, 0, 32])), Vec::new()).await;
    let orphans = || cluster.stored(&gone.to_string()).len();
    cluster.until("the controller leads", || cluster.stored("meta/schema").len() == 1).await;
    let others = cluster.stored("").len() - 2;

    sleep(SETTINGS.audit_every + Duration::from_secs(60)).await;
    assert_eq!(orphans(), 2, "removed after one look");
    cluster.until("they are removed", || orphans() == 0).await;

    assert_eq!(cluster.stored("").len(), others, "{:?}", cluster.stored(""));
}

struct Cluster {
    store: MemoryStore,
    keys: Keyspace,
}

impl Cluster {
    fn new() -> Self {
        Self { store: MemoryStore::new(Faults::none()), keys: Keyspace::default() }
    }

    fn controller(&self, name: &str) -> JoinHandle<()> {
        let rng = StdRng::seed_from_u64(1);
        tokio::spawn(run(self.store.client(name), self.keys.clone(), SETTINGS, rng))
    }

    async fn lease(&self) -> i64 {
        self.store.grant(Duration::from_secs(30)).await.unwrap().id
    }

    async fn claim<C: Claim>(&self, claim: &C) -> C::Outcome {
        let reply = self.store.txn(claim.txn(&self.keys)).await.unwrap();
        claim.outcome(&self.keys, &reply).unwrap()
    }

    async fn node(&self, number: u8, lease: i64) -> Token {
        let record = NodeRecord {
            v: 1,
            name: format!("h{number}").parse().unwrap(),
            vtep: IpAddr::from([192, 168, 56, 10 + number]),
            version: String::new(),
            routes: Vec::new(),
            extra: BTreeMap::new(),
        };
        let node = NodeId::from_entropy(u64::from(number));
        match self.claim(&Register { node, record, boot_id: String::new(), lease }).await {
            NodeRegistered::Registered(token) => token,
            other => panic!("{other:?}"),
        }
    }

    /// A node whose sign of life does not end.
    async fn living_node(&self, number: u8) -> Token {
        let lease = self.store.grant(Duration::from_secs(1_000_000)).await.unwrap().id;
        self.node(number, lease).await
    }

    async fn network(&self) -> NetworkId {
        let network = NetworkId::from_entropy(1);
        let subnet = SubnetSpec {
            subnet: "10.9.0.0/20".parse().unwrap(),
            gateway: IpAddr::from([10, 9, 0, 1]),
            ip_range: None,
            auxiliary: Vec::new(),
            block_len: 28,
        };
        let spec = NetworkSpec {
            v: 1,
            name: "net1".parse().unwrap(),
            vni: "70000".parse().unwrap(),
            subnets: vec![subnet],
            mtu: None,
            internal: false,
            labels: BTreeMap::new(),
            docker_options: BTreeMap::new(),
            state: NetworkState::Active,
            force_delete: false,
            extra: BTreeMap::new(),
        };
        self.claim(&CreateNetwork { network, spec }).await;
        network
    }

    /// An endpoint at 10.9.0.16 plus the node's number: with its block, or in a block that another node has.
    async fn endpoint(&self, token: Token, network: NetworkId, with_block: bool) {
        let number = u8::try_from(u64::from_str_radix(&token.node.to_string(), 16).unwrap()).unwrap();
        let ip = std::net::Ipv4Addr::new(10, 9, 0, 16 + number);
        let record = EndpointRecord {
            v: 1,
            id: EndpointId::from_entropy(u64::from(number)),
            node: token.node,
            epoch: token.epoch,
            mac: Mac::derived_from(IpAddr::V4(ip)),
            vtep: IpAddr::from([192, 168, 56, 10 + number]),
            kind: EndpointKind::Leg,
            name: "leg".parse().unwrap(),
            aliases: Vec::new(),
            ipv4: Some(ip),
            ipv6: None,
            sandbox: None,
            docker: None,
            published: Vec::new(),
            extra: BTreeMap::new(),
        };
        let spec = self.store.read_now(&self.keys.network(network));
        let spec_revision = spec.iter().find(|kv| kv.key.ends_with(b"/spec")).unwrap().mod_revision;
        let mut claim = CreateEndpoint::new(token, network, spec_revision, record).unwrap();
        if with_block {
            let block: IpNetwork = "10.9.0.16/28".parse().unwrap();
            let claimed = self.claim(&ClaimBlock { token, network, spec_revision, block }).await;
            let BlockClaimed::Claimed(revision) = claimed else { panic!("{claimed:?}") };
            claim = claim.in_block(block.network(), revision);
        }
        let vtep = IpAddr::from([192, 168, 56, 10 + number]);
        let member = MemberRecord { v: 1, vtep, epoch: token.epoch, underlay_mtu: 1500, extra: BTreeMap::new() };
        self.claim(&claim.joining(member)).await;
    }

    async fn begin_removal(&self, network: NetworkId) {
        let key = Key::Spec(network);
        let mut spec: NetworkSpec = self.value("/spec").unwrap();
        (spec.state, spec.force_delete) = (NetworkState::Deleting, true);
        self.put(&key, encode_record(&spec)).await;
    }

    async fn put(&self, key: &Key, value: Vec<u8>) {
        let then = vec![Op::put(self.keys.encode(key), value)];
        self.store.txn(Txn { then, ..Txn::default() }).await.unwrap();
    }

    async fn delete(&self, text: &str) {
        let then = self.stored(text).into_iter().map(|key| Op::Delete(key.into_bytes())).collect();
        self.store.txn(Txn { then, ..Txn::default() }).await.unwrap();
    }

    /// The keys that contain a text.
    fn stored(&self, text: &str) -> Vec<String> {
        let all: KeyRange = self.keys.all();
        let keys = self.store.read_now(&all).into_iter().map(|kv| String::from_utf8(kv.key).unwrap());
        keys.filter(|key| key.contains(text)).collect()
    }

    fn value<T: serde::de::DeserializeOwned>(&self, text: &str) -> Option<T> {
        let kvs = self.store.read_now(&self.keys.all());
        let kv = kvs.iter().find(|kv| String::from_utf8_lossy(&kv.key).contains(text) && !kv.value.is_empty())?;
        decode_record(&kv.value).ok()
    }

    fn fence(&self, number: u8) -> FenceRecord {
        self.value(&format!("fence/{}", NodeId::from_entropy(u64::from(number)))).unwrap()
    }

    async fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        for _ in 0..20_000 {
            if holds() {
                return;
            }
            sleep(Duration::from_millis(500)).await;
        }
        panic!("still not: {what}; stored: {:#?}", self.stored(""));
    }
}
