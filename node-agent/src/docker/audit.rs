//! Keeping up with the engine: names from its events, and a comparison of what it has with what we have.
//!
//! Events only say what to look at again. Docker drops endpoints without a word when it was killed, and ignores it when we
//! were away: what it does not have any more for some time is taken away. Nothing is concluded while it does not answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use ipnetwork::IpNetwork;
use tokio::time::{interval, sleep};
use tracing::{debug, info, warn};
use weft_overlay::{
    claims::{EndpointUpdated, UpdateEndpoint},
    id::{EndpointId, NetworkId},
    model::EndpointRecord,
    view::{NodeView, Plumbing, Stored},
};

use super::{
    Driver,
    containers::{Called, called, called_only},
    engine::{EngineContainer, EngineNetwork, Event, Events},
    order::endpoint_id,
    sandbox::Inside,
    soon,
};
use crate::{kernel::held_subnets::ensure_held, reconciler::chain};

/// An engine that is away is tried again after this time.
const RECONNECT: Duration = Duration::from_millis(500);
/// Everything is compared at least this often.
const AUDIT_EVERY: Duration = Duration::from_secs(30);
/// Time between two looks at which networks the cluster has.
const INDEX_EVERY: Duration = Duration::from_millis(300);
/// An endpoint that the engine does not show may be one that it is making: that takes no longer.
const GRACE: Duration = Duration::from_secs(15);
/// Time between two looks at endpoints that the engine does not show.
const SUSPECTS_EVERY: Duration = Duration::from_secs(3);
/// How long an answer about a container may take, which waits while that is started or stopped.
const CONTAINER_PATIENCE: Duration = Duration::from_secs(30);
/// How long a handler's question may take.
const JOIN_PATIENCE: Duration = Duration::from_millis(500);
/// From this version of the engine's interface on, namespaces exist before interfaces are asked for.
const EARLY_NAMESPACES: (u32, u32) = (1, 45);

/// Endpoints that the engine does not show, and since when.
type Suspects = BTreeMap<EndpointId, Instant>;

impl Driver {
    /// Follows the engine for as long as the agent runs.
    pub(super) async fn follow_engine(self: Arc<Self>) {
        let mut suspects = Suspects::new();
        loop {
            // Before everything is looked at, so that nothing is missed in between.
            match self.engine.events().await {
                Ok(events) => {
                    self.note_version().await;
                    self.clone().follow_events(events, &mut suspects).await;
                    info!("the Docker engine is away");
                }
                Err(error) => debug!(error = %chain(&error), "the Docker engine does not answer"),
            }
            sleep(RECONNECT).await;
        }
    }

    async fn follow_events(self: Arc<Self>, mut events: Events, suspects: &mut Suspects) {
        let mut index = None;
        let mut due = Instant::now();
        let mut index_ticks = interval(INDEX_EVERY);
        loop {
            if due <= Instant::now() {
                self.audit(suspects).await;
                due = Instant::now() + if suspects.is_empty() { AUDIT_EVERY } else { SUSPECTS_EVERY };
            }
            tokio::select! {
                // All cancel-safe.
                event = events.next() => match event {
                    Some(event) => if self.clone().take(event) { due = Instant::now(); },
                    None => return,
                },
                () = self.doubt.notified() => due = Instant::now(),
                () = tokio::time::sleep_until(due.into()) => {}
                _ = index_ticks.tick() => {
                    let now = self.index().await;
                    if now != index {
                        self.hold_subnets(now.as_ref());
                        index = now;
                        due = Instant::now();
                    }
                }
            }
        }
    }

    /// Keeps Docker from choosing a subnet of the cluster's for something of its own.
    fn hold_subnets(&self, index: Option<&BTreeMap<NetworkId, Vec<IpNetwork>>>) {
        let Some(index) = index else { return };
        let subnets = index.values().flatten().copied().collect();
        if let Err(error) = ensure_held(&self.attacher.facts.host, &subnets) {
            warn!(%error, "Docker may choose a subnet of the cluster's for a bridge of its own");
        }
    }

    async fn note_version(&self) {
        if let Ok(version) = self.engine.api_version().await {
            self.late_namespaces.store(version < EARLY_NAMESPACES, Ordering::Relaxed);
            info!(api = format!("{}.{}", version.0, version.1), "following the Docker engine");
        }
    }

    /// Takes in an event; true when everything should be compared.
    fn take(self: Arc<Self>, event: Event) -> bool {
        let container = match event.kind.as_str() {
            "container" => event.actor.id,
            "network" if event.action == "connect" => {
                event.actor.attributes.get("container").cloned().unwrap_or_default()
            }
            "network" => return matches!(event.action.as_str(), "create" | "destroy" | "remove"),
            _ => return false,
        };
        match event.action.as_str() {
            "create" | "start" | "rename" | "connect" | "unpause" => {
                tokio::spawn(async move { self.look_at(&container).await });
            }
            "destroy" => self.containers.forget(&container),
            _ => {}
        }
        false
    }

    /// Looks at a container: what it is called, and where its interfaces are.
    async fn look_at(&self, id: &str) {
        let Ok(container) = self.engine.container(id, CONTAINER_PATIENCE).await else { return };
        self.containers.note(container.clone());
        for (name, attachment) in &container.network_settings.networks {
            let Ok(endpoint) = endpoint_id(&attachment.endpoint) else { continue };
            let Some((network, stored)) = self.local(endpoint).await else { continue };
            let shown =
                EngineNetwork { id: attachment.network.clone(), name: name.clone(), ..EngineNetwork::default() };
            if let Some(called) = called(&container, &shown) {
                self.call(network, endpoint, &called).await;
            }
            self.look_inside(&container, network, &stored.record).await;
        }
    }

