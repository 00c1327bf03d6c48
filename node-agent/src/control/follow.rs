//! Follows a range of keys: one list, then a watch from the next revision, for ever.
//!
//! Tells the consumer nothing that would make it forget what still exists: a list is taken at one revision, a watch that
//! breaks goes on from the last complete revision, history that was compacted leads to a new snapshot that the consumer
//! compares, and a snapshot that would remove most of what is known is read twice. Must not interpret keys or values.

use std::time::Duration;

use rand::rngs::StdRng;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};
use tracing::{debug, info, warn};
use weft_overlay::{
    keys::KeyRange,
    store::{Event, ListRequest, Store, StoreError, Watch, WatchItem, WatchRequest, list_all},
    txn::{KeyValue, Revision},
};

use self::known::{Known, ListVerdict};
use super::backoff::{Backoff, around};

mod known;
#[cfg(test)]
mod tests;

/// What became known.
#[derive(Debug, Clone, PartialEq)]
pub enum Update {
    /// The whole range as of one revision. What is not in it does not exist.
    Snapshot(Snapshot),
    /// The whole range of a store whose history is not a continuation of the one that was followed: restored from a
    /// backup, or another cluster. What is in it replaces what was known; what is missing may come back, and must be kept
    /// until a [`Update::Snapshot`] leaves it out. One's own keys are to be written again.
    Replaced(Snapshot),
    /// Changes, in order, each newer than what was known of its key.
    Events {
        /// The last of their revisions.
        revision: Revision,
        /// The changes; never empty.
        events: Vec<Event>,
    },
    /// Nothing changed up to this revision.
    Progress {
        /// That revision.
        revision: Revision,
    },
    /// The store gives no answer; what is known stays valid as of the last revision.
    Stalled {
        /// What it said.
        reason: String,
    },
    /// The store answers again, and nothing was missed.
    Recovered,
}

/// Keys in order, as of one revision.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// The revision.
    pub revision: Revision,
    /// Which store answered.
    pub cluster_id: u64,
    /// The keys.
    pub kvs: Vec<KeyValue>,
}

/// How careful a follower is.
#[derive(Debug, Clone)]
pub struct FollowSettings {
    /// Mean time between two full lists without need, against events that the store lost; spread by a fifth.
    pub relist_every: Duration,
    /// The most that a list which compaction made necessary is put off, so that not all agents list at once.
    pub relist_spread: Duration,
    /// How long to wait before the second list when the first one would remove most of what is known.
    pub confirm_after: Duration,
    /// How long missing keys are kept after the store was replaced.
    pub replaced_grace: Duration,
}

impl Default for FollowSettings {
    fn default() -> Self {
        Self {
            relist_every: Duration::from_secs(30 * 60),
            relist_spread: Duration::from_secs(5),
            confirm_after: Duration::from_secs(10),
            replaced_grace: Duration::from_secs(10 * 60),
        }
    }
}

/// Follows `range` and reports to `updates`, which must be bounded; returns when its receiver is dropped.
pub async fn follow<S: Store>(
    store: S,
    range: KeyRange,
    settings: FollowSettings,
    rng: StdRng,
    updates: mpsc::Sender<Update>,
) {
    let follower = Follower {
        known: Known::default(),
        backoff: Backoff::default(),
        grace_until: None,
        store,
        range,
        settings,
        rng,
        updates,
    };
    let Gone = follower.run().await;
}

/// The consumer has dropped its end.
#[derive(Debug)]
struct Gone;

struct Follower<S> {
    store: S,
    range: KeyRange,
    settings: FollowSettings,
    rng: StdRng,
    updates: mpsc::Sender<Update>,
    known: Known,
    backoff: Backoff,
    /// While the consumer still keeps what a replaced store is missing.
    grace_until: Option<Instant>,
}

impl<S: Store> Follower<S> {
    async fn run(mut self) -> Gone {
        let mut first = true;
        loop {
            if !first && let Err(gone) = self.spread().await {
                return gone;
            }
            first = false;
            if let Err(gone) = self.take_snapshot().await {
                return gone;
            }
            if let Err(gone) = self.watch_until_relist().await {
                return gone;
            }
        }
    }

    async fn spread(&mut self) -> Result<(), Gone> {
        let wait = self.settings.relist_spread.mul_f64(rand::RngExt::random(&mut self.rng));
        self.pause(wait).await
    }

    async fn take_snapshot(&mut self) -> Result<(), Gone> {
        let (mut page, mut verdict) = self.list(false).await?;
        if verdict == ListVerdict::Continues && self.known.would_lose_most(&page.kvs) {
            let (known, listed) = (self.known.len(), page.kvs.len());
            warn!(known, listed, "a list would remove most of what is known; reading again");
            self.pause(self.settings.confirm_after).await?;
            (page, verdict) = self.list(true).await?;
        }
        if verdict == ListVerdict::Replaced {
            warn!(
                revision = page.revision,
                cluster = page.cluster_id,
                "the store was replaced; nothing is removed yet"
            );
            self.grace_until = Some(Instant::now() + self.settings.replaced_grace);
        }
        let merging = self.grace_until.is_some_and(|until| Instant::now() < until);
        self.known.accept_list(&page, merging);
        let snapshot = Snapshot { revision: page.revision, cluster_id: page.cluster_id, kvs: page.kvs };
        if merging {
            return self.report(Update::Replaced(snapshot)).await;
        }
        self.grace_until = None;
        self.report(Update::Snapshot(snapshot)).await
    }

