//! Which parts of the store this node follows: the index of networks, and the networks that it takes part in.
//!
//! Feeds the view. A follower lives as long as its network concerns this node.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
    time::{Instant, timeout_at},
};
use tracing::{debug, warn};
use weft_overlay::{
    id::NetworkId,
    kernel::Kernel,
    keys::{Key, KeyRange, Keyspace},
    store::{Event, Store},
    txn::KeyValue,
};

use super::handle::{Handle, ShuttingDown};
use crate::control::{
    follow::{FollowSettings, Snapshot, Update, follow},
    submit::Client,
};

/// How long a network that is newly followed may take to be listed before whoever waits gives up.
const LISTED_WITHIN: Duration = Duration::from_secs(10);

/// The followers of one agent.
#[derive(Debug)]
pub struct Followers<S, K> {
    client: Client<S>,
    handle: Handle<K>,
    running: Arc<Mutex<BTreeMap<NetworkId, AbortHandle>>>,
    /// Touched when a network was listed, or its specification changed.
    news: watch::Sender<()>,
}

impl<S: Clone, K> Clone for Followers<S, K> {
    fn clone(&self) -> Self {
        Self {
            client: self.client.clone(),
            handle: self.handle.clone(),
            running: self.running.clone(),
            news: self.news.clone(),
        }
    }
}

/// Why a network could not be followed in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FollowError {
    /// The store did not list it.
    #[error("the store did not list network {0} in time; see `weft status`")]
    NotListed(NetworkId),
    /// The agent is shutting down.
    #[error(transparent)]
    ShuttingDown(#[from] ShuttingDown),
}

impl<S: Store, K: Kernel + 'static> Followers<S, K> {
    /// No followers yet.
    pub fn new(client: Client<S>, handle: Handle<K>) -> Self {
        Self { client, handle, running: Arc::default(), news: watch::Sender::new(()) }
    }

    /// The way to the store.
    pub fn client(&self) -> &Client<S> {
        &self.client
    }

    /// The way to the reconciler.
    pub fn handle(&self) -> &Handle<K> {
        &self.handle
    }

    /// Follows a network from now on.
    pub fn follow(&self, network: NetworkId) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.contains_key(&network) {
            return;
        }
        self.handle.change(move |view| {
            view.follow(network);
            BTreeSet::new()
        });
        let updates = self.start(self.client.keys().network(network));
        let handle = self.handle.clone();
        let task = tokio::spawn(feed_network(network, updates, handle, self.client.keys().clone(), self.news.clone()));
        running.insert(network, task.abort_handle());
    }

    /// Follows a network and waits until it has been listed.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn follow_listed(&self, network: NetworkId) -> Result<(), FollowError> {
        let deadline = Instant::now() + LISTED_WITHIN;
        let mut news = self.news();
        self.follow(network);
        while !self.handle.view(move |view| view.network(network).is_some()).await? {
            // News that came since the look are told at once.
            timeout_at(deadline, news.changed()).await.map_err(|_| FollowError::NotListed(network))?.ok();
        }
        Ok(())
    }

    /// Tells when a network was listed, or its specification changed: after the view has it.
    pub fn news(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }

    /// Stops following a network; what it has in this node's kernel is then unwanted.
    pub fn unfollow(&self, network: NetworkId) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = running.remove(&network) {
            task.abort();
        }
        self.handle.change(move |view| view.unfollow(network));
    }

    /// Follows the index of network names for as long as the agent runs.
    pub async fn follow_index(self) {
        let mut updates = self.start(self.client.keys().network_names());
        let mut index: BTreeMap<Vec<u8>, KeyValue> = BTreeMap::new();
        while let Some(update) = updates.recv().await {
            let seen = match update {
                Update::Snapshot(snapshot) => {
                    let revision = snapshot.revision;
                    index = keyed(snapshot);
                    revision
                }
                Update::Replaced(snapshot) => {
                    let revision = snapshot.revision;
                    index.extend(keyed(snapshot));
                    revision
                }
                Update::Events { revision, events } => {
                    for event in events {
                        match event {
                            Event::Put(kv) => index.insert(kv.key.clone(), kv),
                            Event::Delete { key, .. } => index.remove(&key),
                        };
                    }
                    revision
                }
                Update::Progress { revision } => {
                    self.handle.change(move |view| {
                        view.advance_index(revision);
                        BTreeSet::new()
                    });
                    continue;
                }
                Update::Stalled { .. } | Update::Recovered => continue,
            };
            let kvs: Vec<KeyValue> = index.values().cloned().collect();
            self.handle.change(move |view| {
                view.advance_index(seen);
                view.set_index(&kvs)
            });
        }
    }

    fn start(&self, range: KeyRange) -> mpsc::Receiver<Update> {
        const QUEUE: usize = 64;
        let (sender, updates) = mpsc::channel(QUEUE);
        let store = self.client.store().clone();
        tokio::spawn(follow(store, range, FollowSettings::default(), self.client.fork_rng(), sender));
        updates
    }
}

fn keyed(snapshot: Snapshot) -> BTreeMap<Vec<u8>, KeyValue> {
    snapshot.kvs.into_iter().map(|kv| (kv.key.clone(), kv)).collect()
}

async fn feed_network<K: Kernel + 'static>(
    network: NetworkId,
    mut updates: mpsc::Receiver<Update>,
    handle: Handle<K>,
    keys: Keyspace,
    news: watch::Sender<()>,
) {
    let spec = keys.encode(&Key::Spec(network));
    while let Some(update) = updates.recv().await {
        match update {
            Update::Snapshot(Snapshot { revision, kvs, .. }) => {
                handle.change(move |view| view.set_network(network, kvs, revision));
                news.send_replace(());
            }
            Update::Replaced(Snapshot { revision, kvs, .. }) => {
                warn!(%network, "the store was replaced: nothing is removed until its content is certain");
                handle.change(move |view| view.replace_network(network, &kvs, revision));
                news.send_replace(());
            }
            Update::Events { revision, events } => {
                let is_news = events.iter().any(|event| event.key() == spec);
                handle.change(move |view| {
                    let mut affected = BTreeSet::new();
                    for event in &events {
                        affected.append(&mut match event {
                            Event::Put(kv) => view.put(network, kv),
                            Event::Delete { key, revision } => view.delete(network, key, *revision),
                        });
                    }
                    view.advance(network, revision);
                    affected
                });
                if is_news {
                    news.send_replace(());
                }
            }
            Update::Progress { revision } => handle.change(move |view| {
                view.advance(network, revision);
                BTreeSet::new()
            }),
            Update::Stalled { reason } => debug!(%network, reason, "the store gives no news"),
            Update::Recovered => debug!(%network, "the store gives news again"),
        }
    }
}
