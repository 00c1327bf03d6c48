//! Endpoints of this node that the store has lost or holds from a former epoch: finds them, and has them registered again.
//!
//! What is found while the agent runs was in its view; what the store lost while it was away is in the journal. A container
//! that is not there any more is not brought back.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use tokio::time::timeout;
use tracing::{debug, info, warn};
use weft_overlay::{
    claims::Token,
    id::{EndpointId, NetworkId},
    model::{EndpointKind, EndpointRecord},
    store::etcd::EtcdStore,
    view::{LocalEndpoint, NetworkView, NodeView, Stored, UNCONFIRMED},
};

use crate::{
    agent::{NodeKernel, attach::Attacher},
    control::{
        membership::{Recovered, RecoveryOutcome},
        registration::Registration,
    },
    reconciler::chain,
};

/// How long a start waits for the right to register again what the store lost. After that it goes on without: the
/// containers stay disconnected until upkeep succeeds.
const PATIENCE: Duration = Duration::from_secs(10);

/// The containers of this node that the store does not have, as after it was replaced, or has from a former epoch or with
/// a former VTEP. Those of networks that are not listed yet, or not known to be in the store, are not looked at.
pub(super) fn astray(view: &NodeView, token: Token, vtep: IpAddr) -> Vec<(NetworkId, EndpointRecord)> {
    let adrift: BTreeSet<EndpointId> = view.adrift().map(|(_, record)| record.id).collect();
    let is_unconfirmed = |local: &LocalEndpoint<'_>| {
        let content = view.network(local.network);
        let stored = content.and_then(|content| content.endpoint_by_id(local.record.id));
        stored.is_some_and(|stored| stored.revision == UNCONFIRMED)
    };
    let is_there = |content: &NetworkView| content.spec.as_ref().is_none_or(|spec| spec.revision != UNCONFIRMED);
    let networks = view.networks().filter(|(_, content)| is_there(content)).map(|(network, _)| network);
    let locals = networks.flat_map(|network| view.locals_in(network)).filter(|local| local.registered);
    let containers = locals.filter(|local| local.record.kind == EndpointKind::Container);
    let astray = containers.filter(|local| {
        let is_current = local.record.epoch == token.epoch && local.record.vtep == vtep;
        !is_current || adrift.contains(&local.record.id) || is_unconfirmed(local)
    });
    astray.map(|local| (local.network, local.record.clone())).collect()
}

/// Brings the journal and what the store says of this node together: at the start, before any network is followed, so
/// that what is registered again is in the first listing and nothing of it is taken down. Answers the networks of what
/// the store had lost.
pub(super) async fn recall(
    attacher: &Attacher<EtcdStore, NodeKernel>,
    registration: &Registration,
    own: &[(NetworkId, Stored<EndpointRecord>)],
) -> BTreeSet<NetworkId> {
    let forgotten = attacher.compare_journal(own);
    if forgotten.is_empty() {
        return BTreeSet::new();
    }
    let networks = forgotten.iter().map(|(network, _)| *network).collect();
    info!(endpoints = forgotten.len(), "the store has lost endpoints of containers that are still there");
    let remembered = forgotten.clone();
    attacher.handle.change(move |view| {
        remembered.into_iter().flat_map(|(network, record)| view.remember(network, record)).collect()
    });
    let mut standing = registration.standing.clone();
    let may_write = timeout(PATIENCE, standing.wait_for(|standing| standing.token().is_some())).await;
    if may_write.is_ok_and(|standing| standing.is_ok()) {
        // Failures were logged; they are tried again when the networks are listed.
        Box::pin(register_again(attacher, forgotten)).await;
    } else {
        warn!("this node has no right to write yet: its forgotten endpoints are registered again later");
    }
    networks
}

/// Registers endpoints again, and brings memberships in line. Answers whether everything is settled.
pub(super) async fn register_again(
    attacher: &Attacher<EtcdStore, NodeKernel>,
    astray: Vec<(NetworkId, EndpointRecord)>,
) -> bool {
    let (there, gone): (Vec<_>, Vec<_>) =
        astray.into_iter().partition(|(_, record)| attacher.is_container_there(record));
    for (network, record) in gone {
        // One that the store still has is released by whoever notices that its container is gone.
        debug!(%network, endpoint = %record.id, "its container is gone: not registered again");
        attacher.abandon(record.id);
    }
    let outcomes = match Box::pin(attacher.membership.recover(&there)).await {
        Ok(outcomes) => outcomes,
        Err(error) => {
            warn!(error = %chain(&error), "what this node lost is not registered again yet");
            return false;
        }
    };
    let mut settled = true;
    for Recovered { network, endpoint, outcome } in outcomes {
        match outcome {
            RecoveryOutcome::Kept(stored) | RecoveryOutcome::Renumbered(stored) => {
                let Stored { record, revision, .. } = *stored;
                attacher.membership.set_in_use(network, true);
                attacher.note_change(network, &record);
                attacher.handle.change(move |view| view.set_registered(network, record, revision));
            }
            RecoveryOutcome::Gone(reason) => {
                warn!(
                    %network, %endpoint, reason = %chain(&reason),
                    "an endpoint is given up: its container has no interface in this network any more; connect it again"
                );
                attacher.abandon(endpoint);
            }
            RecoveryOutcome::Unsettled(reason) => {
                debug!(%network, %endpoint, reason = %chain(&reason), "an endpoint is not registered again yet");
                settled = false;
            }
        }
    }
    settled
}
