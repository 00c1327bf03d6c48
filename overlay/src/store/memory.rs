//! A model of the store in memory, for simulations and tests: etcd's semantics, a virtual clock and seeded faults.
//!
//! Everything that happens is decided by the calls, the seed and tokio's clock, so that under a paused clock on one
//! thread a run can be repeated exactly. Each agent takes a handle of its own with [`MemoryStore::client`], whose
//! requests, replies and watches suffer the [`Faults`] and can be cut off; the handle that [`MemoryStore::new`] returns
//! suffers none. Must not read a real clock or draw from another source of chance.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};

use self::{
    faults::{Dice, Misfortune},
    history::History,
    leases::Leases,
};
pub use self::{
    faults::{Faults, Partition},
    history::Commit,
};
use super::{Lease, ListRequest, Page, Store, StoreError, Watch, WatchRequest};
use crate::{
    keys::KeyRange,
    txn::{KeyValue, Revision, Txn, TxnReply},
};

mod faults;
mod history;
mod leases;
mod watch;

/// What error messages call this store.
const ENDPOINT: &str = "memory";
/// Tells this store from another one.
const CLUSTER_ID: u64 = 0x7765_6674;

/// A handle to a store in memory. Clones are the same client.
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
    client: Arc<Client>,
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("client", &self.client.name).finish_non_exhaustive()
    }
}

struct Shared {
    state: Mutex<State>,
    /// Wakes the watches, in the order in which they wait: a commit, a cut or a closure.
    stirred: Notify,
    /// Wakes the task that ends leases: one was granted.
    granted: Arc<Notify>,
    faults: Faults,
}

struct State {
    history: History,
    leases: Leases,
    clients: BTreeMap<String, Arc<Client>>,
    observers: Vec<Observer>,
    /// How many commits the observers have seen.
    announced: usize,
}

type Observer = Box<dyn FnMut(&Commit) + Send>;

struct Client {
    name: String,
    dice: Option<Mutex<Dice>>,
    link: Mutex<Link>,
}

#[derive(Debug, Clone, Copy)]
struct Link {
    partition: Partition,
    /// Counts closures of all watches.
    closures: u64,
}

impl MemoryStore {
    /// An empty store at revision 1. This handle suffers no faults.
    pub fn new(faults: Faults) -> Self {
        let state = State {
            history: History::default(),
            leases: Leases::default(),
            clients: BTreeMap::new(),
            observers: Vec::new(),
            announced: 0,
        };
        let shared =
            Shared { state: Mutex::new(state), stirred: Notify::new(), granted: Arc::new(Notify::new()), faults };
        Self { shared: Arc::new(shared), client: Arc::new(Client::new("observer", None)) }
    }

    /// The handle of a client, which suffers the faults; the same one for the same name.
    pub fn client(&self, name: &str) -> Self {
        let dice = || Some(self.shared.faults.dice(name));
        let mut state = self.shared.lock();
        let client = state.clients.entry(name.to_owned()).or_insert_with(|| Arc::new(Client::new(name, dice())));
        Self { shared: Arc::clone(&self.shared), client: Arc::clone(client) }
    }

    /// Cuts this client off, wholly or one way, or heals it.
    pub fn cut(&self, partition: Partition) {
        self.client.link().partition = partition;
        self.shared.stirred.notify_waiters();
    }

    /// Closes all watches of this client.
    pub fn close_watches(&self) {
        self.client.link().closures += 1;
        self.shared.stirred.notify_waiters();
    }

    /// Forgets what was before this revision, which itself remains readable.
    ///
    /// # Errors
    /// When that was done before, or the revision lies in the future.
    pub fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.shared.with(|state| state.history.compact(revision))
    }

    /// Ends a lease before its time, as when the store lost count of it.
    pub fn expire_lease(&self, lease: i64) {
        self.shared.with(|state| state.end_lease(lease));
    }

    /// Shows every commit from the first one on, each before anything can follow it. `observer` must not call the
    /// store; a panic in it reaches whoever made the commit.
    pub fn on_revision(&self, mut observer: impl FnMut(&Commit) + Send + 'static) {
        let mut state = self.shared.lock();
        state.history.commits()[..state.announced].iter().for_each(&mut observer);
        state.observers.push(Box::new(observer));
    }

    /// Every commit so far, compacted or not.
    pub fn commits(&self) -> Vec<Commit> {
        self.shared.lock().history.commits().to_vec()
    }

    /// The current revision.
    pub fn revision(&self) -> Revision {
        self.shared.lock().history.revision()
    }

    /// What is in a range now, without faults or waiting.
    pub fn read_now(&self, range: &KeyRange) -> Vec<KeyValue> {
        self.shared.lock().history.current(range).cloned().collect()
    }

    /// Sends a request through the client's misfortunes.
    async fn call<T>(&self, work: impl FnOnce(&mut State) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let begun = Instant::now();
        let fate = self.client.misfortune();
        pause(fate.there).await;
        if fate.lost_request || self.client.link().partition.loses_requests() {
            return self.silence(begun, "the request was lost").await;
        }
        let result = self.shared.with(|state| {
            if fate.compaction {
                state.history.compact_all();
            }
            work(state)
        });
        pause(fate.back).await;
        if fate.lost_reply || self.client.link().partition.loses_replies() {
            return self.silence(begun, "the reply was lost").await;
        }
        result
    }

    async fn silence<T>(&self, begun: Instant, reason: &str) -> Result<T, StoreError> {
        tokio::time::sleep_until(begun + self.shared.faults.deadline).await;
        Err(StoreError::Unavailable { endpoint: ENDPOINT.to_owned(), reason: reason.to_owned() })
    }
}

