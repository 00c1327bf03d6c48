//! The Docker front end: `docker network create -d weft`, and everything that follows from it.
//!
//! Serves libnetwork's remote network and IPAM drivers on a plugin socket, and asks the engine for what those protocols
//! leave out: names of networks and containers, and what exists after somebody was away. Attaching, addresses and names
//! are those of the rest of the agent; what is here translates. Nothing is asked of the engine inside a handler without a
//! short deadline, because the engine may hold a lock until the handler answers.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ipnetwork::IpNetwork;
use tokio::{
    sync::{Mutex as AsyncMutex, Notify, OwnedMutexGuard, oneshot},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tracing::{debug, info, warn};
use weft_overlay::{
    id::{EndpointId, NetworkId},
    model::EndpointRecord,
    store::etcd::EtcdStore,
    view::Stored,
};

pub(crate) use self::troubles::Troubles;
use self::{book::Book, containers::Containers, engine::Engine, former::Former, responders::Responders};
use crate::{
    agent::{NodeKernel, attach::Attacher, naming::Naming},
    identity::StateDir,
    names::server::inside::Insider,
    reconciler::chain,
};

mod addresses;
mod audit;
mod book;
mod containers;
mod endpoints;
mod engine;
mod error;
mod former;
mod messages;
mod mirror;
mod networks;
mod order;
mod plugin;
mod responders;
mod sandbox;
mod troubles;

/// How long a handler may wait for the store or another task before it answers with an error.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time between two looks for an engine that is not there yet.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long calls of Docker's wait at the start for what its networks are. An engine that runs says so in some
/// milliseconds; one that does not answer yet may be waiting for the answer to such a call.
const ADOPT_WITHIN: Duration = Duration::from_secs(2);
/// The engine's socket, unless told otherwise.
const ENGINE_SOCKET: &str = "/var/run/docker.sock";

/// Whether and where the Docker front end runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerOptions {
    /// Which engine.
    pub engine: DockerEngine,
    /// The directory in which the engine looks for plugins' sockets.
    pub plugins: PathBuf,
}

/// Which engine is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DockerEngine {
    /// None.
    Off,
    /// That of the host, once there is one.
    Auto,
    /// The one with this socket.
    At(PathBuf),
}

/// What the front end works with.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) attacher: Arc<Attacher<EtcdStore, NodeKernel>>,
    pub(crate) naming: Arc<AsyncMutex<Naming<NodeKernel>>>,
    pub(crate) insider: Insider,
    pub(crate) state: Arc<StateDir>,
    pub(crate) troubles: Troubles,
}

/// The driver of one engine.
#[derive(Debug)]
struct Driver {
    attacher: Arc<Attacher<EtcdStore, NodeKernel>>,
    naming: Arc<AsyncMutex<Naming<NodeKernel>>>,
    state: Arc<StateDir>,
    engine: Engine,
    book: Mutex<Book>,
    /// Told when what a network is has become known.
    resolved: Notify,
    /// Told when the engine's networks and endpoints should be compared with ours.
    doubt: Notify,
    containers: Containers,
    former: Former,
    responders: Responders,
    troubles: Troubles,
    gates: Mutex<BTreeMap<EndpointId, Arc<AsyncMutex<()>>>>,
    /// Whether the engine asks for interfaces of starting containers before their namespace exists: up to 25.
    late_namespaces: AtomicBool,
}

/// Starts the front end. What is returned ends when nobody has to wait for the plugin socket any longer: it is there, or
/// there is no engine yet, or the first attempt to make it failed.
pub(crate) fn start(
    options: DockerOptions,
    parts: Parts,
    tasks: &mut JoinSet<&'static str>,
) -> oneshot::Receiver<Infallible> {
    let (awaited, bound) = oneshot::channel();
    if options.engine != DockerEngine::Off {
        tasks.spawn(async move {
            Box::pin(run(options, parts, awaited)).await;
            "the Docker front end"
        });
    }
    bound
}