    /// Lists until there is an answer that is not older than what is known, or that is known to be from another history.
    async fn list(&mut self, mut linearizable: bool) -> Result<(Listed, ListVerdict), Gone> {
        loop {
            let listed = tokio::select! {
                biased;
                // Both are cancel-safe: a list changes nothing.
                () = self.updates.closed() => return Err(Gone),
                listed = list_all(&self.store, self.range.clone(), linearizable) => listed,
            };
            match listed {
                Ok(page) => {
                    self.answered().await?;
                    let verdict = self.known.judge_list(page.revision, page.cluster_id);
                    if verdict == ListVerdict::Continues || linearizable {
                        return Ok((page, verdict));
                    }
                    linearizable = true;
                }
                Err(error) => self.failed("listing", &error.to_string()).await?,
            }
        }
    }

    async fn watch_until_relist(&mut self) -> Result<(), Gone> {
        let relist_at = match self.grace_until {
            Some(until) => until,
            None => Instant::now() + around(self.settings.relist_every, &mut self.rng),
        };
        loop {
            if self.backoff.failures() > 0 && self.was_replaced().await? {
                return Ok(());
            }
            let from = self.known.complete() + 1;
            let opened = tokio::select! {
                biased;
                // A watch that was being opened ends when it is dropped.
                () = self.updates.closed() => return Err(Gone),
                opened = self.store.watch(WatchRequest { range: self.range.clone(), from }) => opened,
            };
            match opened {
                Ok(watch) => match self.read(watch, relist_at).await? {
                    WatchEnd::Relist => return Ok(()),
                    WatchEnd::Closed(reason) => self.failed("watching", &reason).await?,
                },
                Err(StoreError::Compacted { revision }) => {
                    info!(revision, "history was compacted; listing again");
                    return Ok(());
                }
                Err(error) => self.failed("watching", &error.to_string()).await?,
            }
            if Instant::now() >= relist_at {
                return Ok(());
            }
        }
    }

    /// Whether the store has another history since it was last heard of: a watch from a revision that it has not reached
    /// would wait for it in silence.
    async fn was_replaced(&mut self) -> Result<bool, Gone> {
        let request = ListRequest { range: self.range.clone(), limit: 1, revision: 0, linearizable: true };
        let listed = tokio::select! {
            biased;
            // Both are cancel-safe: a list changes nothing.
            () = self.updates.closed() => return Err(Gone),
            listed = self.store.list(request) => listed,
        };
        // Without an answer there will be no watch either, and the next attempt asks again.
        Ok(listed.is_ok_and(|page| self.known.judge_list(page.revision, page.cluster_id) == ListVerdict::Replaced))
    }

    async fn read(&mut self, mut watch: Watch, relist_at: Instant) -> Result<WatchEnd, Gone> {
        if self.backoff.failures() <= 1 {
            self.answered().await?;
        }
        loop {
            let item = tokio::select! {
                biased;
                // Each is cancel-safe: `Watch::next` is documented so, the others hold nothing.
                () = self.updates.closed() => return Err(Gone),
                () = sleep_until(relist_at) => return Ok(WatchEnd::Relist),
                item = watch.next() => item,
            };
            match item {
                WatchItem::Events { events, revision } => {
                    self.answered().await?;
                    self.pass_on(events, revision).await?;
                }
                WatchItem::Progress { revision } => {
                    self.answered().await?;
                    if self.known.accept_progress(revision) {
                        self.report(Update::Progress { revision }).await?;
                    }
                }
                WatchItem::Compacted { revision } => {
                    info!(revision, "history was compacted; listing again");
                    return Ok(WatchEnd::Relist);
                }
                WatchItem::Closed { reason } => return Ok(WatchEnd::Closed(reason)),
            }
        }
    }

    async fn pass_on(&mut self, events: Vec<Event>, revision: Revision) -> Result<(), Gone> {
        let events = self.known.accept_events(events, revision);
        match events.iter().map(Event::revision).max() {
            Some(revision) => self.report(Update::Events { revision, events }).await,
            None => Ok(()),
        }
    }

    async fn answered(&mut self) -> Result<(), Gone> {
        if self.backoff.failures() == 0 {
            return Ok(());
        }
        info!(failures = self.backoff.failures(), "the store answers again");
        self.backoff.succeeded();
        self.report(Update::Recovered).await
    }

    async fn failed(&mut self, what: &'static str, reason: &str) -> Result<(), Gone> {
        let first = self.backoff.failures() == 0;
        let wait = self.backoff.failed(&mut self.rng);
        let attempt = self.backoff.failures();
        if first {
            warn!(what, error = reason, retry_ms = wait.as_millis(), "the store does not answer");
            self.report(Update::Stalled { reason: reason.to_owned() }).await?;
        } else {
            debug!(what, attempt, error = reason, retry_ms = wait.as_millis(), "the store does not answer");
        }
        self.pause(wait).await
    }

    async fn report(&self, update: Update) -> Result<(), Gone> {
        self.updates.send(update).await.map_err(|_| Gone)
    }

    async fn pause(&self, wait: Duration) -> Result<(), Gone> {
        tokio::select! {
            biased;
            () = sleep(wait) => Ok(()),
            () = self.updates.closed() => Err(Gone),
        }
    }
}

type Listed = weft_overlay::store::Page;

#[derive(Debug)]
enum WatchEnd {
    Relist,
    Closed(String),
}
