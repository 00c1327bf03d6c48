//! The gRPC services of etcd's API, each a thin edge: take the caller from the connection, ask the engine, answer.

use std::sync::Arc;

use tonic::{Request, Status};

use crate::{authority::Caller, certificate};

pub(crate) mod cluster;
pub(crate) mod kv;
pub(crate) mod lease;
pub(crate) mod maintenance;
pub(crate) mod watch;

/// Who may do everything, where clients show certificates.
#[derive(Debug, Clone, Default)]
pub(crate) struct Administrators {
    pub(crate) names: Arc<[String]>,
}

impl Administrators {
    /// On whose behalf a request comes. A connection without a client's certificate has none because none is asked
    /// for, or because it never leaves this process.
    pub(crate) fn caller<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let Some(chain) = request.peer_certs() else { return Ok(Caller::Unrestricted) };
        let name = chain.first().and_then(|certificate| certificate::common_name(certificate));
        match name {
            Some(name) if self.names.contains(&name) => Ok(Caller::Unrestricted),
            Some(name) => Ok(Caller::Node(name.into())),
            None => Err(Status::unauthenticated(
                "the client's certificate has no common name; issue one whose CN is the node's name",
            )),
        }
    }
}
