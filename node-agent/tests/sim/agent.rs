//! One host: what survives its agent, and the agent itself, made of the real tasks. Containers are entries of a map.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, interval},
};
use weft_node_agent::control::{
    allocation::{AllocationSettings, Allocator, EndpointRequest, PoolReport},
    follow::{FollowSettings, Snapshot, Update, follow},
    membership::{Membership, RecoveryOutcome},
    registration::{NodeDescription, NodeIdentity, Registration, Standing, register},
    submit::Client,
};
use weft_overlay::{
    claims::Stored,
    id::{EndpointId, NetworkId, NodeId},
    keys::{Key, Keyspace},
    model::{EndpointKind, EndpointRecord, NetworkSpec, NetworkState},
    store::Event,
    txn::{KeyValue, Revision},
};

use crate::{
    checker::Checker,
    faulty::{FaultyStore, Mutant},
};

/// What survives the end of an agent.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) node: NodeId,
    pub(crate) vtep: IpAddr,
    pub(crate) boot_id: String,
    pub(crate) lease: Option<i64>,
    /// The containers; without a record: being connected.
    pub(crate) containers: BTreeMap<EndpointId, Container>,
    pub(crate) attached: u64,
    pub(crate) refusals: BTreeMap<String, u64>,
}

#[derive(Debug, Clone)]
pub(crate) struct Container {
    pub(crate) network: NetworkId,
    pub(crate) record: Option<Stored<EndpointRecord>>,
}

#[derive(Debug)]
pub(crate) enum Command {
    Attach { network: NetworkId, asked: Option<Ipv4Addr> },
    Detach,
}

/// What the agent shows of itself.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    pub(crate) view: BTreeMap<Vec<u8>, Revision>,
    pub(crate) standing: Option<Standing>,
    pub(crate) pools: Vec<PoolReport>,
}

pub(crate) struct Setting {
    pub(crate) host: Arc<Mutex<Host>>,
    pub(crate) shown: Arc<Mutex<Shown>>,
    pub(crate) checker: Arc<Mutex<Checker>>,
    pub(crate) store: FaultyStore,
    pub(crate) seed: u64,
}

/// An agent's process, to be polled as one future.
pub(crate) async fn process(setting: Setting, commands: mpsc::Receiver<Command>) {
    let Setting { host, shown, checker, store, seed } = setting;
    let keys = Keyspace::default();
    let client = Client::new(store.clone(), keys.clone(), StdRng::seed_from_u64(seed));
    let (identity, lease) = {
        let mut host = host.lock().unwrap();
        // Nobody was told that these are connected; what there is of them in the kernel is removed.
        host.containers.retain(|_, container| container.record.is_some());
        let name = host.name.parse().unwrap();
        let identity = NodeIdentity { node: host.node, name, vtep: host.vtep, boot_id: host.boot_id.clone() };
        (identity, host.lease)
    };
    checker.lock().unwrap().clients.insert(identity.node, store_name(&host));
    let (_description, description) = watch::channel(NodeDescription { version: "sim".to_owned(), routes: Vec::new() });
    let (_mtu, mtu) = watch::channel(1500);
    let (registration, registering) = register(client.clone(), identity.clone(), description, lease);
    let mut settings = AllocationSettings::default();
    if store.mutant == Mutant::NoCooldown {
        settings.cooldown = Duration::ZERO;
    }
    let allocator = Allocator::new(client.clone(), identity.node, registration.clone(), settings);
    let membership = Membership::new(client.clone(), allocator.clone(), registration.clone(), identity.clone(), mtu);
    let (updates_in, updates) = mpsc::channel(16);
    let following = follow(store, keys.all_networks(), FollowSettings::default(), client.fork_rng(), updates_in);
    let agent = Agent {
        keys,
        identity,
        client,
        host,
        shown,
        checker,
        registration: registration.clone(),
        allocator: allocator.clone(),
        membership: membership.clone(),
        view: Mutex::default(),
        in_flight: Mutex::default(),
        recovered: Mutex::default(),
        listed: Mutex::default(),
    };
    let agent = Arc::new(agent);
    tokio::select! {
        biased;
        () = registering => panic!("registration ended"),
        () = allocator.run() => panic!("allocator ended"),
        () = membership.run() => panic!("membership ended"),
        () = following => panic!("following ended"),
        () = save_lease(agent.clone()) => panic!("lease ended"),
        () = agent.run(commands, updates) => {}
    }
}

