//! Which of Docker's networks is which of the cluster's.
//!
//! A network that a copy was made of names it in an option. One that a user made has only its name, which Docker tells no
//! driver: it is asked for when the call that creates the network has been answered, and decides then. What was decided
//! is kept on disk, and can be found out again from the engine.

use std::{net::IpAddr, str::FromStr, sync::Arc, time::Duration};

use hyper::StatusCode;
use ipnetwork::IpNetwork;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};
use weft_ipam::overlap;
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
    mirror::{OWN_LABELS, copied_from},
    order::{AddressChooser, NETWORK_OPTION, NetworkOrder},
    soon,
};
use crate::{
    control::networks::{
        NetworkRequest, NetworkView, NetworksError, check_request, create_network, find_network, list_networks,
        remove_network,
    },
    reconciler::chain,
};

/// How long an engine may take to show a network after it was told that the driver has it.
const NAMED_WITHIN: Duration = Duration::from_secs(5);
/// An answer about one network holds no lock for longer.
const ENGINE_PATIENCE: Duration = Duration::from_millis(500);
/// Removing waits for gateway legs, which leave some seconds after the last container.
const REMOVED_WITHIN: Duration = Duration::from_secs(30);
/// Between two looks whether what is being removed is gone.
const PASSING_PAUSE: Duration = Duration::from_millis(50);
/// Stands for the name in a request that is checked before its name is known.
const NAMELESS: &str = "nameless";

impl Driver {
    pub(super) async fn create_network(self: Arc<Self>, request: CreateNetwork) -> Result<Value, DriverError> {
        let mut order = NetworkOrder::of(&request)?;
        let docker = request.network_id;
        let again = self.book(|book| match book.network(&docker) {
            Some(Known::Bound(_)) => true,
            Some(Known::Nameless(known)) => **known == order,
            Some(Known::Refused(..)) | None => false,
        });
        if again {
            return Ok(json!({}));
        }
        let ours = order.chooser == AddressChooser::Weft;
        if let Some((network, subnets)) = self.book(|book| book.mirrored_with(&order.subnets)).filter(|_| ours) {
            if order.subnets.len() != subnets.len() {
                return Err(DriverError::OtherSubnets(listed(&subnets), listed(&order.subnets)));
            }
            self.settle(&docker, Known::Bound(network));
        } else if let Some(identity) = order.identity.clone() {
            let network = self.identified(&identity, &order).await?;
            self.settle(&docker, Known::Bound(network));
        } else {
            let ranges =
                self.book(|book| order.subnets.iter().filter_map(|pool| book.range_of(*pool)).collect::<Vec<_>>());
            order.ip_ranges.extend(ranges);
            let nameless = Name::from_str(NAMELESS).expect("letters are a name");
            check_request(&self.attacher.client, &asked(nameless, &order), soon()).await?;
            self.settle(&docker, Known::Nameless(Box::new(order.clone())));
            let driver = self.clone();
            tokio::spawn(async move { driver.learn_network(&docker).await });
        }
        self.book(|book| order.subnets.iter().for_each(|subnet| book.settle_pool(*subnet)));
        Ok(json!({}))
    }

    pub(super) fn delete_network(self: Arc<Self>, request: NetworkOnly) {
        let docker = request.network_id;
        let ours = self.book(|book| book.deleting.remove(&docker));
        let known = self.book(|book| book.remove(&docker, &self.state));
        self.troubles.end(&docker);
        if let Some(Known::Bound(network)) = known
            && !ours
            && self.book(|book| !book.mirroring.contains_key(&network) && book.removing.insert(network))
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
                Some(Known::Refused(why, _)) => return Err(DriverError::Refused(why)),
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
                let words =
                    format!("network {} of this host's Docker is not in the cluster: {}", network.name, chain(&error));
                if self.troubles.note(network.id.as_str(), words) {
                    warn!(network = network.name, error = %chain(&error), "a network of Docker's is not the cluster's");
                }
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
        self.settle_name(&network).await;
    }

