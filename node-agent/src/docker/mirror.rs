//! Copies of the cluster's networks in this host's engine, so that `docker run --net` works on every host.
//!
//! Decided in a pure function from what both have. A network is only ever deleted by its id, of our driver, and known to
//! be a copy of one that is gone: a user's network of the same name is nobody's business but the user's.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use hyper::StatusCode;
use tracing::{info, warn};
use weft_overlay::{id::NetworkId, model::NetworkState};

use super::{
    Driver,
    book::Known,
    engine::{EngineNetwork, NewIpam, NewNetwork, NewPool},
    soon,
};
use crate::{
    control::networks::{NetworkView, list_networks},
    reconciler::chain,
};

/// The label of networks that we made in the engine: the id of the original. Not an option, because Compose takes a network
/// with other options than its file's for another network.
const MIRRORED: &str = "weft.mirrored";
/// The label that says why a network that was removed here is here again.
const KEPT: &str = "weft.kept";
/// What labels of ours begin with.
pub(super) const OWN_LABELS: &str = "weft.";
const DRIVER: &str = "weft";
const MTU_OPTION: &str = "com.docker.network.driver.mtu";

/// What is to be done to the engine's networks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum MirrorStep {
    /// Make a copy.
    Create(NetworkId),
    /// Delete one of ours whose original is gone, or a second copy.
    Delete {
        /// The engine's id.
        docker: String,
        /// Its name, for the log.
        name: String,
    },
}

/// What the plan is made from.
#[derive(Debug, Default)]
pub(super) struct Both<'a> {
    /// The cluster's networks.
    pub(super) cluster: &'a [NetworkView],
    /// The engine's networks of our driver.
    pub(super) engine: &'a [EngineNetwork],
    /// Which of the engine's is which of the cluster's.
    pub(super) bound: BTreeMap<String, NetworkId>,
    /// Networks of the cluster that are being removed from here.
    pub(super) removing: BTreeSet<NetworkId>,
}

/// What makes the engine have one copy of each of the cluster's networks, and none of others.
pub(super) fn plan(both: &Both<'_>) -> Vec<MirrorStep> {
    let active: BTreeSet<NetworkId> =
        both.cluster.iter().filter(|network| network.state == NetworkState::Active).map(|network| network.id).collect();
    let mut present = BTreeSet::new();
    let mut steps = Vec::new();
    let mut engine: Vec<&EngineNetwork> = both.engine.iter().filter(|network| network.driver == DRIVER).collect();
    // A user's own goes before a copy of ours.
    engine.sort_by_key(|network| (is_copy(network), network.id.clone()));
    for network in engine {
        let Some(of) = both.bound.get(&network.id) else {
            // The original went while the copy was made.
            if copied_from(network).is_some_and(|of| !active.contains(&of)) {
                steps.push(MirrorStep::Delete { docker: network.id.clone(), name: network.name.clone() });
            }
            continue;
        };
        let second = !present.insert(*of) && is_copy(network);
        if second || (!active.contains(of) && !both.removing.contains(of)) {
            steps.push(MirrorStep::Delete { docker: network.id.clone(), name: network.name.clone() });
        }
    }
    let missing = both.cluster.iter().filter(|network| {
        let named = || both.engine.iter().any(|other| other.name == network.name.as_str());
        active.contains(&network.id)
            && !present.contains(&network.id)
            && !both.removing.contains(&network.id)
            && !named()
    });
    steps.extend(missing.map(|network| MirrorStep::Create(network.id)));
    steps
}

fn is_copy(network: &EngineNetwork) -> bool {
    copied_from(network).is_some()
}

/// The cluster's network that a copy was made of.
pub(super) fn copied_from(network: &EngineNetwork) -> Option<NetworkId> {
    network.labels.get(MIRRORED)?.parse().ok()
}

/// The copy of a network, as the engine is asked for it; with why it is there again where it was removed.
pub(super) fn copy_of(network: &NetworkView, kept: Option<&str>) -> NewNetwork {
    let pools = network
        .subnets
        .iter()
        .map(|part| NewPool { subnet: part.subnet.to_string(), gateway: part.gateway.to_string() });
    let mut options = network.docker_options.clone();
    if let Some(mtu) = network.mtu {
        options.entry(MTU_OPTION.to_owned()).or_insert_with(|| mtu.to_string());
    }
    let mut labels = network.labels.clone();
    labels.insert(MIRRORED.to_owned(), network.id.to_string());
    labels.extend(kept.map(|why| (KEPT.to_owned(), why.to_owned())));
    NewNetwork {
        name: network.name.to_string(),
        check_duplicate: true,
        driver: DRIVER,
        internal: network.internal,
        attachable: true,
        enable_ipv6: network.subnets.iter().any(|part| part.subnet.is_ipv6()),
        ipam: NewIpam { driver: DRIVER, options: BTreeMap::new(), config: pools.collect() },
        options,
        labels,
    }
}

