//! The network driver's calls about endpoints: registered when Docker creates them, plumbed when it joins them.
//!
//! Docker makes a container's namespace after it asked for the interface (up to version 25 for starts), so the interface
//! waits in the host's namespace until Docker takes it. Where the namespace is there already, the interface is made inside
//! at once, which saves Docker's moving it. Each call may be repeated, and a teardown always succeeds.

use std::{collections::BTreeSet, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use ipnetwork::IpNetwork;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tracing::{debug, info};
use weft_overlay::{
    id::{EndpointId, IfName, NetworkId},
    kernel::Place,
    model::{DockerEndpoint, EndpointRecord, NetworkSpec, NetworkState, Sandbox},
    view::{NodeView, Plumbing, Stored},
};

use super::{
    Driver,
    error::DriverError,
    messages::{CreateEndpoint, Interface, InterfaceName, Joined, OfEndpoint},
    order::{PLUMB_OPTION, WantedAddresses, chosen, endpoint_id},
    sandbox::Inside,
};
use crate::{agent::attach::wait_carrying, control::allocation::Reservation, reconciler::chain};

/// How long a container may take from the call that joins it to the end of Docker's work on its interface.
const STARTED_WITHIN: Duration = Duration::from_secs(120);
/// Between two looks whether Docker has made the namespace: its process starts some 50 ms after that.
const LOOK_EVERY: Duration = Duration::from_millis(3);
/// How long a teardown waits for the store before it is finished in the background.
const TEARDOWN_PATIENCE: Duration = Duration::from_secs(2);
/// How often an address is tried that is in use.
const ATTEMPTS: u32 = 4;
const ATTEMPT_PAUSE: Duration = Duration::from_millis(60);
/// What the names of interfaces begin with that Docker has not put into the container itself.
const OWN_PREFIX: &str = "weft";

impl Driver {
    pub(super) async fn create_endpoint(self: Arc<Self>, request: CreateEndpoint) -> Result<Value, DriverError> {
        let endpoint = endpoint_id(&request.endpoint_id)?;
        let wanted = WantedAddresses::of(&request.interface)?;
        let _gate = self.gate(endpoint).await;
        let network = self.network(&request.network_id).await?;
        let spec = self.spec(network, &request.network_id).await?;
        if let Some((_, stored)) = self.local(endpoint).await {
            return Ok(answer(&request.interface, &stored.record, &spec.record));
        }
        let docker = DockerEndpoint {
            endpoint: request.endpoint_id,
            network: request.network_id,
            container: None,
            boot_id: self.attacher.facts.boot_id.clone(),
        };
        let record = Box::pin(self.register_anew(&spec, (network, endpoint), wanted, docker)).await?;
        debug!(%network, %endpoint, ip = ?record.primary_address(), "registered Docker's endpoint");
        tokio::spawn(async move { self.naming.lock().await.refresh().await });
        Ok(answer(&request.interface, &record, &spec.record))
    }

    pub(super) async fn join(self: Arc<Self>, request: OfEndpoint) -> Result<Joined, DriverError> {
        let endpoint = endpoint_id(&request.endpoint_id)?;
        let _gate = self.gate(endpoint).await;
        let unknown = || DriverError::UnknownEndpoint(request.endpoint_id.clone());
        let (network, stored) = self.local(endpoint).await.ok_or_else(unknown)?;
        let learning = self.clone();
        let docker_network = request.network_id.clone();
        tokio::spawn(async move { learning.learn_name(&docker_network, endpoint).await });
        let key = PathBuf::from(&request.sandbox_key);
        let inside = Inside::open(&key, &self.attacher.facts);
        let answering = inside.clone().map(|inside| {
            let driver = self.clone();
            tokio::task::spawn_blocking(move || driver.responders.serve(&inside, endpoint, network))
        });
        let spec = self.spec(network, &request.network_id).await?;
        let joined = match inside.filter(|_| self.is_plumbed_directly(&spec.record)) {
            Some(inside) => {
                self.plumb_inside(endpoint, &inside).await?;
                Joined::default()
            }
            None => {
                let src_name = self.lend(endpoint).await?;
                tokio::spawn(self.clone().follow_into(network, stored.record, key));
                Joined { interface_name: Some(InterfaceName { src_name: src_name.to_string(), dst_prefix: "eth" }) }
            }
        };
        if let Some(answering) = answering {
            // A failure was logged, and is no obstacle.
            answering.await.ok();
        }
        info!(%network, %endpoint, direct = joined.interface_name.is_none(), "joined Docker's endpoint");
        Ok(joined)
    }

    pub(super) async fn leave(self: Arc<Self>, request: OfEndpoint) -> Result<Value, DriverError> {
        if let Ok(endpoint) = endpoint_id(&request.endpoint_id) {
            let _gate = self.gate(endpoint).await;
            self.responders.forget(endpoint);
            // Docker is about to move its interface back: it must not be missed and made anew meanwhile.
            let hand_back = move |view: &mut NodeView| match view.plumbing(endpoint) {
                Some(Plumbing::Inside(sandbox)) if !sandbox.ifname.as_str().starts_with(OWN_PREFIX) => {
                    view.set_plumbing(endpoint, None)
                }
                _ => BTreeSet::new(),
            };
            self.attacher.handle.settle(hand_back).await?;
        }
        Ok(json!({}))
    }

    pub(super) async fn delete_endpoint(self: Arc<Self>, request: OfEndpoint) -> Result<Value, DriverError> {
        let Ok(endpoint) = endpoint_id(&request.endpoint_id) else { return Ok(json!({})) };
        let driver = self.clone();
        let removal = tokio::spawn(async move { driver.remove_endpoint(endpoint).await });
        // Goes on in the background where the store does not answer.
        tokio::time::timeout(TEARDOWN_PATIENCE, removal).await.ok();
        Ok(json!({}))
    }

    /// Takes an endpoint away for good; one that is gone is no error.
    pub(super) async fn remove_endpoint(&self, endpoint: EndpointId) {
        let _gate = self.gate(endpoint).await;
        self.responders.forget(endpoint);
        if let Some((network, stored)) = self.local(endpoint).await {
            info!(%network, %endpoint, "removing Docker's endpoint");
            // A failure was logged, and is tried again.
            self.attacher.detach(network, stored).await.ok();
        }
        self.attacher.handle.change(move |view| view.set_plumbing(endpoint, None));
    }

    /// Registers an endpoint. An engine gives an address to one endpoint at a time: another one of this engine that has
    /// it is of the past, as where the engine was killed, and makes room.
    async fn register_anew(
        &self,
        spec: &Stored<NetworkSpec>,
        (network, endpoint): (NetworkId, EndpointId),
        wanted: WantedAddresses,
        docker: DockerEndpoint,
    ) -> Result<EndpointRecord, DriverError> {
        let mut attempts = 0;
        loop {
            self.displace(network, &wanted).await;
            let registered = match self.reservation(network, spec, &wanted).await {
                Ok(reservation) => self.register(spec, reservation, (endpoint, wanted), docker.clone()).await,
                Err(error) => Err(error),
            };
            match registered {
                Err(error) if error.is_about_address() && attempts < ATTEMPTS => {
                    debug!(%network, %endpoint, error = %chain(&error), "the address is tried again");
                    attempts += 1;
                    // The notice of what is in the way may still be on its way.
                    sleep(ATTEMPT_PAUSE).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn displace(&self, network: NetworkId, wanted: &WantedAddresses) {
        let addresses = [wanted.ipv4.map(IpAddr::V4), wanted.ipv6.map(IpAddr::V6)];
        let look = move |view: &NodeView| {
            let content = view.network(network)?;
            let holders = addresses.into_iter().flatten().flat_map(|ip| content.endpoints_with(ip));
            let past = holders.map(|stored| &stored.record).filter(|record| {
                record.node == view.config.node && record.docker.is_some() && !view.is_detaching(record.id)
            });
            Some(past.map(|record| record.id).collect::<BTreeSet<EndpointId>>())
        };
        let past = self.attacher.handle.view(look).await.ok().flatten().unwrap_or_default();
        for endpoint in past {
            info!(%network, %endpoint, "the engine gives its address to another: it is of the past");
            self.remove_endpoint(endpoint).await;
        }
    }

    /// The address that was promised, or else the one asked for, or any.
    async fn reservation(
        &self,
        network: NetworkId,
        spec: &Stored<NetworkSpec>,
        wanted: &WantedAddresses,
    ) -> Result<Reservation, DriverError> {
        let primary = wanted.ipv4.map(Into::into).or_else(|| wanted.ipv6.map(Into::into));
        if let Some(promised) = primary.and_then(|ip| self.book(|book| book.take_promised(network, ip))) {
            return Ok(promised);
        }
        let mut request = self.endpoint_request(EndpointId::from_entropy(rand::random()));
        (request.ipv4, request.ipv6) = (wanted.ipv4, wanted.ipv6);
        Ok(Box::pin(self.attacher.allocator.reserve(network, spec, request)).await?)
    }

    async fn register(
        &self,
        spec: &Stored<NetworkSpec>,
        mut reservation: Reservation,
        (endpoint, wanted): (EndpointId, WantedAddresses),
        docker: DockerEndpoint,
    ) -> Result<EndpointRecord, DriverError> {
        let network = reservation.network;
        reservation.rename(endpoint);
        let placeholder = self.endpoint_request(endpoint).name;
        let record = &mut reservation.record;
        record.name = placeholder;
        record.mac = wanted.mac.unwrap_or(record.mac);
        if wanted.ipv4.is_some() {
            // Docker gives the interface only what it knows of.
            record.ipv6 = wanted.ipv6;
        }
        record.docker = Some(Box::new(docker));
        let attacher = &self.attacher;
        let stay = Box::pin(attacher.membership.join(network, spec)).await?;
        let leg = stay.leg.clone();
        let await_join = move |view: &mut NodeView| {
            let mut affected = view.set_registered(network, leg.record, leg.revision);
            affected.extend(view.set_plumbing(endpoint, Some(Plumbing::Awaited)));
            affected
        };
        attacher.handle.change(await_join);
        let revision = match Box::pin(attacher.allocator.commit(&mut reservation, None)).await {
            Ok(revision) => revision,
            Err(error) => {
                attacher.handle.change(move |view| view.set_plumbing(endpoint, None));
                return Err(error.into());
            }
        };
        let record = reservation.record.clone();
        let registered = record.clone();
        attacher.handle.change(move |view| view.set_registered(network, registered, revision));
        attacher.membership.set_in_use(network, true);
        drop(stay);
        Ok(record)
    }

    fn is_plumbed_directly(&self, spec: &NetworkSpec) -> bool {
        let by_user = spec.docker_options.get(PLUMB_OPTION).map(String::as_str);
        self.plumbs_directly() && by_user != Some("docker")
    }

    /// Makes the interface inside the container, complete.
    async fn plumb_inside(&self, endpoint: EndpointId, inside: &Inside) -> Result<(), DriverError> {
        let ifname =
            inside.free_ifname().ok_or_else(|| DriverError::Kernel(vec!["the namespace is gone".to_owned()]))?;
        let sandbox = self.sandbox(inside, ifname);
        let place = sandbox.clone();
        let handle = &self.attacher.handle;
        let failures = handle.settle(move |view| view.set_plumbing(endpoint, Some(Plumbing::Inside(place)))).await?;
        if !failures.is_empty() {
            handle.settle(move |view| view.set_plumbing(endpoint, Some(Plumbing::Awaited))).await?;
            return Err(DriverError::Kernel(failures));
        }
        wait_carrying(&sandbox).await;
        Ok(())
    }

    /// Makes the interface in the host's namespace, for Docker to take; its name.
    async fn lend(&self, endpoint: EndpointId) -> Result<IfName, DriverError> {
        let ifname: IfName =
            format!("wc-{endpoint}").parse().expect("15 letters, digits and dashes are an interface's name");
        let identity = self.attacher.facts.host.identity();
        let (dev, inode) = identity.map_err(|error| DriverError::Kernel(vec![error.to_string()]))?;
        let place = Place { path: "/proc/self/ns/net".to_owned(), dev, inode, ifname: ifname.clone() };
        let handle = &self.attacher.handle;
        let failures = handle.settle(move |view| view.set_plumbing(endpoint, Some(Plumbing::Lent(place)))).await?;
        if !failures.is_empty() {
            handle.settle(move |view| view.set_plumbing(endpoint, Some(Plumbing::Awaited))).await?;
            return Err(DriverError::Kernel(failures));
        }
        handle.settle(move |view| view.set_plumbing(endpoint, None)).await?;
        Ok(ifname)
    }

    /// Waits for Docker to make the namespace, answers names in it from then on, and looks after the interface when
    /// Docker has put it there.
    async fn follow_into(self: Arc<Self>, network: NetworkId, record: EndpointRecord, key: PathBuf) {
        let endpoint = record.id;
        let deadline = Instant::now() + STARTED_WITHIN;
        while Instant::now() < deadline {
            if let Some(inside) = Inside::open(&key, &self.attacher.facts) {
                let _gate = self.gate(endpoint).await;
                if self.local(endpoint).await.is_none() {
                    return;
                }
                self.responders.serve(&inside, endpoint, network);
                if self.take_over(&record, &inside) {
                    return;
                }
            } else if self.local(endpoint).await.is_none() {
                return;
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Looks after an interface from now on that Docker is done with; false when it is not yet.
    pub(super) fn take_over(&self, record: &EndpointRecord, inside: &Inside) -> bool {
        let Some(ifname) = record.primary_address().and_then(|ip| inside.interface_with(ip)) else { return false };
        let sandbox = self.sandbox(inside, ifname);
        let endpoint = record.id;
        self.attacher.handle.change(move |view| view.set_plumbing(endpoint, Some(Plumbing::Inside(sandbox))));
        true
    }

    fn sandbox(&self, inside: &Inside, ifname: IfName) -> Sandbox {
        Sandbox {
            container: inside.namespace.label().to_owned(),
            path: inside.namespace.label().to_owned(),
            dev: inside.dev,
            inode: inside.inode,
            boot_id: self.attacher.facts.boot_id.clone(),
            ifname,
            default_route: false,
        }
    }

    async fn spec(&self, network: NetworkId, docker: &str) -> Result<Stored<NetworkSpec>, DriverError> {
        let gone = || DriverError::UnknownNetwork(docker.to_owned());
        let spec = self.attacher.listed_spec(network).await?.ok_or_else(gone)?;
        match spec.record.state {
            NetworkState::Active => Ok(spec),
            NetworkState::Deleting => Err(DriverError::Going(spec.record.name.to_string())),
        }
    }
}

fn answer(given: &Interface, record: &EndpointRecord, spec: &NetworkSpec) -> Value {
    let subnets: Vec<IpNetwork> = spec.subnets.iter().map(|part| part.subnet).collect();
    json!({ "Interface": chosen(given, record, &subnets) })
}