    /// Makes a network of Docker's the cluster's network of its name, new or there already.
    pub(super) async fn settle_name(&self, network: &EngineNetwork) {
        let docker = network.id.as_str();
        let Some(Known::Nameless(order)) = self.book(|book| book.network(docker).cloned()) else { return };
        if !self.book(|book| book.settling.insert(docker.to_owned())) {
            return;
        }
        let outcome = self.make_named(network, &order).await;
        self.book(|book| book.settling.remove(docker));
        // It may have been removed meanwhile.
        if self.book(|book| book.network(docker).is_none()) {
            return;
        }
        let name = &network.name;
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
                let why = chain(&error);
                warn!(docker, name, error = why, "a network of Docker's cannot be one of the cluster");
                self.troubles
                    .note(docker, format!("network {name} of this host's Docker is not in the cluster: {why}"));
                self.settle(docker, Known::Refused(why, order.subnets.clone()));
                if is_overtaken(&error, &order) {
                    self.give_way(docker, name).await;
                }
            }
        }
    }

    async fn make_named(&self, network: &EngineNetwork, order: &NetworkOrder) -> Result<NetworkId, DriverError> {
        let name = &network.name;
        let parsed: Name = name.parse().map_err(|error| DriverError::BadName(name.clone(), chain(&error)))?;
        let mut order = order.clone();
        for range in network.ipam.config.iter().filter_map(|pool| pool.ip_range.parse().ok()) {
            order.leave_to_docker(range);
        }
        let mut request = asked(parsed, &order);
        let labels = network.labels.iter().filter(|(key, _)| !key.starts_with(OWN_LABELS));
        request.take_labels(labels.map(|(key, value)| (key.clone(), value.clone())).collect());
        let client = &self.attacher.client;
        let deadline = Instant::now() + REMOVED_WITHIN;
        loop {
            match Box::pin(create_network(client, &request, soon())).await {
                Ok(view) => return Ok(view.id),
                Err(error) if Instant::now() < deadline && self.is_passing(&error, &request).await => {
                    sleep(PASSING_PAUSE).await;
                }
                Err(NetworksError::NameTaken { id, .. }) => return self.identified(&id.to_string(), &order).await,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether only networks that are being removed are in a new one's way, as after `network rm` and `create` of one name.
    async fn is_passing(&self, refusal: &NetworksError, request: &NetworkRequest) -> bool {
        use NetworksError::{Conflict, NameTaken, VniTaken};
        if !matches!(refusal, NameTaken { .. } | Conflict(_) | VniTaken { by: Some(_), .. }) {
            return false;
        }
        let Ok(networks) = list_networks(&self.attacher.client, soon()).await else { return false };
        let meets = |network: &NetworkView| {
            let overlaps = |subnet: &IpNetwork| network.subnets.iter().any(|part| overlap(part.subnet, *subnet));
            network.name == request.name || request.subnets.iter().any(overlaps) || Some(network.vni) == request.vni
        };
        let mut in_the_way = networks.iter().filter(|network| meets(network)).peekable();
        if in_the_way.peek().is_none() {
            // It went meanwhile, unless it is a route that is in the way.
            return matches!(refusal, NameTaken { .. });
        }
        let removing = self.book(|book| book.removing.clone());
        in_the_way.all(|network| network.state == NetworkState::Deleting || removing.contains(&network.id))
    }

    /// Two hosts made a network of one name at one moment, and the other one's is the cluster's: the one here makes place
    /// for its copy.
    async fn give_way(&self, docker: &str, name: &str) {
        self.book(|book| book.deleting.insert(docker.to_owned()));
        match self.engine.delete_network(docker).await {
            Ok(()) => info!(docker, name, "gave way to the network of this name that another host made"),
            Err(error) => {
                self.book(|book| book.deleting.remove(docker));
                warn!(docker, name, error = %chain(&error), "a network stays in Docker that is none of the cluster's");
            }
        }
        self.doubt.notify_one();
    }

    /// The cluster's network of an id or name, if it is what is asked for here.
    async fn identified(&self, identity: &str, order: &NetworkOrder) -> Result<NetworkId, DriverError> {
        let (network, spec) = match find_network(&self.attacher.client, identity, soon()).await {
            // What looks like an id is one of a network that is gone.
            Err(NetworksError::Unknown(_)) if identity.parse::<NetworkId>().is_err() => {
                return self.create_identified(identity, order).await;
            }
            found => found?,
        };
        let name = spec.record.name.to_string();
        if spec.record.state != NetworkState::Active {
            return Err(DriverError::Going(name));
        }
        let theirs: Vec<IpNetwork> = spec.record.subnets.iter().map(|part| part.subnet).collect();
        if !order.subnets.iter().all(|subnet| theirs.contains(subnet)) {
            return Err(DriverError::OtherNetwork { name, theirs: listed(&theirs), ours: listed(&order.subnets) });
        }
        if order.chooser == AddressChooser::Docker {
            return Err(DriverError::OwnAddresses(name));
        }
        let gateways: Vec<IpAddr> = spec.record.subnets.iter().map(|part| part.gateway).collect();
        if let Some(ours) = order.gateways.iter().copied().find(|gateway| !gateways.contains(gateway)) {
            let theirs = gateways.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" and ");
            return Err(DriverError::OtherGateway { name, theirs, ours });
        }
        Ok(network)
    }

    async fn create_identified(&self, identity: &str, order: &NetworkOrder) -> Result<NetworkId, DriverError> {
        let name: Name = identity.parse().map_err(|error| DriverError::BadName(identity.to_owned(), chain(&error)))?;
        let request = asked(name, order);
        check_request(&self.attacher.client, &request, soon()).await?;
        Ok(Box::pin(create_network(&self.attacher.client, &request, soon())).await?.id)
    }

    /// What a network is that we have no note of.
    async fn recall(&self, docker: &str) -> Result<NetworkId, DriverError> {
        let unknown = |_| DriverError::UnknownNetwork(docker.to_owned());
        let network = self.engine.network(docker, ENGINE_PATIENCE).await.map_err(unknown)?;
        self.recognise(&network).await
    }

    async fn recognise(&self, network: &EngineNetwork) -> Result<NetworkId, DriverError> {
        let copied = copied_from(network).map(|id| id.to_string());
        let identity = copied.as_ref().or_else(|| network.options.get(NETWORK_OPTION)).unwrap_or(&network.name);
        let (id, spec) = find_network(&self.attacher.client, identity, soon()).await?;
        if spec.record.state != NetworkState::Active {
            return Err(DriverError::Going(network.name.clone()));
        }
        // Docker shows IPv6 subnets also where IPv6 is off.
        let ours = network.ipam.config.iter().filter_map(|pool| pool.subnet.parse::<IpNetwork>().ok());
        let ours: Vec<IpNetwork> = ours.filter(IpNetwork::is_ipv4).collect();
        let theirs: Vec<IpNetwork> = spec.record.subnets.iter().map(|part| part.subnet).collect();
        if spec.record.subnet4().is_some() && !ours.iter().all(|subnet| theirs.contains(subnet)) {
            let name = network.name.clone();
            let error = DriverError::OtherNetwork { name, theirs: listed(&theirs), ours: listed(&ours) };
            self.settle(&network.id, Known::Refused(chain(&error), ours));
            return Err(error);
        }
        self.settle(&network.id, Known::Bound(id));
        Ok(id)
    }

    fn settle(&self, docker: &str, known: Known) {
        if matches!(known, Known::Bound(_)) {
            self.troubles.end(docker);
        }
        self.book(|book| book.set(docker, known, &self.state));
        self.resolved.notify_waiters();
    }

    /// A user removed a network here: so it goes everywhere, unless containers use it.
    async fn remove_from_cluster(&self, network: NetworkId) {
        let deadline = Instant::now() + REMOVED_WITHIN;
        match remove_network(&self.attacher.client, &network.to_string(), false, deadline).await {
            // Noted until it is gone, so that no copy is made of what was read before.
            Ok(_) => info!(%network, "removed from the cluster, as from Docker"),
            Err(NetworksError::Unknown(_)) => {}
            Err(error) => {
                warn!(%network, error = %chain(&error), "the network stays, and comes back to Docker");
                let why = match error {
                    NetworksError::InUse { users, .. } => format!("it was in use by {}", users.join(", ")),
                    other => chain(&other),
                };
                self.troubles.remark(network, format!("removed from this host's Docker, and made again: {why}"));
                self.book(|book| book.removing.remove(&network));
            }
        }
        self.doubt.notify_one();
    }
}

/// Whether another host made a network of this name at the same moment, and nothing that the user asked for is lost with
/// the one here.
fn is_overtaken(error: &DriverError, order: &NetworkOrder) -> bool {
    match error {
        DriverError::OwnAddresses(_) => true,
        DriverError::OtherNetwork { .. } => order.is_chosen_by_docker(),
        _ => false,
    }
}

fn asked(name: Name, order: &NetworkOrder) -> NetworkRequest {
    let mut request = NetworkRequest::named(name);
    request.subnets.clone_from(&order.subnets);
    request.gateways.clone_from(&order.gateways);
    request.ip_ranges.clone_from(&order.ip_ranges);
    request.auxiliary.clone_from(&order.auxiliary);
    (request.vni, request.mtu, request.internal) = (order.vni, order.mtu, order.internal);
    request.docker_options.clone_from(&order.options);
    request
}

fn listed(subnets: &[IpNetwork]) -> String {
    let texts: Vec<String> = subnets.iter().map(IpNetwork::to_string).collect();
    format!("subnet {}", texts.join(" and "))
}