impl Store for MemoryStore {
    async fn txn(&self, txn: Txn) -> Result<TxnReply, StoreError> {
        let client = self.client.name.as_str();
        self.call(|state| {
            let State { history, leases, .. } = state;
            history.apply(&txn, client, |lease| leases.exists(lease))
        })
        .await
    }

    async fn list(&self, request: ListRequest) -> Result<Page, StoreError> {
        self.call(|state| {
            let (kvs, more) = state.history.list(&request.range, request.limit, request.revision)?;
            Ok(Page { kvs, more, revision: state.history.revision(), cluster_id: CLUSTER_ID })
        })
        .await
    }

    async fn watch(&self, request: WatchRequest) -> Result<Watch, StoreError> {
        self.call(|_| Ok(())).await?;
        let (items, watch) = mpsc::channel(watch::QUEUE);
        let walk = watch::Walk::new(Arc::clone(&self.shared), Arc::clone(&self.client), request);
        tokio::spawn(watch::run(walk, items));
        Ok(Watch::new(watch))
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        let shared = Arc::clone(&self.shared);
        self.call(|state| {
            let (lease, first) = state.leases.grant(ttl, Instant::now())?;
            if first {
                tokio::spawn(leases::expire(Arc::downgrade(&shared), Arc::clone(&shared.granted)));
            }
            shared.granted.notify_one();
            Ok(lease)
        })
        .await
    }

    async fn keep_alive(&self, lease: i64) -> Result<Duration, StoreError> {
        let lost = self.client.loses_lease();
        self.call(|state| {
            if lost {
                state.end_lease(lease);
            }
            Ok(state.leases.renew(lease, Instant::now()))
        })
        .await
    }

    async fn time_to_live(&self, lease: i64) -> Result<Duration, StoreError> {
        self.call(|state| Ok(state.leases.remaining(lease, Instant::now()))).await
    }

    async fn revoke(&self, lease: i64) -> Result<(), StoreError> {
        self.call(|state| {
            state.end_lease(lease);
            Ok(())
        })
        .await
    }

    fn endpoint(&self) -> String {
        ENDPOINT.to_owned()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic of an observer ends the test that it belongs to; the state is whole at that point.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does work on the state as of now, and shows what came of it.
    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let before = state.history.commits().len();
        for lease in state.leases.due(Instant::now()) {
            state.end_lease(lease);
        }
        let result = work(&mut state);
        state.announce();
        if state.history.commits().len() != before {
            self.stirred.notify_waiters();
        }
        result
    }
}

impl State {
    fn end_lease(&mut self, lease: i64) {
        if self.leases.end(lease) {
            self.history.delete_leased(lease);
        }
    }

    fn announce(&mut self) {
        while let Some(commit) = self.history.commits().get(self.announced) {
            self.announced += 1;
            for observer in &mut self.observers {
                observer(commit);
            }
        }
    }
}

impl Client {
    fn new(name: &str, dice: Option<Dice>) -> Self {
        let link = Link { partition: Partition::None, closures: 0 };
        Self { name: name.to_owned(), dice: dice.map(Mutex::new), link: Mutex::new(link) }
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn misfortune(&self) -> Misfortune {
        self.roll(Dice::misfortune).unwrap_or_default()
    }

    fn loses_lease(&self) -> bool {
        self.roll(Dice::loses_lease).unwrap_or_default()
    }

    fn roll<T>(&self, throw: impl FnOnce(&mut Dice) -> T) -> Option<T> {
        let dice = self.dice.as_ref()?;
        Some(throw(&mut dice.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

async fn pause(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}
