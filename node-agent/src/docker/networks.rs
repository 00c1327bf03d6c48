//! Which of Docker's networks is which of the cluster's.
//!
//! A network that a copy was made of names it in an option. One that a user made has only its name, which Docker tells no
//! driver: it is asked for when the call that creates the network has been answered, and decides then. What was decided
//! is kept on disk, and can be found out again from the engine.

use std::{sync::Arc, time::Duration};

use hyper::StatusCode;
use ipnetwork::IpNetwork;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};
use weft_overlay::{
    id::{Name, NetworkId},
    model::NetworkState,
};

use super::{
    Driver,
    book::Known,
    engine::EngineNetwork,
    error::DriverError,
    messages::{CreateNetwork, NetworkOnly},
    order::{NETWORK_OPTION, NetworkOrder, PLUMB_OPTION},
    soon,
};
use crate::{
    control::networks::{NetworkRequest, NetworksError, check_subnets, create_network, find_network, remove_network},
    reconciler::chain,
};

/// How long an engine may take to show a network after it was told that the driver has it.
const NAMED_WITHIN: Duration = Duration::from_secs(5);
/// An answer about one network holds no lock for longer.
const ENGINE_PATIENCE: Duration = Duration::from_millis(500);
/// Removing waits for gateway legs, which leave some seconds after the last container.
const REMOVED_WITHIN: Duration = Duration::from_secs(30);

impl Driver {
    pub(super) async fn create_network(self: Arc<Self>, request: CreateNetwork) -> Result<Value, DriverError> {
        let order = NetworkOrder::of(&request)?;
        let docker = request.network_id;
        let again = self.book(|book| match book.network(&docker) {
            Some(Known::Bound(_)) => true,
            Some(Known::Nameless(known)) => **known == order,
            Some(Known::Refused(_)) | None => false,
        });
        if again {
            return Ok(json!({}));
        }
        match order.identity.clone() {
            Some(identity) => {
                let network = self.identified(&identity, &order).await?;
                self.settle(&docker, Known::Bound(network));
            }
            None => {
                check_subnets(&self.attacher.client, &order.subnets, soon()).await?;
                self.settle(&docker, Known::Nameless(Box::new(order.clone())));
                let driver = self.clone();
                tokio::spawn(async move { driver.learn_network(&docker).await });
            }
        }
        self.book(|book| order.subnets.iter().for_each(|subnet| book.settle_pool(*subnet)));
        Ok(json!({}))
    }

    pub(super) fn delete_network(self: Arc<Self>, request: NetworkOnly) {
        let docker = request.network_id;
        let ours = self.book(|book| book.deleting.remove(&docker));
        let known = self.book(|book| book.remove(&docker, &self.state));
        if let Some(Known::Bound(network)) = known
            && !ours
            && self.book(|book| !book.mirroring.contains(&network) && book.removing.insert(network))
        {
            tokio::spawn(async move { self.remove_from_cluster(network).await });
        }
    }

    /// The cluster's network of one of Docker's, once that is settled.
    pub(super) async fn network(&self, docker: &str) -> Result<NetworkId, DriverError> {
        let deadline = soon();
        loop {
            let resolved = self.resolved.notified();
            match self.book(|book| book.network(docker).cloned()) {
                Some(Known::Bound(network)) => return Ok(network),
                Some(Known::Refused(why)) => return Err(DriverError::Refused(why)),
                Some(Known::Nameless(_)) => {}
                None => return self.recall(docker).await,
            }
            if tokio::time::timeout_at(deadline, resolved).await.is_err() {
                let why = "the engine has not said its name, or the store does not answer";
                return Err(DriverError::NotReady(docker.to_owned(), why));
            }
        }
    }

    /// Settles the networks that the engine has and we do not know, as after the loss of our notes.
    pub(super) async fn adopt_networks(&self) {
        let Ok(networks) = self.engine.networks().await else { return };
        for network in networks {
            if self.book(|book| book.network(&network.id).is_none())
                && let Err(error) = self.recognise(&network).await
            {
                warn!(network = network.name, error = %chain(&error), "a network of Docker's is not the cluster's");
            }
        }
    }

    /// Learns the name of a network that was just created, and so what it is.
    pub(super) async fn learn_network(&self, docker: &str) {
        let deadline = Instant::now() + NAMED_WITHIN;
        let network = loop {
            match self.engine.network(docker, ENGINE_PATIENCE).await {
                Ok(network) => break network,
                // It is shown some milliseconds after our answer, or never, when the engine gave it up.
                Err(error) if Instant::now() < deadline => {
                    let absent = error.status() == Some(StatusCode::NOT_FOUND);
                    sleep(Duration::from_millis(if absent { 2 } else { 50 })).await;
                }
                Err(error) => {
                    debug!(docker, error = %chain(&error), "the name of a network is not known yet");
                    return;
                }
            }
            if self.book(|book| book.network(docker).is_none()) {
                return;
            }
        };
        self.settle_name(docker, &network.name).await;
    }

