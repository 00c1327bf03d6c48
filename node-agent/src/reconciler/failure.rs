//! What failed: what is wrong, since how many attempts, and when to try again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use weft_overlay::{
    kernel::{ObjectId, Step},
    plan::Plan,
};

const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(10);
/// Readings are tried again sooner: what they would find is to be repaired within a second.
const LAST_READING: Duration = Duration::from_secs(1);

/// Steps that failed.
#[derive(Debug, Default)]
pub(super) struct Failures {
    by_id: BTreeMap<ObjectId, Failure>,
}

#[derive(Debug)]
struct Failure {
    text: String,
    attempts: u32,
    retry: Instant,
}

impl Failures {
    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Notes a failure; answers whether it is another one than the last time.
    pub(super) fn note(&mut self, id: &ObjectId, text: &str, now: Instant) -> bool {
        let known = self.by_id.get(id);
        let is_news = known.is_none_or(|known| known.text != text);
        let attempts = known.map_or(0, |known| known.attempts) + 1;
        let retry = now + delay(attempts, LAST_RETRY);
        self.by_id.insert(id.clone(), Failure { text: text.to_owned(), attempts, retry });
        is_news
    }

    pub(super) fn forget(&mut self, id: &ObjectId) {
        self.by_id.remove(id);
    }

    /// What was looked at and needs no step has no failure any more.
    pub(super) fn forget_settled(&mut self, ids: &BTreeSet<ObjectId>, plan: &Plan) {
        if self.by_id.is_empty() {
            return;
        }
        let planned: BTreeSet<&ObjectId> = plan.steps.iter().map(Step::id).collect();
        self.by_id.retain(|id, _| !ids.contains(id) || planned.contains(id));
    }

    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.by_id.values().map(|failure| failure.retry).min()
    }

    /// What is to be tried again now. If that does not come to pass, it is due again after the same time.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<ObjectId> {
        let mut due = Vec::new();
        for (id, failure) in self.by_id.iter_mut().filter(|(_, failure)| failure.retry <= now) {
            failure.retry = now + delay(failure.attempts, LAST_RETRY);
            due.push(id.clone());
        }
        due
    }

    /// What failed.
    pub(super) fn ids(&self) -> impl Iterator<Item = ObjectId> + '_ {
        self.by_id.keys().cloned()
    }

    pub(super) fn texts(&self) -> impl Iterator<Item = String> + '_ {
        self.by_id.iter().map(|(id, failure)| format!("{id}: {}", failure.text))
    }

    pub(super) fn texts_of(&self, ids: &BTreeSet<ObjectId>) -> Vec<String> {
        let concerned = self.by_id.iter().filter(|(id, _)| ids.contains(id));
        concerned.map(|(id, failure)| format!("{id}: {}", failure.text)).collect()
    }
}

/// Readings that failed in a row.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failure: Option<Failure>,
}

impl Backoff {
    /// Whether it is time to read.
    pub(super) fn allows(&self, now: Instant) -> bool {
        self.failure.as_ref().is_none_or(|failure| failure.retry <= now)
    }

    /// Notes a failure; answers whether it is another one than the last time.
    pub(super) fn note(&mut self, text: &str, now: Instant) -> bool {
        let is_news = self.failure.as_ref().is_none_or(|known| known.text != text);
        let attempts = self.failure.as_ref().map_or(0, |known| known.attempts) + 1;
        self.failure = Some(Failure { text: text.to_owned(), attempts, retry: now + delay(attempts, LAST_READING) });
        is_news
    }

    pub(super) fn forget(&mut self) {
        self.failure = None;
    }

    /// What was wrong the last time.
    pub(super) fn error(&self) -> Option<&str> {
        self.failure.as_ref().map(|failure| failure.text.as_str())
    }
}

fn delay(attempts: u32, longest: Duration) -> Duration {
    FIRST_RETRY.saturating_mul(1 << attempts.saturating_sub(1).min(10)).min(longest)
}
