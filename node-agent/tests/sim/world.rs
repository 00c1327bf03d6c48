//! The hosts, the controllers, their users and their misfortunes, all from one seed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{sync::mpsc, task::JoinHandle, time::Instant};
use weft_controller::ControllerSettings;
use weft_node_agent::control::{
    networks::{NetworkRequest, create_network, list_networks, remove_network},
    nodes::{remove_node, set_draining},
    registration::Standing,
    submit::Client,
};
use weft_overlay::{
    id::{EndpointId, NetworkId, NodeId},
    keys::Keyspace,
    model::EndpointKind,
    store::{
        Event,
        memory::{Faults, MemoryStore, Partition},
    },
};

use crate::{
    agent::{Command, Host, Setting, Shown, process, since, store_name},
    checker::Checker,
    faulty::{FaultyStore, Mutant, now},
    freeze::{Freezable, Freeze},
};

const HOSTS: usize = 4;
const STEPS: usize = 60;
/// How long a node may be away.
const LOST_AFTER: Duration = Duration::from_secs(60);
/// How long everything may take to agree when nothing new happens.
const QUIET: Duration = Duration::from_secs(1800);

/// What came of a seed.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) violations: Vec<String>,
    pub(crate) log: Vec<String>,
    pub(crate) fingerprint: u64,
    pub(crate) revisions: i64,
    pub(crate) attached: u64,
}

pub(crate) fn run_seed(seed: u64, mutant: Mutant) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut world = World::new(seed, mutant);
        world.live().await;
        let outcome = world.outcome();
        world.end().await;
        outcome
    })
}

struct World {
    rng: StdRng,
    start: Instant,
    mutant: Mutant,
    memory: MemoryStore,
    admin: Client<FaultyStore>,
    checker: Arc<Mutex<Checker>>,
    stalls: Arc<Mutex<Stalls>>,
    agents: Vec<AgentSlot>,
    controllers: Vec<ControllerSlot>,
    networks: Vec<NetworkId>,
    made: usize,
    removals: Vec<String>,
    /// What is to be undone, and when.
    due: Vec<(Instant, Undo)>,
    log: Vec<String>,
}

struct AgentSlot {
    host: Arc<Mutex<Host>>,
    shown: Arc<Mutex<Shown>>,
    freeze: Arc<Freeze>,
    running: Option<(JoinHandle<()>, mpsc::Sender<Command>)>,
}

struct ControllerSlot {
    freeze: Arc<Freeze>,
    running: JoinHandle<()>,
}

/// Controllers that stop in the middle of cleaning up: between two of their writes.
#[derive(Debug, Default)]
struct Stalls {
    controllers: BTreeMap<String, (usize, Arc<Freeze>)>,
    begun: Vec<(usize, Duration)>,
}

impl Stalls {
    fn stall(&mut self, client: &str, dice: &mut StdRng) {
        if let Some((n, freeze)) = self.controllers.get(client) {
            freeze.set(true);
            self.begun.push((*n, Duration::from_secs(dice.random_range(5..60))));
        }
    }
}

#[derive(Debug, Clone)]
enum Undo {
    Thaw(usize),
    ThawController(usize),
    Heal(String),
    Start(usize),
}