    /// Makes a network of Docker's the cluster's network of its name, new or there already.
    pub(super) async fn settle_name(&self, docker: &str, name: &str) {
        let Some(Known::Nameless(order)) = self.book(|book| book.network(docker).cloned()) else { return };
        let outcome = self.make_named(name, &order).await;
        // It may have been removed meanwhile.
        if self.book(|book| book.network(docker).is_none()) {
            return;
        }
        match outcome {
            Ok(network) => {
                info!(docker, name, %network, "a network of Docker's is one of the cluster");
                self.settle(docker, Known::Bound(network));
                self.doubt.notify_one();
            }
            Err(DriverError::Networks(error @ NetworksError::Store(_))) => {
                warn!(docker, name, error = %chain(&error), "a network of Docker's is not in the cluster yet");
                self.doubt.notify_one();
            }
            Err(error) => {
                warn!(docker, name, error = %chain(&error), "a network of Docker's cannot be one of the cluster");
                self.settle(docker, Known::Refused(chain(&error)));
            }
        }
    }

    async fn make_named(&self, name: &str, order: &NetworkOrder) -> Result<NetworkId, DriverError> {
        let parsed: Name = name.parse().map_err(|error| DriverError::BadName(name.to_owned(), chain(&error)))?;
        let client = &self.attacher.client;
        match Box::pin(create_network(client, &request(parsed, order), soon())).await {
            Ok(view) => Ok(view.id),
            Err(NetworksError::NameTaken { id, .. }) => self.identified(&id.to_string(), order).await,
            Err(error) => Err(error.into()),
        }
    }

    /// The cluster's network of an id or name, if it has the subnets that are asked for here.
    async fn identified(&self, identity: &str, order: &NetworkOrder) -> Result<NetworkId, DriverError> {
        let (network, spec) = match find_network(&self.attacher.client, identity, soon()).await {
            Err(NetworksError::Unknown(_)) => return self.create_identified(identity, order).await,
            found => found?,
        };
        let theirs: Vec<IpNetwork> = spec.record.subnets.iter().map(|part| part.subnet).collect();
        if order.subnets.iter().all(|subnet| theirs.contains(subnet)) {
            return Ok(network);
        }
        Err(DriverError::OtherNetwork {
            name: spec.record.name.to_string(),
            theirs: listed(&theirs),
            ours: listed(&order.subnets),
        })
    }

    async fn create_identified(&self, identity: &str, order: &NetworkOrder) -> Result<NetworkId, DriverError> {
        let name: Name = identity.parse().map_err(|error| DriverError::BadName(identity.to_owned(), chain(&error)))?;
        check_subnets(&self.attacher.client, &order.subnets, soon()).await?;
        Ok(Box::pin(create_network(&self.attacher.client, &request(name, order), soon())).await?.id)
    }

    /// What a network is that we have no note of.
    async fn recall(&self, docker: &str) -> Result<NetworkId, DriverError> {
        let unknown = |_| DriverError::UnknownNetwork(docker.to_owned());
        let network = self.engine.network(docker, ENGINE_PATIENCE).await.map_err(unknown)?;
        self.recognise(&network).await
    }

    async fn recognise(&self, network: &EngineNetwork) -> Result<NetworkId, DriverError> {
        let identity = network.options.get(NETWORK_OPTION).unwrap_or(&network.name);
        let (id, spec) = find_network(&self.attacher.client, identity, soon()).await?;
        if spec.record.state != NetworkState::Active {
            return Err(DriverError::UnknownNetwork(network.name.clone()));
        }
        self.settle(&network.id, Known::Bound(id));
        Ok(id)
    }

    fn settle(&self, docker: &str, known: Known) {
        self.book(|book| book.set(docker, known, &self.state));
        self.resolved.notify_waiters();
    }

    /// A user removed a network here: so it goes everywhere, unless containers use it.
    async fn remove_from_cluster(&self, network: NetworkId) {
        let deadline = Instant::now() + REMOVED_WITHIN;
        match remove_network(&self.attacher.client, &network.to_string(), false, deadline).await {
            Ok(_) => info!(%network, "removed from the cluster, as from Docker"),
            Err(NetworksError::Unknown(_)) => {}
            Err(error) => warn!(%network, error = %chain(&error), "the network stays, and comes back to Docker"),
        }
        self.book(|book| book.removing.remove(&network));
        self.doubt.notify_one();
    }
}

fn request(name: Name, order: &NetworkOrder) -> NetworkRequest {
    let mut request = NetworkRequest::named(name);
    request.subnets.clone_from(&order.subnets);
    request.gateways.clone_from(&order.gateways);
    request.ip_ranges.clone_from(&order.ip_ranges);
    request.auxiliary.clone_from(&order.auxiliary);
    (request.vni, request.mtu, request.internal) = (order.vni, order.mtu, order.internal);
    request.labels.extend(order.plumb.clone().map(|plumb| (PLUMB_OPTION.to_owned(), plumb)));
    request
}

fn listed(subnets: &[IpNetwork]) -> String {
    let texts: Vec<String> = subnets.iter().map(IpNetwork::to_string).collect();
    format!("subnet {}", texts.join(" and "))
}
