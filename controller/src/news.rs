//! Tells the leader when the end of a network may have come closer, so that users need not wait for the next pass.
//!
//! Watches everything about networks, and keeps which of them are being deleted. What it misses, a pass finds.

use std::{collections::BTreeSet, sync::Arc};

use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Duration, sleep},
};
use tracing::debug;
use weft_overlay::{
    claims::Stored,
    id::NetworkId,
    keys::{Key, Keyspace},
    model::{NetworkSpec, NetworkState},
    store::{Event, ListRequest, Store, StoreError, Watch, WatchItem, WatchRequest},
};

use super::RETRY;

/// What comes in quick succession is looked at together.
const SETTLE: Duration = Duration::from_millis(20);

/// Ends with its owner.
#[derive(Debug)]
pub(super) struct News {
    notify: Arc<Notify>,
    _task: JoinSet<()>,
}

impl News {
    pub(super) fn follow<S: Store>(store: S, keys: Keyspace) -> Self {
        let notify = Arc::new(Notify::new());
        let mut task = JoinSet::new();
        task.spawn(Follower { store, keys, deleting: BTreeSet::new(), notify: notify.clone() }.run());
        Self { notify, _task: task }
    }

    /// Waits for news; cancel-safe.
    pub(super) async fn arrived(&self) {
        self.notify.notified().await;
        sleep(SETTLE).await;
    }
}

struct Follower<S> {
    store: S,
    keys: Keyspace,
    deleting: BTreeSet<NetworkId>,
    notify: Arc<Notify>,
}

impl<S: Store> Follower<S> {
    async fn run(mut self) {
        loop {
            match self.open().await {
                Ok(watch) => self.read(watch).await,
                Err(error) => debug!(%error, "networks are not watched"),
            }
            sleep(RETRY).await;
        }
    }

    /// From now on: what was before, the next pass sees.
    async fn open(&self) -> Result<Watch, StoreError> {
        let range = self.keys.all_networks();
        let now = ListRequest { range: range.clone(), limit: 1, revision: 0, linearizable: true };
        let from = self.store.list(now).await?.revision + 1;
        let watch = self.store.watch(WatchRequest { range, from }).await?;
        self.notify.notify_one();
        Ok(watch)
    }

    async fn read(&mut self, mut watch: Watch) {
        loop {
            match watch.next().await {
                WatchItem::Events { events, .. } => {
                    let mut concerned = false;
                    for event in &events {
                        concerned |= self.concerns(event);
                    }
                    if concerned {
                        self.notify.notify_one();
                    }
                }
                WatchItem::Progress { .. } => {}
                WatchItem::Compacted { .. } | WatchItem::Closed { .. } => return,
            }
        }
    }

    /// Whether the end of a network has begun, or something has gone from one that is ending.
    fn concerns(&mut self, event: &Event) -> bool {
        match (self.keys.decode(event.key()), event) {
            (Ok(Key::Spec(network)), Event::Put(kv)) => {
                let spec = Stored::<NetworkSpec>::decode(kv);
                spec.is_ok_and(|spec| spec.record.state == NetworkState::Deleting) && self.deleting.insert(network)
            }
            (Ok(Key::Spec(network)), Event::Delete { .. }) => {
                self.deleting.remove(&network);
                false
            }
            (Ok(Key::Member(network, _) | Key::Endpoint(network, _)), Event::Delete { .. }) => {
                self.deleting.contains(&network)
            }
            _ => false,
        }
    }
}