impl World {
    fn new(seed: u64, mutant: Mutant) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let faults = if rng.random_bool(0.7) { Faults::harsh(seed) } else { mild(seed) };
        let memory = MemoryStore::new(faults);
        let checker = Arc::new(Mutex::new(Checker::new(Keyspace::default())));
        let stalls: Arc<Mutex<Stalls>> = Arc::default();
        let (observer, staller) = (checker.clone(), stalls.clone());
        let mut dice = StdRng::seed_from_u64(seed ^ 2);
        memory.on_revision(move |commit| {
            let cleans = observer.lock().unwrap().see(commit);
            if cleans && dice.random_bool(0.1) {
                staller.lock().unwrap().stall(commit.client.as_deref().unwrap_or_default(), &mut dice);
            }
        });
        let admin = FaultyStore { store: memory.clone(), mutant, keys: Keyspace::default() };
        let admin = Client::new(admin, Keyspace::default(), StdRng::seed_from_u64(seed ^ 1));
        let mut world = Self {
            rng,
            start: Instant::now(),
            mutant,
            memory,
            admin,
            checker,
            stalls,
            agents: Vec::new(),
            controllers: Vec::new(),
            networks: Vec::new(),
            made: 0,
            removals: Vec::new(),
            due: Vec::new(),
            log: Vec::new(),
        };
        for n in 0..HOSTS {
            world.add_host(n);
        }
        for n in 0..2 {
            let controller = world.controller(n);
            world.controllers.push(controller);
        }
        world
    }

    async fn live(&mut self) {
        for _ in 0..2 {
            self.create().await;
        }
        for _ in 0..STEPS {
            let pause = Duration::from_millis(self.rng.random_range(0..15_000));
            self.pass(pause).await;
            self.step().await;
            if !self.checker.lock().unwrap().violations.is_empty() {
                return;
            }
        }
        self.calm_down().await;
        if self.settle().await {
            self.remove_everything().await;
        }
    }

    /// Every commit whose keys or values contain a text, for whoever looks into a seed.
    fn trace(&self, text: &str) -> Vec<String> {
        let checker = self.checker.lock().unwrap();
        let mut lines = Vec::new();
        for commit in self.memory.commits() {
            for event in &commit.events {
                let (verb, value) = match event {
                    Event::Put(kv) => {
                        (format!("put lease {:x}", kv.lease), String::from_utf8_lossy(&kv.value).into_owned())
                    }
                    Event::Delete { .. } => ("delete".to_owned(), String::new()),
                };
                let key = String::from_utf8_lossy(event.key()).into_owned();
                if key.contains(text) || value.contains(text) {
                    let at = checker.times.get(&commit.revision).copied().unwrap_or(self.start) - self.start;
                    let client = commit.client.clone().unwrap_or_default();
                    lines.push(format!("{:8.1}s r{} {client} {verb} {key} {value}", at.as_secs_f64(), commit.revision));
                }
            }
        }
        lines
    }

    fn outcome(&self) -> Outcome {
        if let Ok(text) = std::env::var("WEFT_SIM_TRACE") {
            self.trace(&text).iter().for_each(|line| println!("{line}"));
            self.log.iter().for_each(|line| println!("{line}"));
        }
        let checker = self.checker.lock().unwrap();
        let attached = self.agents.iter().map(|agent| agent.host.lock().unwrap().attached).sum();
        Outcome {
            violations: checker.violations.clone(),
            log: self.log.iter().rev().take(25).rev().cloned().collect(),
            fingerprint: checker.fingerprint,
            revisions: checker.revision,
            attached,
        }
    }

    async fn end(mut self) {
        for n in 0..self.agents.len() {
            self.stop(n).await;
        }
        for controller in &self.controllers {
            controller.running.abort();
        }
    }

    fn note(&mut self, text: String) {
        self.log.push(format!("{} {text}", since(self.start)));
    }

    fn violation(&self, text: String) {
        self.checker.lock().unwrap().violations.push(text);
    }

    fn add_host(&mut self, n: usize) {
        let host = Host {
            name: format!("h{n}"),
            node: NodeId::from_entropy(self.rng.random()),
            vtep: IpAddr::V4(Ipv4Addr::new(192, 168, 56, 11 + u8::try_from(n).unwrap())),
            boot_id: format!("boot-{n}"),
            lease: None,
            containers: BTreeMap::new(),
            attached: 0,
            refusals: BTreeMap::new(),
        };
        self.agents.push(AgentSlot {
            host: Arc::new(Mutex::new(host)),
            shown: Arc::default(),
            freeze: Arc::default(),
            running: None,
        });
        self.launch(n);
    }

    fn store(&self, name: &str) -> FaultyStore {
        FaultyStore { store: self.memory.client(name), mutant: self.mutant, keys: Keyspace::default() }
    }

    fn launch(&mut self, n: usize) {
        let seed = self.rng.random();
        let slot = &self.agents[n];
        if slot.running.is_some() {
            return;
        }
        let (commands_in, commands) = mpsc::channel(64);
        let setting = Setting {
            host: slot.host.clone(),
            shown: slot.shown.clone(),
            checker: self.checker.clone(),
            store: self.store(&store_name(&slot.host)),
            seed,
        };
        let freeze = Arc::new(Freeze::default());
        let process = Freezable { freeze: freeze.clone(), process: Box::pin(process(setting, commands)) };
        let slot = &mut self.agents[n];
        slot.freeze = freeze;
        slot.running = Some((tokio::spawn(process), commands_in));
    }

    /// kill -9.
    async fn stop(&mut self, n: usize) {
        if let Some((task, _)) = self.agents[n].running.take() {
            task.abort();
            if let Err(error) = task.await
                && error.is_panic()
            {
                self.violation(format!("panic: agent {n}: {error}"));
            }
        }
    }

    fn controller(&mut self, n: usize) -> ControllerSlot {
        let name = format!("controller-{n}-{}", self.rng.random::<u32>());
        let settings = ControllerSettings {
            lost_after: LOST_AFTER,
            pass_every: Duration::from_secs(5),
            audit_every: Duration::from_secs(120),
        };
        let rng = StdRng::seed_from_u64(self.rng.random());
        let run = weft_controller::run(self.store(&name), Keyspace::default(), settings, rng);
        let freeze = Arc::new(Freeze::default());
        self.stalls.lock().unwrap().controllers.insert(name, (n, freeze.clone()));
        let running = tokio::spawn(Freezable { freeze: freeze.clone(), process: Box::pin(run) });
        ControllerSlot { freeze, running }
    }

    /// Lets time pass and undoes what is due meanwhile.
    async fn pass(&mut self, time: Duration) {
        let until = Instant::now() + time;
        loop {
            let begun = std::mem::take(&mut self.stalls.lock().unwrap().begun);
            for (n, time) in begun {
                self.note(format!("controller {n} stalled while cleaning up"));
                self.due.push((Instant::now() + time, Undo::ThawController(n)));
            }
            let next = self.due.iter().enumerate().min_by_key(|(_, (at, _))| *at).map(|(n, (at, _))| (n, *at));
            let Some((n, at)) = next.filter(|(_, at)| *at <= until) else { break };
            tokio::time::sleep_until(at).await;
            let (_, undo) = self.due.swap_remove(n);
            self.undo(undo);
        }
        tokio::time::sleep_until(until).await;
    }

    fn undo(&mut self, undo: Undo) {
        self.note(format!("{undo:?}"));
        match undo {
            Undo::Thaw(n) => self.agents[n].freeze.set(false),
            Undo::ThawController(n) => self.controllers[n].freeze.set(false),
            Undo::Heal(client) => self.memory.client(&client).cut(Partition::None),
            Undo::Start(n) => self.launch(n),
        }
    }

    fn later(&mut self, seconds: std::ops::Range<u64>, undo: Undo) {
        let wait = Duration::from_secs(self.rng.random_range(seconds));
        self.due.push((Instant::now() + wait, undo));
    }

    fn deadline(&self) -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    async fn step(&mut self) {
        let n = self.rng.random_range(0..HOSTS);
        match self.rng.random_range(0..100) {
            0..40 => self.attach(n),
            40..44 => self.race(n),
            44..58 => self.command(n, Command::Detach),
            58..61 => self.create().await,
            61..63 => self.remove_one().await,
            63..66 => self.drain(n).await,
            66..72 => {
                self.note(format!("freeze agent {n}"));
                self.agents[n].freeze.set(true);
                self.later(1..200, Undo::Thaw(n));
            }
            72..79 => {
                let client = store_name(&self.agents[n].host);
                let cuts = [Partition::Both, Partition::Requests, Partition::Replies];
                let cut = cuts[self.rng.random_range(0..3)];
                self.note(format!("cut agent {n}: {cut:?}"));
                self.memory.client(&client).cut(cut);
                self.later(1..150, Undo::Heal(client));
            }
            79..86 => self.crash(n).await,
            86..91 => {
                let c = self.rng.random_range(0..self.controllers.len());
                self.note(format!("freeze controller {c}"));
                self.controllers[c].freeze.set(true);
                self.later(1..60, Undo::ThawController(c));
            }
            91..93 => {
                let c = self.rng.random_range(0..self.controllers.len());
                self.note(format!("restart controller {c}"));
                self.controllers[c].running.abort();
                self.controllers[c] = self.controller(c);
            }
            93..96 => {
                self.note("compact".to_owned());
                self.memory.compact(self.memory.revision()).ok();
            }
            96..98 => self.memory.client(&store_name(&self.agents[n].host)).close_watches(),
            _ => {
                let lease = self.agents[n].host.lock().unwrap().lease;
                self.note(format!("expire the lease of agent {n}"));
                if let Some(lease) = lease {
                    self.memory.expire_lease(lease);
                }
            }
        }
    }

    fn command(&mut self, n: usize, command: Command) {
        if let Some((_, commands)) = &self.agents[n].running {
            commands.try_send(command).ok();
        }
    }

    fn attach(&mut self, n: usize) {
        if self.networks.is_empty() {
            return;
        }
        let network = self.networks[self.rng.random_range(0..self.networks.len())];
        for _ in 0..self.rng.random_range(1..4) {
            let subnet = self.memory_subnet(network);
            let asked = subnet.filter(|_| self.rng.random_bool(0.15)).map(|subnet| {
                let size = 1_u32 << (32 - subnet.prefix());
                Ipv4Addr::from_bits(subnet.network().to_bits() + self.rng.random_range(0..size.min(64)))
            });
            self.command(n, Command::Attach { network, asked });
        }
    }

    /// Two hosts are asked for one address at one moment.
    fn race(&mut self, n: usize) {
        let Some(network) = self.networks.last().copied() else { return };
        let Some(subnet) = self.memory_subnet(network) else { return };
        let asked = Some(Ipv4Addr::from_bits(subnet.network().to_bits() + self.rng.random_range(2..14)));
        for host in [n, (n + 1) % HOSTS] {
            self.command(host, Command::Attach { network, asked });
        }
    }

    fn memory_subnet(&self, network: NetworkId) -> Option<ipnetwork::Ipv4Network> {
        let spec = now(&self.memory, &Keyspace::default().network(network))
            .into_iter()
            .find(|(key, _)| key.ends_with(b"spec"))?;
        let spec: weft_overlay::model::NetworkSpec = weft_overlay::codec::decode_record(&spec.1).ok()?;
        match spec.subnet4()?.subnet {
            ipnetwork::IpNetwork::V4(v4) => Some(v4),
            ipnetwork::IpNetwork::V6(_) => None,
        }
    }

    async fn create(&mut self) {
        self.made += 1;
        let mut request = NetworkRequest::named(format!("net{}", self.made % 6).parse().unwrap());
        let third = self.made % 250;
        let subnet = match self.rng.random_range(0..6) {
            0..3 => None,
            3 => Some(format!("10.9.{third}.0/28")),
            4 => Some(format!("10.9.{third}.0/24")),
            _ => Some(format!("fd09:{third:x}::/120")),
        };
        request.subnets.extend(subnet.map(|subnet| subnet.parse::<ipnetwork::IpNetwork>().unwrap()));
        if let Ok(network) = create_network(&self.admin, &request, self.deadline()).await {
            self.note(format!("created {} {:?}", network.id, network.subnets[0].subnet));
            self.networks.push(network.id);
        }
    }

    async fn remove_one(&mut self) {
        if self.networks.len() < 2 {
            return;
        }
        let n = self.rng.random_range(0..self.networks.len());
        let network = self.networks[n];
        let force = self.rng.random_bool(0.7);
        let removed = remove_network(&self.admin, &network.to_string(), force, self.deadline()).await;
        self.note(format!("remove {network} force {force}: {}", removed.is_ok()));
        if removed.is_ok() {
            self.networks.remove(n);
        }
    }

    async fn drain(&mut self, n: usize) {
        let draining = self.rng.random_bool(0.4);
        let name = self.agents[n].host.lock().unwrap().name.clone();
        let done = set_draining(&self.admin, &name, draining, self.deadline()).await;
        self.note(format!("drain {name} {draining}: {}", done.is_ok()));
    }

    async fn crash(&mut self, n: usize) {
        self.stop(n).await;
        let fate = self.rng.random_range(0..10);
        self.note(format!("crash agent {n}, fate {fate}"));
        match fate {
            0..4 => {}
            4..8 => self.agents[n].host.lock().unwrap().lease = None,
            8 => {
                // Reboot: the containers are gone too.
                let mut host = self.agents[n].host.lock().unwrap();
                host.boot_id.push('+');
                host.containers.clear();
            }
            _ => {
                // Another disk: nobody knows any more who this node was.
                let node = NodeId::from_entropy(self.rng.random());
                let mut host = self.agents[n].host.lock().unwrap();
                (host.node, host.lease) = (node, None);
                host.containers.clear();
                self.removals.push(host.name.clone());
            }
        }
        if fate < 2 { self.launch(n) } else { self.later(0..120, Undo::Start(n)) }
    }

    /// Ends all misfortunes but those of the wire, and removes nodes that nobody is any more.
    async fn calm_down(&mut self) {
        self.pass(Duration::from_secs(200)).await;
        for n in 0..HOSTS {
            self.launch(n);
            let name = self.agents[n].host.lock().unwrap().name.clone();
            for _ in 0..20 {
                let Err(error) = set_draining(&self.admin, &name, false, self.deadline()).await else { break };
                if !error.to_string().contains("lost") {
                    break;
                }
                self.pass(Duration::from_secs(5)).await;
            }
        }
        for name in std::mem::take(&mut self.removals) {
            self.remove_old_node(&name).await;
        }
    }

    /// Removes the node that has a name, unless it is the one that should have it.
    async fn remove_old_node(&mut self, name: &str) {
        let wanted: BTreeSet<NodeId> = self.agents.iter().map(|agent| agent.host.lock().unwrap().node).collect();
        let nodes = weft_node_agent::control::nodes::list_nodes(&self.admin, self.deadline()).await.unwrap();
        let old = nodes.into_iter().find(|node| node.name.as_str() == name && !wanted.contains(&node.id));
        if let Some(old) = old {
            self.remove_for_good(old.id).await;
        }
    }

    /// Waits until everybody agrees with the store, and the store with what users were told.
    async fn settle(&mut self) -> bool {
        let until = Instant::now() + QUIET;
        loop {
            self.pass(Duration::from_secs(5)).await;
            if !self.checker.lock().unwrap().violations.is_empty() {
                return false;
            }
            let differences = self.differences();
            if differences.is_empty() {
                return true;
            }
            if Instant::now() > until {
                for difference in differences.into_iter().take(5) {
                    self.violation(format!("quiet: {difference}"));
                }
                return false;
            }
        }
    }

    fn differences(&self) -> Vec<String> {
        let keys = Keyspace::default();
        let stored: BTreeMap<Vec<u8>, i64> =
            self.memory.read_now(&keys.all_networks()).into_iter().map(|kv| (kv.key, kv.mod_revision)).collect();
        let checker = self.checker.lock().unwrap();
        let mut differences = Vec::new();
        let mut told: BTreeMap<EndpointId, (NetworkId, NodeId, Vec<IpAddr>)> = BTreeMap::new();
        let mut members = BTreeSet::new();
        for agent in &self.agents {
            let (host, shown) = (agent.host.lock().unwrap(), agent.shown.lock().unwrap());
            if !matches!(shown.standing, Some(Standing::Active(_))) {
                differences.push(format!("{} is {:?}", host.name, shown.standing));
            }
            if shown.view != stored {
                differences.push(format!("{} sees {} keys of {}", host.name, shown.view.len(), stored.len()));
            }
            for (id, container) in &host.containers {
                let Some(record) = &container.record else {
                    differences.push(format!("{} still connects {id}", host.name));
                    continue;
                };
                members.insert((container.network, host.node));
                told.insert(*id, (container.network, host.node, record.record.addresses().collect()));
            }
            if agent.running.as_ref().is_none_or(|(task, _)| task.is_finished()) {
                differences.push(format!("the agent of {} has ended", host.name));
            }
            differences.extend(pools_differ(&host, &shown, &checker));
        }
        let mut kept = BTreeMap::new();
        let mut legs = BTreeSet::new();
        for ((network, _), record) in checker.endpoints() {
            if record.kind == EndpointKind::Leg {
                legs.insert((*network, record.node));
            } else {
                kept.insert(record.id, (*network, record.node, record.addresses().collect::<Vec<_>>()));
            }
        }
        if told != kept {
            let lost: Vec<_> = told.iter().filter(|(id, what)| kept.get(id) != Some(what)).take(3).collect();
            let spare: Vec<_> = kept.iter().filter(|(id, what)| told.get(id) != Some(what)).take(3).collect();
            differences.push(format!("told but not stored {lost:?}; stored but not told {spare:?}"));
        }
        if legs != *checker.members() || legs != members {
            differences.push(format!("legs {legs:?}, members {:?}, used {members:?}", checker.members()));
        }
        differences
    }

    async fn remove_everything(&mut self) {
        for network in list_networks(&self.admin, self.deadline()).await.unwrap() {
            remove_network(&self.admin, &network.id.to_string(), true, self.deadline()).await.unwrap();
        }
        let keys = Keyspace::default();
        let gone = [keys.all_networks(), keys.network_names()];
        if !self.await_empty("networks", &gone).await {
            return;
        }
        for n in 0..HOSTS {
            self.stop(n).await;
        }
        self.pass(Duration::from_secs(40)).await;
        for n in 0..HOSTS {
            let node = self.agents[n].host.lock().unwrap().node;
            self.remove_for_good(node).await;
        }
        for controller in &self.controllers {
            controller.running.abort();
        }
        self.pass(Duration::from_secs(700)).await;
        let left: Vec<String> = now(&self.memory, &keys.all())
            .into_iter()
            .map(|(key, _)| String::from_utf8_lossy(&key).into_owned())
            .filter(|key| !key.ends_with("meta/schema"))
            .collect();
        if !left.is_empty() {
            self.violation(format!("quiet: left behind: {left:?}"));
        }
    }

    async fn remove_for_good(&mut self, node: NodeId) {
        let until = Instant::now() + QUIET;
        let mut last = String::new();
        while Instant::now() < until {
            let deadline = Instant::now() + Duration::from_secs(1);
            match remove_node(&self.admin, &node.to_string(), true, deadline).await {
                Ok(_) => return,
                Err(error) => last = error.to_string(),
            }
            self.pass(Duration::from_secs(5)).await;
        }
        self.violation(format!("quiet: node {node} could not be removed: {last}"));
    }

    async fn await_empty(&mut self, what: &str, ranges: &[weft_overlay::keys::KeyRange]) -> bool {
        let until = Instant::now() + QUIET;
        loop {
            self.pass(Duration::from_secs(2)).await;
            let left: Vec<String> = ranges
                .iter()
                .flat_map(|range| now(&self.memory, range))
                .map(|(key, _)| String::from_utf8_lossy(&key).into_owned())
                .collect();
            if left.is_empty() {
                return true;
            }
            if Instant::now() > until {
                self.violation(format!("quiet: {what} are still there: {left:?}"));
                return false;
            }
        }
    }
}