async fn save_lease(agent: Arc<Agent>) {
    let mut lease = agent.registration.lease.clone();
    while lease.changed().await.is_ok() {
        agent.host.lock().unwrap().lease = *lease.borrow_and_update();
    }
}

pub(crate) fn store_name(host: &Arc<Mutex<Host>>) -> String {
    let host = host.lock().unwrap();
    format!("agent-{}-{}", host.name, host.node)
}

struct Agent {
    keys: Keyspace,
    identity: NodeIdentity,
    client: Client<FaultyStore>,
    host: Arc<Mutex<Host>>,
    shown: Arc<Mutex<Shown>>,
    checker: Arc<Mutex<Checker>>,
    registration: Registration,
    allocator: Allocator<FaultyStore>,
    membership: Membership<FaultyStore>,
    view: Mutex<View>,
    in_flight: Mutex<BTreeSet<EndpointId>>,
    recovered: Mutex<Option<u64>>,
    /// Whether a first snapshot has come.
    listed: Mutex<bool>,
}

/// What was followed, taken apart once.
#[derive(Debug, Default)]
struct View {
    revisions: BTreeMap<Vec<u8>, Revision>,
    specs: BTreeMap<NetworkId, Stored<NetworkSpec>>,
    /// This node's containers' endpoints.
    own: BTreeMap<(NetworkId, IpAddr), Stored<EndpointRecord>>,
}

impl View {
    fn put(&mut self, keys: &Keyspace, node: NodeId, kv: &KeyValue) -> Option<(NetworkId, IpAddr, EndpointRecord)> {
        self.revisions.insert(kv.key.clone(), kv.mod_revision);
        match keys.decode(&kv.key) {
            Ok(Key::Spec(network)) => {
                self.specs.extend(Stored::decode(kv).ok().map(|spec| (network, spec)));
                None
            }
            Ok(Key::Endpoint(network, ip)) => {
                let stored = Stored::<EndpointRecord>::decode(kv).ok()?;
                let record = stored.record.clone();
                if record.node == node && record.kind == EndpointKind::Container {
                    self.own.insert((network, ip), stored);
                }
                Some((network, ip, record))
            }
            _ => None,
        }
    }

    fn delete(&mut self, keys: &Keyspace, key: &[u8]) -> Option<(NetworkId, IpAddr)> {
        self.revisions.remove(key);
        match keys.decode(key) {
            Ok(Key::Spec(network)) => {
                self.specs.remove(&network);
                None
            }
            Ok(Key::Endpoint(network, ip)) => {
                self.own.remove(&(network, ip));
                Some((network, ip))
            }
            _ => None,
        }
    }
}

impl Agent {
    async fn run(self: Arc<Self>, mut commands: mpsc::Receiver<Command>, mut updates: mpsc::Receiver<Update>) {
        let mut jobs: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
        let mut tick = interval(Duration::from_secs(2));
        let mut reconciling = false;
        let (done_in, mut done) = mpsc::channel(1);
        loop {
            tokio::select! {
                biased;
                Some(update) = updates.recv() => self.take_in(update),
                command = commands.recv() => match command {
                    Some(command) => jobs.push(Box::pin(self.clone().obey(command))),
                    None => return,
                },
                Some(()) = jobs.next() => {}
                Some(()) = done.recv() => reconciling = false,
                _ = tick.tick() => {
                    self.show();
                    if !reconciling {
                        reconciling = true;
                        let (agent, done_in) = (self.clone(), done_in.clone());
                        jobs.push(Box::pin(async move {
                            agent.reconcile().await;
                            done_in.send(()).await.ok();
                        }));
                    }
                }
            }
        }
    }

    fn show(&self) {
        let mut shown = self.shown.lock().unwrap();
        shown.standing = Some(self.registration.standing.borrow().clone());
        shown.pools = self.allocator.pools();
    }

