//! The sockets: one UDP and one TCP socket per gateway address, one task each.
//!
//! Thin: what to say is decided by [`super::answer`]. What this owns is that nobody waits for somebody else: questions
//! for the outside are tasks of their own, so a slow resolver delays no answer from the table, and what is under way is
//! bounded in total and per client.
//!
//! Runs in the network namespace of its process, which must be the one that the gateway addresses are in.

pub(crate) mod inside;
mod quota;
mod tcp;
mod udp;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::task::JoinHandle;
use tracing::{debug, trace};
use weft_overlay::id::NetworkId;

use self::quota::Quota;
use super::{
    answer::{self, Asker, Forwarded, Response, Transport},
    table::NameTable,
    upstream::{Upstream, UpstreamError},
};

/// The longest question that is read; real ones are below 300 bytes.
const MAX_QUESTION: usize = 4096;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;
/// How long a task waits after the kernel refused it a packet or connection, so that a lack of memory or descriptors
/// does not become a busy loop.
const BREATH: Duration = Duration::from_millis(50);

/// How the server behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerOptions {
    /// The port of all sockets; default 53.
    pub port: u16,
    /// How long clients may keep an answer, in whole seconds; default 5 s.
    pub ttl: Duration,
    /// How many questions for the outside may be under way per socket, a quarter of them from one client; default 256.
    pub forwards: usize,
    /// How many connections may be open per socket, a quarter of them from one client; default 64.
    pub connections: usize,
    /// How long a connection may be silent, or refuse to take an answer; default 10 s.
    pub idle: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self { port: 53, ttl: Duration::from_secs(5), forwards: 256, connections: 64, idle: Duration::from_secs(10) }
    }
}

/// A socket that could not be opened; it is tried again with the next call.
#[derive(Debug, Error)]
#[error("cannot answer names for network {network} at {address} over {transport:?}; free the port, or see the cause")]
pub struct ListenError {
    /// The network whose gateway it is.
    pub network: NetworkId,
    /// Where.
    pub address: SocketAddr,
    /// Which socket.
    pub transport: Transport,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

/// Answers the names of this node's containers at their gateways. Ends its tasks when dropped.
#[derive(Debug)]
pub struct NameServer {
    shared: Arc<Shared>,
    listeners: BTreeMap<Place, JoinHandle<()>>,
}

/// Where one socket is, and for whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    address: IpAddr,
    transport: Transport,
    network: NetworkId,
}

#[derive(Debug)]
struct Shared {
    table: Arc<RwLock<NameTable>>,
    upstream: Upstream,
    options: ServerOptions,
}

/// What the task of one socket works with.
#[derive(Debug, Clone)]
struct Listener {
    shared: Arc<Shared>,
    audience: Audience,
    transport: Transport,
    forwards: Quota,
}

/// Whose questions come to a socket, and who is asked what is not ours to answer.
#[derive(Debug, Clone)]
enum Audience {
    /// Whoever reaches this network's gateway; the host's resolvers.
    Gateway(NetworkId),
    /// The processes of one container; the resolver that its engine gave it.
    Container(Arc<inside::Container>),
}

impl NameServer {
    /// Makes a server without sockets. The table is only ever read here, and never across a wait.
    pub fn new(table: Arc<RwLock<NameTable>>, upstream: Upstream, options: ServerOptions) -> Self {
        Self { shared: Arc::new(Shared { table, upstream, options }), listeners: BTreeMap::new() }
    }

    /// Makes the sockets be those of `wanted`, the gateway addresses per network; those that are right stay as they are.
    ///
    /// The addresses need not exist yet and may go and come back. Returns what could not be opened: one failure keeps
    /// no other socket from being opened. Must run within a tokio runtime with I/O and time.
    pub async fn ensure_listening(&mut self, wanted: &BTreeMap<NetworkId, Vec<IpAddr>>) -> Vec<ListenError> {
        let places: BTreeSet<Place> =
            wanted.iter().flat_map(|(network, addresses)| places(*network, addresses)).collect();
        self.shared.upstream.set_own_addresses(places.iter().map(|place| place.address).collect());
        self.close_all_but(&places).await;
        let mut failed = Vec::new();
        for place in places {
            if self.listeners.contains_key(&place) {
                continue;
            }
            match self.open(place) {
                Ok(task) => {
                    debug!(network = %place.network, ip = %place.address, transport = ?place.transport, "answering names");
                    self.listeners.insert(place, task);
                }
                Err(source) => failed.push(ListenError {
                    network: place.network,
                    address: SocketAddr::new(place.address, self.shared.options.port),
                    transport: place.transport,
                    source,
                }),
            }
        }
        failed
    }