/// What a node believes to have, against what the store says that it has.
fn pools_differ(host: &Host, shown: &Shown, checker: &Checker) -> Vec<String> {
    let mut differences = Vec::new();
    let owned = checker.owned_blocks(host.node);
    let mut believed = BTreeSet::new();
    for pool in &shown.pools {
        for block in &pool.blocks {
            let block: ipnetwork::IpNetwork = block.parse().unwrap();
            believed.insert((pool.network, block.network()));
            let held: BTreeMap<IpAddr, EndpointId> =
                pool.held.iter().filter(|(ip, _)| block.contains(**ip)).map(|(ip, id)| (*ip, *id)).collect();
            let stored: BTreeMap<IpAddr, EndpointId> = checker
                .endpoints()
                .iter()
                .filter(|((network, ip), record)| {
                    *network == pool.network && block.contains(*ip) && record.node == host.node
                })
                .map(|((_, ip), record)| (*ip, record.id))
                .collect();
            if held != stored {
                differences.push(format!("{} believes {held:?} of {block}, stored {stored:?}", host.name));
            }
        }
    }
    let unknown: Vec<_> = believed.difference(&owned).collect();
    if !unknown.is_empty() {
        differences.push(format!("{} believes to own {unknown:?}", host.name));
    }
    differences
}

/// A good day: answers take time, and now and then a watch closes.
fn mild(seed: u64) -> Faults {
    Faults {
        seed,
        latency: Duration::from_micros(100)..=Duration::from_millis(5),
        watch_closed: 0.005,
        ..Faults::none()
    }
}
