//! What the reconciler says: to who waits for a change, to the rest of the agent, and to people.

use std::collections::BTreeSet;

use weft_overlay::{
    id::NetworkId,
    kernel::{Kernel, NetworkObject, ObjectId},
    plan::Obstacle,
};

use super::{Notice, Reconciler, Settled};

impl<K: Kernel> Reconciler<K> {
    /// Whether there is nothing to do, nothing in doubt and nothing in the way.
    pub fn is_converged(&self) -> bool {
        self.view.is_loaded()
            && self.view.unlisted().next().is_none()
            && self.dirty.is_empty()
            && self.doubts.is_empty()
            && self.failures.is_empty()
            && self.obstacles.is_empty()
    }

    /// What is still to be done, and what keeps failing or is in the way.
    pub fn troubles(&self) -> (Vec<String>, Vec<String>) {
        let unlisted = self.view.unlisted().map(|network| format!("network {network} is not listed yet"));
        let pending = self.dirty.iter().map(ToString::to_string).chain(unlisted).collect();
        let quarantined = self.view.quarantine().map(|(key, reason)| {
            format!(
                "value of {} in the store is unreadable, its last good version is kept: {reason}",
                String::from_utf8_lossy(key)
            )
        });
        let unread = [&self.reads, &self.sandbox_reads].into_iter().filter_map(|reads| reads.error());
        let unread = unread.map(|error| format!("the kernel could not be read: {error}"));
        let errors = unread
            .chain(self.failures.texts())
            .chain(self.obstacles.iter().map(ToString::to_string))
            .chain(quarantined);
        (pending, errors.collect())
    }

    pub(super) fn tell(&mut self) {
        let changes = self.view.take_changes();
        if !changes.is_empty() {
            self.notify(Notice::EndpointsChanged(changes));
        }
        for (ids, done) in std::mem::take(&mut self.waiting) {
            // Nobody waits any more when this fails.
            done.send(self.unsettled(&ids)).ok();
        }
    }

    /// Why these objects are not as they should be, as far as they are not.
    fn unsettled(&self, ids: &BTreeSet<ObjectId>) -> Settled {
        let deferred: BTreeSet<Option<NetworkId>> =
            ids.iter().filter(|id| self.deferred.contains(id)).map(ObjectId::network).collect();
        let mut texts = self.failures.texts_of(ids);
        let concerns = |obstacle: &&Obstacle| {
            let id = obstacle_id(obstacle);
            ids.contains(&id) || (matches!(obstacle, Obstacle::Foreign(..)) && deferred.contains(&id.network()))
        };
        texts.extend(self.obstacles.iter().filter(concerns).map(ToString::to_string));
        for network in deferred.into_iter().flatten() {
            if !self.knowledge.loaded {
                texts.push(format!("network {network}: the networks of this node are not known yet"));
            } else if self.knowledge.unlisted.contains(&network) {
                texts.push(format!("network {network} is not listed yet"));
            }
        }
        let reason = self.reads.error().or_else(|| self.sandbox_reads.error()).unwrap_or("it keeps being changed");
        let dirty = ids.iter().filter(|id| self.dirty.contains(id));
        texts.extend(dirty.map(|id| format!("{id}: not settled: {reason}")));
        texts
    }

    pub(super) fn notify(&self, notice: Notice) {
        // The receiver ends with the agent.
        self.notices.send(notice).ok();
    }
}

pub(super) fn obstacle_id(obstacle: &Obstacle) -> ObjectId {
    match obstacle {
        Obstacle::Foreign(id, _) => id.clone(),
        Obstacle::SandboxGone(network, endpoint) => ObjectId::Network(*network, NetworkObject::Sandbox(*endpoint)),
    }
}