    /// The networks and addresses with both sockets open.
    pub fn listening(&self) -> BTreeSet<(NetworkId, IpAddr)> {
        let open = |place: &Place| self.listeners.get(place).is_some_and(|task| !task.is_finished());
        let udp = self.listeners.keys().filter(|place| place.transport == Transport::Udp);
        udp.filter(|place| open(place) && open(&Place { transport: Transport::Tcp, ..**place }))
            .map(|place| (place.network, place.address))
            .collect()
    }

    /// Closes what is not wanted, and takes away what ended by itself; its address is free when this returns.
    async fn close_all_but(&mut self, wanted: &BTreeSet<Place>) {
        let kept = |place: &Place, task: &JoinHandle<()>| !task.is_finished() && wanted.contains(place);
        let (keep, stale) = std::mem::take(&mut self.listeners).into_iter().partition(|(p, task)| kept(p, task));
        self.listeners = keep;
        let stale: BTreeMap<Place, JoinHandle<()>> = stale;
        for task in stale.values() {
            task.abort();
        }
        for (place, task) in stale {
            let ended = task.await;
            debug!(network = %place.network, ip = %place.address, transport = ?place.transport, ?ended, "socket closed");
        }
    }

    fn open(&self, place: Place) -> io::Result<JoinHandle<()>> {
        let address = SocketAddr::new(place.address, self.shared.options.port);
        let socket = bind(address, place.transport)?;
        let listener = Listener {
            shared: Arc::clone(&self.shared),
            audience: Audience::Gateway(place.network),
            transport: place.transport,
            forwards: Quota::new(self.shared.options.forwards),
        };
        Ok(match place.transport {
            Transport::Udp => tokio::spawn(udp::serve(tokio::net::UdpSocket::from_std(socket.into())?, listener)),
            Transport::Tcp => tokio::spawn(tcp::serve(tokio::net::TcpListener::from_std(socket.into())?, listener)),
        })
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        for task in self.listeners.values() {
            task.abort();
        }
    }
}

impl Listener {
    /// Decides about a packet; holds the table for no longer than that.
    fn respond(&self, packet: &[u8], client: SocketAddr) -> Response {
        let table = self.shared.table.read().unwrap_or_else(PoisonError::into_inner);
        let ttl = u32::try_from(self.shared.options.ttl.as_secs()).unwrap_or(u32::MAX);
        match &self.audience {
            Audience::Gateway(network) => {
                let asker = Asker { client: client.ip(), network: *network, transport: self.transport };
                answer::respond(packet, &asker, &table, ttl)
            }
            Audience::Container(container) => {
                answer::respond_within(packet, self.transport, &container.networks(), &table, ttl)
            }
        }
    }

    /// Asks who is behind us. A gateway has always something to say in the end; a container that its engine's resolver
    /// does not answer hears nothing, as it would without us.
    async fn forward(&self, packet: &[u8], forwarded: &Forwarded) -> Option<Vec<u8>> {
        match &self.audience {
            Audience::Gateway(network) => Some(self.forward_outside(*network, packet, forwarded).await),
            Audience::Container(container) => container.forward(packet, forwarded).await,
        }
    }

    /// Asks the host's resolvers.
    async fn forward_outside(&self, network: NetworkId, packet: &[u8], forwarded: &Forwarded) -> Vec<u8> {
        let started = Instant::now();
        match self.shared.upstream.ask(packet, forwarded).await {
            Ok(reply) => forwarded.answered(reply),
            Err(UpstreamError::NoServer { .. }) => forwarded.without_upstream(),
            Err(error @ UpstreamError::NoReply { .. }) => {
                debug!(%network, %error, elapsed_ms = started.elapsed().as_millis(), "no answer from outside");
                forwarded.failed()
            }
        }
    }
}

fn places(network: NetworkId, addresses: &[IpAddr]) -> impl Iterator<Item = Place> + '_ {
    addresses.iter().flat_map(move |address| {
        [Transport::Udp, Transport::Tcp].map(|transport| Place { address: *address, transport, network })
    })
}

fn bind(address: SocketAddr, transport: Transport) -> io::Result<Socket> {
    let (kind, protocol) = match transport {
        Transport::Udp => (Type::DGRAM, Protocol::UDP),
        Transport::Tcp => (Type::STREAM, Protocol::TCP),
    };
    let socket = Socket::new(Domain::for_address(address), kind.nonblocking(), Some(protocol))?;
    // Binds beside a resolver of the host's that listens on every address, and at once after our own restart.
    socket.set_reuse_address(true)?;
    // The address may come later than the socket, and go without it.
    match address {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        }
    }
    socket.bind(&address.into())?;
    if transport == Transport::Tcp {
        socket.listen(BACKLOG)?;
    }
    Ok(socket)
}

/// Logs what went wrong with one client, which is the client's matter only.
fn note_client_error(client: SocketAddr, error: &io::Error) {
    trace!(%client, %error, "client could not be served");
}

#[cfg(test)]
mod tests;
