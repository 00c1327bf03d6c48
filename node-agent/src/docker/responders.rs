//! Which containers' namespaces we answer names in, and for which endpoints.
//!
//! One responder per namespace: containers that share one share it, and its view is the union of the networks of all
//! endpoints in it. Its open sockets keep the namespace alive, so the last endpoint's end closes them.

use std::{
    collections::BTreeMap,
    io,
    sync::{Mutex, PoisonError},
};

use tracing::{debug, warn};
use weft_overlay::id::{EndpointId, NetworkId};

use super::{Troubles, sandbox::Inside};
use crate::names::server::inside::{InsideServer, Insider};

#[derive(Debug)]
pub(super) struct Responders {
    insider: Insider,
    troubles: Troubles,
    serving: Mutex<BTreeMap<(u64, u64), Responder>>,
}

#[derive(Debug)]
struct Responder {
    server: InsideServer,
    endpoints: BTreeMap<EndpointId, NetworkId>,
}

impl Responder {
    fn networks(&self) -> Vec<NetworkId> {
        let mut networks: Vec<NetworkId> = self.endpoints.values().copied().collect();
        networks.sort_unstable();
        networks.dedup();
        networks
    }
}

impl Responders {
    pub(super) fn new(insider: Insider, troubles: Troubles) -> Self {
        Self { insider, troubles, serving: Mutex::default() }
    }

    /// Answers in this namespace for an endpoint in it; may be repeated. A container without it still has Docker's own
    /// names, so a failure is told and otherwise no obstacle.
    pub(super) fn serve(&self, inside: &Inside, endpoint: EndpointId, network: NetworkId) {
        match self.try_serve(inside, endpoint, network) {
            Ok(()) => self.troubles.end(&endpoint.to_string()),
            Err(error) => {
                let netns = inside.namespace.label();
                let words = format!(
                    "names of other hosts are not answered in Docker's container at {netns}: {error}; give it --dns with the gateway's address"
                );
                if self.troubles.note(endpoint.to_string(), words) {
                    warn!(%endpoint, netns, %error, "names of other hosts cannot be answered in this container");
                }
            }
        }
    }

    fn try_serve(&self, inside: &Inside, endpoint: EndpointId, network: NetworkId) -> io::Result<()> {
        let mut serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (inside.dev, inside.inode);
        if let Some(responder) = serving.get_mut(&key) {
            if responder.endpoints.insert(endpoint, network) != Some(network) {
                responder.server.set_networks(responder.networks());
            }
            return Ok(());
        }
        let server = self.insider.serve(&inside.namespace, vec![network])?;
        debug!(%endpoint, netns = inside.namespace.label(), "answering names inside");
        serving.insert(key, Responder { server, endpoints: BTreeMap::from([(endpoint, network)]) });
        Ok(())
    }

    /// Ends the part of an endpoint. Closing takes the kernel some milliseconds, which nobody waits for.
    pub(super) fn forget(&self, endpoint: EndpointId) {
        self.troubles.end(&endpoint.to_string());
        let mut serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner);
        let key =
            serving.iter().find(|(_, responder)| responder.endpoints.contains_key(&endpoint)).map(|(key, _)| *key);
        let Some(responder) = key.and_then(|key| serving.get_mut(&key)) else { return };
        responder.endpoints.remove(&endpoint);
        if !responder.endpoints.is_empty() {
            responder.server.set_networks(responder.networks());
            return;
        }
        let ended = key.and_then(|key| serving.remove(&key));
        drop(serving);
        tokio::task::spawn_blocking(move || drop(ended));
    }

    /// The endpoints that are answered for.
    pub(super) fn endpoints(&self) -> Vec<EndpointId> {
        let serving = self.serving.lock().unwrap_or_else(PoisonError::into_inner);
        serving.values().flat_map(|responder| responder.endpoints.keys().copied()).collect()
    }
}
