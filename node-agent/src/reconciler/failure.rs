//! Steps that failed: what is wrong, since how many attempts, and when to try again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use tracing::{debug, warn};
use weft_overlay::{kernel::ObjectId, plan::Plan};

const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(10);

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

    /// Notes a failure; the first of its kind is worth a warning, its repetitions are not.
    pub(super) fn note(&mut self, id: &ObjectId, text: &str, now: Instant) {
        let attempts = match self.by_id.get(id) {
            Some(known) => known.attempts + 1,
            None => 1,
        };
        let delay = FIRST_RETRY.saturating_mul(1 << attempts.min(10)).min(LAST_RETRY);
        let retry_ms = delay.as_millis();
        if self.by_id.get(id).is_some_and(|known| known.text == text) {
            debug!(object = %id, error = text, attempt = attempts, retry_ms, "step failed again");
        } else {
            warn!(object = %id, error = text, attempt = attempts, retry_ms, "step failed");
        }
        self.by_id.insert(id.clone(), Failure { text: text.to_owned(), attempts, retry: now + delay });
    }

    pub(super) fn forget(&mut self, id: &ObjectId) {
        self.by_id.remove(id);
    }

    /// What was looked at and needs no step has no failure any more.
    pub(super) fn forget_settled(&mut self, ids: &BTreeSet<ObjectId>, plan: &Plan) {
        if self.by_id.is_empty() {
            return;
        }
        let planned: BTreeSet<&ObjectId> = plan.steps.iter().map(weft_overlay::kernel::Step::id).collect();
        self.by_id.retain(|id, _| !ids.contains(id) || planned.contains(id));
    }

    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.by_id.values().map(|failure| failure.retry).min()
    }

    pub(super) fn due(&self, now: Instant) -> Vec<ObjectId> {
        self.by_id.iter().filter(|(_, failure)| failure.retry <= now).map(|(id, _)| id.clone()).collect()
    }

    pub(super) fn texts(&self) -> impl Iterator<Item = String> + '_ {
        self.by_id.iter().map(|(id, failure)| format!("{id}: {}", failure.text))
    }

    pub(super) fn texts_of(&self, ids: &BTreeSet<ObjectId>) -> Vec<String> {
        let concerned = self.by_id.iter().filter(|(id, _)| ids.contains(id));
        concerned.map(|(id, failure)| format!("{id}: {}", failure.text)).collect()
    }
}
