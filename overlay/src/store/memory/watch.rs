//! A watch of the model: walks the commits at its own pace and hands over what lies in its range.
//!
//! A revision is never split. What was compacted before the watch got to it ends the watch.

use std::{future::pending, sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::Instant};

use super::{Client, Shared, faults::Dice, pause};
use crate::{
    store::{Event, WatchItem, WatchRequest},
    txn::Revision,
};

/// How many items may wait to be taken.
pub(super) const QUEUE: usize = 64;
/// The most revisions in one item, as in etcd.
const BATCH: usize = 1000;
/// After how long without a sign the client takes its connection for dead.
const CONNECTION_LOST: Duration = Duration::from_secs(15);

/// Delivers until the watch ends or nobody listens.
pub(super) async fn run(mut walk: Walk, items: mpsc::Sender<WatchItem>) {
    loop {
        let item = tokio::select! {
            biased;
            () = items.closed() => return,
            item = walk.next_item() => item,
        };
        let last = matches!(item, WatchItem::Closed { .. } | WatchItem::Compacted { .. });
        if items.send(item).await.is_err() || last {
            return;
        }
    }
}

/// A watch's way through history.
pub(super) struct Walk {
    shared: Arc<Shared>,
    client: Arc<Client>,
    request: WatchRequest,
    next: Revision,
    closures: u64,
    cut_since: Option<Instant>,
}

impl Walk {
    pub(super) fn new(shared: Arc<Shared>, client: Arc<Client>, request: WatchRequest) -> Self {
        let closures = client.link().closures;
        Self { shared, client, next: request.from.max(1), request, closures, cut_since: None }
    }

    async fn next_item(&mut self) -> WatchItem {
        let idle_since = Instant::now();
        loop {
            let shared = Arc::clone(&self.shared);
            let stirred = shared.stirred.notified();
            tokio::pin!(stirred);
            stirred.as_mut().enable();
            if let Some(closed) = self.closed() {
                return closed;
            }
            if self.cut_since.is_none() {
                match self.advance() {
                    Some(WatchItem::Events { events, revision }) => return self.deliver(events, revision).await,
                    Some(item) => return item,
                    None => {}
                }
            }
            let progress = self.shared.faults.progress.map(|every| idle_since + every);
            tokio::select! {
                biased;
                () = &mut stirred => {}
                () = until(self.cut_since.map(|since| since + CONNECTION_LOST)) => {}
                () = until(progress.filter(|_| self.cut_since.is_none())) => {
                    let revision = self.shared.lock().history.revision().min(self.next - 1);
                    return WatchItem::Progress { revision };
                }
            }
        }
    }

    /// Whether the connection is gone, by order or because nothing came for too long.
    fn closed(&mut self) -> Option<WatchItem> {
        let link = *self.client.link();
        if link.closures != self.closures {
            return Some(WatchItem::Closed { reason: "the stream was closed".to_owned() });
        }
        if !link.partition.loses_replies() {
            self.cut_since = None;
            return None;
        }
        let since = *self.cut_since.get_or_insert_with(Instant::now);
        let lost = Instant::now() >= since + CONNECTION_LOST;
        lost.then(|| WatchItem::Closed { reason: "keepalive timed out".to_owned() })
    }

    /// Goes on to the present; answers what lies on the way.
    fn advance(&mut self) -> Option<WatchItem> {
        let state = self.shared.lock();
        let history = &state.history;
        if self.next < history.compacted() {
            return Some(WatchItem::Compacted { revision: history.compacted() });
        }
        while self.next <= history.revision() {
            let batch = history.since(self.next);
            let batch = &batch[..batch.len().min(BATCH)];
            self.next = batch.last().map_or(self.next, |commit| commit.revision) + 1;
            let in_range = |event: &&Event| self.request.range.contains(event.key());
            let events: Vec<_> = batch.iter().flat_map(|commit| &commit.events).filter(in_range).cloned().collect();
            if !events.is_empty() {
                return Some(WatchItem::Events { events, revision: history.revision() });
            }
        }
        None
    }

    async fn deliver(&mut self, events: Vec<Event>, revision: Revision) -> WatchItem {
        let delivery = self.client.roll(Dice::delivery).unwrap_or_default();
        pause(delivery.delay).await;
        let cut = self.client.link().partition.loses_replies();
        if delivery.closed || cut {
            return WatchItem::Closed { reason: "the connection was reset".to_owned() };
        }
        WatchItem::Events { events, revision }
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => pending().await,
    }
}