async fn run(options: DockerOptions, parts: Parts, awaited: oneshot::Sender<Infallible>) {
    let mut awaited = Some(awaited);
    let socket = match &options.engine {
        DockerEngine::At(socket) => socket.clone(),
        DockerEngine::Auto | DockerEngine::Off => PathBuf::from(ENGINE_SOCKET),
    };
    while options.engine == DockerEngine::Auto && !is_seen(&socket, &options.plugins) {
        awaited = None;
        sleep(LOOK_EVERY).await;
    }
    let driver = Arc::new(Driver::new(&socket, parts));
    // Before anything is asked of the engine: at boot it begins to answer only after it has met its plugins, and the service
    // manager may start it only after us.
    let listener = loop {
        match plugin::bind(&options.plugins) {
            Ok(listener) => break listener,
            Err(error) => warn!(error = %chain(&error), "the plugin socket cannot be made; it is tried again"),
        }
        awaited = None;
        sleep(LOOK_EVERY).await;
    };
    drop(awaited);
    // Before anything is answered: a call about a network that we have no note of would be refused. Calls wait meanwhile.
    if timeout(ADOPT_WITHIN, driver.adopt_networks()).await.is_err() {
        debug!("what the engine's networks are is found out later: it does not answer yet, or the store does not");
    }
    info!(engine = %socket.display(), plugins = %options.plugins.display(), "serving Docker");
    let upkeep = driver.clone().follow_engine();
    let serving = plugin::serve(listener, driver);
    tokio::select! {
        // Neither ends by itself but for a listener that fails.
        () = upkeep => {}
        served = serving => if let Err(error) = served {
            warn!(%error, "serving the plugin socket");
        }
    }
}

/// Whether this host has an engine, running or about to.
fn is_seen(socket: &Path, plugins: &Path) -> bool {
    socket.exists() || plugins.parent().is_some_and(Path::exists)
}

impl Driver {
    fn new(socket: &Path, parts: Parts) -> Self {
        let Parts { attacher, naming, insider, state, troubles } = parts;
        Self {
            book: Mutex::new(Book::load(&state)),
            former: Former::load(&state),
            attacher,
            naming,
            state,
            engine: Engine::at(socket),
            resolved: Notify::new(),
            doubt: Notify::new(),
            containers: Containers::default(),
            responders: Responders::new(insider, troubles.clone()),
            troubles,
            gates: Mutex::default(),
            late_namespaces: AtomicBool::new(false),
        }
    }

    fn book<T>(&self, work: impl FnOnce(&mut Book) -> T) -> T {
        // A book is changed by short calls; one that panicked has left it usable.
        work(&mut self.book.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets one task at a time act on one endpoint.
    async fn gate(&self, endpoint: EndpointId) -> OwnedMutexGuard<()> {
        let gate = {
            let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
            // Gates that nobody else holds are of endpoints of the past.
            gates.retain(|_, gate| Arc::strong_count(gate) > 1);
            gates.entry(endpoint).or_default().clone()
        };
        gate.lock_owned().await
    }

    /// An endpoint of this node's engine, as stored.
    async fn local(&self, endpoint: EndpointId) -> Option<(NetworkId, Stored<EndpointRecord>)> {
        let look = move |view: &weft_overlay::view::NodeView| {
            let network = view.local(endpoint)?.network;
            let stored = view.network(network)?.endpoint_by_id(endpoint)?;
            Some((network, stored.clone()))
        };
        self.attacher.handle.view(look).await.ok().flatten()
    }

    /// All endpoints of this node's engine, without those being removed.
    async fn locals(&self) -> Vec<(NetworkId, EndpointRecord)> {
        let look = |view: &weft_overlay::view::NodeView| {
            let all = view.networks().flat_map(|(network, _)| view.locals_in(network));
            let docker = all.filter(|local| local.record.docker.is_some());
            docker.map(|local| (local.network, local.record.clone())).collect()
        };
        self.attacher.handle.view(look).await.unwrap_or_default()
    }

    fn plumbs_directly(&self) -> bool {
        self.late_namespaces.load(Ordering::Relaxed)
    }

    /// The cluster's networks and their subnets as this node knows them; `None` until it knows them.
    async fn index(&self) -> Option<BTreeMap<NetworkId, Vec<IpNetwork>>> {
        let look = |view: &weft_overlay::view::NodeView| {
            let all = || view.index().map(|(_, record)| (record.id, record.subnets.clone())).collect();
            view.is_loaded().then(all)
        };
        self.attacher.handle.view(look).await.ok().flatten()
    }
}

fn soon() -> Instant {
    Instant::now() + PATIENCE
}