impl Driver {
    /// Brings the engine's networks in line with the cluster's; false when either could not be read.
    pub(super) async fn mirror(self: &Arc<Self>) -> bool {
        let noted: Vec<String> = self.book(|book| book.bound().map(|(docker, _)| docker.to_owned()).collect());
        let Ok(engine) = self.engine.networks().await else { return false };
        self.forget_absent(&engine, noted);
        for network in &engine {
            if let (Some(of), Some(why)) = (copied_from(network), network.labels.get(KEPT)) {
                self.troubles.remark(of, why.as_str());
            }
        }
        self.settle_open(&engine).await;
        let (bound, removing) = self.book(|book| {
            let bound = book.bound().map(|(docker, network)| (docker.to_owned(), network)).collect();
            (bound, book.removing.clone())
        });
        // After the bindings: a network that is bound was in the store before.
        let cluster = match list_networks(&self.attacher.client, soon()).await {
            Ok(cluster) => cluster,
            Err(error) => {
                warn!(error = %chain(&error), "the cluster's networks cannot be compared with Docker's");
                return false;
            }
        };
        self.forget_gone(&cluster);
        let both = Both { cluster: &cluster, engine: &engine, bound, removing };
        for network in &cluster {
            if both.bound.values().any(|bound| *bound == network.id) {
                self.troubles.end(&network.id.to_string());
            }
        }
        for step in plan(&both) {
            match step {
                MirrorStep::Create(id) => {
                    if let Some(network) = cluster.iter().find(|network| network.id == id) {
                        self.make_copy(network).await;
                    }
                }
                MirrorStep::Delete { docker, name } => self.delete_copy(docker, &name).await,
            }
        }
        true
    }

    /// Notes about networks that the cluster has no more.
    fn forget_gone(&self, cluster: &[NetworkView]) {
        let present: BTreeSet<NetworkId> = cluster.iter().map(|network| network.id).collect();
        self.book(|book| book.removing.retain(|network| present.contains(network)));
        self.troubles.keep_remarks(&present);
    }

    /// What is not settled yet about the engine's networks.
    async fn settle_open(self: &Arc<Self>, engine: &[EngineNetwork]) {
        let unknown = engine.iter().any(|network| self.book(|book| book.network(&network.id).is_none()));
        if unknown {
            self.adopt_networks().await;
        }
        for network in engine {
            if self.book(|book| matches!(book.network(&network.id), Some(Known::Nameless(_)))) {
                let (driver, network) = (self.clone(), network.clone());
                // It may have to wait for another one's end.
                tokio::spawn(async move { driver.settle_name(&network).await });
            }
        }
    }

    /// Notes that were there before the engine said what it has, of networks that it has no more: removed while we were
    /// away.
    fn forget_absent(&self, engine: &[EngineNetwork], noted: Vec<String>) {
        let present: BTreeSet<&str> = engine.iter().map(|network| network.id.as_str()).collect();
        for docker in noted.into_iter().filter(|docker| !present.contains(docker.as_str())) {
            self.troubles.end(&docker);
            if let Some(Known::Bound(network)) = self.book(|book| book.remove(&docker, &self.state)) {
                let why = "it was removed while the agent was away; remove it once more";
                self.troubles.remark(network, format!("removed from this host's Docker, and made again: {why}"));
            }
        }
    }

    async fn make_copy(&self, network: &NetworkView) {
        let subnets = network.subnets.iter().map(|part| part.subnet).collect();
        self.book(|book| book.mirroring.insert(network.id, subnets));
        let kept = self.troubles.remark_on(network.id);
        let made = self.engine.create_network(&copy_of(network, kept.as_deref())).await;
        self.book(|book| book.mirroring.remove(&network.id));
        match made {
            Ok(docker) => {
                info!(network = %network.name, docker, "made a copy in Docker");
                self.troubles.end(&network.id.to_string());
                self.drop_second_copies(network).await;
            }
            Err(error) => {
                let conflict = error.status() == Some(StatusCode::CONFLICT);
                let why = if conflict {
                    "Docker has another network of this name, which is left alone; remove or rename it".to_owned()
                } else {
                    chain(&error)
                };
                let words = format!("network {} is not in this host's Docker: {why}", network.name);
                if self.troubles.note(network.id.to_string(), words) {
                    warn!(network = %network.name, error = why, "no copy could be made in Docker");
                }
            }
        }
    }

    /// Up to version 24, two networks of one name may come of two requests at one moment.
    async fn drop_second_copies(&self, network: &NetworkView) {
        let Ok(named) = self.engine.networks_named(network.name.as_str()).await else { return };
        let bound: BTreeMap<String, NetworkId> =
            self.book(|book| book.bound().map(|(docker, network)| (docker.to_owned(), network)).collect());
        let both = Both { cluster: std::slice::from_ref(network), engine: &named, bound, ..Both::default() };
        for step in plan(&both) {
            if let MirrorStep::Delete { docker, name } = step {
                self.delete_copy(docker, &name).await;
            }
        }
    }

    async fn delete_copy(&self, docker: String, name: &str) {
        self.book(|book| book.deleting.insert(docker.clone()));
        match self.engine.delete_network(&docker).await {
            Ok(()) => info!(docker, name, "deleted from Docker, as from the cluster"),
            // It has endpoints still, and is tried again when they are gone.
            Err(error) => {
                self.book(|book| book.deleting.remove(&docker));
                warn!(docker, name, error = %chain(&error), "a network that is gone stays in Docker for now");
            }
        }
    }
}

#[cfg(test)]
mod tests;
