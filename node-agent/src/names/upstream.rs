//! Asks the host's resolvers what is not ours.
//!
//! The servers are those of the host's resolv.conf, read again when the file changes. A server at one of our own gateway
//! addresses is left out: it would send every question back to us. Questions pass as the bytes that came, under a
//! random id from a random port, one socket each, so that a reply cannot be guessed (RFC 5452).
//!
//! Runs in the host's network namespace, so that a resolver on the host's loopback is reached like any other.

mod exchange;
mod resolv_conf;

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use thiserror::Error;
use tracing::debug;

use self::resolv_conf::Watched;
use super::{answer::Forwarded, wire};

/// How long one server may take. Two of them fit into the five seconds that a resolver waits by default.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The port of DNS (RFC 1035, 4.2).
const DNS_PORT: u16 = 53;

/// Why the outside gave no reply.
#[derive(Debug, Error)]
pub enum UpstreamError {
    /// The host's resolv.conf names no server, or only our own gateways.
    #[error("{path:?} names no server beyond our own gateways; add a nameserver line")]
    NoServer {
        /// The file that was read.
        path: PathBuf,
    },
    /// Every server was asked and none replied.
    #[error("none of {asked} servers replied")]
    NoReply {
        /// How many were asked.
        asked: usize,
        /// What became of the last one.
        #[source]
        last: io::Error,
    },
}

/// The host's resolvers.
#[derive(Debug)]
pub struct Upstream {
    port: u16,
    timeout: Duration,
    own: RwLock<BTreeSet<IpAddr>>,
    watched: Mutex<Watched>,
}

impl Upstream {
    /// Takes the servers from a file in the format of resolv.conf(5); it may be absent, come, change and go.
    pub fn new(resolv_conf: impl Into<PathBuf>) -> Self {
        Self {
            port: DNS_PORT,
            timeout: TIMEOUT,
            own: RwLock::default(),
            watched: Mutex::new(Watched::new(resolv_conf.into())),
        }
    }

    /// Asks all servers at another port than 53.
    #[must_use]
    pub fn with_port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Waits for each server for another time than 2 s; a truncated reply is fetched over TCP within the same time.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets the addresses that we ourselves listen on: servers there are never asked.
    pub fn set_own_addresses(&self, own: BTreeSet<IpAddr>) {
        *self.own.write().unwrap_or_else(PoisonError::into_inner) = own;
    }

    /// The servers to ask, in order. Looks at the file at most once a second.
    pub fn servers(&self, now: Instant) -> Vec<SocketAddr> {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let own = self.own.read().unwrap_or_else(PoisonError::into_inner);
        let foreign = watched.servers(now).iter().filter(|server| !own.contains(&server.ip()));
        foreign.map(|server| with_port(*server, self.port)).collect()
    }

    /// Asks one server after the other until one replies; the reply carries the client's id.
    ///
    /// `packet` is the client's message as it came. A server that says that it cannot or will not answer (SERVFAIL,
    /// REFUSED, NOTIMP) is passed over, and its reply given only if no other is better.
    ///
    /// # Errors
    /// [`UpstreamError::NoServer`] at once if there is none, [`UpstreamError::NoReply`] after all of them failed.
    pub async fn ask(&self, packet: &[u8], forwarded: &Forwarded) -> Result<Vec<u8>, UpstreamError> {
        let servers = self.servers(Instant::now());
        let mut failure = None;
        let mut last = None;
        for server in &servers {
            let asking = exchange::exchange(*server, packet, forwarded);
            let outcome = tokio::time::timeout(self.timeout, asking).await;
            match outcome.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(reply) if wire::is_failure(&reply) => failure = Some(reply),
                Ok(reply) => return Ok(with_id(reply, forwarded)),
                Err(error) => {
                    debug!(%server, %error, "resolver gave no reply");
                    last = Some(error);
                }
            }
        }
        match (failure, last) {
            (Some(reply), _) => Ok(with_id(reply, forwarded)),
            (None, Some(last)) => Err(UpstreamError::NoReply { asked: servers.len(), last }),
            (None, None) => Err(UpstreamError::NoServer { path: self.path() }),
        }
    }

    fn path(&self) -> PathBuf {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).path().to_owned()
    }
}

fn with_port(mut server: SocketAddr, port: u16) -> SocketAddr {
    server.set_port(port);
    server
}

fn with_id(mut reply: Vec<u8>, forwarded: &Forwarded) -> Vec<u8> {
    wire::set_id(&mut reply, forwarded.query().metadata.id);
    reply
}