    /// Takes charge of an interface whose place is not known: as after a restart of ours.
    async fn look_inside(&self, container: &EngineContainer, network: NetworkId, record: &EndpointRecord) {
        let endpoint = record.id;
        let known = self.attacher.handle.view(move |view| view.plumbing(endpoint).cloned()).await.ok().flatten();
        if !container.state.running || matches!(known, Some(Plumbing::Awaited | Plumbing::Lent(_))) {
            return;
        }
        let facts = &self.attacher.facts;
        let key = PathBuf::from(&container.network_settings.sandbox_key);
        let process = || PathBuf::from(format!("/proc/{}/ns/net", container.state.pid));
        let inside = Inside::open(&key, facts).or_else(|| Inside::open(&process(), facts));
        let Some(inside) = inside else { return };
        self.responders.serve(&inside, endpoint, network);
        if known.is_none() {
            self.take_over(record, &inside);
        }
    }

    /// Learns whose an endpoint is while the engine joins it: from the network, whose lock is free, and from what is known
    /// of the container since its creation.
    pub(super) async fn learn_name(&self, docker_network: &str, endpoint: EndpointId) {
        let Ok(shown) = self.engine.network(docker_network, JOIN_PATIENCE).await else { return };
        let is_it = |key: &str, id: &str| {
            let id = if id.is_empty() { key.strip_prefix("ep-").unwrap_or_default() } else { id };
            endpoint_id(id) == Ok(endpoint)
        };
        let Some((_, occupant)) = shown.containers.iter().find(|(key, o)| is_it(key, &o.endpoint)) else { return };
        let known = self.containers.named(&occupant.name);
        let called = known.and_then(|container| called(&container, &shown)).or_else(|| called_only(&occupant.name));
        let Some((network, _)) = self.local(endpoint).await else { return };
        if let Some(called) = called {
            self.call(network, endpoint, &called).await;
        }
    }

    /// Registers what an endpoint is called, where that has changed.
    async fn call(&self, network: NetworkId, endpoint: EndpointId, called: &Called) {
        let look = move |view: &NodeView| view.network(network)?.endpoint_by_id(endpoint).cloned();
        let Ok(Some(mut stored)) = self.attacher.handle.view(look).await else { return };
        loop {
            let record = named(&stored, called);
            if record == stored.record {
                return;
            }
            let Ok(token) = self.attacher.allocator.may_write() else { return };
            let Ok(claim) = UpdateEndpoint::new(token, network, &stored, record.clone()) else { return };
            match self.attacher.client.submit(&claim, soon()).await {
                Ok(EndpointUpdated::Updated(revision)) => {
                    self.attacher.handle.change(move |view| view.set_registered(network, record, revision));
                    return;
                }
                Ok(EndpointUpdated::Changed(now)) => stored = *now,
                Ok(EndpointUpdated::Gone | EndpointUpdated::Fenced(_)) => return,
                Err(error) => {
                    warn!(%endpoint, name = %called.name, error = %chain(&error), "a name is not registered yet");
                    self.doubt.notify_one();
                    return;
                }
            }
        }
    }

    /// Compares everything.
    async fn audit(self: &Arc<Self>, suspects: &mut Suspects) {
        if !self.mirror().await {
            return;
        }
        let Some(shown) = self.shown().await else { return };
        for id in self.engine.running().await.unwrap_or_default() {
            self.look_at(&id).await;
        }
        let locals: BTreeSet<EndpointId> = self.locals().await.into_iter().map(|(_, record)| record.id).collect();
        suspects.retain(|endpoint, _| locals.contains(endpoint) && !shown.contains(endpoint));
        for endpoint in locals.iter().filter(|endpoint| !shown.contains(endpoint)) {
            suspects.entry(*endpoint).or_insert_with(Instant::now);
        }
        let due = suspects.iter().filter(|(_, since)| since.elapsed() >= GRACE);
        for endpoint in due.map(|(endpoint, _)| *endpoint).collect::<Vec<_>>() {
            info!(%endpoint, "the engine has no such endpoint any more");
            self.remove_endpoint(endpoint).await;
        }
        for endpoint in self.responders.endpoints() {
            if !locals.contains(&endpoint) {
                self.responders.forget(endpoint);
            }
        }
    }

    /// The endpoints that the engine shows in all its networks of ours; `None` unless it said so for each.
    async fn shown(&self) -> Option<BTreeSet<EndpointId>> {
        let mut shown = BTreeSet::new();
        for network in self.engine.networks().await.ok()? {
            let network = self.engine.network(&network.id, JOIN_PATIENCE * 4).await.ok()?;
            for (key, occupant) in &network.containers {
                let id = if occupant.endpoint.is_empty() { key.trim_start_matches("ep-") } else { &occupant.endpoint };
                shown.extend(endpoint_id(id).ok());
            }
        }
        Some(shown)
    }
}

/// The record of an endpoint with these names. A name that is better known than by the container's alone is kept.
fn named(stored: &Stored<EndpointRecord>, called: &Called) -> EndpointRecord {
    let mut record = stored.record.clone();
    record.name = called.name.clone();
    if let Some(container) = &called.container {
        record.aliases.clone_from(&called.aliases);
        if let Some(docker) = &mut record.docker {
            docker.container = Some(container.clone());
        }
    }
    record
}
