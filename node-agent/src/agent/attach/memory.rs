//! What the attacher remembers of its containers, compared with what the store says of them.

use std::collections::BTreeSet;

use weft_overlay::{
    id::{EndpointId, NetworkId},
    kernel::Kernel,
    model::{EndpointKind, EndpointRecord},
    store::Store,
    view::Stored,
};

use super::{Attacher, sandbox};

impl<S: Store, K: Kernel + 'static> Attacher<S, K> {
    /// Brings the journal in line with this node's endpoints in the store; answers those that the store does not have
    /// although they were attached and their containers are there.
    pub(in crate::agent) fn compare_journal(
        &self,
        own: &[(NetworkId, Stored<EndpointRecord>)],
    ) -> Vec<(NetworkId, EndpointRecord)> {
        let leaving: BTreeSet<EndpointId> = self.deferred.endpoints().into_iter().collect();
        let mut stored = BTreeSet::new();
        for (network, Stored { record, .. }) in own {
            stored.insert(record.id);
            if record.kind == EndpointKind::Container && !leaving.contains(&record.id) {
                self.journal.note(*network, record);
            }
        }
        let (there, gone): (Vec<_>, Vec<_>) = self
            .journal
            .entries()
            .into_iter()
            .filter(|(_, record)| !stored.contains(&record.id))
            .partition(|(_, record)| !leaving.contains(&record.id) && self.is_container_there(record));
        for (_, record) in gone {
            self.journal.forget(record.id);
        }
        there
    }

    /// Whether the container of an endpoint is still there.
    pub(in crate::agent) fn is_container_there(&self, record: &EndpointRecord) -> bool {
        record.sandbox.as_ref().is_some_and(|sandbox| sandbox::exists(sandbox, &self.facts.boot_id))
    }

    /// Notes what an attached endpoint has become.
    pub(in crate::agent) fn note_change(&self, network: NetworkId, record: &EndpointRecord) {
        self.journal.amend(network, record);
    }

    /// Gives up an endpoint that the store has lost and that cannot be registered again.
    pub(in crate::agent) fn abandon(&self, endpoint: EndpointId) {
        self.journal.forget(endpoint);
        self.handle.change(move |view| view.clear_pending(endpoint));
    }
}
