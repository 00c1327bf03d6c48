//! Detaches that the store has not been told of, kept on disk: otherwise a restart would attach the containers again.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use tracing::warn;
use weft_overlay::{
    codec::{decode_frame, encode_frame},
    id::{EndpointId, NetworkId},
};

use crate::{identity::StateDir, reconciler::chain};

const FILE: &str = "detached";

#[derive(Debug)]
pub(super) struct Deferred {
    endpoints: Mutex<BTreeMap<EndpointId, NetworkId>>,
}

impl Deferred {
    pub(super) fn load(state: &StateDir) -> Self {
        let read = state.read_frame(FILE).map(|frame| frame.map(|frame| decode_frame::<Vec<(String, String)>>(&frame)));
        let entries = match read {
            Ok(Some(Ok(entries))) => entries,
            Ok(None) => Vec::new(),
            Ok(Some(Err(error))) => {
                warn!(error = %chain(&error), "the list of detaches to tell the store of is damaged");
                Vec::new()
            }
            Err(error) => {
                warn!(error = %chain(&error), "the list of detaches to tell the store of cannot be read");
                Vec::new()
            }
        };
        let parsed = entries.iter().filter_map(|(e, n)| Some((e.parse().ok()?, n.parse().ok()?)));
        Self { endpoints: Mutex::new(parsed.collect()) }
    }

    pub(super) fn endpoints(&self) -> Vec<EndpointId> {
        self.pending().into_iter().map(|(_, endpoint)| endpoint).collect()
    }

    pub(super) fn pending(&self) -> Vec<(NetworkId, EndpointId)> {
        let endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        endpoints.iter().map(|(endpoint, network)| (*network, *endpoint)).collect()
    }

    pub(super) fn note(&self, network: NetworkId, endpoint: EndpointId, state: &StateDir) {
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        if endpoints.insert(endpoint, network).is_none() {
            save(&endpoints, state);
        }
    }

    pub(super) fn forget(&self, endpoint: EndpointId, state: &StateDir) {
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        if endpoints.remove(&endpoint).is_some() {
            save(&endpoints, state);
        }
    }
}

fn save(endpoints: &BTreeMap<EndpointId, NetworkId>, state: &StateDir) {
    let entries: Vec<(String, String)> = endpoints.iter().map(|(e, n)| (e.to_string(), n.to_string())).collect();
    if let Err(error) = state.write_frame(FILE, &encode_frame(&entries)) {
        warn!(error = %chain(&error), "a detach could not be noted: a restart may undo it");
    }
}