    fn take_in(&self, update: Update) {
        let mut view = self.view.lock().unwrap();
        let node = self.identity.node;
        let revision = match update {
            Update::Snapshot(Snapshot { revision, kvs, .. }) => {
                *view = View::default();
                let mut endpoints: BTreeMap<NetworkId, BTreeMap<IpAddr, EndpointRecord>> = BTreeMap::new();
                for kv in &kvs {
                    if let Some((network, ip, record)) = view.put(&self.keys, node, kv) {
                        endpoints.entry(network).or_default().insert(ip, record);
                    }
                }
                for network in view.specs.keys() {
                    self.allocator.observe_network(*network, endpoints.entry(*network).or_default());
                }
                *self.listed.lock().unwrap() = true;
                Some(revision)
            }
            Update::Replaced(_) => {
                self.checker.lock().unwrap().violations.push("view: the store was not replaced".to_owned());
                None
            }
            Update::Events { revision, events } => {
                for event in &events {
                    self.tell(&mut view, event);
                }
                Some(revision)
            }
            Update::Progress { revision } => Some(revision),
            Update::Stalled { .. } | Update::Recovered => None,
        };
        if let Some(revision) = revision {
            self.checker.lock().unwrap().check_view(&self.host.lock().unwrap().name, &view.revisions, revision);
            self.shown.lock().unwrap().view = view.revisions.clone();
        }
    }

    fn tell(&self, view: &mut View, event: &Event) {
        match event {
            Event::Put(kv) => {
                if let Some((network, ip, record)) = view.put(&self.keys, self.identity.node, kv) {
                    self.allocator.observe_endpoint(network, ip, Some(&record));
                }
            }
            Event::Delete { key, .. } => {
                if let Some((network, ip)) = view.delete(&self.keys, key) {
                    self.allocator.observe_endpoint(network, ip, None);
                }
            }
        }
    }

    fn spec(&self, network: NetworkId) -> Option<Stored<NetworkSpec>> {
        self.view.lock().unwrap().specs.get(&network).cloned()
    }

    async fn obey(self: Arc<Self>, command: Command) {
        match command {
            Command::Attach { network, asked } => {
                let id = EndpointId::from_entropy(self.client.with_rng(|rng| rng.random()));
                self.in_flight.lock().unwrap().insert(id);
                if let Err(refusal) = self.attach(network, asked, id).await {
                    let mut host = self.host.lock().unwrap();
                    host.containers.remove(&id);
                    *host.refusals.entry(refusal).or_default() += 1;
                }
                self.in_flight.lock().unwrap().remove(&id);
            }
            Command::Detach => self.detach().await,
        }
    }

    async fn attach(&self, network: NetworkId, asked: Option<Ipv4Addr>, id: EndpointId) -> Result<(), String> {
        let spec = self.spec(network).ok_or("unknown network")?;
        let _stay = self.membership.join(network, &spec).await.map_err(|error| chain(&error))?;
        for _ in 0..4 {
            let request = self.request(id, asked);
            let mut reservation =
                self.allocator.reserve(network, &spec, request).await.map_err(|error| chain(&error))?;
            self.host.lock().unwrap().containers.insert(id, Container { network, record: None });
            match self.allocator.commit(&mut reservation, None).await {
                Ok(revision) => {
                    let record = Stored { record: reservation.record.clone(), revision, lease: 0 };
                    let mut host = self.host.lock().unwrap();
                    host.containers.insert(id, Container { network, record: Some(record) });
                    host.attached += 1;
                    self.membership.set_in_use(network, true);
                    return Ok(());
                }
                Err(error) if error.wants_another_address() => {}
                Err(error) => return Err(chain(&error)),
            }
        }
        Err("no address in four attempts".to_owned())
    }

    fn request(&self, id: EndpointId, asked: Option<Ipv4Addr>) -> EndpointRequest {
        let how = if asked.is_some() { "s" } else { "d" };
        EndpointRequest {
            id,
            kind: EndpointKind::Container,
            name: format!("{how}-{id}").parse().unwrap(),
            aliases: Vec::new(),
            mac: None,
            ipv4: asked,
            ipv6: None,
            sandbox: None,
            published: Vec::new(),
            vtep: self.identity.vtep,
        }
    }

    async fn detach(&self) {
        let chosen = {
            let mut host = self.host.lock().unwrap();
            let connected: Vec<_> =
                host.containers.iter().filter(|(_, c)| c.record.is_some()).map(|(id, _)| *id).collect();
            if connected.is_empty() {
                return;
            }
            let at = self.client.with_rng(|rng| rng.random_range(0..connected.len()));
            host.containers.remove(&connected[at])
        };
        let Some(Container { network, record: Some(stored) }) = chosen else { return };
        // What fails is tried again by the reconciler, which finds an endpoint without a container.
        self.allocator.release(network, &stored, false).await.ok();
    }

    /// What an agent's loop does about endpoints: from what is there to what should be there.
    async fn reconcile(&self) {
        let standing = self.registration.standing.borrow().clone();
        let Some(token) = standing.token() else { return };
        if !*self.listed.lock().unwrap() {
            return;
        }
        let recovered = *self.recovered.lock().unwrap();
        if recovered != Some(token.epoch) && self.recover().await {
            *self.recovered.lock().unwrap() = Some(token.epoch);
        }
        self.leave_dying_networks().await;
        let mut used: BTreeMap<NetworkId, bool> = self.networks().into_iter().map(|network| (network, false)).collect();
        for container in self.host.lock().unwrap().containers.values() {
            used.insert(container.network, true);
        }
        for (network, used) in used {
            self.membership.set_in_use(network, used);
        }
        for (network, stored) in self.orphans() {
            self.allocator.release(network, &stored, false).await.ok();
        }
    }

    async fn recover(&self) -> bool {
        let containers: Vec<(NetworkId, EndpointRecord)> = {
            let host = self.host.lock().unwrap();
            host.containers.values().filter_map(|c| Some((c.network, c.record.clone()?.record))).collect()
        };
        let Ok(recovered) = self.membership.recover(&containers).await else { return false };
        let mut settled = true;
        for one in recovered {
            let mut host = self.host.lock().unwrap();
            let Some(container) = host.containers.get_mut(&one.endpoint) else { continue };
            match one.outcome {
                RecoveryOutcome::Kept(stored) | RecoveryOutcome::Renumbered(stored) => container.record = Some(*stored),
                RecoveryOutcome::Gone(error) => {
                    let reason = format!("gone: {}", chain(&error));
                    host.containers.remove(&one.endpoint);
                    *host.refusals.entry(reason).or_default() += 1;
                }
                RecoveryOutcome::Unsettled(_) => settled = false,
            }
        }
        settled
    }

    async fn leave_dying_networks(&self) {
        let dying: Vec<NetworkId> = self
            .networks()
            .into_iter()
            .filter(|network| {
                self.spec(*network)
                    .is_some_and(|spec| spec.record.state == NetworkState::Deleting && spec.record.force_delete)
            })
            .collect();
        for network in dying {
            self.host.lock().unwrap().containers.retain(|_, container| container.network != network);
            let left: Vec<_> = self.orphans().into_iter().filter(|(of, _)| *of == network).collect();
            for (network, stored) in left {
                self.allocator.release(network, &stored, false).await.ok();
            }
            self.membership.leave(network).await.ok();
        }
        let known: BTreeSet<NetworkId> = self.networks().into_iter().collect();
        let in_flight = self.in_flight.lock().unwrap().clone();
        let pools = self.allocator.pools().into_iter().map(|pool| pool.network);
        let mut gone: BTreeSet<NetworkId> = pools.filter(|network| !known.contains(network)).collect();
        if !in_flight.is_empty() {
            return;
        }
        self.host.lock().unwrap().containers.retain(|_, container| {
            let stays = known.contains(&container.network);
            if !stays {
                gone.insert(container.network);
            }
            stays
        });
        for network in gone {
            self.membership.forget(network);
            self.allocator.forget_network(network);
        }
    }

    fn networks(&self) -> Vec<NetworkId> {
        self.view.lock().unwrap().specs.keys().copied().collect()
    }

    /// Endpoints of this node in the view that no container has.
    fn orphans(&self) -> Vec<(NetworkId, Stored<EndpointRecord>)> {
        let view = self.view.lock().unwrap();
        let host = self.host.lock().unwrap();
        let in_flight = self.in_flight.lock().unwrap();
        let orphan = |stored: &Stored<EndpointRecord>| {
            !host.containers.contains_key(&stored.record.id) && !in_flight.contains(&stored.record.id)
        };
        let orphans = view.own.iter().filter(|(_, stored)| orphan(stored));
        orphans.map(|((network, _), stored)| (*network, stored.clone())).collect()
    }
}

/// An error with its causes, without what differs from case to case.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text.chars().map(|c| if c.is_ascii_digit() { '#' } else { c }).take(200).collect()
}

/// When something was, for the log of a seed.
pub(crate) fn since(start: Instant) -> String {
    format!("{:8.1}s", start.elapsed().as_secs_f64())
}
